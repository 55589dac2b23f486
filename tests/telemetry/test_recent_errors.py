import asyncio
import builtins
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import asyncpg
import pytest

import wats.errors
import wats.telemetry.recent_errors as ledger_module
from wats.errors import GraphUnreachable, StoreUnavailable
from wats.telemetry.metrics.shared_memory import Board
from wats.telemetry.recent_errors import MAX_NAMES, ErrorLedger, error_name


class CardDeclined(Exception):
    pass


class LyingMeta(type):
    @property
    def __module__(cls) -> str:
        raise RuntimeError


def made_up(name: str, module: object = "builtins") -> BaseException:
    return type(name, (Exception,), {"__module__": module})()


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (StoreUnavailable(), "StoreUnavailable"),
        (GraphUnreachable(), "GraphUnreachable"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError(), "TimeoutError"),
        (json.JSONDecodeError("", "", 0), "JSONDecodeError"),
        (sqlite3.OperationalError(), "OperationalError"),
        (aiohttp.ClientPayloadError(), "ClientPayloadError"),
        (asyncpg.UniqueViolationError(), "UniqueViolationError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "as",
)
def test_a_class_of_ours_or_of_a_dependency_is_named(error: BaseException, name: str):
    assert error_name(error) == name


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(CardDeclined(), id="an operator's own class"),
        pytest.param(made_up("Meet me at noon"), id="a text as a name"),
        pytest.param(made_up("ValueError"), id="a name that belongs to another class"),
        pytest.param(made_up("Anna", "wats.errors"), id="a claim to be ours"),
        pytest.param(made_up("Anna", "json.nowhere"), id="a module that does not exist"),
        pytest.param(made_up("Anna", 7), id="a module that is no text"),
        pytest.param(LyingMeta("Anna", (Exception,), {})(), id="a class that raises when asked"),
    ],
)
def test_any_other_class_is_an_error_without_a_name(error: BaseException):
    assert error_name(error) == "Error"


def test_a_class_name_from_a_module_must_be_an_identifier(monkeypatch: pytest.MonkeyPatch):
    error = made_up("Meet me at noon", "json")
    monkeypatch.setitem(vars(json), "Meet me at noon", type(error))

    assert error_name(error) == "Error"


