import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
from typing_extensions import override

from tests.outbound.conftest import FakeGraph, Make
from wats.errors import GraphRefused, RateLimited
from wats.outbound.accept import Accepted, Acceptor, SendRequest
from wats.outbound.messages import Outgoing
from wats.outbound.pacing import MemoryBuckets, Pacer, ordering_key, penalty_of
from wats.store.pacing import (
    NUMBER_BUCKET,
    PAIR_BURST,
    SECOND_US,
    Bucket,
    Demand,
    PacingStore,
    Penalty,
    Permit,
    pace_of,
    take,
)
from wats.store.sqlite import SQLiteStore
from wats.telemetry import Telemetry
from wats.testing import FakeClock

NUMBER = "15551234567"
PAYLOAD = b"{}"


class CountingBuckets(MemoryBuckets):
    """Buckets that count the demands."""

    def __init__(self) -> None:
        super().__init__()
        self.demands = 0

    @override
    async def pace(self, demand: Demand) -> Permit:
        self.demands += 1
        return await super().pace(demand)


def text_to(recipient: str) -> Outgoing:
    return Outgoing(type="text", recipient=recipient)


def acceptor_of(
    make: Make, buckets: PacingStore, throughput: int, telemetry: Telemetry
) -> Acceptor:
    return make(pacer=Pacer(buckets, {NUMBER: throughput}, telemetry))


async def send(acceptor: Acceptor, recipient: str, key: str | None = None, **more: Any) -> Accepted:
    return await acceptor.accept(
        SendRequest(
            payload=PAYLOAD,
            scope="/messages",
            idempotency_key=key,
            request_body=PAYLOAD,
            message=text_to(recipient),
            **more,
        )
    )


def test_no_second_has_more_messages_than_the_throughput() -> None:
    for throughput in (1, 2, 20, 80, 1000):
        pace, buckets, now = pace_of("1", throughput), dict[int, Bucket](), 10**12
        sent: list[int] = []
        for number in range(3 * throughput + 5):
            permit = take(
                buckets, Demand(pace=pace, ordering_key=-number - 2, patience_us=10**9), now
            )
            sent.append(now + permit.wait_us)
        for first, last in zip(sent, sent[throughput:], strict=False):
            assert last - first >= SECOND_US * 0.999
        # Yet nearly all of the throughput is used.
        assert sent[-1] - now <= SECOND_US * (3 * throughput + 5) / max(0.9 * throughput - 1, 1)


def test_one_recipient_gets_a_burst_then_a_message_every_six_seconds() -> None:
    pace, buckets, now = pace_of("1", 1000), dict[int, Bucket](), 10**12
    permits = [
        take(buckets, Demand(pace=pace, ordering_key=1, patience_us=10**9), now)
        for _ in range(PAIR_BURST + 3)
    ]

    waits = [each.wait_us for each in permits]
    assert max(waits[:PAIR_BURST]) < SECOND_US
    assert [after - before for before, after in pairwise(waits[PAIR_BURST:])] == [6_000_000] * 2


async def test_a_request_waits_for_its_turn_or_is_refused_before_graph_is_called(
    make: Make, fake_graph: FakeGraph, store: SQLiteStore, telemetry: Telemetry
) -> None:
    for buckets in (MemoryBuckets(), store):
        fake_graph.asked.clear()
        acceptor = acceptor_of(make, buckets, 3, telemetry)  # one immediately, then two a second

        results = await asyncio.gather(
            *(send(acceptor, f"1555000{number:04}", patience_seconds=0.5) for number in range(4)),
            return_exceptions=True,
        )

        refused = [each for each in results if isinstance(each, RateLimited)]
        assert (len(refused), len(fake_graph.asked)) == (2, 2)
        assert {each.retry_after_seconds for each in refused} <= {1, 2}


