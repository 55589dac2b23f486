"""A time limit for calls that costs next to nothing while it is kept.

`asyncio.timeout` arms and disarms a timer of the loop for every use: a tenth of all that is done
with an update. Here one timer looks at all calls, so a call may last a little longer than its
limit.
"""

import asyncio
from typing import Any

LOOKS_PER_LIMIT = 4
LONGEST_PAUSE_SECONDS = 0.25


class Watchdog:
    """Cancels tasks whose call takes longer than *seconds*."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pause = min(seconds / LOOKS_PER_LIMIT, LONGEST_PAUSE_SECONDS)
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the armed timer

    def begin(self, task: "asyncio.Task[Any]") -> None:
        """Give *task* the time for one call, from now on."""
        loop = task.get_loop()
        self._deadlines[task] = loop.time() + self._seconds
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(self._pause, self._look, loop)

    def end(self, task: "asyncio.Task[Any]") -> bool:
        """End the call of *task*; return whether it took too long and was cancelled."""
        self._deadlines.pop(task, None)
        if task not in self._cancelled:
            return False
        self._cancelled.discard(task)
        task.uncancel()
        return True

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task in [task for task, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[task]
            self._cancelled.add(task)
            task.cancel()
        self._loop = loop if self._deadlines else None
        if self._deadlines:
            loop.call_later(self._pause, self._look, loop)
