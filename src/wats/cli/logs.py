"""What the libraries below us log, as lines of JSON without a word of theirs."""

import logging
import time
from collections.abc import Callable

from typing_extensions import override

from wats.clock import to_iso, utc_now
from wats.telemetry import error_name
from wats.telemetry.sinks import Log, write_json_line

INTERVAL_SECONDS = 60.0


class LibraryLog(logging.Handler):
    """Writes which library had something to say, how bad it is, and the class of its error.

    The text is left out, as it may hold what a request held. Of what is the same but for its text,
    one line is written in a minute, with a count of those that were not.
    """

    def __init__(
        self, log: Log = write_json_line, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._monotonic = monotonic
        self._due_at: dict[tuple[str, str, str | None], float] = {}
        self._suppressed: dict[tuple[str, str, str | None], int] = {}

    @override
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        package = record.name.partition(".")[0]
        line = (package, record.levelname.lower(), error_name(error) if error else None)
        now = self._monotonic()
        if now < self._due_at.get(line, now):
            self._suppressed[line] = self._suppressed.get(line, 0) + 1
            return
        self._due_at[line] = now + INTERVAL_SECONDS
        self._log(
            {
                "event": "wats.library.log",
                "library": package if package in LIBRARIES else "other",
                "level": line[1],
                "errorName": line[2],
                "suppressed": self._suppressed.pop(line, 0),
                "at": to_iso(utc_now()),
            }
        )


LIBRARIES = frozenset({"aiohttp", "asyncio", "uvicorn", "uvloop"})


def capture_library_logs() -> None:
    """Let nothing of the libraries reach stderr but through a `LibraryLog`."""
    logging.basicConfig(handlers=[LibraryLog()], level=logging.WARNING, force=True)
