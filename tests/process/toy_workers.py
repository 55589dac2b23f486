"""A supervisor whose workers do only as much as the tests of `test_workers.py` need.

Run as a program: the name of the function for the workers, their number, and their time to stop.
Events are printed to stdout, one per line.
"""

import itertools
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import click

from wats.errors import ConfigError, ConfigIssue
from wats.log import drain_output, write_json_line
from wats.process.shared_listener import shares_of
from wats.process.shutdown import log_hangup
from wats.process.supervisor import ForkedWorker, Supervisor
from wats.telemetry.metrics.shared_memory import Board

LINES = 2000

behavior, workers, stop_seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
board, shares = Board(workers), shares_of(workers)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def on_a_signal(handle: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def serve(worker: ForkedWorker) -> None:
    """Be ready, and wait for the end."""
    # A signal that arrives just before a call that waits does not end the wait; this does.
    woken, woken_by = os.pipe()
    os.set_blocking(woken_by, False)
    signal.set_wakeup_fd(woken_by)
    worker.ready()
    while worker.lifeline not in select.select([worker.lifeline, woken], [], [])[0]:
        os.read(woken, 1)
    say("orphaned", worker.row)


def start_slowly(worker: ForkedWorker) -> None:
    time.sleep(0.2 if worker.row == 0 else 0)
    say("ready", worker.row)
    serve(worker)


def be_ready_at_the_end(worker: ForkedWorker) -> None:
    on_a_signal(lambda *_: (worker.ready(), sys.exit()))
    say("starting")
    select.select([worker.lifeline], [], [], 10)


def end_slowly(worker: ForkedWorker) -> None:
    on_a_signal(lambda *_: (time.sleep(0.5), say("drained", worker.row), sys.exit()))
    serve(worker)


def hang_in_worker_1(worker: ForkedWorker) -> None:
    if worker.row == 1:
        on_a_signal(lambda *_: None)
    serve(worker)


def end_at_the_second_interrupt(worker: ForkedWorker) -> None:
    numbers: list[int] = []

    def handle(number: int, _frame: object) -> None:
        numbers.append(number)
        say("interrupted", worker.row)
        if numbers == [signal.SIGINT] * 2:
            sys.exit()

    on_a_signal(handle)
    serve(worker)


def watch_the_board(worker: ForkedWorker) -> None:
    if worker.is_replacement:
        say("left", board.workers)
        worker.ready()
        while board.workers < workers:
            time.sleep(0.01)
        say("back", board.workers)
    else:
        serve(worker)


def watch_the_shares(worker: ForkedWorker) -> None:
    if worker.is_replacement:
        say("least", shares[0].least())
    else:
        shares[worker.row].publish(9 - worker.row)
    serve(worker)


def die_as_a_replacement(worker: ForkedWorker) -> None:
    if worker.is_replacement:
        say("died", time.monotonic())
        os._exit(3)
    serve(worker)


def refuse(worker: ForkedWorker) -> None:
    worker.refuse(
        ConfigError([ConfigIssue("a_code", "a.path", "is wrong")], "It is " + "x" * 99_999)
    )
    os._exit(1)


def refuse_in_worker_1(worker: ForkedWorker) -> None:
    if worker.row == 1:
        refuse(worker)
    serve(worker)


def refuse_as_a_replacement(worker: ForkedWorker) -> None:
    if worker.is_replacement:
        refuse(worker)
    serve(worker)


def die_at_the_start(worker: ForkedWorker) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child_behind(worker: ForkedWorker) -> None:
    if worker.is_replacement:
        serve(worker)
    elif os.fork() == 0:  # has all that its parent has, which is not the case of other programs
        select.select([worker.lifeline], [], [])  # until the supervisor ends
        os._exit(0)
    else:
        serve(worker)


def write_many_lines(worker: ForkedWorker) -> None:
    signals: list[object] = []
    on_a_signal(lambda *_: signals.append(...))
    worker.ready()
    # A worker that is signalled here has missed the moment at which all were ready: another one has
    # printed it already.
    while board.workers < workers and not signals:
        time.sleep(0.01)
    for number in range(LINES):
        write_json_line({"row": worker.row, "number": number, "filler": "x" * (worker.row * 300)})
        if number % 100 == 0:
            drain_output()
    os.kill(os.getppid(), signal.SIGTERM)


def refuse_forks(numbers: range) -> None:
    """Let the forks with the given *numbers* fail, counted from 0."""
    fork, forks = os.fork, itertools.count()

    def refusing() -> int:
        if next(forks) in numbers:
            raise BlockingIOError
        return fork()

    os.fork = refusing


def main() -> None:
    if behavior == "serve_without_a_first_fork":
        refuse_forks(range(1))
    if behavior == "serve_without_a_third_fork":
        refuse_forks(range(2, 3))
    supervisor = Supervisor(
        board,
        shares,
        hung_up=log_hangup,
        ready=lambda: say("all", board.workers),
        stopping=lambda: say("stopping"),
        stop_seconds=stop_seconds,
    )
    try:
        worker = supervisor.run()
    except click.ClickException as error:
        say("failed", error.message)
        sys.exit(error.exit_code)
    if worker is None:
        say("ended", board.workers)
        return
    on_a_signal(lambda number, _: (say("signalled", worker.row, number), sys.exit()))
    say("worker", worker.row, os.getpid(), worker.is_replacement)
    globals()[behavior.partition("_without_")[0]](worker)


main()
