"""A buffer in front of a slow sink: callers do not wait."""

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias

from wats.errors import ConfigError, ConfigIssue
from wats.telemetry.sinks.isolation import (
    OPTIONAL,
    Attributes,
    TelemetrySink,
    methods_of,
    takes_spans,
)
from wats.telemetry.spans import Span, Start, start_span

CAPACITY: Final = 10_000
"""The default capacity, in calls; each takes about 200 bytes."""

CLOSE_SECONDS: Final = 5.0

POLL_SECONDS: Final = 0.1
"""How often the thread looks for calls. Waking it for each call would cost more than the call."""

MAX_FAILURES: Final = 1000
"""The number of failures of a method that wait for a call to raise them."""

Arguments: TypeAlias = tuple[object, ...]


class BufferedSink:
    """Accepts every call immediately and passes it on to *sink* from a thread of its own.

    It is for a sink that waits, for a disk or a network: a sink that computes is better called
    directly, since a thread of its own would take the interpreter from the requests anyway. It has
    the optional methods of *sink*.

    A call beyond the capacity is dropped: it raises `asyncio.QueueFull`. An exception of *sink* is
    raised by a later call of the same method. Both are logged and counted by wats as failures of
    the sink, and no request is affected. Of a waiting gauge, only the last value is kept.

    Make it in the process that uses it: its thread does not survive a fork. Close it at the end.

    Args:
        sink: The slow sink, with plain functions: coroutine functions need no buffer.
        capacity: How many calls may wait.

    Raises:
        ConfigError: *sink* lacks a method that it must have, or one is a coroutine function.
    """

    def __init__(self, sink: TelemetrySink, *, capacity: int = CAPACITY) -> None:
        methods = methods_of(sink)
        _refuse_coroutines(methods)
        close = getattr(sink, "close", None)
        self._methods = {**methods, "close": close} if callable(close) else methods
        self._failures = {
            name: deque[BaseException](maxlen=MAX_FAILURES) for name in (*methods, "close")
        }
        self._dropped = dict.fromkeys(methods, 0)
        self._capacity = capacity
        self._waiting: deque[tuple[str, Arguments]] = deque()
        self._gauges: dict[Arguments, Arguments] = {}
        self._gauges_lock = threading.Lock()
        for name in methods.keys() & set(OPTIONAL):
            take = self._take_gauge if name == "set_gauge" else partial(self._take, name)
            setattr(self, name, take)
        if takes_spans(methods):
            self.record_span = self._take_span
            self.start_span: Start = getattr(sink, "start_span", start_span)
        self._until = float("inf")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wats-sink", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many calls of each method were dropped until now."""
        return dict(self._dropped)

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> None:
        """Add *value* to the counter *name*."""
        self._take("increment_counter", name, value, attributes)

    def record_histogram(self, name: str, value_seconds: float, attributes: Attributes) -> None:
        """Record a duration in the histogram *name*."""
        self._take("record_histogram", name, value_seconds, attributes)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Accept no further call, pass on the waiting ones, and close the sink if possible.

        Calls left after *seconds* are dropped. An exception of the sink's `close` is raised.
        """
        self._capacity = 0
        self._until = time.monotonic() + seconds
        self._closing.set()
        self._thread.join(seconds)
        while self._waiting:
            method, _ = self._waiting.popleft()
            self._dropped[method] += 1
        self._raise_failure("close")

    def _take(self, method: str, *arguments: object) -> None:
        self._put(method, arguments)
        self._raise_failure(method)

    def _take_gauge(self, name: str, value: float, attributes: Attributes) -> None:
        series = (name, *attributes.items())
        with self._gauges_lock:
            if series not in self._gauges:
                self._put("set_gauge", series)
            self._gauges[series] = (name, value, attributes)
        self._raise_failure("set_gauge")

    def _take_span(
        self, name: str, start: datetime, end: datetime, attributes: Attributes, span: Span | None
    ) -> None:
        self._take("record_span", name, start, end, attributes, span)

    def _put(self, method: str, arguments: Arguments) -> None:
        if len(self._waiting) >= self._capacity:
            self._dropped[method] += 1
            raise asyncio.QueueFull
        self._waiting.append((method, arguments))

    def _raise_failure(self, method: str) -> None:
        failures = self._failures[method]
        if failures:
            raise failures.popleft()

    def _run(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            self._pass_on()
        self._pass_on()
        if "close" in self._methods:
            self._call("close", ())

    def _pass_on(self) -> None:
        while self._waiting and time.monotonic() < self._until:
            method, arguments = self._waiting.popleft()
            if method == "set_gauge":
                with self._gauges_lock:
                    arguments = self._gauges.pop(arguments)
            self._call(method, arguments)

    def _call(self, method: str, arguments: Arguments) -> None:
        try:
            self._methods[method](*arguments)
        except BaseException as error:
            self._failures[method].append(error)


def _refuse_coroutines(methods: Mapping[str, Callable[..., object]]) -> None:
    issues = [
        ConfigIssue("invalid_telemetry_sink", f"telemetry_sink.{name}", "must be a plain function")
        for name, method in methods.items()
        if inspect.iscoroutinefunction(method)
    ]
    if issues:
        raise ConfigError(issues, "The telemetry sink cannot be buffered.")
