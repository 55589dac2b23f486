import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from wats.errors import Detail, MalformedRequest
from wats.inbound.calls import HandlerCall, HandlerCalls
from wats.inbound.failures import EndpointFailure, HandlerFailures, failure_name
from wats.inbound.handlers import Handlers
from wats.inbound.updates import Update
from wats.telemetry import UNMATCHED, RouteLabel, Telemetry
from wats.telemetry.contract.values import UpdateKind

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
UPDATE = Update(
    key="00" * 16,
    kind=UpdateKind.MESSAGE,
    field="messages",
    waba_id="1",
    occurred_at=NOON,
    received_at=NOON,
    raw={"text": "Jane 15550001111"},
)
THIS_FILE = "test_failures.py"


async def fail(update: Update) -> None:
    raise KeyError(update.raw["text"])


async def fail_in_a_library(update: Update) -> None:
    int(update.raw["text"])
    await asyncio.sleep(0)


async def hang(_: Update) -> None:
    await asyncio.Event().wait()


class Failing:
    async def __call__(self, update: Update) -> None:
        await fail(update)


def line_of(function: Callable[..., object], offset: int = 1) -> int:
    return function.__code__.co_firstlineno + offset  # type: ignore[attr-defined]


async def lines_after(
    handler: Callable[..., Awaitable[None]], name: str = "shop:answer", seconds: float = 5
) -> list[Mapping[str, object]]:
    """Return the log of one call of *handler*."""
    lines: list[Mapping[str, object]] = []
    handlers = Handlers()
    handlers.add(handler, name=name)
    telemetry = Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=None)
    calls = HandlerCalls(handlers, telemetry=telemetry, timeout_seconds=seconds, log=lines.append)
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class TestedCall(HandlerCall):
        def handled(self, failure: BaseException | None) -> None:
            ended.set_result(None)

    calls.start(TestedCall(), name, UPDATE)
    await ended
    return lines


async def test_a_failed_call_is_logged_with_its_handler_error_and_position() -> None:
    lines = await lines_after(fail)

    assert lines == [
        {
            "event": "wats.handler.failed",
            "handler": "shop:answer",
            "kind": "message",
            "errorName": "KeyError",
            "file": THIS_FILE,
            "line": line_of(fail),
            "paths": None,
            "status": None,
            "suppressed": 0,
        }
    ]


@pytest.mark.parametrize(
    ("status", "logged"), [(401, 401), (None, None), (99, None), (600, None), (15550001111, None)]
)
async def test_a_failure_of_an_endpoint_has_the_status_in_place_of_a_position(
    status: int | None, logged: int | None
) -> None:
    async def refused(_: Update) -> None:
        raise EndpointFailure(status)

    (found,) = await lines_after(refused)

    assert (found["errorName"], found["status"]) == ("EndpointFailure", logged)
    assert (found["file"], found["line"]) == (None, None)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        pytest.param(EndpointFailure(503), "EndpointFailure 503", id="status"),
        pytest.param(EndpointFailure(999), "EndpointFailure", id="invalid-status"),
        pytest.param(EndpointFailure(None), "EndpointFailure", id="no-response"),
        pytest.param(KeyError("Jane"), "KeyError", id="no-endpoint"),
    ],
)
def test_the_name_of_a_failure_has_the_status_of_its_response(error: Exception, name: str) -> None:
    assert failure_name(error) == name


@pytest.mark.parametrize(
    ("handler", "line"),
    [
        pytest.param(fail_in_a_library, line_of(fail_in_a_library), id="in-the-library"),
        pytest.param(Failing(), line_of(fail), id="object"),
        pytest.param(partial(fail), line_of(fail), id="partial"),
    ],
)
async def test_the_position_is_the_innermost_in_the_package_of_the_handler(
    handler: Callable[..., Awaitable[None]], line: int
) -> None:
    (found,) = await lines_after(handler)

    assert (found["file"], found["line"]) == (THIS_FILE, line)


