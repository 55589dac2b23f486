"""Checking a SQLite file without changing it, its log or any other file."""

import os
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw

from wats.errors import SchemaMismatch
from wats.faults import Fault, fault_of
from wats.store.migrate import load_migrations, missing_migrations
from wats.store.sqlite.connection import applied_migrations
from wats.store.sqlite.log_origin import connect_immutable
from wats.store.sqlite.mounts import unsafe_mount
from wats.store.sqlite.open_faults import cause_of

MIN_FREE_BYTES: Final = 1 << 20
"""The room that a database needs at least, for its log."""


def probe(path: str) -> Fault | None:
    """Return why a service that starts now cannot use the database *path*; `None` if it can.

    The log is not read: SQLite would make files, which the user of the service may not be able to
    write. The file may not exist yet.
    """
    if fault := unsafe_mount(path):
        return fault
    try:
        is_new = Path(path).stat().st_size == 0
    except FileNotFoundError:
        return _fault_of_folder(Path(path).absolute().parent)
    except OSError as error:
        return fault_of(error)
    if not os.access(path, os.R_OK | os.W_OK):
        return Fault.PERMISSION_DENIED
    return _fault_of_folder(Path(path).absolute().parent) if is_new else _fault_of_file(path)


def _fault_of_folder(folder: Path) -> Fault | None:
    if not folder.exists():
        return Fault.NO_SUCH_DIRECTORY
    if not folder.is_dir():
        return Fault.NOT_A_DIRECTORY
    if not os.access(folder, os.W_OK | os.X_OK):
        return Fault.PERMISSION_DENIED
    return Fault.DISK_FULL if is_disk_full(folder) else None


def is_disk_full(folder: Path) -> bool:
    """Return whether the file system of *folder* has too little room for a log."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < MIN_FREE_BYTES


def _fault_of_file(path: str) -> Fault | None:
    try:
        with closing(connect_immutable(str(Path(path).absolute()))) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_schema").get:
                return None  # the schema is in the log
            missing_migrations(load_migrations("sqlite"), applied_migrations(connection))
    except (SchemaMismatch, apsw.SQLError):
        return Fault.WRONG_SCHEMA
    except apsw.Error as error:
        return cause_of(error, path)
    return _fault_of_folder(Path(path).absolute().parent)
