"""Runs calls of handlers, each in a task of its own, with a time limit.

A task per call isolates calls: a cancellation that a handler requests or leaves behind reaches no
other call, and a call that ignores its cancellation can be abandoned.

`asyncio.timeout` arms and disarms a timer of the loop for every use, a tenth of the processor time
of an update. Here one timer checks all calls in progress, so a call may exceed its limit slightly.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from types import NoneType
from typing import Any, Final

LOOKS_PER_LIMIT: Final = 4
LONGEST_PAUSE_SECONDS: Final = 0.25

LONGEST_GRACE_SECONDS: Final = 5.0
"""How long a cancelled call may take to end, unless the limit of calls is shorter."""

CUT_OFF_SECONDS: Final = 1.0
"""How long a call may take to end after a stop has cancelled it."""

MAX_ABANDONED: Final = 1000
"""The maximum number of abandoned calls. Above it, callers wait until their calls end."""


class Watchdog:
    """Runs calls for at most *seconds* each, and abandons those that ignore their cancellation."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._grace_seconds = min(seconds, LONGEST_GRACE_SECONDS)
        self._pause = min(seconds / LOOKS_PER_LIMIT, LONGEST_PAUSE_SECONDS)
        self._calls: set[Call] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # its timer checks the calls

    @property
    def is_exhausted(self) -> bool:
        """Whether the number of abandoned calls is at its maximum, so calls are not abandoned."""
        return len(self._abandoned) >= MAX_ABANDONED

    def start(
        self,
        call: "Call",
        function: Callable[[Any], Awaitable[object]],
        argument: Any,
        context: Context | None = None,
    ) -> None:
        """Begin *call*, once: call *function* in a task, and pass its exception to `call.ended`.

        The task runs in *context*, or in a copy of the current one.

        A call that exceeds its limit is cancelled and fails with `TimeoutError`. A call that
        ignores its cancellation is abandoned: its task goes on, but nothing waits for its end.
        """
        loop = self._loop
        if loop is None or not loop.is_running():
            loop = asyncio.get_running_loop()  # a system call in Python 3.11
        call.watchdog = self
        call.deadline = loop.time() + self._seconds
        call.is_late = call.is_cancelled = call.has_ended = False
        # An eager task factory of the loop would run the call before the call has its task. Without
        # a name, Python 3.11 formats one.
        call.task = asyncio.Task(
            call.run(function, argument), loop=loop, name="wats.call", context=context
        )
        self._calls.add(call)
        if self._loop is not loop:  # the first call, or all others belong to a loop that ended
            self._calls = {call}
            self._look(loop)

    def forget(self, call: "Call") -> None:
        """Stop checking *call*, which has ended for its caller."""
        self._calls.discard(call)

    def abandon(self, task: "asyncio.Task[None]") -> None:
        """Keep *task* until it ends."""
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check all calls; repeat after a pause while there are calls."""
        now = loop.time()
        for call in [call for call in self._calls if call.deadline <= now]:
            if call.is_cancelled and not self.is_exhausted:
                call.end(TimeoutError())
            else:
                call.is_late = True
                call.cancel(self._grace_seconds)
        self._loop = loop if self._calls else None
        if self._calls:
            loop.call_later(self._pause, self._look, loop)


class Call:
    """A call, which `Watchdog.start` begins.

    Attributes:
        deadline: When the call is cancelled or, once it is cancelled, abandoned.
        is_late: Whether the call exceeded its limit.
        is_cancelled: Whether the call was cancelled, because it was late or by a stop.
        has_ended: Whether the call has ended for its caller.
    """

    __slots__ = ("deadline", "has_ended", "is_cancelled", "is_late", "task", "watchdog")

    task: "asyncio.Task[None]"
    watchdog: Watchdog
    deadline: float
    is_late: bool
    is_cancelled: bool
    has_ended: bool

    async def run(self, function: Callable[[Any], Awaitable[object]], argument: Any) -> None:
        """Call *function*, and end this call with its exception or `None`."""
        failure: BaseException | None = None
        self.enter()
        try:
            await function(argument)
        except BaseException as error:  # a task that raises SystemExit would end the process
            failure = error
        if self.is_late and isinstance(failure, asyncio.CancelledError | NoneType):
            # With the position at which the call was cancelled.
            failure = TimeoutError().with_traceback(getattr(failure, "__traceback__", None))
        self.end(failure)

    def enter(self) -> None:
        """Prepare the context of the task, before the function is called. Must not raise."""

    def cancel(self, grace_seconds: float = CUT_OFF_SECONDS) -> None:
        """Cancel the call, unless it has ended, and give it *grace_seconds* to end."""
        if self.has_ended:
            return
        self.is_cancelled = True
        self.deadline = self.task.get_loop().time() + grace_seconds
        self.task.cancel()
        # If the task has not begun, its cancellation ends it without running `run`.
        self.task.add_done_callback(lambda _: self.end(asyncio.CancelledError()))

    def end(self, failure: BaseException | None) -> None:
        """End the call for its caller, unless it has ended."""
        if self.has_ended:
            return
        self.has_ended = True
        self.watchdog.forget(self)
        if failure is not None and not self.task.done() and self.is_cancelled:
            self.watchdog.abandon(self.task)
        del self.task  # the task refers to this call
        self.ended(failure)

    def ended(self, failure: BaseException | None) -> None:
        """Called once, with the exception of the call, of any class, or `None`."""
        raise NotImplementedError
