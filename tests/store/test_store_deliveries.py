"""The promises of every store about deliveries: claiming, renewing, settling."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.store.results import dead_letters, payloads, update_ids
from wats.store import Store, receive
from wats.store.admin import DEAD_LETTERS
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    InboxDepth,
    Settlement,
)
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]

LEASE = 60.0
ENDS = (DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.DEAD, DeliveryState.PENDING)


async def test_deliveries_are_claimed_in_order_of_arrival(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival() for _ in range(5)]
    await receive(store, updates)

    first = await claim(limit=2)
    rest = await claim()

    assert payloads(first) == [update.payload for update in updates[:2]]
    assert payloads(rest) == [update.payload for update in updates[2:]]
    assert {delivery.attempt for delivery in (*first, *rest)} == {1}
    assert [each.ordering_key for each in first] == [each.ordering_key for each in updates[:2]]


async def test_those_due_longest_are_claimed_first(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    retried, expired = arrival(), arrival()
    await receive(store, [retried, expired])
    await settle((await claim())[:1], DeliveryState.RETRY, retry_seconds=LEASE + 10)
    clock.advance(LEASE + 5)  # the lease of the second expired five seconds ago
    young = arrival()
    await receive(store, [young])
    clock.advance(10)

    assert payloads(await claim()) == [expired.payload, young.payload, retried.payload]


async def test_a_leased_delivery_is_not_claimed_again(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    await receive(store, [arrival(), arrival()])

    claims = await asyncio.gather(*(claim(limit=1) for _ in range(5)))

    assert sorted(len(claimed) for claimed in claims) == [0, 0, 0, 1, 1]
    clock.advance(LEASE - 1)
    assert await claim() == []


async def test_each_consumer_gets_its_own_delivery(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(consumers=("a", "b"))])

    (one,) = await claim("a")
    (other,) = await claim("b")

    assert (one.consumer, other.consumer) == ("a", "b")
    assert one.update_id == other.update_id
    assert one.siblings == other.siblings == 2
    assert await claim("other") == []


async def test_a_claim_leases_at_most_one_delivery_of_an_ordering_key(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first, *_ = updates = [arrival(ordering_key=7) for _ in range(3)]
    other = arrival(ordering_key=8)
    await receive(store, [*updates, other])

    assert payloads(await claim()) == [first.payload, other.payload]


@pytest.mark.parametrize("state", [DeliveryState.DONE, DeliveryState.DEAD])
async def test_followers_become_due_one_after_the_other_in_order_of_arrival(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, state: DeliveryState
) -> None:
    updates = [arrival(ordering_key=7) for _ in range(4)]
    await receive(store, updates[:2])
    claimed = await claim()
    await receive(store, updates[2:])
    handled = []

    while claimed:
        assert await claim() == []
        handled += payloads(claimed)
        await settle(claimed, state)
        claimed = await claim()

    assert handled == [update.payload for update in updates]


async def test_an_ordering_key_is_blocked_for_each_consumer_alone(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(ordering_key=7, consumers=("a", "b"))])
    await claim("a")

    assert len(await claim("b")) == 1


async def test_a_long_conversation_does_not_keep_others_waiting(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first, *_ = conversation = [arrival(ordering_key=7) for _ in range(200)]
    other = arrival(ordering_key=8)
    await receive(store, [*conversation, other])

    assert payloads(await claim(limit=2)) == [first.payload, other.payload]


async def test_an_expired_lease_is_claimed_again_and_counts_as_an_attempt(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    await receive(store, [arrival(), arrival()])
    first = await claim()
    clock.advance(LEASE)

    again = await claim()

    assert payloads(again) == payloads(first)
    assert [delivery.attempt for delivery in again] == [2, 2]
    assert {each.lease for each in again}.isdisjoint({each.lease for each in first})


async def test_a_renewed_lease_lasts_longer(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    await receive(store, [arrival()])
    claimed = await claim()
    clock.advance(LEASE - 1)

    assert list(await store.renew(claimed)) == []

    clock.advance(LEASE - 1)
    assert await claim() == []
    clock.advance(1)
    assert len(await claim()) == 1


async def test_a_lost_lease_is_not_renewed_and_is_returned(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival(), arrival(), arrival()])
    ended, lost, held = await claim()
    await settle([ended])
    await store.renew([held])
    clock.advance(LEASE - 1)
    await store.renew([held])
    clock.advance(1)
    await claim()

    assert await store.renew([ended, held, lost]) == [ended, lost]


async def test_a_done_delivery_is_not_claimed_again(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival()])
    claimed = await claim()

    assert await settle(claimed) == update_ids(claimed)

    clock.advance(1000 * LEASE)
    assert await claim() == []
    assert (await store.depth()).total == Depth()


async def test_an_update_is_done_when_its_last_consumer_is(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    update = arrival(consumers=("a", "b"))
    await receive(store, [update, arrival(consumers=("a",))])
    first = await claim("a")

    assert await settle(first) == update_ids(first[1:])

    last = await claim("b")
    assert payloads(last) == [update.payload]
    assert await settle(last) == update_ids(last)


async def test_an_update_whose_deliveries_are_settled_together_is_done_once(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(consumers=("a", "b"))])
    claimed = [*await claim("a"), *await claim("b")]

    assert await settle(claimed) == update_ids(claimed[:1])


async def test_an_update_with_a_dead_letter_is_never_done(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(consumers=("a", "b"))])

    assert await settle(await claim("a"), DeliveryState.DEAD) == []
    assert await settle(await claim("b")) == []


async def test_a_retry_waits_for_its_time_and_is_the_next_attempt(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival()])

    assert await settle(await claim(), DeliveryState.RETRY, retry_seconds=10) == []

    clock.advance(9)
    assert await claim() == []
    clock.advance(1)
    (again,) = await claim()
    assert again.attempt == 2


async def test_a_retry_blocks_its_ordering_key_and_no_other(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    first, second, other = arrival(ordering_key=7), arrival(ordering_key=7), arrival()
    await receive(store, [first])
    await settle(await claim(), DeliveryState.RETRY, retry_seconds=10)
    await receive(store, [second, other])
    clock.advance(9)
    assert payloads(await claim()) == [other.payload]
    clock.advance(1)

    (head,) = await claim()

    assert head.payload == first.payload
    await settle([head])
    assert payloads(await claim()) == [second.payload]


async def test_a_released_delivery_counts_no_attempt_and_is_due_since_its_arrival(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    first, second, younger = arrival(ordering_key=7), arrival(ordering_key=7), arrival()
    await receive(store, [first, second])
    released = await claim()
    clock.advance(1)
    await receive(store, [younger])

    await settle(released, DeliveryState.PENDING)

    again = await claim()
    assert payloads(again) == [first.payload, younger.payload]
    assert [delivery.attempt for delivery in again] == [1, 1]


async def test_a_postponed_delivery_waits_for_its_time_and_counts_no_attempt(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    first, second = arrival(ordering_key=5), arrival(ordering_key=5)
    await receive(store, [first, second])

    (claimed,) = await claim()
    settled = await store.settle([Settlement(claimed, DeliveryState.PENDING, 30)])

    assert settled.due == frozenset()
    assert await claim() == []
    clock.advance(31)
    (again,) = await claim()
    assert (again.payload, again.attempt) == (first.payload, 1)


async def test_a_released_retry_keeps_its_earlier_attempts(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival()])
    await settle(await claim(), DeliveryState.RETRY)

    await settle(await claim(), DeliveryState.PENDING)

    assert (await store.depth()).total == Depth(retry=1)
    assert [delivery.attempt for delivery in await claim()] == [2]


async def test_releases_without_end_never_exhaust_a_delivery(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival()])

    for _ in range(20):
        (delivery,) = await claim()
        assert (delivery.attempt, delivery.is_exhausted) == (1, False)
        await settle([delivery], DeliveryState.PENDING)


async def test_a_delivery_whose_lease_expired_in_its_last_attempt_is_exhausted(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await store.register([Consumer(name="handlers", lease_seconds=LEASE, max_attempts=2)])
    await receive(store, [arrival()])
    attempts = []
    for _ in range(4):
        (delivery,) = await claim()
        attempts.append((delivery.attempt, delivery.is_exhausted))
        clock.advance(LEASE)

    assert attempts == [(1, False), (2, False), (2, True), (2, True)]

    await settle(await claim(), DeliveryState.DEAD)
    (letter,) = await dead_letters(store)
    assert (letter.attempts, letter.error) == (2, "ValueError")


@pytest.mark.parametrize("leaving", [DeliveryState.RETRY, DeliveryState.LEASED])
async def test_lowered_attempts_never_exhaust_a_delivery_that_was_not_tried_under_them(
    store: Store,
    arrival: MakeArrival,
    claim: Claim,
    settle: Settle,
    clock: FakeClock,
    leaving: DeliveryState,
) -> None:
    await receive(store, [arrival()])
    for _ in range(2):
        await settle(await claim(), DeliveryState.RETRY)
    claimed = await claim()
    if leaving is DeliveryState.RETRY:
        await settle(claimed, DeliveryState.RETRY)
    clock.advance(LEASE)
    await store.register([Consumer(name="handlers", lease_seconds=LEASE, max_attempts=1)])

    (delivery,) = await claim()

    assert (delivery.attempt, delivery.is_exhausted) == (4, False)
    clock.advance(LEASE)
    (delivery,) = await claim()
    assert (delivery.attempt, delivery.is_exhausted) == (4, True)


async def test_a_dead_delivery_is_kept_as_a_dead_letter_and_blocks_nothing(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    second = arrival(ordering_key=7)
    await receive(store, [arrival(ordering_key=7)])
    poison = await claim()
    await receive(store, [second])
    clock.advance(5)

    assert await settle(poison, DeliveryState.DEAD) == []

    assert payloads(await claim()) == [second.payload]
    assert (await store.depth()).total == Depth(leased=1, dead=1)
    (letter,) = await dead_letters(store)
    assert (letter.update_id, letter.consumer) == (poison[0].update_id, "handlers")
    assert (letter.attempts, letter.error, letter.died_at) == (1, "ValueError", clock())


async def test_dead_letters_are_listed_in_order_of_id_page_by_page(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival() for _ in range(5)])
    dead = await claim()
    await settle(list(reversed(dead)), DeliveryState.DEAD)

    first = await store.list_deliveries(DEAD_LETTERS, limit=3)
    assert first.next_after is not None
    rest = await store.list_deliveries(DEAD_LETTERS, limit=3, after=first.next_after)

    assert [each.id for each in (*first.items, *rest.items)] == [each.id for each in dead]
    assert rest.next_after is None


@pytest.mark.parametrize("state", ENDS)
async def test_a_lost_lease_settles_nothing(
    store: Store,
    arrival: MakeArrival,
    claim: Claim,
    settle: Settle,
    clock: FakeClock,
    state: DeliveryState,
) -> None:
    await receive(store, [arrival(ordering_key=7), arrival(ordering_key=7), arrival()])
    lost = await claim()
    clock.advance(LEASE)
    held = await claim()

    assert await settle(lost, state) == []

    assert await claim() == []
    assert (await store.depth()).total == Depth(pending=1, leased=2)
    assert await settle(held) == update_ids(held)


@pytest.mark.parametrize("state", ENDS)
async def test_a_lease_that_expired_and_was_not_claimed_can_still_be_settled(
    store: Store,
    arrival: MakeArrival,
    claim: Claim,
    settle: Settle,
    clock: FakeClock,
    state: DeliveryState,
) -> None:
    await receive(store, [arrival()])
    late = await claim()
    clock.advance(2 * LEASE)

    assert await settle(late, state) == (update_ids(late) if state is DeliveryState.DONE else [])

    depth = (await store.depth()).total
    assert (depth.leased, depth.retry, depth.dead, depth.pending) == (
        0,
        state is DeliveryState.RETRY,
        state is DeliveryState.DEAD,
        state is DeliveryState.PENDING,
    )


async def test_the_depth_counts_the_deliveries_of_each_consumer_by_state(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival() for _ in range(4)])
    done, dead, retry, _ = await claim()
    clock.advance(2)
    await receive(store, [arrival(consumers=("a", "b"))])
    await settle([done])
    await settle([dead], DeliveryState.DEAD)
    await settle([retry], DeliveryState.RETRY, retry_seconds=60)
    await claim("b")

    depth = await store.depth()

    assert depth == InboxDepth(
        consumers={
            "handlers": Depth(leased=1, retry=1, dead=1),
            "other": Depth(),
            "a": Depth(pending=1),
            "b": Depth(leased=1),
        },
        configured=frozenset({"handlers", "other", "a", "b"}),
        oldest_seconds=2.0,
    )
    assert depth.total == Depth(pending=1, leased=2, retry=1, dead=1)


async def test_an_inbox_without_deliveries_has_no_oldest(store: Store, clock: FakeClock) -> None:
    clock.advance(1000)

    assert (await store.depth()).oldest_seconds == 0.0


@pytest.mark.parametrize("state", [DeliveryState.DONE, DeliveryState.DEAD])
async def test_a_settlement_returns_the_consumers_that_have_a_new_delivery_due(
    store: Store, arrival: MakeArrival, claim: Claim, state: DeliveryState
) -> None:
    await receive(store, [arrival(ordering_key=7, consumers=("a", "b"))])
    await receive(store, [arrival(ordering_key=7, consumers=("a",))])
    one, other = *await claim("a"), *await claim("b")

    settled = await store.settle([Settlement(one, state), Settlement(other, state)])

    assert settled.due == {"a"}
    (last,) = await claim("a")
    assert (await store.settle([Settlement(last, state)])).due == set()


async def test_a_released_delivery_makes_its_consumer_due_and_a_retry_does_not(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(), arrival()])
    released, retried = await claim()

    assert (await store.settle([Settlement(released, DeliveryState.PENDING)])).due == {"handlers"}
    assert (await store.settle([Settlement(retried, DeliveryState.RETRY, 10)])).due == set()


@pytest.mark.parametrize("state", ENDS)
async def test_a_delivery_that_is_settled_twice_is_settled_once(
    store: Store, arrival: MakeArrival, claim: Claim, state: DeliveryState
) -> None:
    await receive(store, [arrival()])
    (delivery,) = await claim()
    settlement = Settlement(delivery, state, 10)

    together = await store.settle([settlement, settlement])
    again = await store.settle([settlement])

    assert together.done == ([delivery.update_id] if state is DeliveryState.DONE else [])
    assert (list(again.done), again.due) == ([], frozenset())
    depth = (await store.depth()).total
    assert depth.pending + depth.leased + depth.retry + depth.dead == (
        state is not DeliveryState.DONE
    )


async def test_deliveries_of_one_call_may_end_in_different_ways(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival() for _ in range(4)])
    deliveries = await claim()

    settled = await store.settle(
        [Settlement(each, state, 10) for each, state in zip(deliveries, ENDS, strict=True)]
    )

    assert settled.done == [deliveries[0].update_id]
    assert (await store.depth()).total == Depth(pending=1, retry=1, dead=1)
