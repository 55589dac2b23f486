"""What every store promises of deliveries that are leased to who brought them."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from wats.store import Store
from wats.store.records import (
    Arrival,
    Delivery,
    DeliveryState,
    InboxDepth,
    Kept,
    Settlement,
)

MakeArrival = Callable[..., Arrival]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LEASE = 60.0


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def payloads(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


def ids(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.update_id for delivery in deliveries]


async def test_what_nothing_is_before_is_leased_to_who_brought_it(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    update = arrival(lane=7, targets=("a", "b"), lease_seconds=LEASE)

    (kept,) = await store.receive([update])

    assert kept is not None
    leased = kept.leased
    assert [delivery.target for delivery in leased] == ["a", "b"]
    assert payloads(leased) == [update.payload] * 2
    assert {(d.update_id, d.lane, d.attempt) for d in leased} == {(leased[0].update_id, 7, 1)}
    assert await claim(targets=["a", "b"], now=later(LEASE - 1)) == []
    assert (await store.inbox_depth()).leased == 2
    assert await settle(leased) == ids(leased[:1])


async def test_what_something_is_before_is_not_leased_to_who_brought_it(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    first, second, third = (arrival(lane=7, lease_seconds=LEASE) for _ in range(3))

    head, follower = await store.receive([first, second])
    assert head is not None
    assert (payloads(head.leased), follower) == ([first.payload], Kept())
    assert await store.receive([third]) == [Kept()]
    assert await claim() == []

    await settle(head.leased)
    assert payloads(await claim()) == [second.payload, third.payload]


async def test_a_lane_is_busy_for_each_target_alone(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(lane=7, targets=("a",))])

    (kept,) = await store.receive([arrival(lane=7, targets=("a", "b"), lease_seconds=LEASE)])

    assert kept is not None
    assert [delivery.target for delivery in kept.leased] == ["b"]


async def test_what_was_leased_to_who_brought_it_can_be_claimed_when_its_lease_ran_out(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    (lost,) = await store.receive([arrival(lease_seconds=LEASE)])
    assert lost is not None

    (again,) = await claim(now=later(LEASE))

    assert again.attempt == 2
    assert await settle(lost.leased) == []
    assert await settle([again]) == [again.update_id]


async def test_of_what_comes_together_only_what_is_wanted_at_once_is_leased(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    known = arrival(lease_seconds=LEASE)
    await store.receive([known])
    updates = [
        arrival(),
        arrival(lease_seconds=LEASE),
        known,
        arrival(targets=(), lease_seconds=LEASE),
        arrival(lease_seconds=2 * LEASE),
        arrival(),
    ]

    answers = await store.receive(updates)

    assert [answer if answer is None else payloads(answer.leased) for answer in answers] == [
        [],
        [updates[1].payload],
        None,
        [],
        [updates[4].payload],
        [],
    ]
    assert payloads(await claim()) == [updates[0].payload, updates[5].payload]
    assert payloads(await claim(now=later(LEASE - 1))) == []
    assert updates[4].payload not in payloads(await claim(now=later(2 * LEASE - 1)))
    assert updates[4].payload in payloads(await claim(now=later(2 * LEASE)))


async def leased_by(store: Store, *arrivals: Arrival) -> list[Delivery]:
    """Receive *arrivals*; return those of their deliveries that are leased at once."""
    kept = await store.receive(arrivals)
    return [delivery for each in kept if each is not None for delivery in each.leased]


async def test_what_is_leased_at_once_and_done_leaves_nothing(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    leased = await leased_by(store, *(arrival(lease_seconds=LEASE) for _ in range(3)))

    assert await settle(leased) == ids(leased)

    assert await store.inbox_depth() == InboxDepth(pending=0, leased=0, retry=0, dead=0)
    assert await settle(leased) == []
    assert await claim(now=later(LEASE)) == []


async def test_what_is_leased_at_once_ends_as_if_it_were_claimed(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    arrivals = [arrival(lane=n, lease_seconds=LEASE) for n in range(4)]
    done, retried, given_back, dead = await leased_by(store, *arrivals)

    await settle([retried], DeliveryState.RETRY, due_at=later(5))
    await settle([given_back], DeliveryState.PENDING)
    assert await settle([dead], DeliveryState.DEAD) == []
    assert await settle([done]) == [done.update_id]

    depth = await store.inbox_depth()
    assert (depth.pending, depth.leased, depth.retry, depth.dead) == (1, 0, 1, 1)
    (again,) = await claim(now=NOON)
    assert (again.update_id, again.attempt, again.payload) == (
        given_back.update_id,
        1,
        arrivals[2].payload,
    )
    (retry,) = await claim(now=later(5))
    assert (retry.update_id, retry.attempt, retry.payload) == (
        retried.update_id,
        2,
        arrivals[1].payload,
    )
    assert await settle([again, retry]) == [again.update_id, retry.update_id]


async def test_those_leased_at_once_may_end_in_different_ways_together(
    store: Store, arrival: MakeArrival
) -> None:
    first, second, third = await leased_by(
        store, *(arrival(lane=n, lease_seconds=LEASE) for n in range(3))
    )

    settled = await store.settle_deliveries(
        [
            Settlement(first, DeliveryState.DONE),
            Settlement(second, DeliveryState.RETRY, NOON),
            Settlement(third, DeliveryState.DONE),
        ],
        now=NOON,
    )

    assert settled.done == (first.update_id, third.update_id)
    depth = await store.inbox_depth()
    assert (depth.pending, depth.leased, depth.retry) == (0, 0, 1)


async def test_who_is_late_with_what_nobody_claimed_is_not_too_late(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    slow, slower = await leased_by(store, *(arrival(lane=n, lease_seconds=LEASE) for n in range(2)))

    claimed = await claim(now=later(LEASE), limit=1)

    assert ids(claimed) == [slow.update_id]
    assert await settle([slow, slower]) == [slower.update_id]
    assert await settle(claimed) == [slow.update_id]


async def test_what_is_leased_at_once_can_be_held_longer(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    leased = await leased_by(store, arrival(lease_seconds=LEASE))

    await store.renew_deliveries(leased, lease_seconds=LEASE, now=later(LEASE - 1))

    assert await claim(now=later(2 * LEASE - 2)) == []
    assert await settle(leased) == ids(leased)


async def test_what_waits_behind_what_is_leased_at_once_follows_when_that_ends(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    (head,) = await leased_by(store, arrival(lane=7, lease_seconds=LEASE))
    follower = arrival(lane=7, targets=("handlers", "other"), lease_seconds=LEASE)

    assert [delivery.target for delivery in await leased_by(store, follower)] == ["other"]
    assert await claim(now=later(LEASE - 1)) == []
    await settle([head])

    assert payloads(await claim(now=later(1))) == [follower.payload]
