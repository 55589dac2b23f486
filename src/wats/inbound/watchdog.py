"""Runs calls of handlers, each in a task of its own, with a time limit.

A task per call isolates calls: a cancellation that a handler requests or leaves behind reaches no
other call, and a call that ignores its cancellation can be abandoned.

`asyncio.timeout` arms and disarms a timer of the loop for every use: a tenth of the time spent on
an update. Here one timer checks all calls in progress, so a call may exceed its limit a little.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any, Final

LOOKS_PER_LIMIT: Final = 4
LONGEST_PAUSE_SECONDS: Final = 0.25

LONGEST_GRACE_SECONDS: Final = 5.0
"""How long a cancelled call may take to end, if its limit is not shorter."""

MAX_ABANDONED: Final = 1000
"""The most calls that can be abandoned at a time. Above that, callers wait for their calls."""


class Watchdog:
    """Runs calls for at most *seconds* each, and abandons those that ignore their cancellation."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._grace_seconds = min(seconds, LONGEST_GRACE_SECONDS)
        self._pause = min(seconds / LOOKS_PER_LIMIT, LONGEST_PAUSE_SECONDS)
        self._calls: set[_Call] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # whose timer checks the calls

    @property
    def is_exhausted(self) -> bool:
        """Whether as many calls as can be abandoned are, so that callers wait without a limit."""
        return len(self._abandoned) >= MAX_ABANDONED

    async def run(
        self, function: Callable[..., Awaitable[object]], *arguments: Any
    ) -> BaseException | None:
        """Await `function(*arguments)`; return what it raised, of any class, or `None`.

        A call that exceeds its limit is cancelled, and has failed with `TimeoutError`. If it does
        not end then it is abandoned: its task goes on, and nothing waits for it. The same happens
        to a call whose caller is cancelled.
        """
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.time() + self._seconds, function, arguments)
        self._calls.add(call)
        if self._loop is not loop:  # nothing to check before, or only calls of a loop that ended
            self._calls = {call}
            self._look(loop)
        try:
            return await call.outcome
        finally:
            self._calls.discard(call)
            if not call.task.done():
                self._abandon(call.task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check all calls, and again after a pause while there are any."""
        now = loop.time()
        for call in [call for call in self._calls if call.deadline <= now]:
            if call.is_late and not self.is_exhausted:
                call.end(TimeoutError())
            else:
                call.is_late = True
                call.deadline = now + self._grace_seconds
                call.task.cancel()
        self._loop = loop if self._calls else None
        if self._calls:
            loop.call_later(self._pause, self._look, loop)

    def _abandon(self, task: "asyncio.Task[None]") -> None:
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)


class _Call:
    """A call in progress.

    Attributes:
        deadline: When it is cancelled or, if it is late already, abandoned.
        outcome: What it raised, or `None`.
    """

    __slots__ = ("deadline", "is_late", "outcome", "task")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
        function: Callable[..., Awaitable[object]],
        arguments: tuple[Any, ...],
    ) -> None:
        self.deadline = deadline
        self.is_late = False
        self.outcome: asyncio.Future[BaseException | None] = loop.create_future()
        self.task = loop.create_task(self._run(function, arguments))

    async def _run(
        self, function: Callable[..., Awaitable[object]], arguments: tuple[Any, ...]
    ) -> None:
        failure: BaseException | None = None
        try:
            await function(*arguments)
        except BaseException as error:  # a task that raises SystemExit would end the process
            failure = error
        if self.is_late and isinstance(failure, asyncio.CancelledError | NoneType):
            failure = TimeoutError()
        self.end(failure)

    def end(self, failure: BaseException | None) -> None:
        """End the call for its caller, unless it has ended."""
        if not self.outcome.done():
            self.outcome.set_result(failure)
