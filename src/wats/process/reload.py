"""Restarting a service when its files change, for development.

    reloader ── looks at files ── change ──▸ SIGTERM to the service ──▸ a new process

The service is a process of its own, never a fork, so nothing of an earlier run remains. It ends
when the reloader is gone, because it reads a pipe whose other end the reloader holds.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Final, TypeAlias

LIFELINE_VARIABLE: Final = "WATS_RELOAD_LIFELINE"
"""The environment variable with the number of the descriptor that the service inherits."""

MAX_ENTRIES: Final = 20_000
"""The limit of files and folders that are looked at; further ones are not watched."""

PAUSE_SECONDS: Final = 0.25
STOP_SECONDS: Final = 40.0
"""How long the service may take to end when signalled, before it is killed."""

_MAX_SETTLING: Final = 8
_NO_SOURCES: Final = frozenset({"__pycache__", "node_modules", "site-packages"})

Stamps: TypeAlias = Mapping[str, tuple[int, int]]
"""The time of the last change and the size of each file."""


class Reloader:
    """Runs *command* until SIGINT or SIGTERM, and again after each change of a file.

    Args:
        command: The program and its arguments.
        watched: Returns the files to watch, and the folders whose Python files to watch; called
            before each start.
        report: Receives a sentence about each restart and end.
        environ: Variables for each run of *command*, in addition to those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        watched: Callable[[], Iterable[Path]],
        report: Callable[[str], None],
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._command = command
        self._environ = environ
        self._watched = watched
        self._report = report
        self._is_ending = False

    def run(self) -> None:
        """Run the service until a signal arrives."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        while not self._is_ending:
            paths = list(self._watched())
            stamps = stamps_of(paths)
            process, lifeline = self._start()
            try:
                self._wait_for_change(process, paths, stamps)
            finally:
                _end(process)
                os.close(lifeline)

    def _note_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._is_ending = True

    def _start(self) -> tuple["subprocess.Popen[bytes]", int]:
        theirs, ours = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603  # the command of this process
                self._command,
                env={**os.environ, **self._environ, LIFELINE_VARIABLE: str(theirs)},
                pass_fds=(theirs,),
            )
        finally:
            os.close(theirs)
        return process, ours

    def _wait_for_change(
        self, process: "subprocess.Popen[bytes]", paths: Sequence[Path], stamps: Stamps
    ) -> None:
        has_ended = False
        while not self._is_ending:
            time.sleep(PAUSE_SECONDS)
            if stamps_of(paths) != stamps:
                _wait_until_unchanged(paths)
                self._report("A file has changed; the service is restarted.")
                return
            if not has_ended and process.poll() is not None and not self._is_ending:
                has_ended = True
                self._report("The service has ended; it is started again when a file changes.")


def inherited_lifeline() -> int | None:
    """Return the descriptor that becomes readable when the reloader of this process is gone."""
    number = os.environ.pop(LIFELINE_VARIABLE, "")
    return int(number) if number.isdecimal() else None


def stamps_of(watched: Iterable[Path]) -> Stamps:
    """Return the stamp of each file in *watched*, and of each Python file in a folder of it."""
    stamps: dict[str, tuple[int, int]] = {}
    left = MAX_ENTRIES
    for path in watched:
        for entry in _files_at(path) if path.is_dir() else (str(path),):
            left -= 1
            if left < 0:
                return stamps
            if entry is not None and (stamp := _stamp_of(entry)) is not None:
                stamps[entry] = stamp
    return stamps


def _files_at(folder: Path) -> Iterator[str | None]:
    """Yield each Python file below *folder*, and `None` for every other entry."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if _has_sources(place, each))
        for name in (*folders, *sorted(names)):
            yield str(Path(place, name)) if name.endswith(".py") else None


def _has_sources(place: str, folder: str) -> bool:
    if folder.startswith(".") or folder in _NO_SOURCES:
        return False
    return not Path(place, folder, "pyvenv.cfg").exists()


def _stamp_of(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _wait_until_unchanged(paths: Sequence[Path]) -> None:
    """Wait until an editor has written all of its files, within bounds."""
    before = stamps_of(paths)
    for _ in range(_MAX_SETTLING):
        time.sleep(PAUSE_SECONDS)
        now = stamps_of(paths)
        if now == before:
            return
        before = now


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wats_command(*arguments: str) -> list[str]:
    """Return the command that runs `wats` with *arguments* in a new process."""
    return [sys.executable, "-m", "wats", *arguments]
