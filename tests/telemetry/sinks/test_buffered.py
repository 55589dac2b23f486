import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from wats.errors import ConfigError
from wats.telemetry import UNMATCHED, RouteLabel, Span, Telemetry
from wats.telemetry.contract.values import Method
from wats.telemetry.sinks.buffered import BufferedSink
from wats.telemetry.sinks.isolation import OPTIONAL, FailureLog, IsolatedSink
from wats.telemetry.spans import start_span
from wats.testing import CapturingTelemetrySink, Recorded

MOMENT = datetime(2026, 11, 22, 15, 24, tzinfo=UTC)


class Gated(CapturingTelemetrySink):
    """A sink that lets nothing happen before it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened, self.closed = (threading.Event() for _ in range(3))

    def _wait(self) -> None:
        self.entered.set()
        self.opened.wait(60)

    def increment_counter(self, *call: Any) -> None:
        self._wait()
        super().increment_counter(*call)

    def close(self) -> None:
        self.closed.set()


class OnlyWhatIsRequired:
    def increment_counter(self, *_: object) -> None:
        pass

    def record_histogram(self, *_: object) -> None:
        pass


class Raising(OnlyWhatIsRequired):
    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.recorded = 0

    def increment_counter(self, *_: object) -> None:
        raise self.error

    def record_histogram(self, *_: object) -> None:
        self.recorded += 1

    def close(self) -> None:
        raise self.error


Buffer = Callable[..., BufferedSink]


@pytest.fixture
def buffer() -> Iterator[Buffer]:
    """Make buffered sinks that are closed at the end, in any state."""
    made: list[BufferedSink] = []

    def make(sink: Any, **options: Any) -> BufferedSink:
        made.append(BufferedSink(sink, **options))
        return made[-1]

    yield make
    for sink in made:
        with suppress(LookupError):
            sink.close(1.0)


@pytest.fixture
def gated() -> Iterator[Gated]:
    gated = Gated()
    yield gated
    gated.opened.set()


def fill(sink: BufferedSink, gated: Gated, room: int) -> None:
    """Let the sink be busy with one call, and *room* others wait."""
    sink.increment_counter("busy", 1, {})
    assert gated.entered.wait(60)
    for _ in range(room):
        sink.increment_counter("waiting", 1, {})


def eventually(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_calls_reach_the_sink_in_order_and_unchanged(buffer: Buffer) -> None:
    captured, span = CapturingTelemetrySink(), start_span(None)
    sink: Any = buffer(captured)

    sink.increment_counter("a", 1, {"x": "y"})
    sink.increment_counter("a", 2, {})
    sink.record_histogram("b", 0.5, {"x": True})
    sink.set_gauge("c", 3, {"x": 1.5})
    sink.record_span("d", MOMENT, MOMENT, {"x": "y"}, span)
    sink.record_event("e", {}, MOMENT)
    sink.close()

    assert captured.counters == [("a", 1, {"x": "y"}), ("a", 2, {})]
    assert captured.histograms == [("b", 0.5, {"x": True})]
    assert captured.gauges == [("c", 3, {"x": 1.5})]
    assert captured.spans == [("d", MOMENT, MOMENT, {"x": "y"}, span)]
    assert captured.events == [("e", {}, MOMENT)]
    assert set(sink.dropped.values()) == {0}


def test_a_buffer_passes_calls_on_without_being_closed(buffer: Buffer) -> None:
    captured = CapturingTelemetrySink()

    buffer(captured).increment_counter("a", 1, {})

    eventually(lambda: captured.counters == [Recorded("a", 1, {})])


@pytest.mark.parametrize("has", [(), ("record_span",), ("set_gauge", "record_event"), OPTIONAL])
def test_a_buffer_has_the_optional_methods_of_its_sink(buffer: Buffer, has: Any) -> None:
    inner = OnlyWhatIsRequired()
    for name in has:
        setattr(inner, name, lambda *_: None)

    sink = buffer(inner)

    assert {name for name in OPTIONAL if hasattr(sink, name)} == set(has)


class Starting(CapturingTelemetrySink):
    """A sink that starts the spans itself."""

    started = start_span(None)

    def start_span(self, _: object) -> Span:
        return self.started


class WithoutTraces(OnlyWhatIsRequired):
    def __init__(self) -> None:
        self.spans: list[str] = []

    def record_span(self, name: str, start: object, end: object, attributes: object) -> None:
        self.spans.append(name)


def test_a_buffered_sink_receives_the_places_of_spans_and_starts_them(buffer: Buffer) -> None:
    sink = Starting()
    buffered = buffer(sink)
    telemetry = Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=None, sink=buffered)

    telemetry.http.request(0, Method.GET, 200, 0.1)
    buffered.close()

    assert [span.span for span in sink.spans] == [sink.started]


def test_a_buffered_sink_without_traces_receives_spans_as_before(buffer: Buffer) -> None:
    sink = WithoutTraces()
    buffered = buffer(sink)
    telemetry = Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=None, sink=buffered)

    telemetry.http.request(0, Method.GET, 200, 0.1)
    buffered.close()

    assert telemetry.tracer is None
    assert sink.spans == ["wats.http.request"]


class Asynchronous(OnlyWhatIsRequired):
    async def record_histogram(self, *_: object) -> None:
        pass


class Incomplete:
    def increment_counter(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("sink", [Asynchronous(), Incomplete()], ids=["coroutine", "not there"])
def test_a_sink_without_plain_methods_is_refused(sink: Any) -> None:
    before = set(threading.enumerate())

    with pytest.raises(ConfigError) as refused:
        BufferedSink(sink)

    assert [issue.path for issue in refused.value.issues] == ["telemetry_sink.record_histogram"]
    assert set(threading.enumerate()) <= before  # the thread of an earlier log may end meanwhile


def test_a_caller_does_not_wait_for_the_sink(buffer: Buffer, gated: Gated) -> None:
    sink = buffer(gated)

    fill(sink, gated, room=1000)

    assert gated.counters == []  # the sink has not returned from its first call


def test_calls_beyond_the_capacity_are_dropped_and_counted_by_method(
    buffer: Buffer, gated: Gated
) -> None:
    sink: Any = buffer(gated, capacity=2)
    fill(sink, gated, room=2)

    for _ in range(3):
        with pytest.raises(asyncio.QueueFull):
            sink.increment_counter("too many", 1, {})
    with pytest.raises(asyncio.QueueFull):
        sink.set_gauge("too many", 1, {})
    gated.opened.set()
    sink.close()

    assert [call.name for call in gated.counters] == ["busy", "waiting", "waiting"]
    assert gated.gauges == []
    assert {name: count for name, count in sink.dropped.items() if count} == {
        "increment_counter": 3,
        "set_gauge": 1,
    }


def test_there_is_room_again_when_the_sink_has_caught_up(buffer: Buffer, gated: Gated) -> None:
    sink = buffer(gated, capacity=1)
    fill(sink, gated, room=1)
    gated.opened.set()
    eventually(lambda: len(gated.counters) == 2)

    sink.increment_counter("later", 1, {})

    eventually(lambda: gated.counters[-1].name == "later")


def test_dropped_calls_are_logged_once_and_counted_as_a_failure_of_the_sink(
    buffer: Buffer, gated: Gated, logged: list[Mapping[str, object]]
) -> None:
    sink = buffer(gated, capacity=1)
    failed: Counter[str] = Counter()
    isolated = IsolatedSink(
        sink,
        FailureLog("wats.telemetry.sink.error", log=logged.append),
        lambda method: failed.update([method]),
    )
    fill(sink, gated, room=1)

    for _ in range(100):
        isolated.call("increment_counter", "too many", 1, {})

    assert failed == {"increment_counter": 100}
    assert [(line["method"], line["errorName"]) for line in logged] == [
        ("increment_counter", "QueueFull")
    ]


def test_of_a_gauge_that_waits_only_the_last_value_is_passed_on(
    buffer: Buffer, gated: Gated
) -> None:
    sink: Any = buffer(gated, capacity=3)
    fill(sink, gated, room=0)

    for value in range(1000):
        sink.set_gauge("depth", value, {"state": "pending"})
        sink.set_gauge("depth", -value, {"state": "dead"})
    gated.opened.set()
    sink.close()

    assert gated.gauges == [
        ("depth", 999, {"state": "pending"}),
        ("depth", -999, {"state": "dead"}),
    ]


def test_an_exception_of_the_sink_is_raised_by_a_later_call_of_the_same_method(
    buffer: Buffer,
) -> None:
    inner = Raising(LookupError())
    sink = buffer(inner)

    sink.increment_counter("a", 1, {})
    sink.record_histogram("b", 1.0, {})
    eventually(lambda: inner.recorded == 1)
    sink.record_histogram("b", 1.0, {})
    with pytest.raises(LookupError):
        sink.increment_counter("a", 1, {})

    eventually(lambda: inner.recorded == 2)


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()], ids=["exit", "cancel"])
def test_nothing_that_a_sink_raises_ends_the_thread(buffer: Buffer, error: BaseException) -> None:
    inner = Raising(error)
    inner.close = lambda: None  # type: ignore[method-assign]
    sink = buffer(inner)

    sink.increment_counter("a", 1, {})
    sink.record_histogram("b", 1.0, {})

    eventually(lambda: inner.recorded == 1)


def test_the_sink_is_closed_once_with_its_buffer_and_receives_no_later_call(
    buffer: Buffer, gated: Gated
) -> None:
    gated.opened.set()
    sink = buffer(gated)

    sink.close()
    gated.closed.clear()
    sink.close()

    with pytest.raises(asyncio.QueueFull):
        sink.increment_counter("late", 1, {})
    assert (gated.counters, gated.closed.is_set()) == ([], False)


def test_an_exception_from_closing_the_sink_is_raised(buffer: Buffer) -> None:
    sink = buffer(Raising(LookupError()))

    with pytest.raises(LookupError):
        sink.close()


def test_closing_waits_for_a_stuck_sink_up_to_its_limit(buffer: Buffer, gated: Gated) -> None:
    sink = buffer(gated)
    fill(sink, gated, room=5)

    sink.close(0.2)
    finished = list(gated.counters)
    gated.opened.set()
    eventually(gated.closed.is_set)

    assert finished == []
    assert sink.dropped["increment_counter"] == 5
    assert [call.name for call in gated.counters] == ["busy"]


def test_a_service_reports_through_a_buffer_as_it_does_directly(
    buffer: Buffer, make_telemetry: Callable[..., Telemetry]
) -> None:
    directly, behind = CapturingTelemetrySink(), CapturingTelemetrySink()
    sink = buffer(behind)

    for each in (directly, sink):
        telemetry = make_telemetry(sink=each)
        telemetry.http.request(1, Method.GET, 200, 0.25)
        telemetry.http.request(99, Method.UNKNOWN, 0, 0.25)
    sink.close()

    assert behind.counters == directly.counters
    assert behind.histograms == directly.histograms
    assert len(behind.spans) == len(directly.spans)
