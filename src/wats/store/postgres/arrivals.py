"""Group commit of arrivals: calls that wait at the same moment share a transaction."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

import asyncpg
import msgspec

from wats.errors import StoreClosed, StoreUnavailable
from wats.store import OnReceived, Slots
from wats.store.postgres.receive import Call
from wats.store.records import Arrival, Received

MAX_ARRIVALS: Final = 512
"""After how many updates a transaction is full: a bound on how long the first one waits."""

IN_FLIGHT: Final = 2
"""How many transactions run at a time: one is prepared while the other waits for the disk."""

_Results = Sequence[Sequence[Received | None]]


class _Waiting(msgspec.Struct, frozen=True):
    arrivals: Sequence[Arrival]
    slots: Slots
    on_received: OnReceived
    began: float


class Arrivals:
    """Gathers calls of one event loop while transactions are under way.

    Args:
        store: Stores some calls in one transaction, given how long the first of them waited (s).
        report: Called with the error and the duration of each call when it ended.
    """

    def __init__(
        self,
        store: Callable[[Sequence[Call], float], Awaitable[_Results]],
        report: Callable[[Exception | None, float], None],
    ) -> None:
        self._store = store
        self._report = report
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._is_scheduled = False

    def put(self, arrivals: Sequence[Arrival], slots: Slots, on_received: OnReceived) -> None:
        """Store *arrivals* soon, and call *on_received*.

        Raises:
            StoreClosed: `close` was called.
        """
        if self._is_closed:
            raise StoreClosed
        self._waiting.append(_Waiting(arrivals, slots, on_received, perf_counter()))
        if not self._is_scheduled and len(self._tasks) < IN_FLIGHT:
            self._is_scheduled = True
            # Not now, so that the calls that the same turn of the loop makes are taken along.
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

    async def _run(self, batch: Sequence[_Waiting], calls: Sequence[Call]) -> None:
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
        calls: Sequence[Call],
        results: _Results | None,
        error: Exception | None,
    ) -> None:
        now = perf_counter()
        for index, each in enumerate(batch):
            try:
                each.slots.give_back(calls[index].slots)
                each.on_received(None if results is None else results[index], error)
            except Exception as failure:  # the others must be finished all the same
                context = {"message": "A callback of a store raised", "exception": failure}
                asyncio.get_running_loop().call_exception_handler(context)
        for each in batch:
            self._report(error, now - each.began)

    async def close(self) -> None:
        """Store what waits, and accept no more."""
        self._is_closed = True
        while self._tasks or self._waiting:
            self._begin()
            await asyncio.gather(*self._tasks)
            await asyncio.sleep(0)


def _prepared(batch: Sequence[_Waiting]) -> tuple[list[_Waiting], list[Call]]:
    """Reserve the slots of *batch*; finish those whose reservation fails."""
    ready: list[_Waiting] = []
    calls: list[Call] = []
    for each in batch:
        try:
            calls.append(Call(each.arrivals, each.slots.reserve(each.arrivals)))
        except Exception as error:
            each.on_received(None, error)
        else:
            ready.append(each)
    return ready, calls


def _is_of_a_value(error: Exception) -> bool:
    """Return whether a value cannot be stored; its update must not fail the others."""
    cause = error.__cause__ if isinstance(error, StoreUnavailable) else error
    return isinstance(
        cause, ValueError | asyncpg.DataError | asyncpg.IntegrityConstraintViolationError
    )