@pytest.mark.parametrize("module", [json, random, wats.errors, aiohttp, ledger_module, builtins])
def test_a_class_put_into_a_module_at_run_time_has_no_name(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    error = made_up("Anna", module.__name__)
    ledger = ErrorLedger()
    monkeypatch.setitem(vars(module), "Anna", type(error))

    for each in (ledger, ErrorLedger()):
        each.record(error)
        assert each.snapshot() == {"Error": 1}
    assert error_name(error) == "Error"


def test_a_class_put_into_a_module_before_its_first_error_has_no_name(tmp_path: Path):
    code = (
        "import wats, json, random\n"
        "from wats.telemetry.recent_errors import ErrorLedger, error_name\n"
        "ErrorLedger()\n"
        "for module in (json, random, wats.errors):\n"
        "    module.Anna = type('Anna', (Exception,), {'__module__': module.__name__})\n"
        "    print(error_name(module.Anna()))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["Error"] * 3


def test_an_error_of_a_module_imported_later_has_its_name(tmp_path: Path):
    code = (
        "import wats\n"
        "from wats.telemetry import error_name\n"
        "import smtplib\n"
        "print(error_name(smtplib.SMTPServerDisconnected()))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["SMTPServerDisconnected"]


def test_a_class_renamed_at_run_time_has_no_name():
    ErrorLedger()
    StoreUnavailable.__name__ = "Anna"
    try:
        assert error_name(StoreUnavailable()) == "Error"
    finally:
        StoreUnavailable.__name__ = "StoreUnavailable"


def test_errors_are_counted_by_name():
    ledger = ErrorLedger()

    for error in (ValueError("a"), KeyError("b"), ValueError("c")):
        ledger.record(error)

    assert ledger.snapshot() == {"KeyError": 1, "ValueError": 2}


def test_the_eleventh_name_pushes_out_the_one_not_seen_for_longest():
    names = [f"Error{n}" for n in range(11)]
    ledger = ErrorLedger(names)
    for name in names[:10]:
        ledger.record_name(name)
    ledger.record_name("Error0")

    ledger.record_name("Error10")

    assert list(ledger.snapshot()) == [*names[2:10], "Error0", "Error10"]
    assert ledger.snapshot()["Error0"] == 2


def test_only_names_of_the_given_list_are_recorded_as_they_are():
    ledger = ErrorLedger(["ReEngagementMessageError", "not an identifier"])

    for name in ("ReEngagementMessageError", "AnyOtherName", "not an identifier"):
        ledger.record_name(name)

    assert ledger.snapshot() == {"ReEngagementMessageError": 1, "Error": 2}


def test_a_snapshot_does_not_change_with_the_ledger():
    ledger = ErrorLedger()
    snapshot = ledger.snapshot()

    ledger.record(ValueError())

    assert snapshot == {}


NAMES = [f"Error{n:02}" for n in range(2 * MAX_NAMES)]


def ticking() -> Callable[[], int]:
    ticks = count(1)
    return lambda: next(ticks)


def test_every_process_reports_the_errors_of_all():
    board, clock = Board(2), ticking()
    one, other = (ErrorLedger(board=board, row=row, clock=clock) for row in range(2))

    one.record(ValueError())
    other.record(KeyError())
    one.record(KeyError())

    assert one.snapshot() == other.snapshot() == {"ValueError": 1, "KeyError": 2}


def test_of_more_than_ten_names_those_seen_last_are_reported():
    board, clock = Board(2), ticking()
    ledgers = [ErrorLedger(NAMES, board=board, row=row, clock=clock) for row in range(2)]
    for place, name in enumerate(NAMES):
        ledgers[place % 2].record_name(name)

    ledgers[0].record_name(NAMES[0])

    assert list(ledgers[1].snapshot()) == [*NAMES[-MAX_NAMES + 1 :], NAMES[0]]


def test_a_replacement_process_continues_the_error_counts():
    board = Board()
    ErrorLedger(board=board).record(ValueError())

    ErrorLedger(board=board).record(ValueError())

    assert ErrorLedger(board=board).snapshot() == {"ValueError": 2}


def test_simultaneous_errors_are_reported_in_order_of_arrival():
    ledger = ErrorLedger(NAMES, clock=lambda: 7)

    for name in NAMES[2::-1]:
        ledger.record_name(name)

    assert list(ledger.snapshot()) == NAMES[2::-1]


def test_a_partly_written_name_is_not_reported():
    board = Board()
    ledger = ErrorLedger(board=board)
    ledger.record(ValueError())

    board.errors(0).cast("q")[0] = 0  # as the writer leaves it until the name is whole

    assert ledger.snapshot() == {}


class Interrupted:
    """The memory of a row, changed by another process just before a name is read."""

    def __init__(self, memory: memoryview, writes: Iterator[Callable[[], None]]) -> None:
        self.memory = memory
        self.cast = memory.cast
        self.writes = writes

    def __getitem__(self, part: slice) -> memoryview:
        next(self.writes, lambda: None)()
        return self.memory[part]


def interrupted(board: Board, writes: Iterable[Callable[[], None]]) -> ErrorLedger:
    """Return a ledger of *board* that reads while *writes* happen, one with each name."""

    class Written(Board):
        def errors(self, row: int) -> Any:
            return Interrupted(board.errors(row), iter(writes))

    return ErrorLedger(board=Written())


def test_a_name_that_changes_while_it_is_read_is_read_again():
    board, names = Board(), NAMES[: MAX_NAMES + 1]
    writer = ErrorLedger(names, board=board)
    for name in names[:MAX_NAMES]:
        writer.record_name(name)

    reader = interrupted(board, [lambda: writer.record_name(names[-1])])

    assert list(reader.snapshot()) == names[1:]


def test_a_name_that_changes_whenever_it_is_read_is_left_out():
    board = Board()
    writer = ErrorLedger(board=board)
    writer.record(ValueError())
    reader = interrupted(board, repeat(lambda: writer.record(ValueError())))

    assert reader.snapshot() == {}


def test_the_longest_name_that_is_one_is_kept_whole():
    longest = "E" * 80
    ledger = ErrorLedger([longest, longest + "E"])

    ledger.record_name(longest)
    ledger.record_name(longest + "E")

    assert ledger.snapshot() == {longest: 1, "Error": 1}
