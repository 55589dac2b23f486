"""The starts of calls are recorded together, and no call starts without its record."""

import asyncio
from collections.abc import Sequence

import pytest
from typing_extensions import override

from wats.errors import StoreUnavailable
from wats.outbound.call_starts import CallStarts
from wats.store.records import Delivery
from wats.store.sqlite import SQLiteStore


class Notebook(SQLiteStore):
    """A store that only records starts of calls."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.noted: list[list[int]] = []
        self.lost: list[Delivery] = []
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None

    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        assert is_final
        self.noted.append([each.id for each in deliveries])
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return self.lost


def delivery(number: int) -> Delivery:
    return Delivery(
        id=number,
        update_id=number,
        siblings=1,
        consumer="outbox",
        ordering_key=number,
        attempt=1,
        lease=5,
        payload=b"",
    )


async def started(starts: CallStarts, *numbers: int) -> list["asyncio.Task[bool]"]:
    tasks = [asyncio.create_task(starts.record(delivery(number))) for number in numbers]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_calls_that_begin_together_share_one_note() -> None:
    store = Notebook()
    store.lost = [delivery(2)]
    starts = CallStarts(store)
    first = await started(starts, 1, 2)
    second = await started(starts, 3, 4)

    store.may_end.set()

    assert await asyncio.gather(*first, *second) == [True, False, True, True]
    assert store.noted == [[1, 2], [3, 4]]


async def test_a_failure_concerns_the_calls_of_its_note_only() -> None:
    store = Notebook()
    store.failure = StoreUnavailable()
    store.may_end.set()
    starts = CallStarts(store)
    for task in await started(starts, 1, 2):
        with pytest.raises(StoreUnavailable):
            await task
    store.failure = None

    (task,) = await started(starts, 3)

    assert await task


async def test_a_call_that_is_cancelled_leaves_the_others() -> None:
    store = Notebook()
    first, second = await started(CallStarts(store), 1, 2)
    first.cancel()

    store.may_end.set()

    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_interrupted_note_ends_all_calls_that_wait_for_it() -> None:
    store = Notebook()
    starts = CallStarts(store)
    waiting = [*await started(starts, 1), *await started(starts, 2)]

    assert starts._writing is not None
    starts._writing.cancel()

    for task in waiting:
        with pytest.raises(asyncio.CancelledError):
            await task
    store.may_end.set()
    (later,) = await started(starts, 3)
    assert await later
