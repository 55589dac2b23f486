"""Operators pause consumers, and list, retry and discard deliveries, in both stores."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest

from tests.store.results import dead_letters, leased, payloads
from wats.store import Store, receive
from wats.store.admin import (
    DEAD_LETTERS,
    OUTSTANDING,
    SCAN_DELIVERIES,
    DeliveryFilter,
)
from wats.store.records import Arrival, Consumer, Delivery, DeliveryState, Depth, Settlement
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]


async def make_dead_letters(claim: Claim, settle: Settle) -> Sequence[Delivery]:
    deliveries = await claim()
    await settle(deliveries, DeliveryState.DEAD)
    return deliveries


async def test_a_paused_consumer_gets_no_leases_and_keeps_its_deliveries(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    assert await store.pause("handlers", is_paused=True)

    results = await receive(store, [arrival(), arrival()], {"handlers": 9})

    assert leased(results) == []
    assert await claim() == []
    assert (await store.depth()).total == Depth(pending=2)
    assert await store.pause("handlers", is_paused=False)
    assert len(await claim()) == 2


async def test_a_pause_of_one_consumer_stops_no_other(store: Store, arrival: MakeArrival) -> None:
    await store.pause("a", is_paused=True)

    results = await receive(store, [arrival(consumers=("a", "b"))], {"a": 1, "b": 1})

    assert [each.consumer for each in leased(results)] == ["b"]


async def test_a_pause_outlives_a_restart_and_a_registration(
    store: Store, arrival: MakeArrival, claim: Claim, kind: str
) -> None:
    await store.pause("handlers", is_paused=True)
    if kind != "sqlite-memory":
        await store.close()
        await store.open()
    await store.register([Consumer(name="handlers")])

    await receive(store, [arrival()])

    assert await claim() == []
    (state,) = [each for each in await store.consumers() if each.name == "handlers"]
    assert state.is_paused


async def test_leases_of_a_paused_consumer_can_be_settled(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=1), arrival(ordering_key=1)])
    running = await claim()
    await store.pause("handlers", is_paused=True)

    assert len(await settle(running)) == 1

    assert await claim() == []
    assert (await store.depth()).total == Depth(pending=1)


async def test_an_unknown_consumer_cannot_be_paused(store: Store) -> None:
    assert not await store.pause("nothing", is_paused=True)
    assert not await store.pause("nothing", is_paused=False)


async def test_consumers_are_listed_with_depth_and_age(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival()])
    await make_dead_letters(claim, settle)
    await receive(store, [arrival(consumers=("a", "handlers"), ordering_key=1)])
    clock.advance(10)
    await receive(store, [arrival(consumers=("a",), ordering_key=1)])
    await store.register([Consumer(name="handlers")])

    found = {each.name: each for each in await store.consumers()}

    assert list(found) == ["a", "b", "handlers", "other"]
    assert found["handlers"].is_configured
    assert found["handlers"].depth == Depth(pending=1, dead=1)
    assert not found["a"].is_configured
    assert found["a"].depth == Depth(pending=2)
    assert (found["a"].oldest_seconds, found["b"].oldest_seconds) == (10, 0)


async def test_deliveries_are_listed_by_state_consumer_and_age(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival(consumers=("a", "b"), payload=b"first")])
    await settle(await claim("a"), DeliveryState.RETRY, retry_seconds=60)
    arrived = clock()
    clock.advance(100)
    await receive(store, [arrival(consumers=("b",), payload=b"second" * 100)])

    async def listed(**wanted: object) -> list[tuple[str, str, bytes]]:
        page = await store.list_deliveries(DeliveryFilter(**wanted), limit=10)
        return [(each.consumer, each.state.value, each.head[:6]) for each in page.items]

    first_a, first_b = ("a", "retry", b"first"), ("b", "pending", b"first")
    second = "b", "pending", b"second"
    assert await listed() == [first_a, first_b, second]
    assert await listed(consumer="b") == [first_b, second]
    assert await listed(state=DeliveryState.RETRY) == [first_a]
    assert await listed(mark=b"secondsec") == [second]
    assert await listed(before=arrived) == [first_a, first_b]
    assert await listed(error="ValueError") == [first_a]
    assert await listed(state=DeliveryState.DEAD) == []
    page = await store.list_deliveries(OUTSTANDING, limit=10)
    assert [each.payload_bytes for each in page.items] == [5, 5, 600]
    assert page.items[0].due_at == arrived + timedelta(seconds=60)
    assert page.items[2].arrived_at == clock()


async def test_an_error_with_a_status_is_found_by_its_class_too(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(consumers=("a",)) for _ in range(2)])
    errors = "SubscriberRefused 413", "SubscriberFailed 500"
    await store.settle(
        [
            Settlement(delivery, DeliveryState.DEAD, error=error)
            for delivery, error in zip(await claim("a"), errors, strict=True)
        ]
    )

    found = {}
    for wanted in (
        "SubscriberRefused",
        "SubscriberRefused 413",
        "SubscriberRefused 401",
        "413",
        "",
    ):
        letters = DeliveryFilter(state=DeliveryState.DEAD, error=wanted)
        page = await store.list_deliveries(letters, limit=10)
        found[wanted] = [each.error for each in page.items]

    refused = ["SubscriberRefused 413"]
    assert list(found.values()) == [refused, refused, [], [], []]


async def test_a_page_ends_after_its_limit_and_after_the_limit_of_read_rows(
    store: Store, arrival: MakeArrival
) -> None:
    rows = [arrival(consumers=("a",)) for _ in range(SCAN_DELIVERIES + 1)]
    await receive(store, [*rows, arrival(consumers=("b",))])

    first = await store.list_deliveries(DeliveryFilter(consumer="a"), limit=2)
    none = await store.list_deliveries(DeliveryFilter(error="KeyError"), limit=2)
    assert none.next_after is not None
    rest = await store.list_deliveries(OUTSTANDING, limit=5, after=none.next_after)

    assert [each.head for each in first.items] == [each.payload for each in rows[:2]]
    assert first.next_after == first.items[-1].id
    assert none.items == ()
    assert [each.consumer for each in rest.items] == ["a", "b"]
    assert rest.next_after is None


async def test_a_delivery_or_dead_letter_is_read_with_its_payload(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(payload=b"dead" * 99)])
    (dead,) = await make_dead_letters(claim, settle)
    await receive(store, [arrival(payload=b"alive")])
    (alive,) = (await store.list_deliveries(OUTSTANDING, limit=9)).items

    found = await store.read_delivery(dead.id)

    assert found is not None
    assert (found[0].state, found[1]) == (DeliveryState.DEAD, b"dead" * 99)
    assert await store.read_delivery(alive.id) == (alive, b"alive")
    assert await store.read_delivery(alive.id + 999) is None


async def test_a_retried_dead_letter_is_tried_anew(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(consumers=("handlers", "other"))])
    (dead,) = await make_dead_letters(claim, settle)
    await settle(await claim("other"))

    assert await store.retry_dead([dead.id, dead.id + 999]) == 1

    assert (await store.depth()).total == Depth(pending=1)
    (again,) = await claim()
    assert (again.id, again.attempt, again.is_exhausted) == (dead.id, 1, False)
    assert await settle([again]) == [dead.update_id]
    assert await store.retry_dead([dead.id]) == 0


async def test_retried_dead_letters_precede_what_arrived_later_in_their_conversation(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    updates = [arrival(ordering_key=7, payload=b"%d" % number) for number in range(5)]
    await receive(store, updates[:3])
    dead = [(await make_dead_letters(claim, settle))[0] for _ in range(3)]
    await receive(store, updates[3:])

    await store.retry_dead([each.id for each in reversed(dead)])

    handled = []
    while deliveries := await claim():
        handled += payloads(deliveries)
        await settle(deliveries)
    assert handled == [each.payload for each in updates]


async def test_a_retried_dead_letter_waits_for_a_later_delivery_that_is_leased(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    updates = [arrival(ordering_key=7, payload=b"%d" % number) for number in range(3)]
    await receive(store, updates)
    (dead,) = await make_dead_letters(claim, settle)
    running = await claim()

    await store.retry_dead([dead.id])

    assert await claim() == []
    await settle(running)
    assert payloads(await claim()) == [b"0"]
    assert (await store.depth()).total == Depth(pending=1, leased=1)


async def test_a_delivery_in_backoff_is_tried_now_with_its_attempts(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=7), arrival(ordering_key=7)])
    (failed,) = await claim()
    await settle([failed], DeliveryState.RETRY, retry_seconds=60)
    head, follower = (await store.list_deliveries(OUTSTANDING, limit=9)).items

    assert await store.expedite([head.id, follower.id, 10**12]) == 1

    (again,) = await claim()
    assert (again.id, again.attempt) == (failed.id, 2)
    assert await store.expedite([head.id, follower.id]) == 0  # leased


async def test_stored_updates_are_replayed_to_another_consumer_in_order_and_once(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    updates = [arrival(ordering_key=7, payload=b"%d" % number) for number in range(3)]
    await receive(store, updates)
    (dead,) = await make_dead_letters(claim, settle)
    await receive(store, [arrival(ordering_key=7, payload=b"3", consumers=("a",))])
    stored = [dead, *(await store.list_deliveries(OUTSTANDING, limit=9)).items]

    assert await store.replay([each.id for each in reversed(stored)], "a") == 3
    assert await store.replay([each.id for each in stored], "a") == 0

    assert (await store.depth()).consumers["a"] == Depth(pending=4)
    handled = []
    while deliveries := await claim("a"):
        handled += payloads(deliveries)
        assert len(await settle(deliveries)) == 1
    assert handled == [b"3", b"0", b"1", b"2"]
    assert (await store.depth()).consumers["handlers"] == Depth(pending=2, dead=1)


async def test_a_replay_to_the_consumer_of_a_dead_letter_retries_it(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival()])
    (dead,) = await make_dead_letters(claim, settle)

    assert await store.replay([dead.id], "handlers") == 1

    assert [each.id for each in await claim()] == [dead.id]
    assert (await store.depth()).total == Depth(leased=1)


async def test_concurrent_replays_give_an_update_to_a_consumer_once(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=number % 3) for number in range(9)])
    dead = [each.id for _ in range(3) for each in await make_dead_letters(claim, settle)]
    assert len(dead) == 9
    await asyncio.gather(*(store.depth() for _ in range(6)))  # makes the connections

    replayed = await asyncio.gather(*(store.replay(dead, "a") for _ in range(6)))

    assert sum(each or 0 for each in replayed) == 9
    assert (await store.depth()).consumers["a"] == Depth(pending=9)


async def test_a_replay_and_a_retry_of_dead_letters_may_be_concurrent(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=number % 3) for number in range(9)])
    dead = [each.id for _ in range(3) for each in await make_dead_letters(claim, settle)]

    changed = await asyncio.gather(
        *(store.replay(dead, "handlers") for _ in range(3)),
        *(store.retry_dead(dead) for _ in range(3)),
    )

    assert sum(each or 0 for each in changed) == 9
    assert (await store.depth()).total == Depth(pending=9)


async def test_nothing_is_replayed_to_an_unknown_consumer(
    store: Store, arrival: MakeArrival
) -> None:
    await receive(store, [arrival()])
    (stored,) = (await store.list_deliveries(OUTSTANDING, limit=9)).items

    assert await store.replay([stored.id], "nothing") is None
    assert await store.replay([10**12], "a") == 0


async def test_a_discarded_head_makes_the_next_delivery_due(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=7, payload=b"%d" % number) for number in range(3)])
    first, second, _ = (await store.list_deliveries(OUTSTANDING, limit=9)).items

    assert await store.discard([first.id, second.id, 10**12]) == 2

    assert payloads(await claim()) == [b"2"]
    assert (await store.depth()).total == Depth(leased=1)


async def test_a_discarded_delivery_that_is_leased_cannot_be_settled(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=7), arrival(ordering_key=7)])
    running = await claim()

    assert await store.discard([running[0].id]) == 1

    assert await settle(running) == []
    assert await store.renew(running) == running
    assert len(await claim()) == 1


async def test_a_discarded_dead_letter_is_gone(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(), arrival()])
    dead = await make_dead_letters(claim, settle)

    assert await store.discard([dead[0].id]) == 1

    assert [each.id for each in await dead_letters(store)] == [dead[1].id]
    assert (await store.depth()).total == Depth(dead=1)


@pytest.mark.parametrize("wanted", [OUTSTANDING, DEAD_LETTERS])
async def test_an_empty_store_has_an_empty_page(store: Store, wanted: DeliveryFilter) -> None:
    page = await store.list_deliveries(wanted, limit=10)

    assert (page.items, page.next_after) == ((), None)
