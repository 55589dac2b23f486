"""Group commit of arrivals: concurrent calls share a transaction."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

import asyncpg
import msgspec

from wats.errors import StoreClosed, StoreUnavailable
from wats.store import OnReceived, Slots
from wats.store.postgres.receive import ReceiveCall
from wats.store.records import Arrival, Received

MAX_ARRIVALS: Final = 512
"""The size of a full transaction, in updates. It bounds how long the first update waits."""

IN_FLIGHT: Final = 2
"""The number of concurrent transactions: one is prepared while the other waits for the disk."""

_Results = Sequence[Sequence[Received | None]]


class _Waiting(msgspec.Struct, frozen=True):
    arrivals: Sequence[Arrival]
    slots: Slots
    on_received: OnReceived
    began: float


class Arrivals:
    """Gathers calls of one event loop while transactions are running.

    Args:
        store: Stores calls in one transaction. The second argument is the waiting time (s) of the
            first call.
        report: Called after each call with its error and its duration.
    """

    def __init__(
        self,
        store: Callable[[Sequence[ReceiveCall], float], Awaitable[_Results]],
        report: Callable[[Exception | None, float], None],
    ) -> None:
        self._store = store
        self._report = report
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._is_scheduled = False

    def put(self, arrivals: Sequence[Arrival], slots: Slots, on_received: OnReceived) -> None:
        """Store *arrivals* in one of the next transactions, then call *on_received*.

        Raises:
            StoreClosed: `close` was called.
        """
        if self._is_closed:
            raise StoreClosed
        self._waiting.append(_Waiting(arrivals, slots, on_received, perf_counter()))
        if not self._is_scheduled and len(self._tasks) < IN_FLIGHT:
            self._is_scheduled = True
            # Later, so that other calls of the same turn of the loop share the transaction.
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._is_scheduled = False
        if not self._waiting or len(self._tasks) >= IN_FLIGHT:
            return
        batch, count = [], 0
        while self._waiting and count < MAX_ARRIVALS:
            batch.append(self._waiting.popleft())
            count += len(batch[-1].arrivals)
        batch, calls = _prepared(batch)
        if not batch:
            self._begin()
            return
        task = asyncio.get_running_loop().create_task(self._run(batch, calls))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._begin()

    async def _run(self, batch: Sequence[_Waiting], calls: Sequence[ReceiveCall]) -> None:
        waited_seconds = perf_counter() - batch[0].began
        try:
            results = await self._store(calls, waited_seconds)
        except Exception as error:
            if len(batch) > 1 and _is_of_a_value(error):
                for each, call in zip(batch, calls, strict=True):
                    await self._run([each], [call])
            else:
                self._finish(batch, calls, None, error)
        else:
            self._finish(batch, calls, results, None)

    def _finish(
        self,
        batch: Sequence[_Waiting],
        calls: Sequence[ReceiveCall],
        results: _Results | None,
        error: Exception | None,
    ) -> None:
        now = perf_counter()
        for index, each in enumerate(batch):
            try:
                each.slots.give_back(calls[index].slots)
                each.on_received(None if results is None else results[index], error)
            except Exception as failure:  # the other calls must be finished too
                context = {"message": "A callback of a store raised", "exception": failure}
                asyncio.get_running_loop().call_exception_handler(context)
        for each in batch:
            self._report(error, now - each.began)

    async def close(self) -> None:
        """Store the waiting calls, and accept no further calls."""
        self._is_closed = True
        while self._tasks or self._waiting:
            self._begin()
            await asyncio.gather(*self._tasks)
            await asyncio.sleep(0)


def _prepared(batch: Sequence[_Waiting]) -> tuple[list[_Waiting], list[ReceiveCall]]:
    """Reserve the slots of *batch*; finish those whose reservation fails."""
    ready: list[_Waiting] = []
    calls: list[ReceiveCall] = []
    for each in batch:
        try:
            calls.append(ReceiveCall(each.arrivals, each.slots.reserve(each.arrivals)))
        except Exception as error:
            each.on_received(None, error)
        else:
            ready.append(each)
    return ready, calls


def _is_of_a_value(error: Exception) -> bool:
    """Return whether *error* is about a single value, so that other updates can be stored."""
    cause = error.__cause__ if isinstance(error, StoreUnavailable) else error
    return isinstance(
        cause, ValueError | asyncpg.DataError | asyncpg.IntegrityConstraintViolationError
    )
