"""A disk that hangs: operations fail in time, and what they did in the end is undone or kept."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.stalled_disk import StalledDisk, stalled_disk
from wats.errors import StoreUnavailable
from wats.store import FixedSlots, receive
from wats.store.records import Arrival, Consumer, ReservationOutcome
from wats.store.sqlite import SQLiteStore
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]

HANDLERS = [Consumer(name="handlers", max_attempts=5)]


@pytest.fixture
def disk() -> Iterator[StalledDisk]:
    with stalled_disk() as disk:
        yield disk


class Observed:
    """A store with a time limit of half a second, and the outcomes of its operations."""

    def __init__(self, path: Path) -> None:
        self.store = SQLiteStore(str(path), timeout_seconds=0.5)
        self.outcomes: list[tuple[StoreOperation, Outcome]] = []

    def observe(self, _: Adapter, operation: StoreOperation, outcome: Outcome, __: float) -> None:
        self.outcomes.append((operation, outcome))


@pytest.fixture
async def observed(disk: StalledDisk, tmp_path: Path) -> AsyncIterator[Observed]:
    observed = Observed(tmp_path / "wats.db")
    await observed.store.open(observed.observe)
    await observed.store.register(HANDLERS)
    yield observed
    disk.release()
    await ended(observed.store)
    await observed.store.close()


async def recovered(store: SQLiteStore) -> None:
    """Return when the batch that was under way has ended, and its results are undone."""
    await ended(store)
    await store.lead()


async def ended(store: SQLiteStore) -> None:
    """Return when the batch that was under way has ended."""
    async with asyncio.timeout(60):
        while True:
            try:
                await store.health()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                break


async def reserve(store: SQLiteStore, key_hash: bytes = b"key") -> ReservationOutcome:
    reservation = await store.reserve_request(
        scope="send",
        key_hash=key_hash,
        request_hash=b"body",
        reserve_seconds=60.0,
        keep_seconds=3600.0,
    )
    return reservation.outcome


async def test_operations_fail_in_time_when_the_disk_hangs(
    disk: StalledDisk, observed: Observed, arrival: MakeArrival
) -> None:
    disk.hang()

    async with asyncio.timeout(5):
        first = asyncio.create_task(receive(observed.store, [arrival()]))
        await asyncio.sleep(0.02)
        behind = asyncio.create_task(receive(observed.store, [arrival()]))
        results = await asyncio.gather(first, behind, return_exceptions=True)
        with pytest.raises(StoreUnavailable):
            await receive(observed.store, [arrival()])
        with pytest.raises(StoreUnavailable):
            await observed.store.health()

    assert [type(each) for each in results] == [StoreUnavailable] * 2
    assert observed.outcomes == [(StoreOperation.RECEIVE, Outcome.ERROR)] * 3


async def test_an_update_that_was_stored_too_late_is_a_duplicate_and_not_lost(
    disk: StalledDisk, observed: Observed, arrival: MakeArrival
) -> None:
    update = arrival()
    disk.hang()
    with pytest.raises(StoreUnavailable):
        await receive(observed.store, [update], {"handlers": 1})
    disk.release()
    await recovered(observed.store)

    again = await receive(observed.store, [update])
    claimed = (await observed.store.claim("handlers", 10)).deliveries

    assert again == [None]
    assert [each.attempt for each in claimed] == [1]  # the lease on arrival was given back


async def test_a_claim_that_ends_too_late_leases_nothing(
    disk: StalledDisk, observed: Observed, arrival: MakeArrival
) -> None:
    await receive(observed.store, [arrival()])
    disk.hang()
    with pytest.raises(StoreUnavailable):
        await observed.store.claim("handlers", 10)
    disk.release()
    await recovered(observed.store)

    claimed = (await observed.store.claim("handlers", 10)).deliveries

    assert [each.attempt for each in claimed] == [1]


async def test_a_key_that_was_reserved_too_late_can_be_reserved_again(
    disk: StalledDisk, observed: Observed
) -> None:
    disk.hang()
    with pytest.raises(StoreUnavailable):
        await reserve(observed.store)
    disk.release()
    await recovered(observed.store)

    assert await reserve(observed.store) is ReservationOutcome.RESERVED


async def test_a_key_whose_request_was_cancelled_before_the_commit_can_be_reserved_again(
    disk: StalledDisk, observed: Observed
) -> None:
    disk.hang()
    cancelled = asyncio.create_task(reserve(observed.store))
    await asyncio.sleep(0)
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled
    disk.release()
    await recovered(observed.store)

    assert await reserve(observed.store) is ReservationOutcome.RESERVED


async def test_of_keys_that_were_reserved_together_only_that_of_the_cancelled_caller_is_free(
    disk: StalledDisk, observed: Observed
) -> None:
    await reserve(observed.store, b"held")
    disk.hang()
    keys = (b"first", b"cancelled", b"held", b"last")
    reserving = [asyncio.create_task(reserve(observed.store, key)) for key in keys]
    await asyncio.sleep(0)
    for task in reserving[1:3]:
        task.cancel()
    disk.release()
    reserved = [await reserving[0], await reserving[3]]
    await recovered(observed.store)

    again = [await reserve(observed.store, key) for key in keys]

    is_new, is_held = ReservationOutcome.RESERVED, ReservationOutcome.IN_FLIGHT
    assert reserved == [is_new, is_new]
    assert again == [is_held, is_new, is_held, is_held]


async def test_of_keys_that_were_reserved_together_too_late_all_can_be_reserved_again(
    disk: StalledDisk, observed: Observed
) -> None:
    keys = (b"first", b"last")
    disk.hang()
    results = await asyncio.gather(
        *(reserve(observed.store, key) for key in keys), return_exceptions=True
    )
    disk.release()
    await recovered(observed.store)

    again = [await reserve(observed.store, key) for key in keys]

    assert [type(each) for each in results] == [StoreUnavailable] * 2
    assert again == [ReservationOutcome.RESERVED] * 2


async def test_a_key_of_another_request_stays_reserved(
    disk: StalledDisk, observed: Observed, arrival: MakeArrival
) -> None:
    await reserve(observed.store)
    disk.hang()
    results = await asyncio.gather(
        reserve(observed.store), receive(observed.store, [arrival()]), return_exceptions=True
    )
    disk.release()
    await recovered(observed.store)

    assert [type(each) for each in results] == [StoreUnavailable] * 2
    assert await reserve(observed.store) is ReservationOutcome.IN_FLIGHT


async def test_a_result_and_its_slots_are_passed_on_once(
    disk: StalledDisk, observed: Observed, arrival: MakeArrival
) -> None:
    calls: list[object] = []

    class Slots(FixedSlots):
        def give_back(self, reserved: object) -> None:
            calls.append(reserved)

    disk.hang()
    observed.store.receive(
        [arrival()], lambda _, error: calls.append(type(error)), Slots({"handlers": 1})
    )
    async with asyncio.timeout(60):
        while not calls:
            await asyncio.sleep(0.01)
    disk.release()
    await recovered(observed.store)

    assert calls == [{"handlers": 1}, StoreUnavailable]


async def test_an_operation_of_another_loop_fails_in_time(
    disk: StalledDisk, observed: Observed
) -> None:
    disk.hang()

    failed = await asyncio.to_thread(asyncio.run, _failure_of(observed.store))

    assert failed is StoreUnavailable


async def _failure_of(store: SQLiteStore) -> type[BaseException] | None:
    try:
        await reserve(store)
    except StoreUnavailable as error:
        return type(error)
    return None
