"""The promises of every store about deliveries that are leased on arrival."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.store.results import leased, payloads, waiting
from wats.store import Store, receive
from wats.store.records import Arrival, Delivery, DeliveryState, Depth, Settlement
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]

LEASE = 60.0
MANY = {"handlers": 1000, "a": 1000, "b": 1000}


async def test_an_update_is_leased_on_arrival_by_each_consumer_with_a_slot(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    update = arrival(ordering_key=7, consumers=("a", "b"))

    results = await receive(store, [update], {"a": 1, "b": 1})

    deliveries = leased(results)
    assert [delivery.consumer for delivery in deliveries] == ["a", "b"]
    assert payloads(deliveries) == [update.payload] * 2
    assert {(each.update_id, each.ordering_key, each.attempt) for each in deliveries} == {
        (deliveries[0].update_id, 7, 1)
    }
    clock.advance(LEASE - 1)
    assert [*await claim("a"), *await claim("b")] == []
    assert (await store.depth()).total == Depth(leased=2)
    assert await settle(deliveries) == [deliveries[0].update_id]


async def test_without_a_slot_an_update_waits(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival() for _ in range(4)]

    results = await receive(store, updates, {"handlers": 2})

    assert payloads(leased(results)) == [update.payload for update in updates[:2]]
    assert waiting(results) == [0, 0, 1, 1]
    assert payloads(await claim()) == [update.payload for update in updates[2:]]


async def test_the_slots_of_one_call_are_not_used_by_another(
    store: Store, arrival: MakeArrival
) -> None:
    first, second = arrival(), arrival()

    one = await receive(store, [first], {"handlers": 1})
    other = await receive(store, [second])

    assert (payloads(leased(one)), leased(other)) == ([first.payload], [])


async def test_nothing_is_leased_on_arrival_while_an_older_delivery_can_be_claimed(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    old, young = arrival(), arrival()
    await receive(store, [old])

    assert leased(await receive(store, [young], MANY)) == []

    assert payloads(await claim()) == [old.payload, young.payload]


async def test_an_older_delivery_of_the_same_call_goes_first(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival(consumers=("a",)), arrival(consumers=("b",)), arrival(consumers=("a",))]

    results = await receive(store, updates, {"b": 5, "a": 0})
    waiting = await receive(store, [arrival(consumers=("a",))], MANY)

    assert payloads(leased(results)) == [updates[1].payload]
    assert leased(waiting) == []


async def test_the_backlog_of_one_consumer_does_not_keep_another_from_leasing_on_arrival(
    store: Store, arrival: MakeArrival
) -> None:
    await receive(store, [arrival(consumers=("a",))])

    results = await receive(store, [arrival(consumers=("a", "b"))], MANY)

    assert [delivery.consumer for delivery in leased(results)] == ["b"]


@pytest.mark.parametrize("due", [False, True])
async def test_a_retry_keeps_younger_deliveries_from_being_leased_only_once_it_is_due(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock, due: bool
) -> None:
    await receive(store, [arrival()])
    await settle(await claim(), DeliveryState.RETRY, retry_seconds=10)
    clock.advance(10 if due else 9)

    results = await receive(store, [arrival()], MANY)

    assert len(leased(results)) == (not due)


async def test_an_expired_lease_keeps_younger_deliveries_from_being_leased(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    first, second = arrival(), arrival()
    await receive(store, [first], MANY)
    clock.advance(LEASE + 1)

    assert leased(await receive(store, [second], MANY)) == []

    assert payloads(await claim()) == [first.payload, second.payload]


async def test_a_follower_is_not_leased_on_arrival_and_becomes_due_when_its_head_ends(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    first, second, third = (arrival(ordering_key=7) for _ in range(3))

    results = [*await receive(store, [first, second], MANY), *await receive(store, [third], MANY)]

    assert payloads(leased(results)) == [first.payload]
    assert waiting(results) == [0, 1, 1]
    assert await claim() == []
    await settle(leased(results))
    assert payloads(await claim()) == [second.payload]


async def test_an_ordering_key_is_busy_for_each_consumer_alone(
    store: Store, arrival: MakeArrival
) -> None:
    await receive(store, [arrival(ordering_key=7, consumers=("a",))], MANY)

    results = await receive(store, [arrival(ordering_key=7, consumers=("a", "b"))], MANY)

    assert [delivery.consumer for delivery in leased(results)] == ["b"]
    assert waiting(results) == [1]


async def test_a_lease_on_arrival_expires_like_any_other(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    lost = leased(await receive(store, [arrival()], MANY))
    clock.advance(LEASE)

    (again,) = await claim()

    assert again.attempt == 2
    assert await settle(lost) == []
    assert await settle([again]) == [again.update_id]


async def test_a_lease_on_arrival_is_renewed_like_any_other(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    deliveries = leased(await receive(store, [arrival()], MANY))
    clock.advance(LEASE - 1)

    assert list(await store.renew(deliveries)) == []

    clock.advance(LEASE - 1)
    assert await claim() == []
    assert await settle(deliveries) == [deliveries[0].update_id]


async def test_a_lease_on_arrival_is_settled_like_any_other(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    arrivals = [arrival() for _ in range(4)]
    done, retried, released, dead = leased(await receive(store, arrivals, MANY))

    settled = await store.settle(
        [
            Settlement(done, DeliveryState.DONE),
            Settlement(retried, DeliveryState.RETRY, 5),
            Settlement(released, DeliveryState.PENDING),
            Settlement(dead, DeliveryState.DEAD),
        ]
    )

    assert settled.done == [done.update_id]
    assert (await store.depth()).total == Depth(pending=1, retry=1, dead=1)
    (again,) = await claim()
    assert (again.id, again.attempt, again.payload) == (released.id, 1, arrivals[2].payload)
    clock.advance(5)
    (retry,) = await claim()
    assert (retry.id, retry.attempt, retry.payload) == (retried.id, 2, arrivals[1].payload)
    assert await settle([again, retry]) == [again.update_id, retry.update_id]


async def test_a_duplicate_uses_no_slot(store: Store, arrival: MakeArrival) -> None:
    known, new = arrival(), arrival()
    await receive(store, [known], MANY)

    results = await receive(store, [known, new, arrival(consumers=())], {"handlers": 1})

    assert payloads(leased(results)) == [new.payload]
    assert waiting(results) == [None, 0, 0]


async def test_an_acknowledgement_is_void_once_its_lease_has_ended(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    await receive(store, [arrival(), arrival(), arrival()])
    first, second, third = await claim()
    done = [Settlement(each, DeliveryState.DONE) for each in (first, second, third)]

    in_time = await store.acknowledge(done[:1])
    clock.advance(LEASE)
    late = await store.acknowledge(done)

    assert (list(in_time.done), list(in_time.lost)) == ([first.update_id], [])
    assert (list(late.done), list(late.lost)) == ([], [first, second, third])
    assert [each.id for each in await claim()] == [second.id, third.id]


async def test_an_acknowledged_head_makes_the_next_one_due(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(ordering_key=7), arrival(ordering_key=7)])
    (head,) = await claim()

    settled = await store.acknowledge([Settlement(head, DeliveryState.DONE)])

    assert settled.due == {"handlers"}
    assert len(await claim()) == 1
