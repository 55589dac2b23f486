"""Operations whose callers are cancelled: no caller gets the results, so they are undone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from wats.store import Store, receive
from wats.store.outbox import UNLIMITED_ATTEMPTS, NewSend
from wats.store.pacing import Pace, unlimited
from wats.store.records import OUTBOX, Arrival, Consumer, Delivery, Depth, ReservationOutcome
from wats.store.sqlite import SQLiteStore
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]

LEASE_SECONDS = 30.0
NUMBER = "1"


@pytest.fixture
async def registered(store: Store) -> Store:
    await store.register(
        [
            Consumer(name="once", lease_seconds=LEASE_SECONDS, max_attempts=1),
            Consumer(name=OUTBOX, lease_seconds=LEASE_SECONDS, max_attempts=UNLIMITED_ATTEMPTS),
        ]
    )
    return store


async def cancel(operation: Awaitable[object]) -> None:
    """Cancel the caller of *operation* after the operation has begun."""
    calling = asyncio.ensure_future(operation)
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled()


async def until(is_reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await is_reached():
            await asyncio.sleep(0.005)


async def claim_again(store: Store, consumer: str, pace: Pace | None = None) -> Sequence[Delivery]:
    """Claim until an earlier claim is undone."""
    found: list[Delivery] = []

    async def is_undone() -> bool:
        found.extend((await store.claim(consumer, 10, pace=pace)).deliveries)
        return bool(found)

    await until(is_undone)
    return found


async def depth(store: Store, consumer: str) -> Depth:
    return (await store.depth()).consumers[consumer]


def send(key: bytes = b"key") -> NewSend:
    return NewSend(
        phone_number_id=NUMBER,
        ordering_key=7,
        payload=b"{}",
        nonce=1,
        scope="send",
        key_hash=key,
        request_hash=b"body",
        keep_seconds=3600.0,
    )


async def test_a_claim_of_a_cancelled_caller_is_released(
    registered: Store, arrival: MakeArrival
) -> None:
    await receive(registered, [arrival(consumers=("once",))])

    await cancel(registered.claim("once", 10))

    claimed = await claim_again(registered, "once")
    assert [(each.attempt, each.is_exhausted) for each in claimed] == [(1, False)]


async def test_an_exhausted_delivery_of_a_cancelled_caller_is_not_handled_again(
    registered: Store, arrival: MakeArrival, clock: FakeClock
) -> None:
    await receive(registered, [arrival(consumers=("once",)), arrival(consumers=("once",))])
    (crashed,) = (await registered.claim("once", 1)).deliveries
    clock.advance(LEASE_SECONDS + 1)

    await cancel(registered.claim("once", 10))

    claimed = [*await claim_again(registered, "once")]
    clock.advance(LEASE_SECONDS + 1)
    claimed += await claim_again(registered, "once")
    seen = [each.is_exhausted for each in claimed if each.id == crashed.id]
    assert seen == [True] * len(seen) != []


async def test_a_key_that_a_cancelled_caller_reserved_is_free_again(registered: Store) -> None:
    async def reserve() -> ReservationOutcome:
        reservation = await registered.reserve_request(
            scope="send",
            key_hash=b"key",
            request_hash=b"body",
            reserve_seconds=60.0,
            keep_seconds=3600.0,
        )
        return reservation.outcome

    await cancel(reserve())

    async def is_free() -> bool:
        return await reserve() is ReservationOutcome.RESERVED

    await until(is_free)
    assert await reserve() is ReservationOutcome.IN_FLIGHT


async def test_a_key_is_free_again_if_its_caller_is_cancelled_before_it_gets_the_result() -> None:
    store = SQLiteStore(":memory:", now=FakeClock())
    await store.open()

    async def reserve(key: bytes) -> ReservationOutcome:
        reservation = await store.reserve_request(
            scope="send",
            key_hash=key,
            request_hash=b"body",
            reserve_seconds=60.0,
            keep_seconds=3600.0,
        )
        return reservation.outcome

    async def reserve_and_cancel() -> None:
        await reserve(b"first")
        second.cancel()  # both are in one transaction: the result is there, and is not read yet

    first = asyncio.create_task(reserve_and_cancel())
    second = asyncio.create_task(reserve(b"second"))
    await asyncio.wait([first, second])

    async def is_free() -> bool:
        return await reserve(b"second") is ReservationOutcome.RESERVED

    assert second.cancelled()
    await until(is_free)
    assert await reserve(b"first") is ReservationOutcome.IN_FLIGHT
    await store.close()


async def test_a_message_that_a_cancelled_caller_stored_is_not_sent(registered: Store) -> None:
    await cancel(registered.enqueue(send()))

    async def is_stored_again() -> bool:
        return (await registered.enqueue(send())).outcome is ReservationOutcome.RESERVED

    await until(is_stored_again)
    assert await depth(registered, OUTBOX) == Depth(pending=1)


async def test_a_beginning_that_a_cancelled_caller_noted_is_undone(registered: Store) -> None:
    await registered.enqueue(send())
    pace = unlimited(NUMBER)
    leased = (await registered.claim(OUTBOX, 1, pace=pace)).deliveries

    await cancel(registered.renew(leased, is_final=True))

    claimed = await claim_again(registered, OUTBOX, pace)
    assert [(each.attempt, each.is_exhausted) for each in claimed] == [(1, False)]
