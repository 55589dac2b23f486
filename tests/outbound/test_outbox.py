"""Messages that are sent later: the worker, a real store, and a fake Graph over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from tests.outbound.conftest import FakeGraph, Make
from tests.outbound.windows import open_window
from wats.config import OutboxConfig
from wats.errors import (
    IdempotencyConflict,
    IdempotencyInFlight,
    IdempotencyOutcomeUnknown,
    InvalidIdempotencyKey,
    OutboxFull,
    StoreNotConfigured,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from wats.graph.client import GraphClient
from wats.outbound.accept import Accepted, Acceptor, Queued, SendRequest
from wats.outbound.items import with_callback
from wats.outbound.messages import Outgoing
from wats.outbound.outbox import Outbox, retry_seconds
from wats.outbound.pacing import Pacer
from wats.outbound.transmit import Transmitter
from wats.outbound.window import WindowGuard
from wats.store.outbox import OUTCOME_UNKNOWN, NewSend, SendState, SendView
from wats.store.pacing import Pace
from wats.store.records import Claimed, Delivery, Reservation
from wats.store.sqlite import SQLiteStore
from wats.telemetry import Telemetry
from wats.testing import CapturingTelemetrySink, FakeClock

NUMBER = "15551234567"
RECIPIENT = "15551230000"
PAYLOAD = b'{"messaging_product":"whatsapp","to":"15551230000","type":"text"}'
TEXT = Outgoing(type="text", recipient=RECIPIENT)
REFUSED = {"error": {"code": 100, "type": "OAuthException", "message": "no"}}
BUSY = {"error": {"code": 130429, "type": "OAuthException", "message": "later"}}
ENDED = {SendState.SENT, SendState.FAILED, SendState.UNKNOWN}


def request_of(key: str | None, **changes: Any) -> SendRequest:
    asked: dict[str, Any] = {
        "payload": PAYLOAD,
        "scope": "/messages",
        "idempotency_key": key,
        "request_body": PAYLOAD,
        "message": TEXT,
        **changes,
    }
    return SendRequest(**asked)


class Later:
    """An outbox that runs, and the acceptor that fills it."""

    def __init__(self, acceptor: Acceptor, outbox: Outbox, store: SQLiteStore) -> None:
        self.acceptor = acceptor
        self.outbox = outbox
        self.store = store

    async def put(self, key: str | None = None, **changes: Any) -> Queued | Accepted:
        return await self.acceptor.accept_later(request_of(key, **changes))

    async def until(self, queued: Queued | Accepted, states: set[SendState] = ENDED) -> SendView:
        assert isinstance(queued, Queued)
        async with asyncio.timeout(60):
            while True:
                view = await self.store.get_send(queued.outbox_id)
                if view is not None and view.state in states:
                    return view
                await asyncio.sleep(0.005)


class NotingStore(SQLiteStore):
    """A store whose operations fail, or of which another process takes the leases."""

    def __init__(self, path: str, clock: FakeClock) -> None:
        super().__init__(path, now=clock)
        self.lost: list[Exception] = []  # the errors after the next commits of new items
        self.failures: list[Exception] = []
        self.claimed: list[str] = []
        self.loses_leases = False
        self.noted = asyncio.Event()

    @override
    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        found = await super().enqueue(send, max_waiting=max_waiting)
        if self.lost:
            raise self.lost.pop()
        return found

    @override
    async def claim(
        self,
        consumer: str,
        limit: int,
        marks: Sequence[bytes] = (),
        pace: Pace | None = None,
    ) -> Claimed:
        self.claimed += [] if pace is None else [pace.phone_number_id]
        return await super().claim(consumer, limit, marks, pace)

    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        if self.failures:
            raise self.failures.pop()
        if self.loses_leases:
            steal = "UPDATE wats_deliveries SET lease = 1, due_at = due_at + 60000"
            await self._write(None, lambda writer: writer.execute(steal))
        self.noted.set()
        return await super().renew(deliveries, is_final=is_final)


@pytest.fixture
async def store(database: Path, clock: FakeClock) -> AsyncIterator[NotingStore]:
    opened = NotingStore(str(database), clock)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def wall() -> FakeClock:
    """The clock of the process, which is not that of the store."""
    return FakeClock()


@pytest.fixture
async def outbox(
    graph: GraphClient,
    telemetry: Telemetry,
    store: SQLiteStore,
    clock: FakeClock,
    wall: FakeClock,
    log: list[Mapping[str, object]],
) -> AsyncIterator[Outbox]:
    made = Outbox(
        store,
        Transmitter(
            graph,
            telemetry=telemetry,
            log=log.append,
            guard=WindowGuard(store, telemetry, clock),
            now=clock,
        ),
        Pacer(store, {NUMBER: 0}, telemetry),
        OutboxConfig(max_attempts=2, max_waiting=3),
        graph_seconds=30.0,
        telemetry=telemetry,
        log=log.append,
        now=wall,
        jitter=lambda: 0.0,
    )
    await store.register([made.consumer])
    yield made
    await made.stop(0.1)


@pytest.fixture
async def later(make: Make, outbox: Outbox, store: SQLiteStore) -> Later:
    await outbox.start()
    return Later(make(outbox=outbox), outbox, store)


async def test_a_message_is_sent_after_its_acceptance_and_recorded(
    later: Later, fake_graph: FakeGraph, sink: CapturingTelemetrySink
) -> None:
    queued = await later.put()

    view = await later.until(queued)

    assert view.state is SendState.SENT
    assert json.loads(view.response) == fake_graph.body
    ((request, body),) = fake_graph.asked
    assert request == f"POST /v25.0/{NUMBER}/messages"
    assert body.startswith(PAYLOAD[:-1])
    assert json.loads(body)["biz_opaque_callback_data"].startswith(f"wats:{view.id}:")
    record = await later.store.get_message("wamid.A")
    assert record is not None
    assert (record.to_phone, record.type) == (RECIPIENT, "text")
    processed = [each for each in sink.counters if each.name == "outbox_processed_total"]
    assert [each.attributes["wats.operation.outcome"] for each in processed] == ["success"]


def test_the_callback_data_of_a_caller_is_kept() -> None:
    given = b'{"biz_opaque_callback_data": "order-1", "type": "text"}'

    assert with_callback(given, 1, 2) == given
    assert with_callback(b'{"type":"text"} \n', 1, 255) == (
        b'{"type":"text","biz_opaque_callback_data":"wats:1:ff"}'
    )


async def test_a_message_that_a_retry_got_is_sent_although_its_first_caller_is_cancelled(
    later: Later, fake_graph: FakeGraph
) -> None:
    first = asyncio.create_task(later.put("key"))
    await asyncio.sleep(0)
    first.cancel()

    queued = await later.put("key")

    assert (await later.until(queued)).state is SendState.SENT
    assert first.cancelled()
    assert len(fake_graph.asked) == 1


@pytest.mark.parametrize("key", ["key", None])
async def test_a_message_whose_commit_was_not_reported_is_accepted_and_sent_once(
    later: Later, store: NotingStore, fake_graph: FakeGraph, key: str | None
) -> None:
    store.lost = [StoreOutcomeUnknown()]

    queued = await later.put(key)

    assert queued.replayed is (key is not None)
    assert (await later.until(queued)).state is SendState.SENT
    assert len(fake_graph.asked) == 1


@pytest.mark.parametrize(
    ("key", "error"), [("key", StoreOutcomeUnknown), (None, IdempotencyOutcomeUnknown)]
)
async def test_only_a_request_with_a_key_is_to_be_repeated_if_its_message_may_be_stored(
    later: Later, store: NotingStore, key: str | None, error: type[Exception]
) -> None:
    store.lost = [StoreUnavailable(), StoreOutcomeUnknown()]

    with pytest.raises(error):
        await later.put(key)


async def test_one_key_is_one_message_whether_its_callers_wait_or_not(
    later: Later, fake_graph: FakeGraph
) -> None:
    fake_graph.may_answer.clear()
    queued = await later.put("key")
    await later.until(queued, {SendState.SENDING})

    def send() -> Any:
        return later.acceptor.accept(request_of("key"))

    with pytest.raises(IdempotencyInFlight):
        await send()
    again = await later.put("key")
    assert isinstance(queued, Queued)
    assert again == Queued(outbox_id=queued.outbox_id, replayed=True)
    with pytest.raises(IdempotencyConflict):
        await later.put("key", request_body=b"{}")
    fake_graph.may_answer.set()
    await later.until(queued)

    replay = await send()

    assert (json.loads(replay.body), replay.replayed) == (fake_graph.body, True)
    assert len(fake_graph.asked) == 1


async def test_a_message_that_a_waiting_caller_sent_is_not_sent_later(
    later: Later, fake_graph: FakeGraph
) -> None:
    first = await later.acceptor.accept(request_of("k"))

    second = await later.put("k")

    assert second == Accepted(body=first.body, replayed=True)
    assert len(fake_graph.asked) == 1


async def test_an_unusable_key_or_a_missing_store_is_refused(later: Later, make: Make) -> None:
    with pytest.raises(InvalidIdempotencyKey):
        await later.put(" ")
    later.acceptor = make(store=None)
    with pytest.raises(StoreNotConfigured):
        await later.put()


async def test_a_store_that_is_gone_is_reported(later: Later) -> None:
    await later.outbox.stop(0.1)
    await later.store.close()
    with pytest.raises(StoreUnavailable):
        await later.put()


async def test_a_full_outbox_refuses_further_messages_and_returns_known_ones(
    later: Later, store: SQLiteStore
) -> None:
    await store.pause("outbox", is_paused=True)
    first, *_ = [await later.put(key) for key in "123"]

    with pytest.raises(OutboxFull):
        await later.put("4")

    assert isinstance(first, Queued)
    assert await later.put("1") == Queued(outbox_id=first.outbox_id, replayed=True)
    await store.pause("outbox", is_paused=False)
    await later.until(first)
    assert isinstance(await later.put("4"), Queued)


@pytest.mark.parametrize("throughput", [0, 80])
async def test_messages_of_a_removed_number_wait_until_it_is_configured_again(
    later: Later, fake_graph: FakeGraph, log: list[Mapping[str, object]], throughput: int
) -> None:
    def restarted_with(*numbers: str) -> None:
        telemetry = later.outbox.telemetry
        throughputs = dict.fromkeys(numbers, throughput)
        later.outbox.pacer = Pacer(later.store, throughputs, telemetry)

    await later.outbox.stop(0.1)
    removed = await later.put(phone_number_id="2")
    kept = await later.put()
    restarted_with(NUMBER)
    await later.outbox.start()
    assert (await later.until(kept)).state is SendState.SENT
    assert {"event": "wats.outbox.orphaned", "messages": 1} in log
    await later.outbox.stop(0.1)
    assert (await later.until(removed, {SendState.QUEUED})).attempts == 0
    log.clear()

    restarted_with(NUMBER, "2")
    await later.outbox.start()

    assert (await later.until(removed)).state is SendState.SENT
    assert [request for request, _ in fake_graph.asked] == [
        f"POST /v25.0/{number}/messages" for number in (NUMBER, "2")
    ]
    assert log == []


async def test_of_many_numbers_only_those_with_messages_are_claimed(
    outbox: Outbox, store: NotingStore, make: Make
) -> None:
    numbers = [f"1555000{number:04}" for number in range(100)]
    outbox.pacer = Pacer(store, dict.fromkeys(numbers, 80), outbox.telemetry)
    later = Later(make(outbox=outbox), outbox, store)
    stored_before = await later.put(phone_number_id=numbers[7])
    await outbox.start()
    await later.until(stored_before)

    results = [await later.put(phone_number_id=numbers[8]) for _ in range(3)]

    assert [(await later.until(each)).state for each in results] == [SendState.SENT] * 3
    assert set(store.claimed) == {numbers[7], numbers[8]}


async def test_a_permanent_refusal_fails_without_a_retry_and_frees_the_key(
    later: Later, fake_graph: FakeGraph, log: list[Mapping[str, object]]
) -> None:
    fake_graph.status, fake_graph.body = 400, REFUSED

    view = await later.until(await later.put("key"))

    assert (view.state, view.error, view.attempts) == (SendState.FAILED, "InvalidParameterError", 1)
    assert {"event": "wats.outbox.dead", "errorName": view.error, "outcome": "not_sent"} in log
    assert len(fake_graph.asked) == 1
    fake_graph.status, fake_graph.body = 200, {"messages": [{"id": "wamid.B"}]}
    assert (await later.until(await later.put("key"))).state is SendState.SENT


async def test_a_passing_refusal_is_retried_a_limited_number_of_times(
    later: Later, fake_graph: FakeGraph, clock: FakeClock
) -> None:
    fake_graph.status, fake_graph.body = 400, BUSY
    queued = await later.put()
    await later.until(queued, {SendState.RETRY})
    clock.advance(3)

    view = await later.until(queued)

    assert (view.state, view.error, view.attempts) == (SendState.FAILED, "RateLimitHitError", 2)
    assert len(fake_graph.asked) == 2


async def test_a_passing_refusal_is_not_retried_past_the_greatest_age(
    make: Make, outbox: Outbox, store: SQLiteStore, fake_graph: FakeGraph, clock: FakeClock
) -> None:
    fake_graph.status, fake_graph.body = 400, BUSY
    later = Later(make(outbox=outbox), outbox, store)
    queued = await later.put()
    clock.advance(24 * 3600)

    await outbox.start()

    assert (await later.until(queued)).state is SendState.FAILED


@pytest.mark.parametrize("hours", [-48, 48])
async def test_a_jump_of_the_clock_of_a_process_fails_no_message_and_retries_no_old_one(
    later: Later, fake_graph: FakeGraph, clock: FakeClock, wall: FakeClock, hours: int
) -> None:
    fake_graph.status, fake_graph.body = 400, BUSY
    await later.outbox.stop(1)
    old = await later.put()
    clock.advance(24 * 3600)
    young = await later.put(message=Outgoing(type="text", recipient="15551230001"))
    wall.advance(hours * 3600)

    await later.outbox.start()

    await later.until(young, {SendState.RETRY})
    assert (await later.until(old)).state is SendState.FAILED


async def test_a_graph_that_cannot_be_reached_is_tried_again(
    make: Make, telemetry: Telemetry, store: SQLiteStore, outbox: Outbox, clock: FakeClock
) -> None:
    await outbox.start()
    await outbox.transmitter._graph.close()
    later = Later(make(outbox=outbox), outbox, store)
    queued = await later.put()
    await later.until(queued, {SendState.RETRY})
    await outbox.transmitter._graph.start()
    clock.advance(3)

    assert (await later.until(queued)).state is SendState.SENT


@pytest.mark.parametrize("how", ["cut", "proxy"])
async def test_an_unknown_outcome_is_never_sent_again(
    later: Later,
    fake_graph: FakeGraph,
    clock: FakeClock,
    log: list[Mapping[str, object]],
    how: str,
) -> None:
    fake_graph.cuts = how == "cut"
    fake_graph.status, fake_graph.body = 502, "Bad gateway"

    queued = await later.put("key")
    view = await later.until(queued)
    clock.advance(3600)
    await asyncio.sleep(0.05)

    assert (view.state, view.error) == (SendState.UNKNOWN, OUTCOME_UNKNOWN)
    assert {"event": "wats.outbox.dead", "errorName": OUTCOME_UNKNOWN, "outcome": "unknown"} in log
    assert len(fake_graph.asked) == 1
    assert await later.put("key") == Queued(outbox_id=view.id, replayed=True)


async def test_a_message_is_sent_only_after_the_store_has_noted_the_call(
    later: Later, fake_graph: FakeGraph, store: NotingStore
) -> None:
    store.failures = [StoreUnavailable(), StoreUnavailable()]

    view = await later.until(await later.put())

    assert (view.state, store.failures) == (SendState.SENT, [])
    assert len(fake_graph.asked) == 1


async def test_a_message_whose_lease_was_lost_is_left_to_the_process_that_has_it(
    later: Later, fake_graph: FakeGraph, store: NotingStore
) -> None:
    store.loses_leases = True
    queued = await later.put()

    await store.noted.wait()
    await later.outbox.stop(1)

    assert (await later.until(queued, {SendState.SENDING})).attempts == 1
    assert fake_graph.asked == []


async def test_a_stop_makes_the_outcome_of_a_running_call_unknown_and_keeps_the_rest(
    later: Later, fake_graph: FakeGraph
) -> None:
    fake_graph.may_answer.clear()
    first, second = await later.put(), await later.put()
    await later.until(first, {SendState.SENDING})

    await later.outbox.stop(0.05)

    assert (await later.until(first)).state is SendState.UNKNOWN
    assert (await later.until(second, {SendState.QUEUED})).attempts == 0


async def test_messages_to_one_recipient_are_sent_in_order_and_others_meanwhile(
    later: Later, fake_graph: FakeGraph
) -> None:
    fake_graph.may_answer.clear()
    for number in range(3):
        await later.put(payload=b'{"n":%d}' % number)
    other = Outgoing(type="text", recipient="15551230001")
    await later.put(payload=b'{"n":9}', message=other)
    async with asyncio.timeout(60):
        while len(fake_graph.asked) < 2:
            await asyncio.sleep(0.005)
    assert sorted(json.loads(body)["n"] for _, body in fake_graph.asked) == [0, 9]
    fake_graph.may_answer.set()
    last = await later.put(payload=b'{"n":3}')

    await later.until(last)

    sent = [json.loads(body)["n"] for _, body in fake_graph.asked]
    assert [number for number in sent if number != 9] == [0, 1, 2, 3]


async def test_a_free_form_message_outside_of_the_window_fails_at_its_turn(
    later: Later, fake_graph: FakeGraph, store: SQLiteStore, clock: FakeClock
) -> None:
    await open_window(store, clock())
    clock.advance(25 * 3600)

    view = await later.until(await later.put())

    assert (view.state, view.error) == (SendState.FAILED, "WindowClosed")
    assert fake_graph.asked == []


async def test_content_of_a_foreign_program_is_a_dead_letter(
    later: Later, store: SQLiteStore
) -> None:
    await later.outbox.stop(0.1)
    queued = await later.put()
    await store._write(
        None, lambda writer: writer.execute("UPDATE wats_deliveries SET payload=x''")
    )
    await later.outbox.start()

    assert (await later.until(queued)).state is SendState.FAILED


def test_the_pause_before_a_retry_doubles_up_to_an_hour_and_obeys_meta() -> None:
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    pauses = [retry_seconds(attempt, None, now, 0.0) for attempt in (1, 2, 3, 50)]

    assert pauses == [2.0, 4.0, 8.0, 3600.0]
    assert retry_seconds(1, "30", now, 0.0) == 30.0
    assert retry_seconds(1, "999999", now, 0.0) == 3600.0
    assert retry_seconds(1, "Sun, 22 Nov 2026 12:01:30 GMT", now, 0.0) == 90.0
    assert retry_seconds(1, "Sun, 06 Nov 1994 08:49:37 GMT", now, 0.0) == 2.0
    assert retry_seconds(1, None, now, 1.0) == 2.4
