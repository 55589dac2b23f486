import asyncio
import json
import sqlite3

import aiohttp
import pytest

from wats.errors import GraphUnreachable, StoreUnavailable
from wats.telemetry.ledger import ErrorLedger, error_name


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
    ],
    ids=lambda value: value if isinstance(value, str) else "as",
)
def test_a_class_of_ours_or_of_what_we_stand_on_is_called_by_its_name(
    error: BaseException, name: str
):
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


def test_a_name_known_from_a_module_must_still_be_an_identifier(monkeypatch: pytest.MonkeyPatch):
    error = made_up("Meet me at noon", "json")
    monkeypatch.setitem(vars(json), "Meet me at noon", type(error))

    assert error_name(error) == "Error"


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
