"""Child processes: each on its core, none left behind."""

import json
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from os import environ as environment
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from typing_extensions import override

from bench.machine import peak_mib, pin

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 30.0
STOP_SECONDS = 30.0


class ChildFailed(Exception):
    """A child process did not do what it was started for; what it said of that is on stderr."""


class Server(AbstractContextManager["Server"]):
    """`python -m *arguments*` on *core*, from the line that says where it listens to its end.

    It is in a session of its own, so that a Ctrl-C in the terminal comes to us alone and we stop
    it in our order.
    """

    def __init__(
        self, arguments: Sequence[str], *, core: int | None, environ: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**environment, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=partial(pin, core),
        )
        try:
            self.url = self._read_url()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _read_url(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], READY_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            msg = f"{self._process.args[2]} did not start."
            raise ChildFailed(msg)
        url: str = json.loads(line)["url"]
        return url

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def peak_mib(self) -> float | None:
        """Return the most memory that it had so far."""
        return peak_mib(self._process.pid)

    @override
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()


def run(module: str, given: bytes, *, core: int | None, timeout_seconds: float) -> bytes:
    """Run `python -m *module*` on *core* with *given* as its input; return its output.

    Raises:
        ChildFailed: It ended with an error, or not in time.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            cwd=ROOT,
            input=given,
            stdout=subprocess.PIPE,
            timeout=timeout_seconds,
            start_new_session=True,
            preexec_fn=partial(pin, core),
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        msg = f"{module} failed."
        raise ChildFailed(msg) from error
    return done.stdout
