import json
import re
from typing import Any

import pytest

from tests.pages import PAGES
from wats.log_format import LEVELS, LogForm, LogFormat, LogLevel, level_of

FAILED = {
    "event": "wats.handler.failed",
    "handler": "orders:on_update",
    "kind": "message",
    "errorName": "NameError",
    "file": "orders.py",
    "line": 6,
    "suppressed": 0,
    "at": "2026-11-26T20:55:23.120Z",
}


def form(log_format: LogFormat, lowest: LogLevel = LogLevel.INFO) -> LogForm:
    made = LogForm()
    made.use(log_format, lowest)
    return made


def test_json_is_the_usual_format_and_leaves_the_event_as_it_is() -> None:
    line = LogForm().line(FAILED)

    assert line is not None
    assert json.loads(line) == FAILED
    assert line.endswith("}\n")


def test_a_line_for_the_console_has_the_time_the_level_and_the_facts() -> None:
    line = form(LogFormat.CONSOLE).line(FAILED)

    assert line is not None
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d ERROR wats\.handler\.failed handler=orders:on_update kind=message "
        r"errorName=NameError file=orders\.py line=6\n",
        line,
    )


def test_the_console_omits_unknown_values_and_shows_repetitions() -> None:
    line = form(LogFormat.CONSOLE).line({**FAILED, "file": None, "suppressed": 7})

    assert line is not None
    assert "file=" not in line
    assert "suppressed=7" in line


@pytest.mark.parametrize("text", ["a b", "\x1b[2J", "two\nlines", "\u202e"])
def test_no_value_controls_the_console_or_looks_like_several(text: str) -> None:
    line = form(LogFormat.CONSOLE).line({**FAILED, "file": text})

    assert line is not None
    assert line[:-1].isprintable()
    assert json.dumps(text) in line


def test_an_event_without_a_time_is_written() -> None:
    line = form(LogFormat.CONSOLE).line({"event": "wats.inbox.dead"})

    assert line == "ERROR wats.inbox.dead\n"


@pytest.mark.parametrize(
    ("lowest", "written"),
    [
        (LogLevel.INFO, {"wats.webhook.rejected", "wats.inbox.dead"}),
        (LogLevel.WARNING, {"wats.webhook.rejected", "wats.inbox.dead"}),
        (LogLevel.ERROR, {"wats.inbox.dead"}),
    ],
)
def test_events_below_the_lowest_level_are_not_written(lowest: LogLevel, written: set[str]) -> None:
    chosen = form(LogFormat.JSON, lowest)
    names = ("wats.webhook.rejected", "wats.inbox.dead")

    assert {name for name in names if chosen.line({"event": name})} == written


@pytest.mark.parametrize(
    ("event", "level"),
    [
        ({"event": "wats.library.log", "level": "warning"}, LogLevel.WARNING),
        ({"event": "wats.library.log", "level": "critical"}, LogLevel.ERROR),
        ({"event": "wats.not.known"}, LogLevel.ERROR),
    ],
)
def test_the_level_of_a_library_is_its_own(event: dict[str, Any], level: LogLevel) -> None:
    assert level_of(event) is level


def test_every_documented_event_has_a_level() -> None:
    documented = re.findall(r"^\| `(wats\.[a-z.]+)` \|", PAGES["docs/operating.md"], re.MULTILINE)

    assert {*documented} == {*LEVELS, "wats.library.log"}
