"""The end of a service process: within a deadline, and without exception text."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Coroutine, Iterator
from math import ceil
from types import FrameType
from typing import Any, Final

import click
import uvloop
from typing_extensions import override

from wats.process.library_logging import report
from wats.process.server import GRACE_SECONDS, Server
from wats.process.sink_lifecycle import CLOSE_SECONDS
from wats.service.components import DRAIN_SECONDS

STOP_SECONDS: Final = GRACE_SECONDS + DRAIN_SECONDS + CLOSE_SECONDS + 3.0
"""How long a stop may take: the limits of requests, handlers and the sink, and a margin."""

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
    """Exit the process after *seconds* in any state, unless *unless* is set."""

    def wait() -> None:
        if not unless.wait(seconds):
            os._exit(exit_code)

    threading.Thread(target=wait, name="wats-exit", daemon=True).start()


class BoundedServer(Server):
    """A server whose process is killed `STOP_SECONDS` after the first signal at the latest."""

    _has_deadline = False

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGHUP as well, unless it is ignored, as `nohup` has it."""
        before = signal.getsignal(signal.SIGHUP)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, before)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._has_deadline:
            self._has_deadline = True
            # By the kernel: a thread must not be started here, as its locks may be held by the
            # interrupted code, and could not run if that code never returns.
            signal.alarm(ceil(STOP_SECONDS))
        super().handle_exit(sig, frame)


def forbid_core_files() -> None:
    """Keep the kernel from writing memory, with its secrets and messages, to a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
