"""Sinks: objects of the operator that receive telemetry, and whose failures are contained."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias

from wats.clock import Now, to_iso, utc_now
from wats.errors import ConfigError, ConfigIssue
from wats.log import Log, write_json_line
from wats.telemetry.recent_errors import ErrorLedger, error_name
from wats.telemetry.repeats import Repeats
from wats.telemetry.spans import Span, SpanContext, Start, start_span

AttributeValue: TypeAlias = str | int | float | bool
Attributes: TypeAlias = Mapping[str, AttributeValue]
"""The attributes of a number. Immutable, and the same object for the same series."""

REQUIRED: Final = ("increment_counter", "record_histogram")
OPTIONAL: Final = ("record_span", "record_event", "set_gauge")

MAX_PENDING: Final = 1000
"""The limit of pending calls of an asynchronous sink; further ones are dropped."""


class TelemetrySink(Protocol):
    """The interface of an operator's sink.

    It is called synchronously during requests, so it should be quick. Its exceptions do not reach
    the request and are logged by class name. A coroutine function works too: its coroutines run as
    tasks of their own, at most a thousand concurrently.

    A sink may also have `record_span(name, start, end, attributes)`,
    `record_event(name, attributes, timestamp)` and `set_gauge(name, value, attributes)`. If
    `record_span` has a further parameter `span`, it receives the `Span`, and `start_span(parent)`
    may replace the start of spans. All methods are looked up once, when the service is made.
    """

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> object:
        """Add *value* to the counter *name*."""

    def record_histogram(self, name: str, value_seconds: float, attributes: Attributes) -> object:
        """Record a duration in the histogram *name*."""


class FailureLog:
    """Logs failures of telemetry: class names only, and one line per class and interval.

    The number of names is finite, since an unknown class is called `Error`. It never raises: when
    the log itself cannot be written, there is no way left to report it.
    """

    def __init__(
        self,
        event: str,
        *,
        log: Log = write_json_line,
        monotonic: Callable[[], float] = time.monotonic,
        now: Now = utc_now,
    ) -> None:
        self._event = event
        self._log = log
        self._repeats = Repeats(monotonic)
        self._now = now

    def report(self, method: str, error: BaseException) -> None:
        """Log that *method* failed with *error*, or count it if its class was logged recently."""
        name = error_name(error)
        suppressed = self._repeats.admit(name)
        if suppressed is None:
            return
        line = {
            "event": self._event,
            "method": method,
            "errorName": name,
            "suppressed": suppressed,
            "at": to_iso(self._now()),
        }
        with contextlib.suppress(Exception):  # stderr may be closed or gone
            self._log(line)


class WorkerFailures:
    """Counts and logs the failures of a worker, under *method* in log lines."""

    def __init__(self, method: str, *, errors: ErrorLedger, log: Log, now: Now) -> None:
        self._method = method
        self._errors = errors
        self._of_store = FailureLog("wats.store.error", log=log, now=now)
        self._of_tasks = FailureLog("wats.dispatch.interrupted", log=log, now=now)

    def trouble(self, error: BaseException) -> None:
        """Record a failure of a function of the worker."""
        self._errors.record(error)
        if isinstance(error, Exception):  # not a cancelled task, which is logged when replaced
            self._of_store.report(self._method, error.__cause__ or error)

    def replaced(self, error: BaseException) -> None:
        """Record the end of a task of the worker."""
        self._of_tasks.report(self._method, error)


class IsolatedSink:
    """A sink whose calls never fail.

    An exception is logged and contained, of any class. A task is cancelled where it awaits and
    never inside a plain call, so `asyncio.CancelledError` is not meant for the request; a sink that
    raises `SystemExit` must not end the service.

    Attributes:
        takes_spans: Whether `record_span` receives the place of each span in its trace.

    Raises:
        ConfigError: *sink* lacks a method that it must have.
    """

    def __init__(
        self,
        sink: TelemetrySink,
        failures: FailureLog,
        failed: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._methods = methods_of(sink)
        self.takes_spans = takes_spans(self._methods)
        self._start: Start = getattr(sink, "start_span", start_span)
        self._failures = failures
        self._failed = failed
        self._pending: set[asyncio.Task[BaseException | None]] = set()

    def start_span(self, parent: SpanContext | None) -> Span | None:
        """Start a span by the sink's own method, if it has one; `None` if that fails."""
        try:
            span = self._start(parent)
            if span is None or isinstance(span, Span):
                return span
            _close(span)
            raise TypeError
        except BaseException as error:
            self._report("record_span", error)
            return None

    def has(self, method: str) -> bool:
        """Return whether the sink has *method*."""
        return method in self._methods

    def call(self, method: str, *arguments: object) -> None:
        """Call *method* of the sink, if it has the method."""
        function = self._methods.get(method)
        if function is None:
            return
        try:
            result = function(*arguments)
            if result is not None and inspect.isawaitable(result):
                self._run(method, result)
        except BaseException as error:
            self._report(method, error)

    def _run(self, method: str, awaitable: Awaitable[object]) -> None:
        """Run *awaitable* in a task of its own, and log if it fails."""
        try:
            loop = asyncio.get_running_loop()
            if len(self._pending) >= MAX_PENDING:
                raise asyncio.QueueFull
        except (RuntimeError, asyncio.QueueFull):
            _close(awaitable)
            raise
        task = loop.create_task(_failure_of(awaitable))
        self._pending.add(task)
        task.add_done_callback(partial(self._finish, method, awaitable))

    def _finish(
        self,
        method: str,
        awaitable: Awaitable[object],
        task: "asyncio.Task[BaseException | None]",
    ) -> None:
        self._pending.discard(task)
        if task.cancelled():  # perhaps before its first step
            _close(awaitable)
        error = asyncio.CancelledError() if task.cancelled() else task.result()
        if error is not None:
            self._report(method, error)

    def _report(self, method: str, error: BaseException) -> None:
        self._failed(method)
        self._failures.report(method, error)


async def _failure_of(awaitable: Awaitable[object]) -> BaseException | None:
    """Return the exception of *awaitable*: `SystemExit` from a task would end the process."""
    try:
        await awaitable
    except BaseException as error:
        return error
    return None


def _close(awaitable: Awaitable[object]) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def takes_spans(methods: Mapping[str, Callable[..., object]]) -> bool:
    """Return whether `record_span` of *methods* has the parameter `span`."""
    try:
        return "span" in inspect.signature(methods["record_span"]).parameters
    except (KeyError, TypeError, ValueError):
        return False


def methods_of(sink: TelemetrySink) -> dict[str, Callable[..., object]]:
    """Return the methods that *sink* has. A class is refused: its methods lack an instance."""
    methods: dict[str, Callable[..., object]] = {}
    issues: list[ConfigIssue] = []
    for name in (*REQUIRED, *OPTIONAL):
        method = None if isinstance(sink, type) else getattr(sink, name, None)
        if callable(method):
            methods[name] = method
        elif name in REQUIRED or method is not None:
            reason = "must be a method of the telemetry sink"
            issues.append(ConfigIssue("invalid_telemetry_sink", f"telemetry_sink.{name}", reason))
    if issues:
        raise ConfigError(issues, "The telemetry sink cannot be used.")
    return methods
