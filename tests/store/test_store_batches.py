"""The promises of every store about deliveries of one ordering key that are handled in one call."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.store.results import payloads, update_ids
from wats.store import Store, receive
from wats.store.records import (
    BATCH_BYTES,
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    Settlement,
)
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]

LEASE = 60.0
DONE = DeliveryState.DONE


@pytest.fixture
async def consumers(store: Store) -> None:
    await store.register(
        [
            Consumer(name="handlers", lease_seconds=LEASE, max_attempts=5, batch=3),
            Consumer(name="once", max_attempts=1, batch=3),
            Consumer(name="other"),
        ]
    )


def behind(delivery: Delivery) -> list[bytes]:
    return [each.payload for each in delivery.followers]


def texts(*numbers: int) -> list[bytes]:
    return [b"update %d" % number for number in numbers]


@pytest.mark.usefixtures("consumers")
async def test_a_delivery_is_claimed_with_the_next_ones_of_its_ordering_key(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    keys = (1, 2, 1, 1, 2, 1)
    await receive(store, [arrival(ordering_key=key) for key in keys])

    first, second = await claim()

    assert payloads([first, second]) == texts(1, 2)
    assert (behind(first), behind(second)) == (texts(3, 4), texts(5))
    assert (await store.depth()).total == Depth(leased=2, pending=4)


@pytest.mark.usefixtures("consumers")
async def test_followers_are_done_with_the_delivery_that_they_were_handled_with(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(4)])
    (head,) = await claim()

    settled = await store.settle([Settlement(head, DONE, also=head.followers)])

    handled = [head.update_id, *(each.update_id for each in head.followers)]
    assert sorted(settled.done) == handled
    assert settled.due == {"handlers"}
    assert payloads(await claim()) == texts(4)
    assert (await store.depth()).total == Depth(leased=1)


@pytest.mark.usefixtures("consumers")
async def test_followers_that_were_not_handled_wait_for_their_turn(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(4)])
    (head,) = await claim()

    await store.settle([Settlement(head, DONE, also=head.followers[:1])])

    (following,) = await claim()
    assert following.payload == b"update 3"
    assert following.attempt == 1
    assert behind(following) == texts(4)


@pytest.mark.usefixtures("consumers")
async def test_followers_cannot_be_claimed_while_the_delivery_before_them_is_leased(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(2)])
    (head,) = await claim()
    assert behind(head) == texts(2)

    clock.advance(LEASE - 1)
    assert await claim() == []
    await store.renew([head])
    clock.advance(LEASE - 1)
    assert await claim() == []


@pytest.mark.usefixtures("consumers")
async def test_after_a_failure_or_a_lost_lease_a_delivery_is_claimed_alone(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(3)])

    await settle(await claim(), DeliveryState.RETRY)
    (retried,) = await claim()
    clock.advance(LEASE + 1)
    (expired,) = await claim()

    assert [retried.attempt, expired.attempt] == [2, 3]
    assert (retried.followers, expired.followers) == ((), ())
    await settle([expired])
    (following,) = await claim()
    assert following.attempt == 1
    assert behind(following) == texts(3)


@pytest.mark.usefixtures("consumers")
async def test_a_release_keeps_the_followers(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(2)])

    await settle(await claim(), DeliveryState.PENDING)

    (again,) = await claim()
    assert again.attempt == 1
    assert behind(again) == texts(2)


@pytest.mark.usefixtures("consumers")
async def test_the_only_permitted_attempt_has_one_delivery(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(ordering_key=1, consumers=("once",)) for _ in range(2)])

    (head,) = await claim("once")

    assert head.followers == ()


@pytest.mark.usefixtures("consumers")
@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((BATCH_BYTES // 2, BATCH_BYTES // 2, 1), 1),
        ((BATCH_BYTES // 2, BATCH_BYTES // 2 + 1), 0),
        ((BATCH_BYTES, 1), 0),
        ((1, BATCH_BYTES, 1), 0),
        ((1, 1, 1, 1), 2),
    ],
)
async def test_the_size_and_the_number_of_deliveries_in_one_call_are_limited(
    store: Store, arrival: MakeArrival, claim: Claim, sizes: tuple[int, ...], count: int
) -> None:
    await receive(store, [arrival(ordering_key=1, payload=b"x" * size) for size in sizes])

    (head,) = await claim()

    assert [len(each) for each in behind(head)] == list(sizes[1 : 1 + count])


@pytest.mark.usefixtures("consumers")
async def test_an_update_is_done_when_its_last_consumer_has_handled_it_as_a_follower(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    both = ("handlers", "other")
    await receive(store, [arrival(ordering_key=1), arrival(ordering_key=1, consumers=both)])
    (head,) = await claim()

    settled = await store.settle([Settlement(head, DONE, also=head.followers)])

    others = await claim("other")
    assert settled.done == [head.update_id]
    assert await settle(others) == update_ids(others)


@pytest.mark.usefixtures("consumers")
async def test_a_follower_that_was_discarded_during_its_call_changes_nothing(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(4)])
    (head,) = await claim()
    await store.discard([head.followers[0].id])

    settled = await store.settle([Settlement(head, DONE, also=head.followers)])

    assert sorted(settled.done) == [head.update_id, head.followers[1].update_id]
    assert payloads(await claim()) == texts(4)
    assert (await store.depth()).total == Depth(leased=1)


@pytest.mark.usefixtures("consumers")
@pytest.mark.parametrize("state", [DeliveryState.RETRY, DeliveryState.PENDING, DeliveryState.DEAD])
async def test_followers_of_a_delivery_that_is_not_done_are_kept(
    store: Store, arrival: MakeArrival, claim: Claim, state: DeliveryState
) -> None:
    await receive(store, [arrival(ordering_key=1) for _ in range(3)])
    (head,) = await claim()

    await store.settle([Settlement(head, state, error="ValueError", also=head.followers)])

    depth = (await store.depth()).total
    assert (depth.outstanding, depth.dead) == ((2, 1) if state is DeliveryState.DEAD else (3, 0))
