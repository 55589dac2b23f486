"""A thread that reports when the event loop is blocked, and when a stop exceeds its limit.

    event loop ── a timer ──▸ turned_at ◂── looks, twice a second ── a thread ──▸ log

Code that holds the interpreter lock, such as one long call of `re`, stops the thread as well.
"""

import asyncio
import contextlib
import math
import sys
import threading
import time
from typing import Final

from wats.clock import to_iso, utc_now
from wats.inbound.failures import Place, place_on_loop
from wats.log import Log, write_json_line
from wats.telemetry.repeats import Repeats

LOOK_SECONDS: Final = 0.5

BLOCKED_LOOKS: Final = 5
"""The number of looks without a turn of the loop; then it has been blocked for 2 to 3 seconds.

Looks are counted, not seconds: a process that was suspended looks once when it goes on.
"""


class LoopWatch:
    """Logs the position at which the loop is blocked, once a minute, and when it turns again.

    Attributes:
        end_at: When the process must have ended, on the monotonic clock; set by a signal handler.
    """

    def __init__(self, log: Log = write_json_line, look_seconds: float = LOOK_SECONDS) -> None:
        self.end_at = math.inf
        self._log = log
        self._look_seconds = look_seconds
        self._repeats = Repeats()
        self._turned_at = time.monotonic()
        self._seen_at = 0.0
        self._looks = 0
        self._blocked_at: float | None = None  # the last turn before a block that was logged

    def start(self) -> None:
        """Watch the running loop until it is closed. Call it once, on the thread of the loop."""
        loop = asyncio.get_running_loop()
        self._turn(loop)
        arguments = (loop, threading.get_ident())
        threading.Thread(target=self._watch, args=arguments, name="wats-loop", daemon=True).start()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned_at = now = time.monotonic()
        if (blocked_at := self._blocked_at) is not None:
            self._blocked_at = None
            with contextlib.suppress(Exception):  # stderr may be closed or gone
                self._report_end(now - blocked_at)
        loop.call_later(self._look_seconds, self._turn, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while not loop.is_closed():
            time.sleep(self._look_seconds)
            with contextlib.suppress(Exception):
                self._look(thread)

    def _look(self, thread: int) -> None:
        if time.monotonic() >= self.end_at:
            self.end_at = math.inf
            log_forced_end(thread, self._log)
        turned_at = self._turned_at
        if turned_at != self._seen_at:
            self._seen_at, self._looks = turned_at, 0
            return
        self._looks += 1
        if self._looks == BLOCKED_LOOKS:
            self._report(_place_of(thread))

    def _report(self, place: Place) -> None:
        suppressed = self._repeats.admit(place)
        if suppressed is not None:
            self._blocked_at = self._seen_at
            self._log(
                {
                    "event": "wats.loop.blocked",
                    "file": place.file,
                    "line": place.line,
                    "suppressed": suppressed,
                    "at": to_iso(utc_now()),
                }
            )

    def _report_end(self, seconds: float) -> None:
        event = {"event": "wats.loop.resumed", "seconds": round(seconds), "at": to_iso(utc_now())}
        self._log(event)


def log_forced_end(thread: int, log: Log = write_json_line) -> None:
    """Log that this process is about to be ended, and the position of *thread*, its loop's."""
    place = _place_of(thread)
    log(
        {
            "event": "wats.shutdown.forced",
            "file": place.file,
            "line": place.line,
            "at": to_iso(utc_now()),
        }
    )


def _place_of(thread: int) -> Place:
    return place_on_loop(sys._current_frames().get(thread))
