"""Writes lines to a terminal or a pipe without delaying the event loop."""

import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MAX_LINES: Final = 1_000
_CLOSE_SECONDS: Final = 1.0


class Screen:
    """A thread that writes lines, which wait in a bounded queue.

    If the reader is slow, lines are dropped and counted; the count is written when the reader
    continues. If the reader is gone, all lines are dropped.
    """

    def __init__(self, descriptor: int, *, capacity: int = MAX_LINES) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(capacity)
        self._dropped = 0
        # A daemon: a reader that stopped reading must not delay the end of the process.
        self._thread = threading.Thread(target=self._run, name="wats-screen", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Write *line* soon, or drop it. Never waits."""
        if self._dropped:
            line = f"({self._dropped} lines were dropped)\n{line}"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0

    def close(self) -> None:
        """Wait for a moment until the lines are written."""
        try:
            self._lines.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write_all(f"{line}\n".encode())
            except OSError:
                return

    def _write_all(self, rest: bytes) -> None:
        # A text stream has a lock; while a thread holds it, the process cannot exit normally.
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


@contextmanager
def screen_on_stdout() -> Iterator[Screen]:
    """Write lines to stdout, also those of the last moment before the end."""
    sys.stdout.flush()
    screen = Screen(sys.stdout.fileno())
    try:
        yield screen
    finally:
        screen.close()
