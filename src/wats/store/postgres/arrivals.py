"""The other half of the group commit: a batch of calls is stored in one transaction, in a task.

Only calls that store updates are gathered. The others lock other rows first, see `receive`, and two
transactions that each do both could wait for each other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import asyncpg

from wats.errors import StoreUnavailable
from wats.store import OnReceived, Slots
from wats.store.group_commit import GroupCommit, Report, StoreRequest
from wats.store.records import Arrival
from wats.telemetry.contract.values import StoreOperation

STALL_SECONDS: Final = 0.1
"""How long a transaction holds up the next one. It may wait for a lock that the next one does not
need."""

IN_FLIGHT: Final = 2
"""How many transactions run at a time, the stalled ones included."""


class Arrivals:
    """Gathers calls, and stores each batch of them in a task of the running loop.

    Args:
        store: Stores the items of a request in one transaction, within its own time limit; returns
            a result for each.
        report: Called after every call, on the loop of its caller.
    """

    def __init__(
        self,
        store: Callable[[StoreRequest], Awaitable[Sequence[Any]]],
        report: Report,
    ) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._group = GroupCommit(self._hand_over, report, None, self._is_stalled)
        self._tasks: set[asyncio.Task[Sequence[StoreRequest]]] = set()
        self._stalled: set[asyncio.Task[Sequence[StoreRequest]]] = set()

    def put(self, arrivals: Sequence[Arrival], slots: Slots, on_received: OnReceived) -> None:
        """Store *arrivals* soon, and call *on_received*."""
        self._group.join(StoreOperation.RECEIVE, self._store, arrivals, on_received, slots)

    async def close(self) -> None:
        """Store what waits. To be called when `put` is called no more."""
        self._group.flush()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _hand_over(self, requests: Sequence[StoreRequest]) -> None:
        if asyncio.get_running_loop() is self._loop:
            self._start(requests)
        else:
            self._loop.call_soon_threadsafe(self._start, requests)

    def _start(self, requests: Sequence[StoreRequest]) -> None:
        for request in requests:
            task = self._loop.create_task(self._run(request))
            self._tasks.add(task)
            task.add_done_callback(partial(self._finish, request))
            self._loop.call_later(STALL_SECONDS, self._note_stall, task)

    def _note_stall(self, task: "asyncio.Task[Sequence[StoreRequest]]") -> None:
        if task in self._tasks:
            self._stalled.add(task)
            self._group.begin()

    def _is_stalled(self) -> bool:
        """Return whether nothing but stalled transactions is under way, and not too many."""
        return len(self._tasks) == len(self._stalled) < IN_FLIGHT

    def _finish(self, request: StoreRequest, task: "asyncio.Task[Sequence[StoreRequest]]") -> None:
        self._tasks.discard(task)
        self._stalled.discard(task)
        ended: Sequence[StoreRequest] = [request]
        if task.cancelled():  # any code in the process can do that
            request.error = StoreUnavailable()
        else:
            ended = task.result()
        if request.loop is self._loop:
            self._group.end(ended)
        else:
            with suppress(RuntimeError):  # the loop is closed, so its callers are gone
                request.loop.call_soon_threadsafe(self._group.end, ended)

    async def _run(self, request: StoreRequest) -> Sequence[StoreRequest]:
        """Run *request*; return what to finish: its parts, if one of them cannot be stored."""
        try:
            request.results = await self._store(request)
        except Exception as error:
            if request.size > 1 and _is_of_a_value(error):
                return [each for part in request.split() for each in await self._run(part)]
            request.error = error
        return [request]


def _is_of_a_value(error: Exception) -> bool:
    """Return whether *error* is about a single value, so that other updates can be stored."""
    cause = error.__cause__ if isinstance(error, StoreUnavailable) else error
    return isinstance(
        cause, ValueError | asyncpg.DataError | asyncpg.IntegrityConstraintViolationError
    )
