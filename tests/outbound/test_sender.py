import json
from datetime import timedelta
from typing import Any

import pytest

from tests.outbound.windows import open_window
from wats.errors import (
    GraphOutcomeUnknown,
    GraphRefused,
    IdempotencyConflict,
    IdempotencyOutcomeUnknown,
    MalformedRequest,
    StoreNotConfigured,
    WindowClosed,
)
from wats.outbound.sender import MessageSender
from wats.outbound.window import WindowGuard
from wats.sends import Reply, Sent

TEXT = {"to": "15551230000", "type": "text", "text": {"body": "Hello"}}


def reply_of(key: str | None = "k", number: str | None = None, **changes: Any) -> Reply:
    return Reply(message={**TEXT, **changes}, phone_number_id=number, key=key)


@pytest.fixture
def sender(make) -> MessageSender:
    return MessageSender(make(), keeps_keys=True, retry_seconds=60, groups_enabled=False)


async def test_a_reply_is_sent_in_the_format_of_graph_and_recorded(
    sender, fake_graph, store
) -> None:
    sent = await sender.reply(reply_of())

    assert sent == Sent(message_id="wamid.A")
    ((path, body),) = fake_graph.asked
    assert path == "POST /v25.0/15551234567/messages"
    assert json.loads(body) == {**TEXT, "messaging_product": "whatsapp"}
    record = await store.get_message("wamid.A")
    assert (record.to_phone, record.type, record.status) == ("15551230000", "text", "sent")


async def test_a_reply_outside_of_the_window_is_refused_in_each_attempt(
    make, fake_graph, store, telemetry, clock
) -> None:
    await open_window(store, clock.moment - timedelta(days=2))
    acceptor = make(guard=WindowGuard(store, telemetry, clock))
    sender = MessageSender(acceptor, keeps_keys=True, retry_seconds=60, groups_enabled=False)

    for _ in range(2):
        with pytest.raises(WindowClosed):
            await sender.reply(reply_of())

    await sender.reply(reply_of(type="template", template={"name": "order"}))
    assert len(fake_graph.asked) == 1


async def test_a_repeated_reply_is_not_sent_again(sender, fake_graph) -> None:
    await sender.reply(reply_of())

    assert await sender.reply(reply_of()) == Sent(message_id="wamid.A", is_replayed=True)
    assert len(fake_graph.asked) == 1


async def test_the_key_of_a_reply_is_kept_as_long_as_its_handler_can_be_retried(
    make, fake_graph, clock
) -> None:
    acceptor = make(idempotency_hours=1)
    sender = MessageSender(acceptor, keeps_keys=True, retry_seconds=7200, groups_enabled=False)
    await sender.reply(reply_of())
    await sender.send(TEXT, "k")
    clock.advance(7000)

    assert (await sender.reply(reply_of())).is_replayed
    assert not (await sender.send(TEXT, "k")).is_replayed
    assert len(fake_graph.asked) == 3


async def test_another_number_sends_and_has_keys_of_its_own(sender, fake_graph, store) -> None:
    await sender.reply(reply_of())
    fake_graph.body = {"messages": [{"id": "wamid.B"}]}
    await sender.reply(reply_of(number="15551239999"))

    assert [path for path, _ in fake_graph.asked] == [
        "POST /v25.0/15551234567/messages",
        "POST /v25.0/15551239999/messages",
    ]
    assert (await store.get_message("wamid.B")).phone_number_id == "15551239999"


async def test_another_reply_with_the_same_key_is_a_conflict(sender, fake_graph) -> None:
    await sender.reply(reply_of())

    with pytest.raises(IdempotencyConflict):
        await sender.reply(reply_of(text={"body": "Goodbye"}))
    assert len(fake_graph.asked) == 1


async def test_a_refused_reply_can_be_sent_again(sender, fake_graph) -> None:
    fake_graph.status, fake_graph.body = 400, {"error": {"code": 131026, "message": "no"}}
    with pytest.raises(GraphRefused):
        await sender.reply(reply_of())
    fake_graph.status, fake_graph.body = 200, {"messages": [{"id": "wamid.B"}]}

    assert await sender.reply(reply_of()) == Sent(message_id="wamid.B")


