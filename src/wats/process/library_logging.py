"""Messages of libraries and of Python itself, as lines of JSON without their text.

Logging that handlers configure for themselves is left alone: the root logger and all loggers except
those of the libraries stay as they are.

Their text may be a customer's: a warning, or an error in a thread or an abandoned task, is printed
with its text by default, and a log record has the text that it was made with.
"""

import contextlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Final, TextIO

from typing_extensions import override

from wats.clock import to_iso, utc_now
from wats.inbound.failures import safe_file_name
from wats.log import Log, write_json_line
from wats.telemetry import error_name
from wats.telemetry.recent_errors import is_known
from wats.telemetry.repeats import Repeats

LIBRARIES: Final = ("aiohttp", "asyncio", "opentelemetry", "python", "uvicorn", "uvloop")
OTHER: Final = "other"
LEVELS: Final = ("warning", "error", "critical")

_OTHERS: Final = ("asyncpg", "concurrent")
"""Further loggers of libraries of ours; their label is `other`."""

_PACKAGES: Final = {**{name: name for name in LIBRARIES}, "py": "python"}
"""The first part of a logger's name, and its label; `py.warnings` is Python's own."""


class LibraryLog(logging.Handler):
    """Logs the library, the level, and the class of the error.

    The text is left out, as it may hold data of a request. Of messages that differ only in their
    text, one line is written in a minute, with the count of the omitted ones. It never raises.
    """

    def __init__(
        self, log: Log = write_json_line, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._repeats = Repeats(monotonic)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # Names of loggers, and of levels, are free text.
        library = _PACKAGES.get(record.name.partition(".")[0], OTHER)
        line = (library, _level_of(record), error_name(error) if error is not None else None)
        suppressed = self._repeats.admit(line)
        if suppressed is None:
            return
        with contextlib.suppress(Exception):  # stderr may be closed or gone
            self._log(
                {
                    "event": "wats.library.log",
                    "library": line[0],
                    "level": line[1],
                    "errorName": line[2],
                    "suppressed": suppressed,
                    "at": to_iso(utc_now()),
                }
            )


class WarningLog:
    """Logs the class and the position of a Python warning about the code of a handler.

    Without it, nothing would show that an `await` is missing: a coroutine that is dropped is a
    warning and no failure. Warnings about other code are passed to *otherwise*.
    """

    def __init__(
        self,
        otherwise: Callable[..., object],
        log: Log = write_json_line,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._otherwise = otherwise
        self._log = log
        self._repeats = Repeats(monotonic)

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Log a warning; in place of `warnings.showwarning`."""
        name = _file_of_a_handler(filename)
        if name is None or isinstance(message, str):
            self._otherwise(message, category, filename, lineno, file, line)
            return
        place = (error_name(message), name, lineno)
        suppressed = self._repeats.admit(place)
        if suppressed is not None:
            with contextlib.suppress(Exception):
                self._log(
                    {
                        "event": "wats.handler.warning",
                        "errorName": place[0],
                        "file": name,
                        "line": lineno,
                        "suppressed": suppressed,
                        "at": to_iso(utc_now()),
                    }
                )


def _file_of_a_handler(path: str) -> str | None:
    """Return the name of the file at *path* if an imported module has it that is not a library."""
    for name, module in list(sys.modules.items()):
        with contextlib.suppress(Exception):  # a module that imports lazily may raise any error
            if module.__file__ == path:
                return None if is_known(name) else safe_file_name(path)
    return None


def _level_of(record: logging.LogRecord) -> str:
    steps = (record.levelno >= logging.ERROR) + (record.levelno >= logging.CRITICAL)
    return LEVELS[steps]


def capture_library_logs() -> None:
    """Pass all output of the libraries and of Python to stderr through a `LibraryLog`.

    It covers their log records, warnings, and exceptions in threads or without a caller; and the
    records of loggers that nothing configured, which Python would print with their texts.
    """
    log = LibraryLog()
    for name in (*_PACKAGES, *_OTHERS):
        logger = logging.getLogger(name)
        logger.handlers[:] = [log]
        logger.propagate = False
    logging.lastResort = log
    logging.basicConfig = _if_called_by_others(logging.basicConfig)
    logging.captureWarnings(capture=True)
    warnings.showwarning = WarningLog(warnings.showwarning).show
    sys.unraisablehook = lambda unraisable: report(unraisable.exc_value)
    threading.excepthook = lambda failed: report(failed.exc_value)


def _if_called_by_others(configure: Callable[..., None]) -> Callable[..., None]:
    """Return *configure*, without effect for calls in `logging` itself.

    `logging.error` and the like call it if nothing is configured: the text of that record, and of
    all later ones of other loggers, would be printed.
    """

    def basic_config(**options: Any) -> None:
        if sys._getframe(1).f_globals is not vars(logging):
            configure(**options)

    return basic_config


def hide_tracebacks() -> None:
    """Log an exception that ends the process by its class alone, like all others.

    Before there are requests a traceback holds no data of a customer, and an operator whose handler
    cannot be imported needs it.
    """
    sys.excepthook = lambda _class, error, _trace: report(error)


def report(error: BaseException | None) -> None:
    """Log the class of the uncaught *error*."""
    # Not the error alone: its truth value would be evaluated, which may fail.
    info = None if error is None else (type(error), error, None)
    logging.getLogger("python").error("", exc_info=info)
