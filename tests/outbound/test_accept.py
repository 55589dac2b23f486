import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from wats.errors import (
    GraphError,
    GraphOutcomeUnknown,
    GraphRefused,
    GraphUnreachable,
    IdempotencyConflict,
    IdempotencyInFlight,
    IdempotencyOutcomeUnknown,
    InvalidIdempotencyKey,
    MalformedRequest,
    StoreNotConfigured,
    StoreUnavailable,
    WatsError,
)
from wats.graph.client import GraphClient
from wats.outbound.accept import Accepted, Acceptor, SendRequest
from wats.outbound.messages import Outgoing
from wats.store.records import Direction, MessageRecord
from wats.store.sqlite import SQLiteStore
from wats.telemetry import Telemetry
from wats.testing import CapturingTelemetrySink, FakeClock

PAYLOAD = b'{ "messaging_product": "whatsapp" }'
REQUEST = b'{"to": "15551230000", "text": "hi"}'
ANSWER = (
    b'{"messaging_product":"whatsapp","contacts":[{"input":"+15551230000",'
    b'"wa_id":"15551230000"}],"messages":[{"id":"wamid.A"}]}'
)
TEXT = Outgoing(type="text", recipient="15551230000")

Make = Callable[..., Acceptor]


class WatchedStore(SQLiteStore):
    """A store that reports when it begins to complete a request."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.asked = asyncio.Event()

    @override
    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        self.asked.set()
        await super().complete_request(
            scope=scope, key_hash=key_hash, response=response, message=message
        )


async def accept(acceptor: Acceptor, key: str | None = None, **changes: Any) -> Accepted:
    asked: dict[str, Any] = {
        "payload": PAYLOAD,
        "scope": "/messages",
        "idempotency_key": key,
        "request_body": REQUEST,
        "message": TEXT,
        **changes,
    }
    return await acceptor.accept(SendRequest(**asked))


def sends(sink: CapturingTelemetrySink) -> Counter[str]:
    return Counter(
        each.attributes["wats.operation.outcome"]
        for each in sink.counters
        if each.name == "send_outcomes_total"
    )


async def test_a_message_is_sent_as_it_is_and_recorded(
    make: Make, store: SQLiteStore, fake_graph: Any, clock: FakeClock
) -> None:
    accepted = await accept(make())

    assert accepted == Accepted(body=ANSWER, replayed=False)
    assert fake_graph.asked == [("POST /v25.0/15551234567/messages", PAYLOAD)]
    record = await store.get_message("wamid.A")
    assert record is not None
    assert record.direction is Direction.OUTBOUND
    assert (record.from_phone, record.to_phone) == (None, "15551230000")
    assert (record.type, record.status) == ("text", "sent")
    assert (record.graph_message_id, record.created_at) == ("wamid.A", clock.moment)


async def test_a_message_is_sent_without_a_store(make: Make, fake_graph: Any) -> None:
    assert (await accept(make(store=None))).body == ANSWER
    assert len(fake_graph.asked) == 1


async def test_a_repeated_request_gets_the_response_of_the_first(
    make: Make, store: SQLiteStore, fake_graph: Any, sink: CapturingTelemetrySink
) -> None:
    acceptor = make()
    first = await accept(acceptor, "key")
    fake_graph.body = {"messages": [{"id": "wamid.B"}]}

    again = await accept(
        acceptor, "key", request_body=b'{\n"text":"hi",\n"to":"\\u0031\\u0035551230000"}'
    )

    assert first == Accepted(body=ANSWER, replayed=False)
    assert again == Accepted(body=ANSWER, replayed=True)
    assert len(fake_graph.asked) == 1
    assert len((await store.list_messages(limit=10, cursor=None)).items) == 1
    assert sends(sink) == {"success": 1}


async def test_a_key_belongs_to_one_body(
    make: Make, fake_graph: Any, sink: CapturingTelemetrySink
) -> None:
    acceptor = make()
    await accept(acceptor, "key")

    with pytest.raises(IdempotencyConflict):
        await accept(acceptor, "key", request_body=b'{"to":"15551230000","text":"ho"}')

    assert len(fake_graph.asked) == 1
    assert sends(sink) == {"success": 1}


@pytest.mark.parametrize(
    ("scope", "number"), [("/messages/text", "15551234567"), ("/messages", "15557654321")]
)
async def test_a_key_belongs_to_one_route_of_one_number(
    make: Make, fake_graph: Any, scope: str, number: str
) -> None:
    await accept(make(), "key")

    other = await accept(make(phone_number_id=number), "key", scope=scope)

    assert not other.replayed
    assert len(fake_graph.asked) == 2


async def test_a_key_is_forgotten_in_time(make: Make, fake_graph: Any, clock: FakeClock) -> None:
    acceptor = make(idempotency_hours=2)
    await accept(acceptor, "key")
    clock.advance(2 * 3600)

    assert not (await accept(acceptor, "key")).replayed
    assert len(fake_graph.asked) == 2


async def test_fifty_requests_with_one_key_are_sent_once(make: Make, fake_graph: Any) -> None:
    acceptor = make()
    fake_graph.may_answer.clear()
    requests = [asyncio.create_task(accept(acceptor, "key")) for _ in range(50)]
    while sum(request.done() for request in requests) < 49:
        await asyncio.sleep(0.005)

    fake_graph.may_answer.set()
    results = await asyncio.gather(*requests, return_exceptions=True)

    assert Counter(type(each) for each in results) == {Accepted: 1, IdempotencyInFlight: 49}
    assert len(fake_graph.asked) == 1
    assert (await accept(acceptor, "key")).replayed


@pytest.mark.parametrize("status", [400, 404, 429])
async def test_a_key_can_be_used_again_after_a_refusal(
    make: Make, fake_graph: Any, status: int
) -> None:
    acceptor = make()
    fake_graph.status = status
    with pytest.raises(GraphRefused):
        await accept(acceptor, "key")
    fake_graph.status = 200

    assert (await accept(acceptor, "key", request_body=b"{}")).body == ANSWER
    assert len(fake_graph.asked) == 2


async def test_a_key_can_be_used_again_after_nothing_was_sent(
    make: Make, graph: GraphClient, fake_graph: Any, sink: CapturingTelemetrySink
) -> None:
    acceptor = make()
    await graph.close()
    with pytest.raises(GraphUnreachable):
        await accept(acceptor, "key")
    await graph.start()

    assert not (await accept(acceptor, "key")).replayed
    assert len(fake_graph.asked) == 1
    assert sends(sink) == {"error": 1, "success": 1}


async def test_a_key_whose_outcome_is_unknown_is_never_sent_again(
    make: Make, fake_graph: Any
) -> None:
    acceptor = make()
    fake_graph.cuts = True
    with pytest.raises(GraphOutcomeUnknown):
        await accept(acceptor, "key")
    fake_graph.cuts = False

    for _ in range(2):
        with pytest.raises(IdempotencyOutcomeUnknown):
            await accept(acceptor, "key")

    assert len(fake_graph.asked) == 1


async def test_the_outcome_of_a_cancelled_request_is_unknown(
    make: Make, fake_graph: Any, sink: CapturingTelemetrySink
) -> None:
    acceptor = make()
    fake_graph.may_answer.clear()
    request = asyncio.create_task(accept(acceptor, "key"))
    while not fake_graph.asked:
        await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request

    with pytest.raises(IdempotencyOutcomeUnknown):
        await accept(acceptor, "key")

    assert len(fake_graph.asked) == 1
    assert sends(sink) == {"error": 1}


async def test_an_accepted_message_is_recorded_even_if_the_request_is_cancelled(
    make: Make, database: Path, store: SQLiteStore
) -> None:
    watched = WatchedStore(str(database))
    await watched.open()
    acceptor = make(store=watched)
    request = asyncio.create_task(accept(acceptor, "key"))
    await watched.asked.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request

    async with asyncio.timeout(60):
        while await store.get_message("wamid.A") is None:
            await asyncio.sleep(0.005)

    assert (await accept(acceptor, "key")).replayed
    await watched.close()


async def test_nothing_is_sent_when_the_key_cannot_be_reserved(
    make: Make, broken: Any, fake_graph: Any, sink: CapturingTelemetrySink
) -> None:
    with pytest.raises(StoreUnavailable):
        await accept(make(store=await broken("reserve_request")), "key")

    assert fake_graph.asked == []
    assert sends(sink) == {}


async def test_nothing_is_sent_when_the_store_is_closed(make: Make, fake_graph: Any) -> None:
    with pytest.raises(StoreUnavailable):
        await accept(make(store=SQLiteStore(":memory:")), "key")

    assert fake_graph.asked == []


async def test_a_message_that_cannot_be_recorded_is_still_sent(
    make: Make, broken: Any, log: list[Any], telemetry: Telemetry, sink: CapturingTelemetrySink
) -> None:
    assert (await accept(make(store=await broken("record_sent")))).body == ANSWER

    assert log == [{"event": "wats.message.unrecorded", "errorName": "StoreUnavailable"}]
    assert telemetry.errors.snapshot() == {"StoreUnavailable": 1}
    assert sends(sink) == {"success": 1}


async def test_a_key_that_cannot_be_completed_has_an_unknown_outcome_later(
    make: Make, broken: Any, log: list[Any], clock: FakeClock, fake_graph: Any
) -> None:
    acceptor = make(store=await broken("complete_request"))
    assert (await accept(acceptor, "key")).body == ANSWER
    assert [each["event"] for each in log] == ["wats.message.unrecorded"]

    with pytest.raises(IdempotencyInFlight):
        await accept(acceptor, "key")
    clock.advance(61)
    with pytest.raises(IdempotencyOutcomeUnknown):
        await accept(acceptor, "key")

    assert len(fake_graph.asked) == 1


@pytest.mark.parametrize(
    ("question", "cuts", "status", "error"),
    [
        pytest.param("doubt_request", True, 200, GraphOutcomeUnknown, id="doubt"),
        pytest.param("fail_request", False, 400, GraphRefused, id="refusal"),
    ],
)
async def test_an_outcome_that_cannot_be_written_becomes_unknown(
    make: Make,
    broken: Any,
    fake_graph: Any,
    clock: FakeClock,
    question: str,
    cuts: bool,
    status: int,
    error: type[GraphError],
) -> None:
    acceptor = make(store=await broken(question))
    fake_graph.cuts, fake_graph.status = cuts, status

    with pytest.raises(error):
        await accept(acceptor, "key")
    clock.advance(61)
    with pytest.raises(IdempotencyOutcomeUnknown):
        await accept(acceptor, "key")

    assert len(fake_graph.asked) == 1


@pytest.mark.parametrize("key", ["", " ", "\ufeff", "a\nb", "\x7f", "a" * 257])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_key_that_cannot_be_used_is_refused(
    make: Make, fake_graph: Any, key: str, stored: bool
) -> None:
    with pytest.raises(InvalidIdempotencyKey):
        await accept(make() if stored else make(store=None), key)

    assert fake_graph.asked == []


async def test_a_key_without_a_store_is_refused(make: Make, fake_graph: Any) -> None:
    with pytest.raises(StoreNotConfigured) as caught:
        await accept(make(store=None), "key")

    assert caught.value.code == "persistence_not_configured"
    assert fake_graph.asked == []


async def test_a_key_with_a_body_that_is_no_json_is_refused(make: Make, fake_graph: Any) -> None:
    with pytest.raises(MalformedRequest):
        await accept(make(), "key", request_body=b"{")

    assert fake_graph.asked == []


async def test_the_key_itself_is_not_kept(make: Make, store: SQLiteStore, database: Path) -> None:
    key = "an-order-number-of-a-customer-é"

    await accept(make(), key)
    await store.close()

    files = list(database.parent.iterdir())
    assert database in files
    assert not any(key.encode() in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        pytest.param("", b"{}", id="empty"),
        pytest.param("<html>", b"{}", id="html"),
        pytest.param([], b"{}", id="array"),
        pytest.param({}, b"{}", id="nothing-in-it"),
        pytest.param({"messages": [{"id": ""}]}, b'{"messages":[{"id":""}]}', id="blank-id"),
    ],
)
async def test_a_message_accepted_without_a_usable_response_is_not_sent_again(
    make: Make,
    store: SQLiteStore,
    fake_graph: Any,
    sink: CapturingTelemetrySink,
    body: Any,
    answer: bytes,
) -> None:
    acceptor = make()
    fake_graph.body = body

    first = await accept(acceptor, "key")
    again = await accept(acceptor, "key")

    assert first == Accepted(body=answer, replayed=False)
    assert again == Accepted(body=answer, replayed=True)
    assert len(fake_graph.asked) == 1
    assert (await store.list_messages(limit=10, cursor=None)).items == ()
    assert sends(sink) == {"success": 1}


async def test_a_send_that_is_not_a_message_is_neither_recorded_nor_counted_as_one(
    make: Make, store: SQLiteStore, fake_graph: Any, sink: CapturingTelemetrySink
) -> None:
    acceptor = make()

    first = await accept(acceptor, "key", message=None)
    again = await accept(acceptor, "key", message=None)
    await accept(acceptor, None, message=None)

    assert (first.replayed, again.replayed) == (False, True)
    assert len(fake_graph.asked) == 2
    assert (await store.list_messages(limit=10, cursor=None)).items == ()
    assert sends(sink) == {}


@pytest.mark.parametrize("key", [None, "key"])
async def test_a_refusal_is_counted_by_name_and_logged_without_a_text(
    make: Make,
    fake_graph: Any,
    log: list[Any],
    telemetry: Telemetry,
    sink: CapturingTelemetrySink,
    key: str | None,
) -> None:
    fake_graph.status = 400
    fake_graph.body = {
        "error": {
            "message": "(#131047) to 15551230000",
            "type": "OAuthException",
            "code": 131047,
            "error_subcode": 7,
            "fbtrace_id": "Abc",
        }
    }

    with pytest.raises(GraphRefused):
        await accept(make(), key)

    assert [list(each.items()) for each in log] == [
        [
            ("event", "wats.graph.failure"),
            ("outcome", "not_sent"),
            ("cause", None),
            ("metaCode", 131047),
            ("metaSubcode", 7),
            ("metaType", "OAuthException"),
            ("fbtraceId", "Abc"),
            ("parameter", None),
        ]
    ]
    assert telemetry.errors.snapshot() == {"ReEngagementMessageError": 1}
    assert sends(sink) == {"error": 1}


async def test_a_failure_without_an_error_of_metas_is_counted_by_its_class(
    make: Make, fake_graph: Any, log: list[Any], telemetry: Telemetry
) -> None:
    fake_graph.cuts = True

    with pytest.raises(WatsError):
        await accept(make())

    assert telemetry.errors.snapshot() == {"GraphOutcomeUnknown": 1}
    assert log == [
        {
            "event": "wats.graph.failure",
            "outcome": "unknown",
            "cause": "reset",
            "metaCode": None,
            "metaSubcode": None,
            "metaType": None,
            "fbtraceId": None,
            "parameter": None,
        }
    ]
