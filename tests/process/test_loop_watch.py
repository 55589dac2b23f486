import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

from wats.inbound.failures import Place, place_on_loop
from wats.process.loop_watch import LoopWatch

THIS_FILE = "test_loop_watch.py"


async def block(
    lines: list[Mapping[str, object]], wanted: int, begin: Callable[[], object] = int
) -> None:
    begin()
    while len(lines) < wanted:
        time.sleep(0.001)  # noqa: ASYNC251


def lines_of_block() -> set[int]:
    begin = block.__code__.co_firstlineno + 3
    return {begin, begin + 1, begin + 2}


async def until(lines: list[Mapping[str, object]], wanted: int) -> None:
    while len(lines) < wanted:
        await asyncio.sleep(0.001)


async def test_a_blocked_loop_is_logged_with_the_position_and_again_when_it_turns() -> None:
    lines: list[Mapping[str, object]] = []
    await asyncio.create_task(block(lines, 1, LoopWatch(lines.append, look_seconds=0.02).start))
    await until(lines, 2)

    assert [line["event"] for line in lines] == ["wats.loop.blocked", "wats.loop.resumed"]
    assert (lines[0]["file"], lines[0]["suppressed"]) == (THIS_FILE, 0)
    assert lines[0]["line"] in lines_of_block()
    assert isinstance(lines[1]["seconds"], int)


async def lines_of_a_waiting_loop() -> list[Mapping[str, object]]:
    lines: list[Mapping[str, object]] = []
    LoopWatch(lines.append, look_seconds=0.05).start()
    await asyncio.sleep(0.5)
    return lines


async def test_a_loop_that_waits_is_not_logged() -> None:
    # A machine may be so busy that this loop really is late, but not each time.
    for _ in range(20):
        if not (lines := await lines_of_a_waiting_loop()):
            break

    assert lines == []


async def test_a_stop_beyond_its_limit_is_logged_once_with_the_position() -> None:
    lines: list[Mapping[str, object]] = []
    watch = LoopWatch(lines.append, look_seconds=0.02)
    watch.end_at = 0.0

    await asyncio.create_task(block(lines, 2, watch.start))

    assert [line["event"] for line in lines] == ["wats.shutdown.forced", "wats.loop.blocked"]
    assert lines[0]["file"] == THIS_FILE


def test_code_that_was_made_at_run_time_has_no_position_on_the_loop() -> None:
    module: dict[str, Any] = {"__name__": "jane"}
    exec(compile("import sys\nframe = sys._getframe()", "jane.py", "exec"), module)  # noqa: S102

    place = place_on_loop(module["frame"])

    assert place.file != "jane.py"


async def test_a_block_in_a_library_has_the_position_in_the_handler_that_called_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = ModuleType("library")
    library.__file__ = "/srv/library.py"
    monkeypatch.setitem(sys.modules, "library", library)
    source = "import sys\ndef innermost(): return sys._getframe()"
    exec(compile(source, library.__file__, "exec"), vars(library))  # noqa: S102

    async def handler() -> Place:
        return place_on_loop(library.innermost())

    place = await asyncio.create_task(handler())

    assert place == Place(THIS_FILE, handler.__code__.co_firstlineno + 1)
