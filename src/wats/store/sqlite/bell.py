"""Waking the other worker processes on a file, through descriptors that were made before the fork.

worker 0 ── commits work that it may not take itself ── one byte to every other pipe
worker 1 ── its pipe is readable ─▸ its dispatcher looks for work
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress


class Bell:
    """Wakes the processes that share a file.

    Args:
        own: The end of the pipe that this process reads.
        others: The ends that wake the other processes.
    """

    def __init__(self, own: int, others: Sequence[int]) -> None:
        self._own = own
        self._others = others
        self._loop: asyncio.AbstractEventLoop | None = None

    def ring(self) -> None:
        """Wake the others. May be called from any thread, and never blocks."""
        for descriptor in self._others:
            with suppress(OSError):  # full: it has been woken and has not looked yet; or gone
                os.write(descriptor, b"\0")

    def listen(self, wake: Callable[[], None]) -> None:
        """Call *wake* on the running loop when another process rings."""
        if not self._others:
            return
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._own, self._woken, wake)

    def _woken(self, wake: Callable[[], None]) -> None:
        with suppress(BlockingIOError):
            os.read(self._own, 4096)
        wake()

    def close(self) -> None:
        """Stop to listen. The descriptors stay open, for a process that takes this one's place."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._own)
        self._loop = None


def bells_of(processes: int) -> tuple[Bell, ...]:
    """Return a bell for each of so many processes. To be called before they are forked."""
    pipes = [os.pipe() for _ in range(processes)]
    for descriptors in pipes:
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
    return tuple(
        Bell(own, [write for place, (_, write) in enumerate(pipes) if place != process])
        for process, (own, _) in enumerate(pipes)
    )
