"""The promises of every store about idempotency keys."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from wats.store import Store
from wats.store.records import MessageRecord, Reservation, ReservationOutcome
from wats.testing import FakeClock

MakeMessage = Callable[..., MessageRecord]
Reserve = Callable[..., Awaitable[Reservation]]


async def test_of_concurrent_requests_with_one_key_one_is_reserved(
    store: Store, reserve: Reserve
) -> None:
    answers = await asyncio.gather(*(reserve() for _ in range(20)))

    outcomes = [answer.outcome for answer in answers]
    assert outcomes.count(ReservationOutcome.RESERVED) == 1
    assert outcomes.count(ReservationOutcome.IN_FLIGHT) == 19


async def test_of_concurrent_requests_with_one_key_and_two_bodies_one_is_reserved(
    store: Store, reserve: Reserve
) -> None:
    bodies = (b"one", b"two", b"two")

    answers = await asyncio.gather(*(reserve(request_hash=body) for body in bodies))

    outcomes = [answer.outcome for answer in answers]
    conflicts = outcomes.count(ReservationOutcome.CONFLICT)
    assert outcomes.count(ReservationOutcome.RESERVED) == 1
    assert conflicts + outcomes.count(ReservationOutcome.IN_FLIGHT) == 2
    assert conflicts >= 1


async def test_a_key_is_independent_of_the_same_key_in_another_scope(
    store: Store, reserve: Reserve
) -> None:
    await reserve(scope="send")

    assert (await reserve(scope="groups")).outcome is ReservationOutcome.RESERVED


async def test_a_completed_request_is_replayed(store: Store, reserve: Reserve) -> None:
    await reserve()

    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)

    assert await reserve() == Reservation(outcome=ReservationOutcome.REPLAY, response=b"{}")


async def test_a_completed_request_has_recorded_its_message(
    store: Store, message: MakeMessage, reserve: Reserve
) -> None:
    await reserve()

    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=message())

    assert (await store.get_message("wamid.1")) is not None


async def test_a_request_is_completed_even_if_its_caller_is_cancelled(
    store: Store, reserve: Reserve
) -> None:
    await reserve()
    write = store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)
    completing = asyncio.ensure_future(write)
    await asyncio.sleep(0)
    completing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await completing

    async with asyncio.timeout(60):
        while (await reserve()).outcome is ReservationOutcome.IN_FLIGHT:
            await asyncio.sleep(0.005)

    assert await reserve() == Reservation(outcome=ReservationOutcome.REPLAY, response=b"{}")


@pytest.mark.parametrize("turns", [1, 3])
async def test_the_key_of_a_caller_that_was_cancelled_becomes_free(
    store: Store, reserve: Reserve, turns: int
) -> None:
    reserving = asyncio.ensure_future(reserve())
    for _ in range(turns):
        await asyncio.sleep(0)
    reserving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reserving

    async with asyncio.timeout(10):
        while (await reserve()).outcome is not ReservationOutcome.RESERVED:
            await asyncio.sleep(0.005)

    assert (await reserve()).outcome is ReservationOutcome.IN_FLIGHT


@pytest.mark.parametrize("ending", ["none", "complete", "doubt"])
async def test_a_key_with_another_body_is_a_conflict(
    store: Store, ending: str, reserve: Reserve
) -> None:
    await reserve()
    if ending == "complete":
        await store.complete_request(scope="send", key_hash=b"key", response=b"", message=None)
    if ending == "doubt":
        await store.doubt_request(scope="send", key_hash=b"key")

    answer = await reserve(request_hash=b"other")

    assert answer == Reservation(outcome=ReservationOutcome.CONFLICT)


async def test_the_key_of_a_failed_request_can_be_reserved_with_any_body(
    store: Store, reserve: Reserve
) -> None:
    await reserve()

    await store.fail_request(scope="send", key_hash=b"key")

    answer = await reserve(request_hash=b"other")
    assert answer.outcome is ReservationOutcome.RESERVED


async def test_a_completed_request_stays_completed(store: Store, reserve: Reserve) -> None:
    await reserve()
    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)

    await store.fail_request(scope="send", key_hash=b"key")
    await store.doubt_request(scope="send", key_hash=b"key")

    assert (await reserve()).outcome is ReservationOutcome.REPLAY


async def test_an_unknown_request_stays_unknown_until_it_is_completed(
    store: Store, reserve: Reserve
) -> None:
    await reserve()

    await store.doubt_request(scope="send", key_hash=b"key")
    assert (await reserve()).outcome is ReservationOutcome.UNKNOWN

    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)
    assert (await reserve()).outcome is ReservationOutcome.REPLAY


async def test_a_reservation_whose_process_died_is_unknown(
    store: Store, reserve: Reserve, clock: FakeClock
) -> None:
    await reserve()

    clock.advance(59)
    assert (await reserve()).outcome is ReservationOutcome.IN_FLIGHT
    clock.advance(1)
    assert (await reserve()).outcome is ReservationOutcome.UNKNOWN


async def test_an_expired_key_is_free_for_any_body(
    store: Store, reserve: Reserve, clock: FakeClock
) -> None:
    await reserve()
    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)
    clock.advance(24 * 3600)

    answer = await reserve(request_hash=b"other")

    assert answer.outcome is ReservationOutcome.RESERVED
    again = await reserve(request_hash=b"other")
    assert again.outcome is ReservationOutcome.IN_FLIGHT
