"""A disk that hangs: SQLite's flushes wait until it is released."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw


class StalledDisk(apsw.VFS):
    """The file system of every SQLite database that is opened while it is entered."""

    def __init__(self) -> None:
        self.may_flush = threading.Event()
        self.may_flush.set()
        super().__init__("stalled", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _File(self.may_flush, name, flags)

    def hang(self) -> None:
        self.may_flush.clear()

    def release(self) -> None:
        self.may_flush.set()


class _File(apsw.VFSFile):
    def __init__(self, may_flush: threading.Event, name: Any, flags: list[int]) -> None:
        self._may_flush = may_flush
        super().__init__("unix", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._may_flush.wait()
        super().xSync(flags)


@contextmanager
def stalled_disk() -> Iterator[StalledDisk]:
    disk = StalledDisk()
    try:
        yield disk
    finally:
        disk.release()
        disk.unregister()
