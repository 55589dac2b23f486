"""The promises of every store about rate limits."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from tests.store.test_store_outbox import claimed, new_send, settle
from wats.store import Store
from wats.store.outbox import UNLIMITED_ATTEMPTS, SendState
from wats.store.pacing import (
    MAX_LEVEL,
    NUMBER_BUCKET,
    SECOND_US,
    Demand,
    Limit,
    Pace,
    Penalty,
    Permit,
    unlimited,
)
from wats.store.records import (
    OUTBOX,
    Consumer,
    Delivery,
    DeliveryState,
    Reservation,
    ReservationOutcome,
    Retention,
)
from wats.testing import FakeClock

# Two immediately, then one a second; to one recipient two immediately, then one in ten seconds.
PACE = Pace(
    phone_number_id="1",
    number=Limit(SECOND_US, SECOND_US),
    pair=Limit(10 * SECOND_US, 10 * SECOND_US),
)
PAUSE = Penalty(bucket=NUMBER_BUCKET, pauses_us=(5 * SECOND_US, 9 * SECOND_US))


@pytest.fixture
async def outbox(store: Store) -> Store:
    await store.register(
        [Consumer(name=OUTBOX, lease_seconds=60.0, max_attempts=UNLIMITED_ATTEMPTS)]
    )
    return store


def demand(recipient: int = 1, patience_seconds: float = 0.0) -> Demand:
    patience_us = round(patience_seconds * SECOND_US)
    return Demand(pace=PACE, ordering_key=recipient, patience_us=patience_us)


async def waits(store: Store, *demands: Demand) -> list[float | None]:
    """Return the wait of each message; `None` if it is refused."""
    permits = [await store.pace(each) for each in demands]
    return [each.wait_seconds if each.is_granted else None for each in permits]


async def reserve(store: Store, key: bytes, wanted: Demand) -> Reservation:
    return await store.reserve_request(
        scope="1/messages",
        key_hash=key,
        request_hash=b"body",
        reserve_seconds=60,
        keep_seconds=60,
        demand=wanted,
    )


async def leased(store: Store) -> tuple[Sequence[Delivery], float]:
    found = await store.claim(OUTBOX, 10, pace=PACE)
    return found.deliveries, found.wait_seconds


async def test_a_burst_is_permitted_then_one_message_in_each_interval(
    store: Store, clock: FakeClock
) -> None:
    assert await waits(store, demand(1), demand(2), demand(3)) == [0, 0, None]
    clock.advance(1)
    assert await waits(store, demand(3), demand(4)) == [0, None]
    clock.advance(60)
    assert await waits(store, *map(demand, (5, 6, 7))) == [0, 0, None]


async def test_a_message_is_permitted_in_advance_within_its_patience(store: Store) -> None:
    patient = [demand(number, 2.0) for number in range(5)]

    assert await waits(store, *patient) == [0, 0, 1, 2, None]


async def test_one_recipient_is_limited_apart_from_others(store: Store, clock: FakeClock) -> None:
    for _ in range(2):
        assert await waits(store, demand(1)) == [0]
        clock.advance(1)
    assert await store.pace(demand(1)) == Permit(is_granted=False, wait_us=8 * SECOND_US)
    assert await waits(store, demand(2)) == [0]
    clock.advance(8)
    assert await waits(store, demand(1)) == [0]


async def test_a_group_is_limited_by_its_number_only(store: Store, clock: FakeClock) -> None:
    for _ in range(5):
        assert await waits(store, demand(-5)) == [0]
        clock.advance(1)


async def test_numbers_have_buckets_of_their_own(store: Store) -> None:
    other = Pace(phone_number_id="2", number=PACE.number, pair=PACE.pair)

    assert await waits(store, demand(1), demand(2), demand(3)) == [0, 0, None]
    assert await waits(store, Demand(pace=other, ordering_key=1)) == [0]


async def test_concurrent_messages_share_one_budget(store: Store) -> None:
    permits = await asyncio.gather(*(store.pace(demand(number)) for number in range(20)))

    assert sum(each.is_granted for each in permits) == 2


async def test_a_reserved_key_takes_a_permit_and_a_replay_does_not(store: Store) -> None:
    assert (await reserve(store, b"a", demand(1))).outcome is ReservationOutcome.RESERVED
    for _ in range(3):
        assert (await reserve(store, b"a", demand(1))).outcome is ReservationOutcome.IN_FLIGHT
    assert (await reserve(store, b"b", demand(2))).outcome is ReservationOutcome.RESERVED

    limited = await reserve(store, b"c", demand(3))
    patient = await reserve(store, b"c", demand(3, 1.0))

    assert limited == Reservation(outcome=ReservationOutcome.LIMITED, wait_seconds=1.0)
    assert patient == Reservation(outcome=ReservationOutcome.RESERVED, wait_seconds=1.0)


async def test_a_claim_leases_what_is_permitted_and_returns_when_to_claim_again(
    outbox: Store, clock: FakeClock
) -> None:
    for number in range(4):
        await outbox.enqueue(new_send(number))

    first, wait = await leased(outbox)
    assert (len(first), wait) == (2, 1.0)
    assert await leased(outbox) == ([], 1.0)
    clock.advance(1)
    second, _ = await leased(outbox)

    assert [each.payload for each in (*first, *second)] == [b"message %d" % n for n in range(3)]


async def test_a_recipient_that_has_to_wait_does_not_delay_others(
    outbox: Store, clock: FakeClock
) -> None:
    ids = [(await outbox.enqueue(new_send(n, ordering_key=1))).outbox_id for n in range(3)]
    await outbox.enqueue(new_send(9, ordering_key=2))
    order: list[bytes] = []
    for _ in range(14):
        for delivery in (await leased(outbox))[0]:
            order.append(delivery.payload)
            await settle(outbox, delivery, DeliveryState.DONE)
        clock.advance(1)

    assert order[:2] == [b"message 0", b"message 9"]
    assert order[2:] == [b"message 1", b"message 2"]
    view = await outbox.get_send(ids[2] or 0)
    assert view is not None
    assert view.state is SendState.SENT


async def test_a_claim_with_limits_leases_messages_of_their_number_only(outbox: Store) -> None:
    await outbox.enqueue(new_send(1, phone_number_id="2"))
    await outbox.enqueue(new_send(2))

    (delivery,), _ = await leased(outbox)
    other = await outbox.claim(OUTBOX, 10, pace=unlimited("2"))

    assert delivery.payload == b"message 2"
    assert [each.payload for each in other.deliveries] == [b"message 1"]


@pytest.mark.parametrize("has_begun", [True, False])
async def test_an_expired_lease_needs_a_permit_unless_its_call_began(
    outbox: Store, clock: FakeClock, has_begun: bool
) -> None:
    await outbox.enqueue(new_send())
    await outbox.renew(await claimed(outbox), is_final=has_begun)
    clock.advance(61)
    await outbox.throttle(PACE, PAUSE)

    deliveries, wait_us = await leased(outbox)

    assert [each.is_exhausted for each in deliveries] == [True] * has_begun
    assert bool(wait_us) is not has_begun


async def test_a_throttle_pauses_and_slows_a_bucket_which_recovers(
    store: Store, clock: FakeClock
) -> None:
    await store.throttle(PACE, PAUSE)
    await store.throttle(PACE, PAUSE)  # of a message that was on its way
    assert (await store.pace(demand(1))).wait_us == 5 * SECOND_US
    clock.advance(5)
    assert await waits(store, demand(1), demand(2)) == [0, None]
    clock.advance(1)
    assert await waits(store, demand(2)) == [None]
    clock.advance(1)
    assert await waits(store, demand(2)) == [0]

    await store.throttle(PACE, PAUSE)
    assert (await store.pace(demand(3))).wait_us == 9 * SECOND_US
    clock.advance(9 + 2 * 60)

    assert await waits(store, *map(demand, (3, 4, 5))) == [0, 0, None]
    clock.advance(1)
    assert await waits(store, demand(5)) == [0]


async def test_a_throttle_is_bounded_and_obeys_the_pause_of_meta(
    store: Store, clock: FakeClock
) -> None:
    for _ in range(MAX_LEVEL + 3):
        await store.throttle(PACE, PAUSE)
        clock.advance(9)
    assert await waits(store, demand(1)) == [0]
    assert (await store.pace(demand(2))).wait_us == 64 * SECOND_US

    await store.throttle(PACE, Penalty(bucket=7, pauses_us=(1,), least_us=40 * SECOND_US))

    clock.advance(64 + 1)
    assert (await store.pace(demand(8))).is_granted
    await store.throttle(PACE, Penalty(bucket=7, pauses_us=(1,), least_us=40 * SECOND_US))
    clock.advance(64)
    assert await waits(store, demand(7)) == [0]


async def test_a_pause_holds_for_messages_that_were_permitted_in_advance(
    store: Store, clock: FakeClock
) -> None:
    assert await waits(store, demand(1), demand(2), demand(3, 3)) == [0, 0, 1]
    permitted = replace(demand(3, 2), is_permitted=True)
    assert await waits(store, permitted, permitted) == [0, 0]
    await store.throttle(PACE, PAUSE)

    assert await waits(store, permitted) == [None]
    clock.advance(4)
    assert await waits(store, permitted, replace(demand(4, 3), is_permitted=True)) == [1, 3]
    clock.advance(0.95)
    assert await waits(store, permitted) == [pytest.approx(0.05)]
    clock.advance(0.05)
    assert await waits(store, permitted) == [0]


async def test_a_pause_of_one_recipient_holds_for_no_other_recipient(store: Store) -> None:
    await store.throttle(PACE, Penalty(bucket=7, pauses_us=(5 * SECOND_US,)))

    permitted = [replace(demand(each), is_permitted=True) for each in (7, 8)]

    assert await waits(store, *permitted) == [None, 0]


async def test_full_buckets_are_purged_and_slow_ones_are_kept(
    store: Store, clock: FakeClock
) -> None:
    retention = Retention(inbox=10**6, dead=10**6, unseen=10**6, messages=10**6)
    await waits(store, demand(1), demand(2))
    await store.throttle(PACE, Penalty(bucket=2, pauses_us=(SECOND_US,)))
    clock.advance(30)

    purged = await store.purge(retention)
    clock.advance(31)
    await store.purge(retention)

    assert purged >= 1
    assert await waits(store, demand(1), demand(2)) == [0, 0]
