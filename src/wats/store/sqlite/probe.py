"""Checking a SQLite file without changing it, its log or any other file."""

from contextlib import closing
from pathlib import Path

import apsw

from wats.errors import SchemaMismatch
from wats.faults import Fault
from wats.store.migrate import load_migrations, missing_migrations
from wats.store.sqlite.connection import applied_migrations
from wats.store.sqlite.log_origin import connect_immutable
from wats.store.sqlite.mounts import unsafe_mount
from wats.store.sqlite.open_faults import cause_of, fault_of_file_system


def probe(path: str) -> Fault | None:
    """Return why a service that starts now cannot use the database *path*; `None` if it can.

    The log is not read: SQLite would make files, which the user of the service may not be able to
    write. The file may not exist yet.
    """
    file = Path(path).absolute()
    if fault := unsafe_mount(path) or fault_of_file_system(file):
        return fault
    return fault_of_content(file) if file.exists() else None


def fault_of_content(file: Path, *, is_backup: bool = False) -> Fault | None:
    """Return why *file*, without its log, is not a database of ours.

    A backup is read completely, and has a schema: that of another file may be in its log.
    """
    try:
        with closing(connect_immutable(str(file))) as connection:
            if is_backup and connection.execute("PRAGMA integrity_check(1)").get != "ok":
                return Fault.DATABASE_DAMAGED
            if is_backup or connection.execute("SELECT count(*) FROM sqlite_schema").get:
                missing_migrations(load_migrations("sqlite"), applied_migrations(connection))
    except (SchemaMismatch, apsw.SQLError):  # a database of something else has no such table
        return Fault.WRONG_SCHEMA
    except apsw.Error as error:
        return cause_of(error, str(file))
    return None
