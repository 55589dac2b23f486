import asyncio
import json
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from wats.errors import ConfigError
from wats.log import drain_output
from wats.process.sink_lifecycle import opened_sink

CANARY = "canary-in-an-exception"


class Sink:
    def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        pass

    record_histogram = increment_counter


class Closing(Sink):
    """Takes down how it was closed."""

    def __init__(self) -> None:
        self.closed_in: list[threading.Thread] = []

    def close(self) -> None:
        self.closed_in.append(threading.current_thread())


class ClosingLater(Closing):
    async def close(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().close()


class Failing(Sink):
    def close(self) -> None:
        raise ValueError(CANARY)


class FailingLater(Sink):
    async def close(self) -> None:
        raise ValueError(CANARY)


class Cancelled(Sink):
    async def close(self) -> None:
        raise asyncio.CancelledError


class Stopping(Sink):
    def close(self) -> None:
        raise StopIteration(CANARY)


class Leaving(Sink):
    def close(self) -> None:
        raise SystemExit(CANARY)


class Slow(Sink):
    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.has_ended = False

    def close(self) -> None:
        self.may_end.wait(60)
        self.has_ended = True


class SlowLater(Sink):
    def __init__(self) -> None:
        self.has_begun = asyncio.Event()

    async def close(self) -> None:
        self.has_begun.set()
        await asyncio.Event().wait()


class Stubborn(Sink):
    async def close(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


class Unclosable(Sink):
    close = "soon"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = ModuleType("a_module_of_the_operators")
    monkeypatch.setitem(sys.modules, found.__name__, found)
    return found


def named(module: ModuleType, make: Any) -> str:
    module.make = make  # type: ignore[attr-defined]
    return f"{module.__name__}:make"


async def test_without_a_name_there_is_no_sink() -> None:
    async with opened_sink(None) as sink:
        assert sink is None


@pytest.mark.parametrize("kind", [Closing, ClosingLater])
async def test_a_sink_is_closed_at_the_end(
    module: ModuleType, capsys: pytest.CaptureFixture[str], kind: type[Closing]
) -> None:
    made = kind()

    async with opened_sink(named(module, lambda: made)) as sink:
        assert sink is made
        assert made.closed_in == []

    assert len(made.closed_in) == 1
    drain_output()
    assert capsys.readouterr() == ("", "")


async def test_a_sink_is_closed_after_a_failure_too(module: ModuleType) -> None:
    made = Closing()

    with pytest.raises(ZeroDivisionError):
        async with opened_sink(named(module, lambda: made)):
            raise ZeroDivisionError

    assert len(made.closed_in) == 1


@pytest.mark.parametrize("kind", [Sink, Unclosable])
async def test_a_sink_need_not_be_closed(
    module: ModuleType, capsys: pytest.CaptureFixture[str], kind: type[Sink]
) -> None:
    async with opened_sink(named(module, kind)):
        pass

    drain_output()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Failing, "ValueError"),
        (FailingLater, "ValueError"),
        (Cancelled, "CancelledError"),
        (Stopping, "StopIteration"),
        (Leaving, "SystemExit"),
        (SlowLater, "TimeoutError"),
        (Stubborn, "TimeoutError"),
    ],
)
async def test_a_sink_that_cannot_be_closed_is_logged_and_does_not_fail_the_end(
    module: ModuleType, capsys: pytest.CaptureFixture[str], kind: type[Sink], error: str
) -> None:
    async with opened_sink(named(module, kind), close_seconds=0.2):
        pass

    drain_output()
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert (out, line["event"]) == ("", "wats.telemetry.sink.error")
    assert (line["method"], line["errorName"]) == ("close", error)
    assert CANARY not in err


async def test_a_sink_that_is_slow_to_close_does_not_delay_the_end(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Slow()

    async with opened_sink(named(module, lambda: slow), close_seconds=0.2):
        pass
    has_ended = slow.has_ended
    slow.may_end.set()

    assert not has_ended
    drain_output()
    assert json.loads(capsys.readouterr().err)["errorName"] == "TimeoutError"


async def test_a_cancellation_while_the_sink_closes_is_passed_on(module: ModuleType) -> None:
    slow = SlowLater()

    async def use() -> None:
        async with opened_sink(named(module, lambda: slow), close_seconds=60):
            pass

    using = asyncio.create_task(use())
    await slow.has_begun.wait()
    using.cancel()

    with pytest.raises(asyncio.CancelledError):
        await using


def raising() -> None:
    raise RuntimeError(CANARY)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (raising, "cannot be called: RuntimeError"),
        (lambda needed: None, "cannot be called: TypeError"),
        ("text", "cannot be called: TypeError"),
    ],
)
async def test_a_function_that_returns_no_sink_is_refused(
    module: ModuleType, make: Any, reason: str
) -> None:
    name = named(module, make)

    with pytest.raises(ConfigError) as refused:
        async with opened_sink(name):
            pass

    (issue,) = refused.value.issues
    assert (issue.code, issue.path) == ("invalid_telemetry_sink", "telemetry.sink")
    assert reason in issue.reason
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:make", "there is no module 'no_such_module'"),
        ("json:no_such_name", "'json' is a module of Python, and has no 'no_such_name'"),
        ("broken_module:make", "RuntimeError in '{folder}/broken_module.py', line 1"),
    ],
)
async def test_a_function_that_cannot_be_imported_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    (tmp_path / "broken_module.py").write_text(f"raise RuntimeError('{CANARY}')")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigError) as refused:
        async with opened_sink(name):
            pass

    reason = reason.format(folder=tmp_path)
    assert f"'{name}' cannot be imported: {reason}." in str(refused.value)
    assert CANARY not in str(refused.value)
