"""The log of failed handler calls: which handler failed, and where. Never a text or a value."""

import contextlib
import inspect
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from wats.errors import MalformedRequest
from wats.graph.parameters import known_path
from wats.log import Log
from wats.telemetry import error_name
from wats.telemetry.contract.labels import shown_name
from wats.telemetry.contract.values import UpdateKind
from wats.telemetry.recent_errors import is_known
from wats.telemetry.repeats import Repeats

_FILE: Final = re.compile(r"(?!.*[0-9]{7})[A-Za-z0-9_]{1,80}\.py", re.ASCII)

MAX_PATHS: Final = 5
"""The number of invalid members of one message that a line has."""

_LOOP_MODULES: Final = frozenset({"asyncio.base_events", "asyncio.runners"})
"""The modules whose frames are outside of everything that a loop calls."""


class EndpointFailure(Exception):
    """An endpoint did not accept an update: the cause is outside of the code of this process.

    Attributes:
        status: The status of its HTTP response; `None` without one.
    """

    def __init__(self, status: int | None = None) -> None:
        super().__init__()
        self.status = status


class Place(NamedTuple):
    """A file without its folder, and a line in it."""

    file: str | None = None
    line: int | None = None


class _Failure(NamedTuple):
    """A kind of failure, of which one line is written in each interval."""

    handler: str
    kind: UpdateKind
    error: str
    place: Place
    paths: str | None
    status: int | None


class HandlerFailures:
    """Logs failed calls of handlers, one line for each kind of failure and interval.

    A line has the position of the innermost frame in the package of the handler; that of an
    endpoint has the status of its response instead. It never raises.
    """

    def __init__(self, log: Log, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._repeats = Repeats(monotonic)

    def report(self, name: str, handler: object, kind: UpdateKind, error: BaseException) -> None:
        """Log that *handler* failed with *error*, or count it if this was logged recently."""
        with contextlib.suppress(Exception):  # the class of an exception can fail in any way
            failure = _Failure(
                handler=shown_name(name),
                kind=kind,
                error=error_name(error),
                place=_place_of(error, _package_of(handler)),
                paths=_paths_of(error),
                status=status_of(error),
            )
            suppressed = self._repeats.admit(failure)
            if suppressed is not None:
                self._write(failure, suppressed)

    def _write(self, failure: _Failure, suppressed: int) -> None:
        self._log(
            {
                "event": "wats.handler.failed",
                "handler": failure.handler,
                "kind": failure.kind.value,
                "errorName": failure.error,
                "file": failure.place.file,
                "line": failure.place.line,
                "paths": failure.paths,
                "status": failure.status,
                "suppressed": suppressed,
            }
        )


def function_of(handler: object) -> object:
    """Return the object that *handler* wraps, by decorators and `partial`."""
    function = inspect.unwrap(handler) if callable(handler) else handler
    while isinstance(function, partial):
        function = function.func
    return function


def _package_of(handler: object) -> str:
    """Return the first part of the name of the module that defines *handler*."""
    function = function_of(handler)
    owner = function if hasattr(function, "__qualname__") else type(function)
    return str(owner.__module__).partition(".")[0]


def _place_of(error: BaseException, package: str) -> Place:
    found = Place()
    trace = None if isinstance(error, EndpointFailure) else error.__traceback__
    while trace is not None:
        file = _file_of(trace.tb_frame, package)
        if file is not None:
            found = Place(file, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _paths_of(error: BaseException) -> str | None:
    """Return the paths of the invalid members that wats found in a message of the handler."""
    details = error.details if isinstance(error, MalformedRequest) else ()
    paths = [path for each in details if (path := known_path(each.path)) is not None]
    return ",".join(dict.fromkeys(paths[:MAX_PATHS])) or None


def log_dead(log: Log, consumer: str, kind: UpdateKind, name: str | None) -> None:
    """Log a dead letter of *consumer*; *name* is the class of the last error."""
    log(
        {
            "event": "wats.inbox.dead",
            "consumer": shown_name(consumer),
            "kind": kind.value,
            "errorName": name,
        }
    )


def status_of(error: BaseException) -> int | None:
    """Return the status of the response that caused *error*, if HTTP defines its class."""
    status = error.status if isinstance(error, EndpointFailure) else None
    return status if status is not None and 100 <= status <= 599 else None


def failure_name(error: BaseException) -> str:
    """Return the class name of *error*, followed by the status of its response if it has one."""
    status = status_of(error)
    return error_name(error) if status is None else f"{error_name(error)} {status}"


def place_on_loop(frame: FrameType | None) -> Place:
    """Return the position of a handler that an event loop is calling; *frame* is the innermost one.

    The outermost code that is not part of wats, a library of wats or Python is the handler. As for
    a failure, the position is that of the innermost frame in its package.
    """
    found: list[tuple[str, Place]] = []
    while frame is not None and (name := str(frame.f_globals.get("__name__"))) not in _LOOP_MODULES:
        package = name.partition(".")[0]
        file = None if is_known(package) else _file_of(frame, package)
        if file is not None:
            found.append((package, Place(file, frame.f_lineno)))
        frame = frame.f_back
    return next((place for package, place in found if package == found[-1][0]), Place())


def _file_of(frame: FrameType, package: str) -> str | None:
    """Return the file of *frame* if it runs code of a module of *package*.

    The module must be imported and have the file: code made at run time can claim any name.
    """
    name = frame.f_globals.get("__name__")
    if not isinstance(name, str) or name.partition(".")[0] != package:
        return None
    module = sys.modules.get(name)
    if module is None or module.__dict__ is not frame.f_globals:
        return None
    file = Path(frame.f_code.co_filename).name
    is_own = Path(getattr(module, "__file__", None) or "").name == file
    return safe_file_name(file) if is_own else None


def safe_file_name(path: str) -> str | None:
    """Return the name of the file at *path*, unless it can hold the number of a person."""
    file = Path(path).name
    return file if _FILE.fullmatch(file) else None
