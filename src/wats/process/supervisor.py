"""Worker processes, and the supervisor that keeps the configured number alive.

    starting ──all accept──▶ running ──SIGTERM, SIGINT──▶ stopping ──▶ exit code 0
        └──one ends──▶ stopping ──▶ 1    └──one ends──▶ another one replaces it

The supervisor has no event loop and no connection, and no thread except that of the log, which a
fork does not disturb. So it can fork at any time, and little in it can fail. It sleeps until a
signal arrives, a worker reports or a pause is over. The first worker starts alone: it migrates the
store, or reports for all that it cannot start.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from types import FrameType
from typing import Final

import click
import msgspec

from wats.clock import to_iso, utc_now
from wats.errors import WatsError
from wats.log import Log, write_json_line
from wats.process.shared_listener import Share
from wats.telemetry import error_name
from wats.telemetry.metrics.shared_memory import Board

QUICK_SECONDS: Final = 10.0
"""A worker that ends sooner than this after its start has ended quickly."""

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0

_ENDED: Final = "A worker process ended before it was ready."
_NOT_FORKED: Final = "The system refused to start another worker process."

_READY: Final = b"ready"
_MOST_BYTES: Final = 65_536


def pause_after(quick_ends: int) -> float:
    """Return how long a slot stays empty after consecutive quick ends: 0, 0, 1, 2, 4 … 30 s.

    A worker that died once is replaced immediately. One that dies repeatedly is not restarted all
    the time.
    """
    if quick_ends < 2:
        return 0.0
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(quick_ends - 2, 10), LONGEST_PAUSE_SECONDS)


class StartFailure(msgspec.Struct, frozen=True):
    """Why a worker cannot start: the class of the error, and the message for the operator."""

    name: str
    text: str


class ForkedWorker:
    """A worker, as it sees itself after the fork.

    Attributes:
        row: Its number, from 0: the row of the board that belongs to it.
        is_replacement: Whether it replaces an earlier worker.
        lifeline: A descriptor that becomes readable when the supervisor is gone.
        is_ready: Whether it has reported that this worker accepts connections.
    """

    def __init__(self, row: int, *, is_replacement: bool, lifeline: int, report: int) -> None:
        self.row = row
        self.is_replacement = is_replacement
        self.lifeline = lifeline
        self.is_ready = False
        self._report = report

    def ready(self) -> None:
        """Report to the supervisor that this worker accepts connections."""
        self.is_ready = True
        self._write(_READY)

    def refuse(self, error: WatsError) -> None:
        """Report to the supervisor why this worker ends without having been ready."""
        self._write(msgspec.json.encode(StartFailure(error_name(error), error.with_code())))

    def _write(self, message: bytes) -> None:
        with suppress(BrokenPipeError):  # the supervisor is gone, which the lifeline reports too
            os.write(self._report, message)
        os.close(self._report)


@dataclass(slots=True, kw_only=True)
class _WorkerSlot:
    """A worker, as the supervisor sees it. The slot is empty while it has no process.

    Its workers report through one pipe: *report* is the worker's end, *read_end* is ours.
    """

    row: int
    read_end: int
    report: int
    pid: int | None = None
    received: bytes = b""
    is_ready: bool = False
    started_at: float = 0.0
    due_at: float | None = None
    quick_ends: int = 0
    exit_code: int | None = None

    @property
    def refusal(self) -> StartFailure | None:
        """The reason that its last process reported for a failed start."""
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(self.received, type=StartFailure)
        return None


def _new_slot(row: int) -> _WorkerSlot:
    read_end, report = os.pipe()
    os.set_blocking(read_end, False)
    return _WorkerSlot(row=row, read_end=read_end, report=report)


class _Signals:
    """Catches signals while it is entered, so that a `poll` can wait for signals."""

    _OPTIONAL: Final = (signal.SIGHUP, signal.SIGTSTP)
    _NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, *_OPTIONAL)

    def __enter__(self) -> "_Signals":
        self.descriptor, self._written_to = os.pipe()
        for end in (self.descriptor, self._written_to):
            os.set_blocking(end, False)
        self._woken = signal.set_wakeup_fd(self._written_to, warn_on_full_buffer=False)
        # Where one is ignored, as SIGHUP is with `nohup`, it stays ignored.
        self._before = {
            number: signal.signal(number, _ignore_signal)
            for number in self._NUMBERS
            if number not in self._OPTIONAL or signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._NUMBERS)
        os.close(self.descriptor)
        os.close(self._written_to)

    def take(self) -> bytes:
        """Return the numbers of the signals received since the last call."""
        try:
            return os.read(self.descriptor, _MOST_BYTES)
        except BlockingIOError:
            return b""

    def fork(self) -> int:
        """Fork. No signal reaches the child before it has left this context."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._NUMBERS)
        pid = None
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, self._NUMBERS)
        return pid


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor receives the number."""


class Supervisor:
    """Keeps a worker alive for every row of *board*, and counts there how many accept connections.

    Args:
        board: Made for these workers.
        shares: Their shares of the connections; that of a dead worker is withdrawn.
        ready: Called once, as soon as all workers accept connections.
        stopping: Called before the workers are signalled to end.
        hung_up: Called after a SIGHUP, which changes nothing else.
        stop_seconds: How long they may take to end when signalled, before they are killed.
        log: Receives every replacement.
        monotonic: The clock.
    """

    def __init__(
        self,
        board: Board,
        shares: Sequence[Share],
        *,
        ready: Callable[[], None],
        stopping: Callable[[], None],
        stop_seconds: float,
        hung_up: Callable[[], None],
        log: Log = write_json_line,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._shares = shares
        self._ready = ready
        self._stopping = stopping
        self._stop_seconds = stop_seconds
        self._hung_up = hung_up
        self._log = log
        self._now = monotonic
        self._slots: list[_WorkerSlot] = []
        self._is_starting = True
        self._is_stopping = False
        self._kill_at: float | None = None
        self._failure: str | None = None

    def run(self) -> ForkedWorker | None:
        """Start the workers, and return as a fork does: in each worker, with the `ForkedWorker`.

        In the supervisor it returns nothing, after a signal and the end of all workers.

        Raises:
            ClickException: A worker could not start, so none is running; with its reason.
        """
        # Held open by this process alone, so that all others notice its end.
        self._lifeline, self._held = os.pipe()
        self._slots = [_new_slot(row) for row in range(self._board.rows)]
        self._slots[0].due_at = self._now()
        with _Signals() as signals:
            worker = self._supervise(signals)
        if worker is not None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it serves there is nothing to stop
        elif self._failure is not None:
            raise click.ClickException(self._failure)
        return worker

    def _supervise(self, signals: _Signals) -> ForkedWorker | None:
        while not self._is_stopping or any(slot.pid is not None for slot in self._slots):
            self._sleep(signals.descriptor)
            for number in signals.take():
                self._handle_signal(number)
            for slot in self._slots:
                self._check_worker(slot)
            self._kill_hung_workers()
            for slot in self._due():
                worker = self._fill(slot, signals)
                if worker is not None:
                    return worker
        return None

    def _due(self) -> Iterator[_WorkerSlot]:
        for slot in self._slots:
            if slot.due_at is not None and slot.due_at <= self._now() and not self._is_stopping:
                yield slot

    def _fill(self, slot: _WorkerSlot, signals: _Signals) -> ForkedWorker | None:
        """Fork the worker of *slot*; return that in the worker, `None` in the supervisor."""
        refusal, slot.received = slot.refusal, b""
        slot.started_at, slot.due_at = self._now(), None
        try:
            slot.pid = signals.fork()
        except OSError:  # too many processes, or too little memory
            self._give_up(slot, _NOT_FORKED)
            return None
        if slot.pid == 0:
            return self._become_worker(slot)
        if not self._is_starting:
            self._log_end(slot, refusal)
        return None

    def _become_worker(self, slot: _WorkerSlot) -> ForkedWorker:
        """Leave the supervisor, its process group and its resources: this is the worker."""
        # A terminal signals its process group. The supervisor passes Ctrl-C and Ctrl-Z on, once.
        os.setpgid(0, 0)
        for other in self._slots:
            os.close(other.read_end)
            if other is not slot:
                os.close(other.report)
        os.close(self._held)
        return ForkedWorker(
            slot.row,
            is_replacement=not self._is_starting,
            lifeline=self._lifeline,
            report=slot.report,
        )

    def _log_end(self, slot: _WorkerSlot, refusal: StartFailure | None) -> None:
        with suppress(Exception):  # a closed stderr is no reason to leave a slot empty
            self._log(
                {
                    "event": "wats.worker.replaced",
                    "worker": slot.row,
                    "exitCode": slot.exit_code,
                    "errorName": refusal.name if refusal is not None else None,
                    "at": to_iso(utc_now()),
                }
            )

    def _sleep(self, signalled: int) -> None:
        poll = select.poll()
        for descriptor in (signalled, *(slot.read_end for slot in self._slots)):
            poll.register(descriptor, select.POLLIN)
        times = [self._kill_at] if self._is_stopping else [slot.due_at for slot in self._slots]
        next_at = min((time for time in times if time is not None), default=None)
        poll.poll(None if next_at is None else max(ceil((next_at - self._now()) * 1000), 0))

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # each slot is checked to find the process
        if number == signal.SIGHUP:
            self._hung_up()
            return
        if number == signal.SIGTSTP:
            self._suspend()
        elif not self._is_stopping:
            self._stop(number)
        elif number == signal.SIGINT:
            self._pass_on(number)  # a second signal stops immediately

    def _suspend(self) -> None:
        """Stop this process and all workers, as Ctrl-Z asks, until the shell continues this one."""
        self._pass_on(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._pass_on(signal.SIGCONT)

    def _stop(self, number: int = signal.SIGTERM) -> None:
        self._is_stopping = True
        self._kill_at = self._now() + self._stop_seconds
        self._stopping()
        self._pass_on(number)

    def _kill_hung_workers(self) -> None:
        if self._kill_at is not None and self._kill_at <= self._now():
            self._kill_at = None
            self._pass_on(signal.SIGKILL)

    def _pass_on(self, number: int) -> None:
        for slot in self._slots:
            if slot.pid is not None:
                os.kill(slot.pid, number)

    def _check_worker(self, slot: _WorkerSlot) -> None:
        if slot.pid is None:
            return
        # In this order: reports that a worker wrote before it ended can be read afterwards.
        pid, status = os.waitpid(slot.pid, os.WNOHANG)
        self._listen(slot)
        if pid != 0:
            self._empty(slot, os.waitstatus_to_exitcode(status))

    def _listen(self, slot: _WorkerSlot) -> None:
        with suppress(BlockingIOError):
            while True:
                slot.received += os.read(slot.read_end, _MOST_BYTES)
        if slot.received == _READY and not slot.is_ready:
            slot.is_ready = True
            self._count()
            if self._is_starting and not self._is_stopping:
                self._go_on()

    def _go_on(self) -> None:
        """Start the others, now that the first is ready; or report that all are."""
        for slot in self._slots:
            if slot.pid is None:
                slot.due_at = self._now()
        if all(slot.is_ready for slot in self._slots):
            self._is_starting = False
            self._ready()

    def _empty(self, slot: _WorkerSlot, exit_code: int) -> None:
        slot.pid, slot.exit_code, slot.is_ready = None, exit_code, False
        self._shares[slot.row].leave()
        self._count()
        refusal = slot.refusal
        self._give_up(slot, refusal.text if refusal is not None else _ENDED)

    def _give_up(self, slot: _WorkerSlot, reason: str) -> None:
        """Fill *slot* again later; at the start, end all workers for *reason*."""
        if self._is_stopping:
            return
        if self._is_starting:
            self._failure = reason
            self._stop()
            return
        is_quick = self._now() - slot.started_at < QUICK_SECONDS
        slot.quick_ends = slot.quick_ends + 1 if is_quick else 0
        slot.due_at = self._now() + pause_after(slot.quick_ends)

    def _count(self) -> None:
        self._board.workers = sum(slot.is_ready for slot in self._slots)
