"""Child processes: each on its core, none left behind."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from typing_extensions import override

from bench.machine import cpu_seconds, on_core, peak_mib

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 30.0
STOP_SECONDS = 30.0


class ChildFailed(Exception):
    """A child process failed; its reason is on stderr."""


class Server(AbstractContextManager["Server"]):
    """`python -m *arguments*` on *core*, from the line with its address to its end.

    Args:
        arguments: The module and its arguments.
        core: The core, unless the system chooses it.
        environ: Additions to the environment.
        prefix: A command that runs the command after it, if there is one.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        core: int | None,
        environ: Mapping[str, str],
        prefix: Sequence[str] = (),
    ) -> None:
        self._name = arguments[0]
        self._process = _spawn(arguments, core=core, environ=environ, prefix=prefix)
        try:
            self.url = self._read_url()
        except BaseException:
            _kill(self._process)
            raise

    def _read_url(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            msg = f"{self._name} did not start."
            raise ChildFailed(msg)
        url: str = json.loads(line)["url"]
        return url

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def peak_mib(self) -> float | None:
        """Return its peak memory so far."""
        return peak_mib(self._process.pid)

    def cpu_seconds(self) -> float | None:
        """Return its CPU time so far."""
        return cpu_seconds(self._process.pid)

    @override
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_SECONDS)
        except BaseException:
            _kill(self._process)
            raise


def run(module: str, given: bytes, *, core: int | None, timeout_seconds: float) -> bytes:
    """Run `python -m *module*` on *core* with *given* as its input; return its output.

    Raises:
        ChildFailed: It ended with an error, or not in time.
    """
    process = _spawn([module], core=core, environ={})
    try:
        output, _ = process.communicate(given, timeout_seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        msg = f"{module} did not end in time."
        raise ChildFailed(msg) from None
    except BaseException:
        _kill(process)
        raise
    if process.returncode != 0:
        msg = f"{module} failed."
        raise ChildFailed(msg)
    return output


def _spawn(
    arguments: Sequence[str],
    *,
    core: int | None,
    environ: Mapping[str, str],
    prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    # A session of its own: a Ctrl-C in the terminal reaches this process alone, and it stops all
    # children in order.
    with _HeldSignals() as held, on_core(core):
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    try:
        held.deliver()
    except BaseException:
        _kill(process)
        raise
    return process


class _HeldSignals(AbstractContextManager["_HeldSignals"]):
    """Delays a signal to stop while a child is being started that is not registered yet."""

    def __init__(self) -> None:
        self._before = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._held: list[int] = []

    @override
    def __enter__(self) -> "_HeldSignals":
        for number in self._before:
            signal.signal(number, lambda number, _: self._held.append(number))
        return self

    @override
    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Perform the delayed action."""
        for number in self._held:
            handler = self._before[signal.Signals(number)]
            if callable(handler):
                handler(number, None)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()
