"""Output of a running service: lines on stderr and stdout, without waiting for their reader.

    event loop, threads ── line ──▸ at most 1000 lines ──▸ a thread ──▸ stderr
                              └── full: dropped and counted

An unread pipe blocks the thread and nothing else.
"""

import atexit
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import Final, TextIO, TypeAlias

import msgspec

from wats.clock import to_iso, utc_now
from wats.log_format import LOG_FORM

Log: TypeAlias = Callable[[Mapping[str, object]], None]
"""Writes one event to the log."""

MAX_LINES: Final = 1000
"""The limit of unwritten lines; further ones are dropped."""

IDLE_SECONDS: Final = 1.0
"""How long the thread waits for the next line before it ends."""

DRAIN_SECONDS: Final = 1.0
"""How long the end of the process may wait for unwritten lines."""

_POLL_SECONDS: Final = 0.002


class LineWriter:
    """Writes lines to a stream from a thread, which exists only while there are lines.

    It may be used from any thread and from signal handlers. A process that was forked starts with
    an empty buffer: the lines of its parent are written by the parent.

    Args:
        stream: Returns the stream, or `None` if the process has none.
    """

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        self._stream = stream
        self._is_registered = False
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = RLock()  # reentrant: a signal handler may log while its thread logs
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._unwritten = 0
        self._dropped = 0
        self._is_running = False

    def write(self, text: str) -> None:
        """Write *text*, which ends with a line break, soon; drop and count it if that is late."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if self._unwritten >= MAX_LINES or not self._ensure_thread():
                self._dropped += 1
                return
            self._unwritten += 1
            self._lines.put(text)

    def _ensure_thread(self) -> bool:
        if not self._is_running:
            if sys.is_finalizing():  # a new thread would never run, and be waited for
                return False
            if not self._is_registered:
                self._is_registered = True
                atexit.register(self.drain)
            try:
                Thread(target=self._run, name="wats-log", daemon=True).start()
            except RuntimeError:  # too many threads, or the interpreter ends
                return False
            self._is_running = True
        return True

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait until all lines are written, at most *seconds*."""
        until = time.monotonic() + seconds
        while self._unwritten and self._process == os.getpid() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)

    def _run(self) -> None:
        while (text := self._next()) is not None:
            is_written = _write(self._stream(), text)
            with self._lock:
                self._dropped += not is_written
                dropped = self._dropped if is_written and self._unwritten == 1 else 0
            if dropped:
                self._report(dropped)
            with self._lock:
                self._unwritten -= 1

    def _next(self) -> str | None:
        try:
            return self._lines.get(timeout=IDLE_SECONDS)
        except Empty:
            with self._lock:
                if not self._lines.empty():
                    return self._lines.get()
                self._is_running = False
                return None

    def _report(self, count: int) -> None:
        line = {"event": "wats.log.dropped", "count": count, "at": to_iso(utc_now())}
        if _write(self._stream(), LOG_FORM.line(line) or ""):
            with self._lock:
                self._dropped -= count


def _write(stream: TextIO | None, text: str) -> bool:
    """Write *text* past the buffer of *stream*, whose lock the end of the process would wait for.

    It never raises: the pipe may be closed, the disk full, and the stream an object of a handler.
    """
    try:
        if stream is None:
            return True
        try:
            descriptor = stream.fileno()
        except OSError:  # an object in memory, without a descriptor
            stream.write(text)
            stream.flush()
        else:
            _write_all(descriptor, text.encode())
    except Exception:
        return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another process made the pipe non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


_STDERR: Final = LineWriter(lambda: sys.stderr)
_STDOUT: Final = LineWriter(lambda: sys.stdout)


def write_json_line(event: Mapping[str, object]) -> None:
    """Write *event* to stderr as one line, of JSON unless the log has another form."""
    if (line := LOG_FORM.line(event)) is not None:
        _STDERR.write(line)


def write_text(text: str) -> None:
    """Write *text* to stderr, for a person."""
    _STDERR.write(text)


def print_line(line: str) -> None:
    """Write *line* to stdout, for a person."""
    _STDOUT.write(f"{line}\n")


def announce(event: str, **facts: object) -> None:
    """Write one line of JSON to stdout, for the parent of this process."""
    print_line(msgspec.json.encode({"event": event, **facts}).decode())


def drain_output() -> None:
    """Wait until all lines are written, within bounds."""
    _STDERR.drain()
    _STDOUT.drain()
