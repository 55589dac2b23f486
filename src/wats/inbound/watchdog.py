"""A time limit for handlers that costs next to nothing while it is kept.

`asyncio.timeout` arms and disarms a timer of the loop for every use: a tenth of all that is done
with an update. Here one timer looks at all uses that are under way, so a use may last a little
longer than its limit.
"""

import asyncio
from types import TracebackType
from typing import Any

LOOKS_PER_LIMIT = 4
LONGEST_PAUSE_SECONDS = 0.25


class Watchdog:
    """Gives code blocks of tasks *seconds* each; `with watchdog.watch():` around what may wait."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pause = min(seconds / LOOKS_PER_LIMIT, LONGEST_PAUSE_SECONDS)
        self._watches: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> "Watch":
        """Return a context in which the current task has so long, or gets a `TimeoutError`."""
        return Watch(self)

    def begin(self, watch: "Watch", loop: asyncio.AbstractEventLoop) -> float:
        """Look at *watch* from now on; return its deadline on the clock of *loop*."""
        self._watches.add(watch)
        if self._timer is None:
            self._timer = loop.call_later(self._pause, self._look, loop)
        return loop.time() + self._seconds

    def end(self, watch: "Watch") -> None:
        """Look at *watch* no longer."""
        self._watches.discard(watch)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for watch in [watch for watch in self._watches if watch.deadline <= now]:
            watch.bite()
        self._timer = loop.call_later(self._pause, self._look, loop) if self._watches else None


class Watch:
    """One code block of one task."""

    __slots__ = ("_is_bitten", "_task", "_watchdog", "deadline")

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._is_bitten = False
        self._task: asyncio.Task[Any] | None = None
        self.deadline = 0.0

    def bite(self) -> None:
        """Cancel what the task waits for; done once only."""
        self._watchdog.end(self)
        if self._task is not None:
            self._is_bitten = True
            self._task.cancel()

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self.deadline = self._watchdog.begin(self, loop)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watchdog.end(self)
        if not self._is_bitten or self._task is None:
            return
        # Somebody else may have cancelled the task as well; that is not ours to take back.
        if self._task.uncancel() == 0 and exc_type in {asyncio.CancelledError, None}:
            raise TimeoutError from exc
