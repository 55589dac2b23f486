import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from wats.errors import ConfigError
from wats.log import drain_output, write_json_line
from wats.telemetry.repeats import INTERVAL_SECONDS
from wats.telemetry.sinks.isolation import (
    MAX_PENDING,
    FailureLog,
    IsolatedSink,
)
from wats.telemetry.spans import start_span


class Answering:
    """A sink whose counter is configurable, and whose histogram does nothing."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.answer = answer

    def increment_counter(self, *_: object) -> object:
        return self.answer()

    def record_histogram(self, *_: object) -> None:
        pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Abrupt(BaseException):
    pass


class BrokenAwaitable:
    def __await__(self) -> Any:
        raise LookupError


@pytest.fixture
def time() -> list[float]:
    return [1000.0]


@pytest.fixture
def failures(logged: list[Mapping[str, object]], time: list[float]) -> FailureLog:
    return FailureLog(
        "wats.telemetry.sink.error",
        log=logged.append,
        monotonic=lambda: time[0],
        now=lambda: datetime(2026, 11, 22, 15, 24, tzinfo=UTC),
    )


def raising(error: BaseException) -> Callable[[], object]:
    def answer() -> object:
        raise error

    return answer


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def names(logged: list[Mapping[str, object]]) -> list[object]:
    return [line["errorName"] for line in logged]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        pytest.param(ValueError("private"), "ValueError", id="with a text"),
        pytest.param(Unspeakable(), "Error", id="that cannot be printed"),
        pytest.param(Abrupt(), "Error", id="that is no Exception"),
        pytest.param(asyncio.CancelledError(), "CancelledError", id="cancelled"),
        pytest.param(GeneratorExit(), "GeneratorExit", id="generator exit"),
        pytest.param(SystemExit("private"), "SystemExit", id="exit"),
        pytest.param(KeyboardInterrupt(), "KeyboardInterrupt", id="interrupt"),
        pytest.param(RecursionError(), "RecursionError", id="recursion"),
        pytest.param(StopIteration(), "StopIteration", id="stop iteration"),
    ],
)
def test_an_exception_of_a_sink_is_logged_by_name_and_contained(
    failures: FailureLog, logged: list[Mapping[str, object]], error: BaseException, name: str
):
    IsolatedSink(Answering(raising(error)), failures).call("increment_counter", "n", 1, {})

    assert logged == [
        {
            "event": "wats.telemetry.sink.error",
            "method": "increment_counter",
            "errorName": name,
            "suppressed": 0,
            "at": "2026-11-22T15:24:00.000Z",
        }
    ]


async def test_a_sink_that_raises_cancelled_does_not_cancel_the_task_it_runs_in(
    failures: FailureLog,
):
    sink = IsolatedSink(Answering(raising(asyncio.CancelledError())), failures)

    async def request() -> str:
        sink.call("increment_counter", "n", 1, {})
        await asyncio.sleep(0)
        return "answered"

    assert await asyncio.create_task(request()) == "answered"


async def fail_with(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def a_failed_future() -> None:
    raise OSError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(lambda: fail_with(ValueError("private")), ["ValueError"], id="fails later"),
        pytest.param(lambda: fail_with(Unspeakable()), ["Error"], id="fails unspeakably"),
        pytest.param(lambda: fail_with(Abrupt()), ["Error"], id="fails abruptly"),
        pytest.param(lambda: fail_with(SystemExit("private")), ["SystemExit"], id="exits"),
        pytest.param(
            lambda: fail_with(asyncio.CancelledError()), ["CancelledError"], id="cancels itself"
        ),
        pytest.param(BrokenAwaitable, ["LookupError"], id="is no good awaitable"),
        pytest.param(
            lambda: asyncio.ensure_future(a_failed_future()), ["OSError"], id="is a failed future"
        ),
        pytest.param(lambda: asyncio.sleep(0), [], id="succeeds"),
    ],
)
async def test_a_coroutine_of_a_sink_runs_by_itself_and_its_failure_is_logged(
    failures: FailureLog,
    logged: list[Mapping[str, object]],
    answer: Callable[[], Awaitable[object]],
    expected: list[str],
):
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))

    IsolatedSink(Answering(answer), failures).call("increment_counter", "n", 1, {})
    await turn()
    gc.collect()

    assert names(logged) == expected
    assert unhandled == []


def test_a_coroutine_that_no_loop_can_run_is_closed_and_logged(
    failures: FailureLog, logged: list[Mapping[str, object]]
):
    IsolatedSink(Answering(lambda: asyncio.sleep(0)), failures).call("increment_counter", "n", 1)
    IsolatedSink(Answering(BrokenAwaitable), failures).call("increment_counter", "n", 1)
    gc.collect()

    assert names(logged) == ["RuntimeError"]


def test_coroutines_that_the_end_of_the_loop_overtakes_leave_no_warning(
    failures: FailureLog, logged: list[Mapping[str, object]]
):
    sink = IsolatedSink(Answering(lambda: asyncio.sleep(60)), failures)

    async def serve() -> None:
        sink.call("increment_counter", "n", 1, {})
        await turn()
        sink.call("increment_counter", "n", 1, {})

    asyncio.run(serve())
    gc.collect()

    assert names(logged) == ["CancelledError"]


async def test_a_slow_sink_holds_no_more_than_a_bounded_number_of_coroutines(
    failures: FailureLog, logged: list[Mapping[str, object]]
):
    released = asyncio.Event()
    sink = IsolatedSink(Answering(released.wait), failures)
    before = len(asyncio.all_tasks())

    for _ in range(MAX_PENDING + 50):
        sink.call("increment_counter", "n", 1, {})
    under_way = len(asyncio.all_tasks()) - before
    released.set()
    await turn()

    assert under_way == MAX_PENDING
    assert names(logged) == ["QueueFull"]
    assert len(asyncio.all_tasks()) == before


def test_a_class_is_logged_once_in_an_interval_with_the_number_of_omitted_lines(
    failures: FailureLog, logged: list[Mapping[str, object]], time: list[float]
):
    for _ in range(4):
        failures.report("increment_counter", ValueError())
    failures.report("record_histogram", KeyError())

    time[0] += INTERVAL_SECONDS
    for _ in range(2):
        failures.report("increment_counter", ValueError())

    lines = [(line["errorName"], line["suppressed"]) for line in logged]
    assert lines == [("ValueError", 0), ("KeyError", 0), ("ValueError", 3)]


def test_a_log_that_cannot_be_written_is_harmless():
    def closed(_: Mapping[str, object]) -> None:
        raise OSError

    FailureLog("wats.telemetry.error", log=closed).report("http_request", ValueError())


def test_the_log_is_one_line_of_json_on_stderr(capsys: pytest.CaptureFixture[str]):
    FailureLog("wats.telemetry.sink.error", log=write_json_line).report("x", ValueError("private"))
    drain_output()

    line = capsys.readouterr().err
    assert list(json.loads(line)) == ["event", "method", "errorName", "suppressed", "at"]
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert "private" not in line


class HalfASink:
    set_gauge = "not callable"

    def increment_counter(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("sink", "missing"),
    [
        pytest.param(5, ["increment_counter", "record_histogram"], id="a number"),
        pytest.param(Answering, ["increment_counter", "record_histogram"], id="a class"),
        pytest.param(HalfASink(), ["record_histogram", "set_gauge"], id="half a sink"),
    ],
)
def test_a_sink_without_its_methods_is_refused_where_it_is_given(
    failures: FailureLog, sink: Any, missing: list[str]
):
    with pytest.raises(ConfigError) as refused:
        IsolatedSink(sink, failures)

    assert [issue.path for issue in refused.value.issues] == [
        f"telemetry_sink.{m}" for m in missing
    ]


class Starting(Answering):
    """A sink that starts its own spans."""

    def start_span(self, _: object) -> object:
        return self.answer()

    def record_span(
        self, name: str, start: object, end: object, attributes: object, span: object
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(raising(ValueError()), "ValueError", id="an exception"),
        pytest.param(raising(SystemExit()), "SystemExit", id="an exit"),
        pytest.param(lambda: "a span", "TypeError", id="no span"),
        pytest.param(lambda: fail_with(ValueError()), "TypeError", id="a coroutine"),
    ],
)
def test_a_span_that_a_sink_cannot_start_is_none_and_a_logged_failure(
    failures: FailureLog, logged: list[Mapping[str, object]], answer: Any, error: str
):
    failed: list[str] = []
    isolated = IsolatedSink(Starting(answer), failures, failed.append)

    span = isolated.start_span(None)

    assert isolated.takes_spans
    assert span is None
    assert names(logged) == [error]
    assert failed == ["record_span"]


@pytest.mark.parametrize("span", [None, start_span(None)])
def test_a_sink_decides_which_operations_have_a_span(failures: FailureLog, span: Any):
    assert IsolatedSink(Starting(lambda: span), failures).start_span(None) is span


def test_methods_are_looked_up_once_and_those_that_are_not_there_are_not_called(
    failures: FailureLog, logged: list[Mapping[str, object]]
):
    sink = Answering(lambda: None)
    isolated = IsolatedSink(sink, failures)
    sink.set_gauge = raising(ValueError())  # type: ignore[attr-defined]  # too late to count

    isolated.call("set_gauge", "n", 1.0, {})

    assert logged == []
