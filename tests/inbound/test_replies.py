import asyncio
from typing import Any

import pytest
from inline_snapshot import snapshot

from wats.errors import MalformedRequest, NoHandlerCall, NoMessage
from wats.inbound.calls import HandlerCall, HandlerCalls, refuse_reply
from wats.inbound.handlers import Handlers
from wats.inbound.updates import Update
from wats.sends import Reply, SendReply, Sent
from wats.telemetry import UNMATCHED, RouteLabel, Telemetry
from wats.testing import recorded_replies


async def test_a_reply_goes_to_the_customer_who_wrote(update) -> None:
    with recorded_replies() as replies:
        sent = await update("message_text").reply("Hello")

    assert replies[0].message == {
        "type": "text",
        "text": {"body": "Hello"},
        "to": "15550002222",
    }
    assert sent == Sent(message_id="wamid.1")


async def test_the_number_that_received_a_message_sends_the_reply(update) -> None:
    received = update("message_text")

    with recorded_replies() as replies:
        await received.reply("Hello")
        await received.mark_read()

    assert received.phone_number_id is not None
    assert [reply.phone_number_id for reply in replies] == [received.phone_number_id] * 2


async def test_a_customer_without_a_number_gets_a_reply_by_user_id(update) -> None:
    with recorded_replies() as replies:
        await update("message_bsuid_only").reply("Hello")

    assert replies[0].message["recipient"] == "US.1000000000000000001"
    assert "to" not in replies[0].message


async def test_a_reply_to_a_message_in_a_group_goes_to_the_group(update) -> None:
    received = update("message_group_text")

    with recorded_replies() as replies:
        await received.reply("Hello")

    sent = replies[0].message
    assert (sent["recipient_type"], sent["to"]) == ("group", received.message.group_id)


async def test_a_reply_can_quote_the_message(update) -> None:
    received = update("message_text")

    with recorded_replies() as replies:
        await received.reply("Hello", quote=True)
        await received.reply("Hello")

    assert replies[0].message["context"] == {"message_id": received.message.id}
    assert "context" not in replies[1].message


@pytest.mark.parametrize("others", [{"to": "15550009999"}, {"recipient": "US.13579"}])
async def test_a_reply_to_another_recipient_is_refused(update, others: dict[str, str]) -> None:
    with recorded_replies() as replies, pytest.raises(MalformedRequest) as caught:
        await update("message_text").reply({"type": "text", "text": {"body": "Hi"}, **others})

    assert [each.path for each in caught.value.details] == [*others]
    assert replies == []


async def test_a_reply_of_any_type_keeps_its_content(update) -> None:
    image = {"type": "image", "image": {"link": "https://example.com/a.png"}}

    with recorded_replies() as replies:
        await update("message_text").reply({**image, "to": "15550002222"}, key="picture")

    assert replies[0].message == {**image, "to": "15550002222"}
    assert replies[0].key == "picture"


async def test_a_template_has_its_parameters_and_further_components(update) -> None:
    header = {"type": "header", "parameters": [{"type": "text", "text": "Order"}]}

    with recorded_replies() as replies:
        await update("message_text").reply_template("ready", "en_US", ["42"], components=[header])
        await update("message_text").reply_template("hello", "en_US")

    assert [reply.message["template"] for reply in replies] == [
        {
            "name": "ready",
            "language": {"code": "en_US"},
            "components": [
                {"type": "body", "parameters": [{"type": "text", "text": "42"}]},
                header,
            ],
        },
        {"name": "hello", "language": {"code": "en_US"}},
    ]


async def test_a_read_mark_can_show_that_a_reply_is_being_written(update) -> None:
    received = update("message_text")

    with recorded_replies() as replies:
        await received.mark_read()
        await received.mark_read(typing=True)

    mark = {"status": "read", "message_id": received.message.id}
    assert [reply.message for reply in replies] == [
        mark,
        {**mark, "typing_indicator": {"type": "text"}},
    ]


@pytest.mark.parametrize(
    "name",
    [
        "status_sent",
        "message_system_user_changed_number",
        "smb_message_echoes_text",
        "standby_message",
        "history_chunk",
        "call_connect_user_initiated",
        "template_status_approved",
    ],
)
async def test_an_update_that_no_customer_wrote_has_no_reply(name, body, read) -> None:
    received = read(body(name)).updates[0]

    with recorded_replies() as replies:
        with pytest.raises(NoMessage):
            await received.reply("Hello")
        with pytest.raises(NoMessage):
            await received.mark_read()

    assert replies == []


@pytest.mark.parametrize(
    ("message", "paths"),
    [
        ("", ["text.body"]),
        ({"type": "imag"}, ["type"]),
        ({"type": "image", "image": "x"}, ["type"]),
        ({"image": {"link": "https://example.com/a.png"}}, ["type"]),
        ({"type": "image", "image": {"link": object()}}, []),
    ],
)
async def test_a_recorded_reply_is_refused_as_by_the_service(update, message, paths) -> None:
    with recorded_replies() as replies, pytest.raises(MalformedRequest) as caught:
        await update("message_text").reply(message)

    assert [each.path for each in caught.value.details] == paths
    assert replies == []


