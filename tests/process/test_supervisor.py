import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from wats.process.supervisor import LONGEST_PAUSE_SECONDS, pause_after

pytestmark = pytest.mark.long

PROGRAM = Path(__file__).with_name("toy_workers.py")
LONGEST_SECONDS = 30.0


class Toy:
    """A supervisor whose workers run a function of `toy_workers.py`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "It has ended."
        return line.removesuffix("\n")

    def until(self, word: str) -> list[str]:
        """Return what follows on the next line that begins with *word*."""
        while (words := self.line().split())[0] != word:
            pass
        return words[1:]

    def pids(self, workers: int) -> list[int]:
        """Return the process of each slot, as soon as all are ready."""
        pids = {}
        while (words := self.line().split())[0] != "all":
            if words[0] == "worker":
                pids[int(words[1])] = int(words[2])
        assert words == ["all", str(workers)]
        return [pids[row] for row in range(workers)]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def rest(self) -> tuple[int, list[str], list[dict[str, Any]]]:
        """Return its exit code, the rest of its stdout, and its log."""
        out, err = self.process.communicate(timeout=LONGEST_SECONDS)
        return self.process.returncode, out.splitlines(), list(map(json.loads, err.splitlines()))


@contextmanager
def running(
    behavior: str, workers: int = 2, stop_seconds: float = LONGEST_SECONDS
) -> Iterator[Toy]:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), behavior, str(workers), str(stop_seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal does
    )
    try:
        yield Toy(process)
    finally:
        if process.poll() is None:  # its workers see that, and end
            process.kill()
        process.communicate(timeout=LONGEST_SECONDS)


def is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_first_worker_is_ready_before_the_others_start() -> None:
    with running("start_slowly", 4) as toy:
        lines = [toy.line() for _ in range(9)]

    assert lines[0].startswith("worker 0 ")
    assert lines[1] == "ready 0"
    assert lines[-1] == "all 4"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_workers_and_then_the_supervisor(number: signal.Signals) -> None:
    with running("serve", 3) as toy:
        pids = toy.pids(3)
        toy.send(number)
        code, lines, log = toy.rest()

    assert (code, log) == (0, [])
    assert lines[0] == "stopping"
    assert sorted(lines[1:-1]) == [f"signalled {row} {number:d}" for row in range(3)]
    assert lines[-1] == "ended 0"
    assert not any(map(is_there, pids))


def test_a_worker_may_take_its_time_to_end() -> None:
    with running("end_slowly") as toy:
        toy.pids(2)
        toy.send(signal.SIGTERM)
        code, lines, _ = toy.rest()

    assert code == 0
    assert sorted(lines[1:-1]) == ["drained 0", "drained 1"]


def test_a_worker_that_is_ready_when_it_is_to_end_is_too_late() -> None:
    with running("be_ready_at_the_end", 1) as toy:
        toy.until("starting")
        toy.send(signal.SIGTERM)
        code, lines, _ = toy.rest()

    assert (code, lines) == (0, ["stopping", "ended 0"])


def test_a_worker_that_hangs_is_killed_in_the_end_and_the_others_are_not() -> None:
    with running("hang_in_worker_1", stop_seconds=3) as toy:
        pids = toy.pids(2)
        began = time.monotonic()
        toy.send(signal.SIGTERM)
        code, lines, _ = toy.rest()

    assert code == 0
    assert lines == ["stopping", f"signalled 0 {signal.SIGTERM:d}", "ended 0"]
    assert time.monotonic() - began >= 3
    assert not is_there(pids[1])


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_each_interrupt_reaches_each_worker_once_also_from_a_terminal(
    send: Callable[[int, int], None],
) -> None:
    with running("end_at_the_second_interrupt") as toy:
        toy.pids(2)
        send(toy.process.pid, signal.SIGINT)
        assert toy.line() == "stopping"
        assert {toy.line(), toy.line()} == {"interrupted 0", "interrupted 1"}
        send(toy.process.pid, signal.SIGINT)
        code, lines, _ = toy.rest()

    assert code == 0
    assert sorted(lines[:-1]) == ["interrupted 0", "interrupted 1"]


def test_a_suspended_service_has_no_running_worker_until_it_is_continued() -> None:
    with running("serve") as toy:
        processes = [toy.process.pid, *toy.pids(2)]
        toy.send(signal.SIGTSTP)
        wait_for(lambda: all(state_of(each) == "T" for each in processes))
        toy.send(signal.SIGCONT)
        wait_for(lambda: all(state_of(each) != "T" for each in processes))
        toy.send(signal.SIGTERM)
        code, lines, log = toy.rest()

    assert (code, lines[-1], log) == (0, "ended 0", [])


def test_a_worker_that_dies_or_leaves_is_replaced_in_its_slot() -> None:
    with running("serve", 3) as toy:
        pids = toy.pids(3)
        os.kill(pids[1], signal.SIGKILL)
        row, pid, is_replacement = toy.until("worker")
        os.kill(int(pid), signal.SIGTERM)
        again = toy.until("worker")
        toy.send(signal.SIGTERM)
        _, _, log = toy.rest()

    assert [row, is_replacement] == [again[0], again[2]] == ["1", "True"]
    assert len({*pids, int(pid), int(again[1])}) == 5
    assert [{**line, "at": ""} for line in log] == [
        {
            "event": "wats.worker.replaced",
            "worker": 1,
            "exitCode": code,
            "errorName": None,
            "at": "",
        }
        for code in (-signal.SIGKILL, 0)
    ]


def test_the_registry_counts_the_workers_that_accept_connections() -> None:
    with running("watch_the_board", 3) as toy:
        os.kill(toy.pids(3)[2], signal.SIGKILL)

        assert toy.until("left") == ["2"]
        assert toy.until("back") == ["3"]


def test_other_workers_do_not_wait_for_a_dead_worker_to_accept() -> None:
    with running("watch_the_shares") as toy:
        os.kill(toy.pids(2)[1], signal.SIGKILL)

        assert toy.until("least") == ["9"]


def test_a_worker_that_dies_again_and_again_is_replaced_less_and_less_often() -> None:
    with running("die_as_a_replacement") as toy:
        os.kill(toy.pids(2)[1], signal.SIGKILL)
        died = [float(toy.until("died")[0]) for _ in range(3)]
        toy.send(signal.SIGTERM)
        code, _, log = toy.rest()

    assert code == 0
    assert died[1] - died[0] >= 1
    assert died[2] - died[1] >= 2
    assert [line["exitCode"] for line in log] == [-signal.SIGKILL, 3, 3]


def test_pauses_grow_to_half_a_minute_and_no_further() -> None:
    assert [pause_after(ends) for ends in range(8)] == [0, 0, 1, 2, 4, 8, 16, 30]
    assert pause_after(10**6) == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize("behavior", ["refuse", "refuse_in_worker_1"])
def test_a_worker_that_cannot_start_ends_all_and_is_quoted_once(behavior: str) -> None:
    with running(behavior, 3) as toy:
        code, lines, log = toy.rest()

    assert (code, log) == (1, [])
    assert "all 3" not in lines
    assert [line for line in lines if line.startswith("failed")] == ["failed It is " + "x" * 99_999]
    assert lines[-1] == "  a.path: is wrong (a_code)"


def test_a_worker_that_dies_at_the_start_ends_all() -> None:
    with running("die_at_the_start") as toy:
        code, lines, _ = toy.rest()

    assert code == 1
    assert lines[-1] == "failed A worker process ended before it was ready."


def test_a_system_that_cannot_start_a_worker_is_logged() -> None:
    with running("serve_without_a_first_fork") as toy:
        code, lines, log = toy.rest()

    assert (code, log) == (1, [])
    assert lines == ["stopping", "failed The system refused to start another worker process."]


def test_a_worker_is_started_later_on_a_system_that_could_not_fork() -> None:
    with running("serve_without_a_third_fork") as toy:
        os.kill(toy.pids(2)[1], signal.SIGKILL)
        assert toy.until("worker")[0] == "1"
        toy.send(signal.SIGTERM)
        code, _, log = toy.rest()

    assert code == 0
    assert [(line["worker"], line["exitCode"]) for line in log] == [(1, -signal.SIGKILL)]


def test_a_replacement_that_cannot_start_is_logged_by_the_class_of_its_error() -> None:
    with running("refuse_as_a_replacement") as toy:
        pids = toy.pids(2)
        os.kill(pids[1], signal.SIGKILL)
        for _ in range(2):
            toy.until("worker")
        assert is_there(pids[0])
        toy.send(signal.SIGTERM)
        code, _, log = toy.rest()

    assert code == 0
    assert [(line["exitCode"], line["errorName"]) for line in log] == [
        (-signal.SIGKILL, None),
        (1, "ConfigError"),
    ]


def test_workers_notice_that_their_supervisor_was_killed() -> None:
    with running("serve", 3) as toy:
        pids = toy.pids(3)
        toy.send(signal.SIGKILL)
        _, lines, _ = toy.rest()

    assert sorted(lines) == ["orphaned 0", "orphaned 1", "orphaned 2"]
    wait_for(lambda: not any(map(is_there, pids)))


def test_a_child_of_a_dead_worker_does_not_hide_its_death() -> None:
    with running("leave_a_child_behind") as toy:
        os.kill(toy.pids(2)[0], signal.SIGKILL)

        assert toy.until("worker")[0] == "0"


def test_lines_that_workers_log_at_the_same_time_are_whole() -> None:
    with running("write_many_lines", 4) as toy:
        code, _, log = toy.rest()

    assert code == 0
    for row in range(4):
        theirs = [line for line in log if line["row"] == row]
        assert [line["number"] for line in theirs] == list(range(2000))