async def test_a_refused_request_leaves_its_key_free_and_a_replay_needs_no_turn(
    make: Make, store: SQLiteStore, telemetry: Telemetry, clock: FakeClock
) -> None:
    acceptor = acceptor_of(make, store, 1, telemetry)
    now = {"patience_seconds": 0.0}
    first = await send(acceptor, "1", key="a", **now)

    with pytest.raises(RateLimited) as caught:
        await send(acceptor, "2", key="b", **now)
    replay = await send(acceptor, "1", key="a", **now)
    clock.advance(1)
    second = await send(acceptor, "2", key="b", **now)

    assert caught.value.retry_after_seconds == 1
    assert replay == Accepted(body=first.body, replayed=True)
    assert not second.replayed


async def test_without_a_limit_and_for_a_read_mark_nothing_is_counted(
    make: Make, fake_graph: FakeGraph, telemetry: Telemetry
) -> None:
    unlimited = acceptor_of(make, MemoryBuckets(), 0, telemetry)
    limited = acceptor_of(make, MemoryBuckets(), 1, telemetry)
    for _ in range(5):
        await send(unlimited, "1", patience_seconds=0.0)
        await limited.accept(
            SendRequest(
                payload=PAYLOAD, scope="", idempotency_key=None, request_body=PAYLOAD, message=None
            )
        )

    assert len(fake_graph.asked) == 10


@pytest.mark.parametrize("key", ["k", None])
async def test_a_throttle_of_meta_pauses_all_later_messages(
    make: Make,
    fake_graph: FakeGraph,
    store: SQLiteStore,
    telemetry: Telemetry,
    clock: FakeClock,
    key: str | None,
) -> None:
    acceptor = acceptor_of(make, store, 1000, telemetry)
    fake_graph.status, fake_graph.body = 400, {"error": {"code": 130429, "message": "no"}}
    with pytest.raises(GraphRefused):
        await send(acceptor, "1", key)
    fake_graph.status, fake_graph.body = 200, {"messages": [{"id": "wamid.A"}]}

    with pytest.raises(RateLimited):
        await send(acceptor, "2", patience_seconds=0.5)
    clock.advance(1)

    await send(acceptor, "2", key, patience_seconds=0.0)


@pytest.mark.parametrize("key", ["k", None])
async def test_a_throttle_of_meta_refuses_messages_that_were_permitted_before(
    make: Make, fake_graph: FakeGraph, store: SQLiteStore, telemetry: Telemetry, key: str | None
) -> None:
    acceptor = acceptor_of(make, store, 2, telemetry)
    fake_graph.status, fake_graph.body = 400, {"error": {"code": 130429, "message": "no"}}
    fake_graph.may_answer.clear()
    first = asyncio.create_task(send(acceptor, "1"))
    while not fake_graph.asked:
        await asyncio.sleep(0.005)
    second = asyncio.create_task(send(acceptor, "2", key))
    await asyncio.sleep(0.05)
    fake_graph.may_answer.set()

    first_result, second_result = await asyncio.gather(first, second, return_exceptions=True)

    assert isinstance(first_result, GraphRefused)
    assert isinstance(second_result, RateLimited)
    assert len(fake_graph.asked) == 1
    fake_graph.status, fake_graph.body = 200, {"messages": [{"id": "wamid.A"}]}
    unpaced = acceptor_of(make, store, 0, telemetry)
    assert not (await send(unpaced, "2", key)).replayed


async def test_a_permitted_message_waits_for_the_end_of_a_pause_within_its_patience(
    make: Make, fake_graph: FakeGraph, telemetry: Telemetry
) -> None:
    buckets = MemoryBuckets()
    acceptor = acceptor_of(make, buckets, 2, telemetry)
    pace = pace_of(NUMBER, 2)
    await send(acceptor, "1")
    second = asyncio.create_task(send(acceptor, "2", patience_seconds=10.0))
    await asyncio.sleep(0.05)

    begin = monotonic()
    await buckets.throttle(pace, Penalty(bucket=NUMBER_BUCKET, pauses_us=(SECOND_US,)))
    await second

    assert 0.99 <= monotonic() - begin < 9
    assert len(fake_graph.asked) == 2


