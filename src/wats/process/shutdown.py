"""The end of a service process: within a deadline, and without exception text."""

import asyncio
import contextlib
import faulthandler
import os
import resource
import signal
import threading
import time
from collections.abc import Coroutine, Iterator
from math import ceil
from types import FrameType
from typing import Any, Final

import click
import uvloop
from typing_extensions import override

from wats.clock import to_iso, utc_now
from wats.config import ServiceConfig
from wats.log import drain_output, write_json_line
from wats.process.http.admission import ConnectionLimits
from wats.process.library_logging import report
from wats.process.loop_watch import LoopWatch, log_forced_end
from wats.process.server import Server
from wats.process.sink_lifecycle import CLOSE_SECONDS
from wats.service import WatsApp
from wats.service.components import DRAIN_SECONDS

MARGIN_SECONDS: Final = 3.0

NOTICE_SECONDS: Final = 1.0
"""How long before a process is killed this is logged."""

LEFTOVER_SECONDS: Final = 2.0
"""The time limit of tasks and threads of handlers after everything else has ended."""


def run_service(main: Coroutine[Any, Any, None]) -> None:
    """Run *main* on a loop of its own.

    After *main*, the loop cancels the remaining tasks, and waits for them and for threads without a
    limit. If they do not end soon, the process exits without them.

    Raises:
        Exit: `SystemExit` or `KeyboardInterrupt` ended the loop, such as a background task of a
            handler raises. Its class is logged, and its text is not.
    """
    leftovers = threading.Event()
    try:
        uvloop.run(_watched(main, leftovers))
    except (SystemExit, KeyboardInterrupt) as error:
        report(error)
        raise click.exceptions.Exit(1) from None
    finally:
        leftovers.set()


async def _watched(main: Coroutine[Any, Any, None], ended: threading.Event) -> None:
    exit_code = 1
    try:
        await main
        exit_code = 0
    finally:
        exit_after(LEFTOVER_SECONDS, exit_code, unless=ended)


def exit_after(seconds: float, exit_code: int, *, unless: threading.Event) -> None:
    """Exit the process after *seconds* in any state, unless *unless* is set.

    Call it on the thread of the loop.
    """
    thread = threading.get_ident()

    def wait() -> None:
        if not unless.wait(seconds):
            with contextlib.suppress(Exception):
                log_forced_end(thread)
            drain_output()
            os._exit(exit_code)

    threading.Thread(target=wait, name="wats-exit", daemon=True).start()


def stop_seconds_of(service: ServiceConfig) -> float:
    """Return how long a stop may take: drain, requests, handlers and the sink, and a margin."""
    configured = service.drain_seconds + service.shutdown_seconds
    return configured + DRAIN_SECONDS + CLOSE_SECONDS + MARGIN_SECONDS


class BoundedServer(Server):
    """A server with the limits of *service*, whose process exits with 1 if its stop exceeds them.

    Attributes:
        loop_watch: Reports a blocked loop once it is started.
    """

    _has_deadline = False

    def __init__(self, app: WatsApp, service: ServiceConfig, **options: Any) -> None:
        super().__init__(
            app,
            draining=app.drain,
            hook=app.hook,
            limits=ConnectionLimits(
                request_seconds=service.request_seconds,
                keep_alive_seconds=service.keep_alive_seconds,
            ),
            drain_seconds=service.drain_seconds,
            grace_seconds=service.shutdown_seconds,
            **options,
        )
        self._stop_seconds = stop_seconds_of(service)
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self.loop_watch = LoopWatch()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Log SIGHUP and go on, unless it is ignored, as `nohup` has it."""
        before = signal.getsignal(signal.SIGHUP)
        if before is signal.SIG_IGN:
            with super().capture_signals():
                yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, log_hangup)
        try:
            with super().capture_signals():
                yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, before)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._has_deadline:
            self._has_deadline = True
            # By a thread that needs no lock of Python: the interrupted code may hold one, and never
            # return. SIGALRM would not end the first process of a container.
            seconds = ceil(self._stop_seconds)
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._nowhere)
            self.loop_watch.end_at = time.monotonic() + seconds - NOTICE_SECONDS
        super().handle_exit(sig, frame)


def log_hangup() -> None:
    """Log that SIGHUP was ignored. The config is read at the start only."""
    write_json_line({"event": "wats.signal.ignored", "at": to_iso(utc_now())})


def survive_hangup() -> None:
    """Keep SIGHUP from ending this process before and after it serves, unless it is ignored."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def forbid_core_files() -> None:
    """Keep the kernel from writing memory, with its secrets and messages, to a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