async def test_a_call_that_exceeds_its_limit_has_the_position_at_which_it_hung() -> None:
    (found,) = await lines_after(hang, seconds=0.02)

    assert found["errorName"] == "TimeoutError"
    assert (found["file"], found["line"]) == (THIS_FILE, line_of(hang))


@pytest.mark.parametrize(
    ("paths", "logged"),
    [
        (["type"], "type"),
        (["text.body", "to", "to"], "text.body,to"),
        (["Jane", "text.Jane", "contacts[3].name.15550001111"], "text,contacts[3].name"),
        (["text"] * 5 + ["to"], "text"),
        ([], None),
    ],
)
async def test_a_message_that_is_refused_is_logged_with_the_paths_of_known_members(
    paths: list[str], logged: str | None
) -> None:
    async def refused(_: Update) -> None:
        details = [Detail(path, "must not be Jane") for path in paths]
        raise MalformedRequest("malformed_body", "Message is invalid.", details)

    (found,) = await lines_after(refused)

    assert (found["errorName"], found["paths"]) == ("MalformedRequest", logged)


async def test_a_call_that_succeeds_is_not_logged() -> None:
    async def succeed(_: Update) -> None: ...

    assert await lines_after(succeed) == []


async def test_neither_a_text_nor_a_name_with_the_digits_of_a_number_is_logged() -> None:
    lines = await lines_after(fail, name="call15550001111")

    assert lines[0]["handler"] == "other"
    assert "Jane" not in str(lines)
    assert "1111" not in str(lines)


@pytest.mark.parametrize(
    ("module", "file"),
    [("tests.jane", "jane.py"), ("tests.inbound.test_failures", "jane.py"), (5, "jane.py")],
)
def test_code_that_was_made_at_run_time_has_no_position(module: Any, file: str) -> None:
    lines: list[Mapping[str, object]] = []
    names = {"__name__": module}
    exec(compile("def fail(): raise KeyError", file, "exec"), names)  # noqa: S102

    with pytest.raises(KeyError) as caught:
        names["fail"]()
    caught.value.__traceback__ = caught.value.__traceback__ and caught.value.__traceback__.tb_next
    HandlerFailures(lines.append).report("a", fail, UpdateKind.MESSAGE, caught.value)

    assert (lines[0]["file"], lines[0]["line"]) == (None, None)


def test_a_file_with_the_digits_of_a_number_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Mapping[str, object]] = []
    module = ModuleType("tests.made")
    module.__file__ = "/srv/a15550001111.py"
    monkeypatch.setitem(sys.modules, "tests.made", module)
    exec(compile("def fail(): raise KeyError", module.__file__, "exec"), vars(module))  # noqa: S102

    with pytest.raises(KeyError) as caught:
        vars(module)["fail"]()
    HandlerFailures(lines.append).report("a", fail, UpdateKind.MESSAGE, caught.value)

    assert lines[0]["file"] == THIS_FILE


def test_the_same_failure_is_logged_once_a_minute_and_counted() -> None:
    lines: list[Mapping[str, object]] = []
    now = 0.0
    failures = HandlerFailures(lines.append, lambda: now)

    for _ in range(100):
        failures.report("a", fail, UpdateKind.MESSAGE, KeyError())
    failures.report("a", fail, UpdateKind.MESSAGE, ValueError())
    failures.report("b", fail, UpdateKind.MESSAGE, KeyError())
    now = 61.0
    failures.report("a", fail, UpdateKind.MESSAGE, KeyError())

    seen = [(line["handler"], line["errorName"], line["suppressed"]) for line in lines]
    assert seen == [
        ("a", "KeyError", 0),
        ("a", "ValueError", 0),
        ("b", "KeyError", 0),
        ("a", "KeyError", 99),
    ]


def test_a_log_that_cannot_be_written_fails_no_call() -> None:
    def refuse(_: object) -> None:
        raise BrokenPipeError

    HandlerFailures(refuse).report("a", fail, UpdateKind.MESSAGE, KeyError())
