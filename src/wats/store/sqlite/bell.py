"""Wake the other worker processes on a file, through pipes that were created before the fork.

worker 0 ── commits claimable deliveries ── writes a byte to every other pipe
worker 1 ── its pipe becomes readable ─▸ its dispatcher claims
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress


class Bell:
    """Wakes the processes that share a file.

    Args:
        own: The read end of this process's pipe.
        others: The write ends of the pipes of the other processes.
    """

    def __init__(self, own: int, others: Sequence[int]) -> None:
        self._own = own
        self._others = others
        self._wakers: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def ring(self) -> None:
        """Wake the other processes. Never blocks; can be called from any thread."""
        for descriptor in self._others:
            with suppress(OSError):  # full, so the process is about to wake; or closed
                os.write(descriptor, b"\0")

    def listen(self, wake: Callable[[], None]) -> None:
        """Call *wake* on the running loop when another process rings."""
        if not self._others:
            return
        self._wakers.append(wake)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._own, self._woken)

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._own, 4096)
        for wake in self._wakers:
            wake()

    def close(self) -> None:
        """Stop listening. The pipes stay open for the process that replaces this one."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._own)
        self._loop = None
        self._wakers.clear()


def bells_of(processes: int) -> tuple[Bell, ...]:
    """Return a bell for each of *processes* processes. Call it before the fork."""
    pipes = [os.pipe() for _ in range(processes)]
    for descriptors in pipes:
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
    return tuple(
        Bell(own, [write for place, (_, write) in enumerate(pipes) if place != process])
        for process, (own, _) in enumerate(pipes)
    )
