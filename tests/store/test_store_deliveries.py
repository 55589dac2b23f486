"""What every store promises of deliveries: claiming, renewing, settling."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from wats.store import Store
from wats.store.records import Arrival, Delivery, DeliveryState, InboxDepth, Settlement

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


def ending(
    delivery: Delivery,
    state: DeliveryState = DeliveryState.DONE,
    *,
    due_at: datetime | None = None,
    error: str | None = None,
) -> Settlement:
    return Settlement(
        delivery=delivery,
        state=state,
        due_at=due_at,
        error=error,
    )


async def test_deliveries_are_claimed_in_the_order_in_which_they_arrived(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival() for _ in range(5)]
    await store.receive(updates)

    first = await claim(limit=2)
    rest = await claim()

    assert payloads(first) == [update.payload for update in updates[:2]]
    assert payloads(rest) == [update.payload for update in updates[2:]]
    assert {delivery.attempt for delivery in (*first, *rest)} == {1}
    assert [delivery.lane for delivery in first] == [update.lane for update in updates[:2]]


async def test_a_leased_delivery_is_given_to_nobody_else(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(), arrival()])

    claims = await asyncio.gather(*(claim(limit=1) for _ in range(5)))

    assert sorted(len(claimed) for claimed in claims) == [0, 0, 0, 1, 1]
    assert await claim(now=later(LEASE - 1)) == []


async def test_each_target_gets_its_own_delivery(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(targets=("a", "b"))])

    (ours,) = await claim(targets=["a"])
    (theirs,) = await claim(targets=["a", "b"])

    assert (ours.target, theirs.target) == ("a", "b")
    assert ours.update_id == theirs.update_id


async def test_targets_that_were_not_asked_for_are_left_alone(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(targets=("a",))])

    assert await claim(targets=["b"]) == []
    assert await claim(targets=[]) == []


async def test_of_several_targets_those_due_longest_come_first(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    for target in ("a", "b", "a"):
        await store.receive([arrival(targets=(target,))])

    claimed = await claim(targets=["b", "a"], limit=2)

    assert [delivery.target for delivery in claimed] == ["a", "b"]


async def test_what_waits_in_a_lane_is_claimed_together_in_order(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival(lane=7) for _ in range(3)]
    await store.receive(updates)

    claimed = await claim()

    assert payloads(claimed) == [update.payload for update in updates]
    assert len({delivery.lease_id for delivery in claimed}) == 1


async def test_a_lane_waits_for_what_is_leased_of_it(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    first = await claim(limit=1)
    await store.receive([arrival(lane=7)])

    assert await claim() == []

    await settle(first)
    assert len(await claim()) == 2


async def test_a_lane_waits_only_within_its_target(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(lane=7, targets=("a", "b"))])
    await claim(targets=["a"])

    assert len(await claim(targets=["b"])) == 1


async def test_busy_lanes_do_not_keep_others_waiting(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(lane=7) for _ in range(200)])
    other = arrival(lane=8)
    await store.receive([other])

    claimed = await claim(limit=10)

    assert other.payload in payloads(claimed)
    assert len(claimed) == 10


async def test_one_claim_holds_a_bounded_run_of_a_lane(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(lane=7) for _ in range(200)])

    claimed = await claim(limit=200)

    assert 2 <= len(claimed) <= 50


async def test_an_expired_lease_is_claimed_again_and_counts_as_an_attempt(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    first = await claim()

    again = await claim(now=later(LEASE))

    assert payloads(again) == payloads(first)
    assert [delivery.attempt for delivery in again] == [2, 2]
    assert {d.lease_id for d in again}.isdisjoint({d.lease_id for d in first})


async def test_what_another_still_holds_of_a_lane_is_not_claimed_with_its_expired_head(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7), arrival(lane=7)])
    first, second, _ = await claim()
    await store.renew_deliveries([second], lease_seconds=LEASE, now=later(LEASE))

    again = await claim(now=later(LEASE))

    assert payloads(again) == [first.payload]


async def test_a_renewed_lease_lasts_longer(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival()])
    claimed = await claim()

    await store.renew_deliveries(claimed, lease_seconds=LEASE, now=later(LEASE - 1))

    assert await claim(now=later(2 * LEASE - 2)) == []
    assert len(await claim(now=later(2 * LEASE - 1))) == 1


async def test_a_lease_that_is_no_longer_ours_is_not_renewed(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival()])
    lost = await claim()
    await claim(now=later(LEASE))

    await store.renew_deliveries(lost, lease_seconds=1000, now=later(LEASE))

    assert len(await claim(now=later(2 * LEASE))) == 1


async def test_a_done_delivery_is_never_given_again(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival()])

    claimed = await claim()

    assert await settle(claimed) == ids(claimed)

    assert await claim(now=later(1000 * LEASE)) == []
    assert await store.inbox_depth() == InboxDepth(pending=0, leased=0, retry=0, dead=0)


async def test_an_update_is_done_when_its_last_target_is(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    update = arrival(targets=("a", "b"))
    await store.receive([update, arrival(targets=("a",))])

    first = await claim(targets=["a"])

    assert await settle(first) == ids(first[1:])

    last = await claim(targets=["b"])
    assert payloads(last) == [update.payload]
    assert await settle(last) == ids(last)


async def test_targets_of_one_update_settled_together_are_told_once(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival(targets=("a", "b"))])

    claimed = await claim(targets=["a", "b"])

    assert await settle(claimed) == ids(claimed[:1])


async def test_a_retry_waits_for_its_time_and_is_the_next_attempt(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival()])
    claimed = await claim()

    assert await settle(claimed, DeliveryState.RETRY, due_at=later(10)) == []

    assert await claim(now=later(9)) == []
    (again,) = await claim(now=later(10))
    assert again.attempt == 2


async def test_a_retry_without_a_time_is_due_at_once(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival()])

    await settle(await claim(), DeliveryState.RETRY)

    assert len(await claim()) == 1


async def test_a_retry_keeps_its_lane_waiting_and_no_other(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    first, second, other = arrival(lane=7), arrival(lane=7), arrival(lane=8)
    await store.receive([first])
    await settle(await claim(), DeliveryState.RETRY, due_at=later(10))
    await store.receive([second, other])

    assert payloads(await claim(now=later(9))) == [other.payload]
    assert payloads(await claim(now=later(10))) == [first.payload, second.payload]


async def test_when_the_middle_of_a_run_fails_the_rest_waits_behind_it(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival(lane=7) for _ in range(4)]
    await store.receive(updates)
    first, second, third, fourth = await claim()

    await store.settle_deliveries(
        [
            ending(first),
            ending(second, DeliveryState.RETRY, due_at=later(10)),
            ending(third, DeliveryState.PENDING),
            ending(fourth, DeliveryState.PENDING),
        ],
        now=NOON,
    )

    assert await claim(now=later(9)) == []
    again = await claim(now=later(10))
    assert payloads(again) == [update.payload for update in updates[1:]]
    assert [delivery.attempt for delivery in again] == [2, 1, 1]


async def test_a_run_can_be_settled_one_by_one(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    updates = [arrival(lane=7) for _ in range(3)]
    await store.receive(updates)
    first, second, third = await claim()

    await settle([first])
    assert await claim() == []
    await settle([second], DeliveryState.RETRY, due_at=later(10))
    await settle([third], DeliveryState.PENDING)

    assert payloads(await claim(now=later(10))) == [u.payload for u in updates[1:]]


async def test_a_follower_that_failed_before_its_head_ended_keeps_its_time(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    head, follower = await claim()

    await settle([follower], DeliveryState.RETRY, due_at=later(30))
    assert await claim(now=later(31)) == []
    await settle([head])

    assert await claim(now=later(29)) == []
    assert payloads(await claim(now=later(30))) == [follower.payload]


async def test_what_is_given_back_is_as_it_was(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    first, second = arrival(lane=7), arrival(lane=7)
    await store.receive([first, second])

    await settle(await claim(), DeliveryState.PENDING)

    again = await claim()
    assert payloads(again) == [first.payload, second.payload]
    assert [delivery.attempt for delivery in again] == [1, 1]


async def test_a_dead_delivery_is_counted_and_blocks_nothing(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    second = arrival(lane=7)
    await store.receive([arrival(lane=7)])
    poison = await claim()
    await store.receive([second])

    assert await settle(poison, DeliveryState.DEAD) == []

    assert payloads(await claim(now=later(1000))) == [second.payload]
    assert (await store.inbox_depth()).dead == 1


async def test_a_dead_head_lets_the_rest_of_its_run_go_on(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    head, follower = await claim()

    await settle([head], DeliveryState.DEAD)

    assert await claim() == []
    assert await settle([follower]) == [follower.update_id]


@pytest.mark.parametrize(
    "state", [DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.DEAD, DeliveryState.PENDING]
)
async def test_a_lease_that_is_no_longer_ours_settles_nothing(
    store: Store, arrival: MakeArrival, state: DeliveryState, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    lost = await claim()
    held = await claim(now=later(LEASE))

    assert await settle(lost, state, due_at=NOON) == []

    assert await claim(now=later(LEASE)) == []
    assert (await store.inbox_depth()).leased == 2
    assert await settle(held) == ids(held)


async def test_the_depth_counts_deliveries_by_state(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival(received_at=later(n)) for n in range(4)])
    done, dead, retry, _ = await claim(now=later(4))
    await store.receive([arrival(received_at=later(9), targets=("a", "b"))])
    await settle([done])
    await settle([dead], DeliveryState.DEAD)
    await settle([retry], DeliveryState.RETRY, due_at=later(60))

    depth = await store.inbox_depth()

    assert depth == InboxDepth(pending=2, leased=1, retry=1, dead=1, oldest_at=later(2))


@pytest.mark.parametrize("state", [DeliveryState.DONE, DeliveryState.DEAD])
async def test_settling_tells_whether_something_waited_behind(
    store: Store, arrival: MakeArrival, claim: Claim, state: DeliveryState
) -> None:
    await store.receive([arrival(lane=7)])
    (head,) = await claim()
    await store.receive([arrival(lane=7)])

    assert (await store.settle_deliveries([ending(head, state)], now=NOON)).more

    (last,) = await claim()
    assert not (await store.settle_deliveries([ending(last, state)], now=NOON)).more


async def test_settling_a_whole_run_or_nothing_leaves_no_more(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await store.receive([arrival(lane=7) for _ in range(3)])
    run = await claim()

    settled = await store.settle_deliveries([ending(delivery) for delivery in run], now=NOON)
    again = await store.settle_deliveries([ending(delivery) for delivery in run], now=NOON)

    assert (settled.done, settled.more) == (tuple(ids(run)), False)
    assert (again.done, again.more) == ((), False)