async def test_the_text_of_a_refusal_has_the_code_of_meta_and_the_remedy(
    sender, fake_graph
) -> None:
    fake_graph.status, fake_graph.body = 400, {"error": {"code": 131047, "message": "a canary"}}

    with pytest.raises(GraphRefused) as caught:
        await sender.reply(reply_of())

    assert str(caught.value) == (
        "Graph request failed. Meta's code is 131047. "
        "Send a template; the customer service window is closed."
    )


async def test_an_unknown_outcome_is_an_error_once_and_then_a_result(sender, fake_graph) -> None:
    fake_graph.cuts = True
    with pytest.raises(GraphOutcomeUnknown):
        await sender.reply(reply_of())
    fake_graph.cuts = False

    repeated = await sender.reply(reply_of())

    assert repeated == Sent(message_id=None, is_replayed=True, is_certain=False)
    assert len(fake_graph.asked) == 1


async def test_a_send_of_the_application_reports_an_unknown_outcome_each_time(
    sender, fake_graph
) -> None:
    fake_graph.cuts = True
    with pytest.raises(GraphOutcomeUnknown):
        await sender.send(TEXT, "k")

    with pytest.raises(IdempotencyOutcomeUnknown):
        await sender.send(TEXT, "k")
    assert len(fake_graph.asked) == 1


async def test_replies_and_the_application_share_no_keys(sender, fake_graph) -> None:
    await sender.reply(reply_of("k"))
    await sender.send(TEXT, "k")

    assert len(fake_graph.asked) == 2


async def test_without_a_store_a_reply_is_sent_and_a_key_of_the_application_refused(
    make, fake_graph
) -> None:
    sender = MessageSender(
        make(store=None), keeps_keys=False, retry_seconds=60, groups_enabled=False
    )

    assert await sender.reply(reply_of()) == Sent(message_id="wamid.A")
    with pytest.raises(StoreNotConfigured):
        await sender.send(TEXT, "k")
    assert len(fake_graph.asked) == 1


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        pytest.param({"text": {"body": ""}}, "text.body", id="blank"),
        pytest.param({"text": {"body": 5}}, "text.body", id="number"),
        pytest.param({"text": {"body": "x" * 4097}}, "text.body", id="long"),
        pytest.param({"to": "Jane"}, "to", id="recipient"),
        pytest.param({"type": "image"}, "type", id="type"),
        pytest.param({"recipient_type": "group", "to": "G"}, "recipient_type", id="group"),
    ],
)
async def test_a_malformed_message_is_refused_with_the_place_of_the_mistake(
    changes, path, sender, fake_graph
) -> None:
    with pytest.raises(MalformedRequest) as caught:
        await sender.reply(reply_of(**changes))

    assert [detail.path for detail in caught.value.details] == [path]
    assert fake_graph.asked == []


@pytest.mark.parametrize("value", [object(), {1, object()}, {object(): 1}, "\ud800"])
async def test_a_value_that_is_no_json_is_refused(value, sender, fake_graph) -> None:
    with pytest.raises(MalformedRequest):
        await sender.send({**TEXT, "context": value}, None)

    assert fake_graph.asked == []


async def test_the_line_ends_of_a_text_are_those_that_meta_accepts(sender, fake_graph) -> None:
    await sender.reply(reply_of(text={"body": "a\r\nb\rc", "preview_url": True}))

    ((_, body),) = fake_graph.asked
    assert json.loads(body)["text"] == {"body": "a\nb\nc", "preview_url": True}


async def test_a_read_mark_is_sent_and_not_recorded(sender, fake_graph, store) -> None:
    fake_graph.body = {"success": True}
    mark = {"status": "read", "message_id": "wamid.IN"}

    sent = await sender.reply(Reply(message=mark, phone_number_id=None, key=None))

    assert sent == Sent(message_id=None)
    assert json.loads(fake_graph.asked[0][1]) == {**mark, "messaging_product": "whatsapp"}
    assert (await store.list_messages(limit=10, cursor=None)).items == ()
