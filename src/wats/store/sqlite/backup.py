"""Copying a SQLite database to a backup while it is in use, and putting a backup in its place."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import apsw
from apsw import Connection

from wats.errors import BackupRefused
from wats.faults import Fault, fault_of
from wats.store.sqlite.file_guard import SET_ASIDE, admit
from wats.store.sqlite.mounts import unsafe_mount
from wats.store.sqlite.open_faults import KEY, cause_of, issue_of
from wats.store.sqlite.probe import fault_of_content

_CANNOT_BACK_UP: Final = "The database cannot be backed up."
_CANNOT_RESTORE: Final = "The backup cannot be restored."
_FILE: Final = "FILE"

_FIRST_LOCK_BYTE: Final = 0x40000000
_LOCK_BYTES: Final = 512
"""The bytes that SQLite locks: each connection to a file with a log has a shared lock on some."""

_SIDE_FILES: Final = ("-wal", "-shm", "-journal", f"-wal{SET_ASIDE}")


def back_up(path: str, target: Path) -> None:
    """Write a consistent copy of the database in the file *path* to the new file *target*.

    The copy is checked, and can be read by its owner alone. The database may be in use.

    Raises:
        BackupRefused: With the cause; *target* does not exist.
        StoreUnavailable: The database could not be opened without losing data.
    """
    if target.exists():
        raise _refused(_CANNOT_BACK_UP, Fault.FILE_EXISTS, _FILE, str(target))
    if not Path(path).exists():
        raise _refused(_CANNOT_BACK_UP, Fault.NO_SUCH_FILE, KEY, path)
    admit(path)
    with _file_operations(_CANNOT_BACK_UP, str(target)), _new_file_next_to(target) as copy:
        _vacuum(path, copy, target)
        _check(copy, _CANNOT_BACK_UP, KEY, path)
        copy.rename(target)
        _flush(target.parent)


def restore(source: Path, path: str) -> Path | None:
    """Put a copy of the backup *source* in the place of the database in the file *path*.

    The previous file and its log stay under another name.

    Returns:
        The new name of the previous file, if there was one.

    Raises:
        BackupRefused: With the cause; the database is as it was before.
    """
    real = Path(os.path.realpath(path))
    if fault := unsafe_mount(path):
        raise _refused(_CANNOT_RESTORE, fault, KEY, path)
    if source.exists() and real.exists() and source.samefile(real):
        raise BackupRefused("The backup is the database itself.")
    with (
        _file_operations(_CANNOT_RESTORE, path, KEY),
        _locked(real, path),
        _new_file_next_to(real) as copy,
    ):
        _copy(source, copy, path)
        _check(copy, _CANNOT_RESTORE, _FILE, str(source))
        return _replace(real, copy)


def _vacuum(path: str, copy: Path, target: Path) -> None:
    try:
        with closing(Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as source:
            source.set_busy_timeout(5000)
            source.execute("VACUUM INTO ?", (str(copy),))
    except apsw.FullError as error:  # nothing is written to the database
        raise _refused(_CANNOT_BACK_UP, Fault.DISK_FULL, _FILE, str(target)) from error
    except apsw.Error as error:
        raise _refused(_CANNOT_BACK_UP, cause_of(error, path), KEY, path) from error


def _copy(source: Path, copy: Path, path: str) -> None:
    # A backup has no log. A copy of a database in use has one, and lacks its commits.
    log = Path(f"{source}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise _refused(_CANNOT_RESTORE, Fault.FOREIGN_LOG, _FILE, str(source))
    try:
        shutil.copyfile(source, copy)
    except OSError as error:
        fault = fault_of(error)
        where, shown = (KEY, path) if fault is Fault.DISK_FULL else (_FILE, str(source))
        raise _refused(_CANNOT_RESTORE, fault, where, shown) from None


def _check(copy: Path, message: str, where: str, shown: str) -> None:
    """Check that *copy* is an intact database of ours, and write it to the disk."""
    if fault := fault_of_content(copy, is_backup=True):
        raise _refused(message, fault, where, shown)
    _flush(copy)


def _replace(real: Path, copy: Path) -> Path | None:
    """Replace the database in *real* by *copy*, and move everything of the old one away.

    First the file: a start between the steps finds a log that belongs to another file, and refuses.
    """
    previous = None
    if real.exists():
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        previous = real.with_name(f"{real.name}.replaced-{moment}")
        os.link(real, previous)
        owner = real.stat()
        with suppress(PermissionError):  # only root can, and only root needs to
            os.chown(copy, owner.st_uid, owner.st_gid)
    copy.replace(real)
    for ending in _SIDE_FILES:
        side = Path(f"{real}{ending}")
        if previous is None or ending == "-shm":
            side.unlink(missing_ok=True)
        elif side.exists():
            side.rename(f"{previous}{ending}")
    _flush(real.parent)
    return previous


@contextmanager
def _locked(real: Path, path: str) -> Iterator[None]:
    """Hold the lock of the file *real*, if it exists, that excludes every connection of SQLite.

    Without SQLite, which would refuse a damaged file. The lock ends with any descriptor of the file
    in this process, so nothing else here may open it meanwhile.
    """
    if not real.exists():
        yield
        return
    with real.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _FIRST_LOCK_BYTE)
        except OSError as error:
            is_held = error.errno in {errno.EACCES, errno.EAGAIN}
            fault = Fault.DATABASE_LOCKED if is_held else fault_of(error)
            raise _refused(_CANNOT_RESTORE, fault, KEY, path) from None
        yield


@contextmanager
def _new_file_next_to(target: Path) -> Iterator[Path]:
    """Make a file that only its owner can read, and remove it unless it is renamed."""
    number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(number)
    copy = Path(name)
    try:
        yield copy
    finally:
        for ending in ("", *_SIDE_FILES):  # SQLite leaves the journal of a copy that failed
            Path(f"{copy}{ending}").unlink(missing_ok=True)


@contextmanager
def _file_operations(message: str, shown: str, where: str = _FILE) -> Iterator[None]:
    """Refuse with the cause if an operation on the file *shown* fails."""
    try:
        yield
    except OSError as error:
        raise _refused(message, cause_of(error, shown), where, shown) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(message: str, fault: Fault, where: str, shown: str) -> BackupRefused:
    return BackupRefused(message, issue=issue_of(fault, shown, where))