async def test_a_chat_that_a_customer_opened_has_replies(update) -> None:
    with recorded_replies() as replies:
        await update("message_request_welcome").reply("Welcome!")

    assert len(replies) == 1


async def test_a_reply_outside_of_a_handler_is_refused_with_a_stable_code(update) -> None:
    with pytest.raises(NoHandlerCall) as caught:
        await update("message_text").reply("Hello")

    assert caught.value.code == "no_handler_call"


class Calls:
    """Calls of handlers whose replies are kept in place of being sent."""

    def __init__(self, send: SendReply | None = None, /, **handlers: Any) -> None:
        self.sent: list[Reply] = []
        registered = Handlers()
        for name, handler in handlers.items():
            registered.add(handler, name=name)
        telemetry = Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=None)
        self._calls = HandlerCalls(
            registered,
            telemetry=telemetry,
            timeout_seconds=5,
            log=lambda _: None,
            send=send or self.send,
        )

    async def send(self, reply: Reply) -> Sent:
        self.sent.append(reply)
        return Sent(message_id="wamid.A")

    async def call(self, name: str, update: Update) -> BaseException | None:
        ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        class TestedCall(HandlerCall):
            def handled(self, failure: BaseException | None) -> None:
                ended.set_result(failure)

        self._calls.start(TestedCall(), name, update)
        return await ended

    @property
    def keys(self) -> list[str | None]:
        return [reply.key for reply in self.sent]


async def reply_twice(update: Update) -> None:
    await update.reply("One")
    await update.reply("Two")


async def test_the_replies_of_a_retry_have_the_keys_of_the_earlier_attempt(update) -> None:
    calls = Calls(shop=reply_twice)

    await calls.call("shop", update("message_text"))
    await calls.call("shop", update("message_text"))

    first, second = calls.keys[:2], calls.keys[2:]
    assert first == second
    assert len(set(first)) == 2


async def test_neither_handlers_nor_updates_share_keys(update) -> None:
    calls = Calls(shop=reply_twice, bank=reply_twice)

    await calls.call("shop", update("message_text"))
    await calls.call("bank", update("message_text"))
    await calls.call("shop", update("message_text", id="wamid.OTHER"))

    assert len(set(calls.keys)) == 6


async def test_a_named_reply_has_a_key_apart_from_the_positions(update) -> None:
    async def named(update: Update) -> None:
        await update.reply("Busy", key="1")
        await update.reply("One")

    calls = Calls(shop=named)

    await calls.call("shop", update("message_text"))
    await calls.call("shop", update("message_text"))

    assert calls.keys[:2] == calls.keys[2:]
    assert len(set(calls.keys)) == 2


async def test_replies_at_the_same_time_have_the_keys_of_their_order(update) -> None:
    async def both(update: Update) -> None:
        await asyncio.gather(update.reply("One"), update.reply("Two"))

    calls = Calls(one=both)
    await calls.call("one", update("message_text"))
    await calls.call("one", update("message_text"))

    bodies = [reply.message["text"] for reply in calls.sent]
    assert bodies[:2] == bodies[2:]
    assert calls.keys[:2] == calls.keys[2:]


async def test_a_task_that_a_handler_leaves_behind_can_still_reply(update) -> None:
    tasks = []

    async def later(update: Update) -> None:
        async def reply() -> None:
            await asyncio.sleep(0)
            await update.reply("Later")

        tasks.append(asyncio.create_task(reply()))

    calls = Calls(shop=later)
    assert await calls.call("shop", update("message_text")) is None
    await tasks[0]

    assert len(calls.sent) == 1


async def test_a_read_mark_has_no_key_and_no_position(update) -> None:
    async def mark(update: Update) -> None:
        await update.mark_read()
        await update.reply("One")

    async def reply(update: Update) -> None:
        await update.reply("One")

    calls = Calls(shop=mark)
    others = Calls(shop=reply)
    await calls.call("shop", update("message_text"))
    await others.call("shop", update("message_text"))

    assert calls.keys == [None, *others.keys]


async def test_calls_without_a_service_refuse_replies(update) -> None:
    calls = Calls(refuse_reply, shop=reply_twice)

    assert type(await calls.call("shop", update("message_text"))) is NoHandlerCall


async def test_the_text_of_the_error_has_every_mistake_of_a_refused_reply(update) -> None:
    composer = {"type": "interactiveButtons", "recipient_type": "crowd"}

    with recorded_replies(), pytest.raises(MalformedRequest) as caught:
        await update("message_text").reply(composer)

    assert str(caught.value) == snapshot("""\
Message body is invalid or unsupported.
  recipient_type: must be 'individual' or 'group'
  type: must be a type of Graph's format, such as 'interactive'\
""")


async def test_a_text_in_place_of_the_parameters_of_a_template_is_refused(update) -> None:
    with recorded_replies() as replies, pytest.raises(TypeError):
        await update("message_text").reply_template("delivery_time", "en_US", "10:00")

    assert replies == []
