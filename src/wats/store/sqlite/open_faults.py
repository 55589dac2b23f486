"""Why a SQLite file cannot be opened: an error of SQLite becomes one of a closed list of causes."""

import os
from pathlib import Path
from typing import Final

import apsw

from wats.errors import ConfigIssue, MigrationFailed, SchemaMismatch, StoreError, StoreUnavailable
from wats.faults import Fault, fault_of

KEY: Final = "persistence.url"

MIN_FREE_BYTES: Final = 1 << 20
"""The room that a database needs at least, for its log."""

_BY_CLASS: Final[dict[type[apsw.Error], Fault]] = {
    apsw.FullError: Fault.DISK_FULL,
    apsw.NotADBError: Fault.NOT_A_DATABASE,
    apsw.CorruptError: Fault.DATABASE_DAMAGED,
    apsw.BusyError: Fault.DATABASE_LOCKED,
    apsw.LockedError: Fault.DATABASE_LOCKED,
}

_LOCK_FAILURES: Final = frozenset(
    {
        apsw.SQLITE_IOERR_LOCK,
        apsw.SQLITE_IOERR_RDLOCK,
        apsw.SQLITE_IOERR_CHECKRESERVEDLOCK,
        apsw.SQLITE_IOERR_SHMLOCK,
        apsw.SQLITE_IOERR_SHMMAP,
        apsw.SQLITE_PROTOCOL,
    }
)


def refusal(fault: Fault, path: str) -> StoreUnavailable:
    """Return the error for a database at *path*, as the operator wrote it."""
    return StoreUnavailable("The database cannot be opened.", issue=issue_of(fault, path))


def explain(error: Exception, path: str) -> Exception:
    """Return *error*, raised while the database at *path* was opened, with key, path and cause."""
    match error:
        case StoreError() if error.issue is not None:
            return error
        case SchemaMismatch():
            return SchemaMismatch(issue=issue_of(Fault.WRONG_SCHEMA, path))
        case MigrationFailed():
            return MigrationFailed(issue=issue_of(cause_of(error.__cause__, path), path))
        case apsw.Error() | OSError():
            return refusal(cause_of(error, path), path)
        case _:
            return error


def issue_of(fault: Fault, path: str, where: str = KEY) -> ConfigIssue:
    """Return the cause *fault* of an error of the file *path*, which *where* names."""
    return ConfigIssue(fault.value, where, f"{path!r}: {fault.meaning}")


def cause_of(error: BaseException | None, path: str) -> Fault:
    """Return the cause of *error*, raised while the database at *path* was opened."""
    if isinstance(error, OSError):
        fault = fault_of(error)
        return Fault.NO_SUCH_DIRECTORY if fault is Fault.NO_SUCH_FILE else fault
    if not isinstance(error, apsw.Error):
        return Fault.UNREADABLE
    if getattr(error, "extendedresult", None) in _LOCK_FAILURES:
        return Fault.NO_LOCAL_LOCKS
    # SQLite reports only that it cannot open a file.
    return _BY_CLASS.get(type(error)) or fault_of_file_system(Path(path)) or Fault.UNREADABLE


def fault_of_file_system(path: Path) -> Fault | None:
    """Return why the file system permits no database at *path*; `None` if it does."""
    folder = path.parent
    try:
        if path.is_dir():
            return Fault.IS_A_DIRECTORY
        if not folder.is_dir():
            return Fault.NOT_A_DIRECTORY if folder.exists() else Fault.NO_SUCH_DIRECTORY
        files = (path, Path(f"{path}-wal"), Path(f"{path}-shm"))
        can_write = all(os.access(file, os.R_OK | os.W_OK) for file in files if file.exists())
        if not can_write or not os.access(folder, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            return Fault.READ_ONLY_FILE_SYSTEM if is_read_only else Fault.PERMISSION_DENIED
    except OSError as error:
        return fault_of(error)
    return Fault.DISK_FULL if is_disk_full(folder) else None


def is_disk_full(folder: Path) -> bool:
    """Return whether the file system of *folder* has too little room for a log."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < MIN_FREE_BYTES
