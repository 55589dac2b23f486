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
        self.seconds = seconds
        self.watches: set[Watch] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop whose timer looks at the watches; `None` while there is nothing to look at."""
        self._pause = min(seconds / LOOKS_PER_LIMIT, LONGEST_PAUSE_SECONDS)

    def watch(self) -> "Watch":
        """Return a context in which the current task has so long, or gets a `TimeoutError`."""
        return Watch(self)

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all watches, and again after a pause, for as long as there are any."""
        now = loop.time()
        for watch in [watch for watch in self.watches if watch.deadline <= now]:
            watch.bite()
        self.loop = loop if self.watches else None
        if self.watches:
            loop.call_later(self._pause, self.look, loop)


class Watch:
    """One code block of one task."""

    __slots__ = ("_is_bitten", "_task", "_watchdog", "deadline")

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._is_bitten = False

    def bite(self) -> None:
        """Cancel what the task waits for; done once only."""
        self._watchdog.watches.discard(self)
        if self._task is not None:
            self._is_bitten = True
            self._task.cancel()

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        watchdog = self._watchdog
        self._task: asyncio.Task[Any] | None = asyncio.current_task(loop)
        self.deadline = loop.time() + watchdog.seconds
        watchdog.watches.add(self)
        if watchdog.loop is not loop:
            watchdog.look(loop)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watchdog.watches.discard(self)
        if not self._is_bitten or self._task is None:
            return
        # Somebody else may have cancelled the task as well; that is not ours to take back.
        if self._task.uncancel() == 0 and exc_type in {asyncio.CancelledError, None}:
            raise TimeoutError from exc