async def test_only_a_message_that_waited_needs_a_second_look_at_its_buckets(
    make: Make, telemetry: Telemetry
) -> None:
    buckets = CountingBuckets()
    acceptor = acceptor_of(make, buckets, 5, telemetry)

    await send(acceptor, "1")
    assert buckets.demands == 1
    await send(acceptor, "2")

    assert buckets.demands == 3


async def test_without_its_store_a_process_paces_alone_and_keeps_the_refusals_of_meta(
    make: Make, store: SQLiteStore, telemetry: Telemetry, fake_graph: FakeGraph
) -> None:
    pacer = Pacer(store, {NUMBER: 1}, telemetry)
    await store.close()
    await pacer.wait(pacer.demand_of(NUMBER, text_to("1"), 0.0))
    with pytest.raises(RateLimited):
        await pacer.wait(pacer.demand_of(NUMBER, text_to("2"), 0.0))

    fake_graph.status, fake_graph.body = 400, {"error": {"code": 130429, "message": "no"}}
    unpaced = acceptor_of(make, MemoryBuckets(), 0, telemetry)
    with pytest.raises(GraphRefused) as caught:
        await send(unpaced, "1")
    await pacer.note(NUMBER, text_to("1"), caught.value)
    assert telemetry.errors.snapshot()["StoreClosed"] == 3


def refusal(code: int | None, retry_after: str | None = None) -> GraphRefused:
    diagnostics = replace(GraphRefused.diagnostics, meta_code=code)
    return GraphRefused(429, diagnostics, retry_after=retry_after, throttled=True)


def test_each_throttle_has_its_bucket_and_its_pauses() -> None:
    message, group = text_to("1"), Outgoing(type="text", recipient="g", is_group=True)
    key = ordering_key(NUMBER, message)
    cases: list[tuple[Outgoing, GraphRefused, int, int, int, float]] = [
        (message, refusal(130429), NUMBER_BUCKET, 1, 60, 0),
        (message, refusal(131056), key, 4, 300, 0),
        (group, refusal(131056), NUMBER_BUCKET, 1, 60, 0),
        (message, refusal(131048), NUMBER_BUCKET, 60, 3600, 0),
        (message, refusal(None, "7"), NUMBER_BUCKET, 1, 60, 7),
        (message, refusal(4, "999999"), NUMBER_BUCKET, 1, 60, 3600),
        (message, refusal(4, "Sun, 22 Nov 2026 12:00:20 GMT"), NUMBER_BUCKET, 1, 60, 20),
        (message, refusal(4, "Sun, 06 Nov 1994 08:49:37 GMT"), NUMBER_BUCKET, 1, 60, 0),
    ]
    noon = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for sent, error, bucket, shortest, longest, least in cases:
        penalty = penalty_of(NUMBER, sent, error, noon)

        seconds = [each / SECOND_US for each in penalty.pauses_us]
        assert (penalty.bucket, seconds[0], seconds[-1]) == (bucket, shortest, longest)
        assert penalty.least_us == least * SECOND_US


async def test_buckets_in_memory_are_bounded() -> None:
    times = iter(range(0, 10**18, 10**12))
    buckets = MemoryBuckets(max_buckets=10, clock=lambda: next(times))

    for number in range(50):
        await buckets.pace(Demand(pace=pace_of("1", 80), ordering_key=number))

    assert len(buckets._buckets) <= 12


def test_the_ordering_key_is_that_of_the_pair_and_negative_for_a_group() -> None:
    group = Outgoing(type="text", recipient="1", is_group=True)

    assert ordering_key(NUMBER, text_to("1")) == ordering_key(NUMBER, text_to("1")) >= 0
    assert ordering_key("1", text_to("1")) != ordering_key(NUMBER, text_to("1"))
    assert ordering_key(NUMBER, group) < 0
