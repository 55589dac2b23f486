"""The files of a database: which are refused before they are opened, and whether they stay.

SQLite keeps descriptors. If the files are removed or replaced while they are open, it goes on to
commit into files without a name, and everything that was acknowledged is gone at the end of the
process. If the file is overwritten or the log is emptied in place, as by `cp`, SQLite combines
pages of both contents, and the database is damaged.
"""

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
from apsw import Connection

from wats.errors import DatabaseMoved
from wats.faults import Fault
from wats.store.sqlite.log_origin import has_header, is_foreign, is_successor, page_1
from wats.store.sqlite.mounts import unsafe_mount
from wats.store.sqlite.open_faults import refusal

SET_ASIDE = ".foreign"
"""The ending of a log that belongs to another database, after it was found."""


def admit(path: str) -> None:
    """Check the database at *path* before SQLite opens it.

    The log of another database is renamed, so that no program replays it; the start is refused
    until the operator has restored a database or removed the renamed file.

    Raises:
        StoreUnavailable: SQLite could open the database, but would lose or damage data.
    """
    if fault := unsafe_mount(path):
        raise refusal(fault, path)
    real = os.path.realpath(path)
    if _has_several_names(real):
        raise refusal(Fault.SEVERAL_NAMES, path)
    log = Path(f"{real}-wal")
    renamed = Path(f"{log}{SET_ASIDE}")
    if renamed.exists():
        raise refusal(Fault.FOREIGN_LOG, path)
    if _is_foreign(real, log):
        if not Path(real).exists():
            raise refusal(Fault.FOREIGN_LOG, path)
        with suppress(apsw.BusyError), _alone(real):  # a log in use belongs to its users
            if _is_foreign(real, log):
                log.rename(renamed)
                raise refusal(Fault.FOREIGN_LOG, path)


def _has_several_names(real: str) -> bool:
    with suppress(OSError):  # a file that does not exist yet, or fails later with its own cause
        found = os.stat(real)  # noqa: PTH116
        return stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    return False


def _is_foreign(real: str, log: Path) -> bool:
    # A file that cannot be read fails later, when SQLite opens it, with its own cause.
    with suppress(apsw.Error, OSError):
        return is_foreign(real, str(log))
    return False


@contextmanager
def _alone(real: str) -> Iterator[None]:
    """Keep all others from opening the file, and write nothing to it.

    Raises:
        apsw.BusyError: Another connection has it open.
    """
    connection = Connection(real, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        keep_log(connection)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        with suppress(apsw.CorruptError, apsw.NotADBError):  # the lock precedes the content
            connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


def keep_log(connection: Connection) -> None:
    """Let *connection* neither replay nor remove the write-ahead log when it is closed."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


class FileGuard:
    """Compares the files at the path of an open database with those that were opened.

    Args:
        connection: A connection to the database, after its first transaction.
        path: The file, as the operator wrote it.

    Attributes:
        is_overwritten: Whether the last check found another content in the file or the log: then
            the log must not be copied to the file.

    Raises:
        StoreUnavailable: The files were replaced before this.
    """

    def __init__(self, connection: Connection, path: str) -> None:
        self.is_overwritten = False
        self._log = connection.filename_wal
        self._real = connection.filename
        names = self._real, os.path.abspath(path), f"{self._real}-shm"  # noqa: PTH100
        self._names = tuple(dict.fromkeys(names))  # the first two differ if a link is followed
        try:
            self._log_identity = _identity(os.stat(self._log))  # noqa: PTH116
            found = [os.stat(name) for name in self._names]  # noqa: PTH116
        except OSError:
            raise refusal(Fault.FILE_REPLACED, path) from None
        self._identities = [_identity(each) for each in found]
        self._stamp, self._page_1 = _stamp(found[0]), page_1(self._real)
        if _has_moved(connection):
            raise refusal(Fault.FILE_REPLACED, path)
        # SQLite locks nothing in the log, so this descriptor can be closed at any time.
        self._log_descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Release the descriptor; do not check afterwards."""
        os.close(self._log_descriptor)

    def check(self) -> int:
        """Return the size of the write-ahead log in bytes; takes some microseconds.

        Raises:
            DatabaseMoved: A file was moved, replaced, removed or overwritten.
        """
        try:
            log = os.stat(self._log)  # noqa: PTH116  # a Path costs as much again
            found = [os.stat(name) for name in self._names]  # noqa: PTH116
        except OSError:
            raise DatabaseMoved from None
        if _identity(log) != self._log_identity or self._identities != [
            _identity(each) for each in found
        ]:
            raise DatabaseMoved
        self.check_log()
        if (stamp := _stamp(found[0])) != self._stamp:
            self._check_content(stamp)
        return log.st_size

    def check_log(self) -> None:
        """Check that the log has its header, as far as it is not empty.

        SQLite appends to a log that was emptied in place as if its commits were still there. Call
        it after the first commit in a log, too.

        Raises:
            DatabaseMoved: The log was emptied.
        """
        self.is_overwritten = not has_header(self._log_descriptor)
        if self.is_overwritten:
            raise DatabaseMoved

    def _check_content(self, stamp: tuple[int, int]) -> None:
        """Check that nothing but a checkpoint has changed the file."""
        before = self._page_1  # first: another thread may have a later one when this one has read
        after = page_1(self._real)
        self.is_overwritten = not is_successor(after, before)
        if self.is_overwritten:
            raise DatabaseMoved
        self._stamp, self._page_1 = stamp, after


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _has_moved(connection: Connection) -> bool:
    moved = ctypes.c_int(0)
    address = ctypes.addressof(moved)
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, address)
    return bool(moved.value)
