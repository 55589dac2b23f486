"""The files of a database: which are refused before they are opened, and whether they stay.

SQLite keeps descriptors. If the files are removed or replaced while they are open, it goes on to
commit into files without a name, and everything that was acknowledged is gone at the end of the
process.
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
from wats.store.sqlite.log_origin import is_foreign
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

    Raises:
        StoreUnavailable: The files were replaced before this.
    """

    def __init__(self, connection: Connection, path: str) -> None:
        self._log = connection.filename_wal
        names = os.path.abspath(path), f"{connection.filename}-shm"  # noqa: PTH100
        try:
            self._log_identity = _identity(os.stat(self._log))  # noqa: PTH116
            self._files = [(name, _identity(os.stat(name))) for name in names]  # noqa: PTH116
        except OSError:
            raise refusal(Fault.FILE_REPLACED, path) from None
        if _has_moved(connection):
            raise refusal(Fault.FILE_REPLACED, path)

    def check(self) -> int:
        """Return the size of the write-ahead log in bytes; takes some microseconds.

        Raises:
            DatabaseMoved: A file was moved, replaced or removed.
        """
        try:
            log = os.stat(self._log)  # noqa: PTH116  # a Path costs as much again
            is_same = _identity(log) == self._log_identity and all(
                _identity(os.stat(name)) == identity  # noqa: PTH116
                for name, identity in self._files
            )
        except OSError:
            raise DatabaseMoved from None
        if not is_same:
            raise DatabaseMoved
        return log.st_size


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _has_moved(connection: Connection) -> bool:
    moved = ctypes.c_int(0)
    address = ctypes.addressof(moved)
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, address)
    return bool(moved.value)
