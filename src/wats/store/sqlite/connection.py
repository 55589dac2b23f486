"""Connections to a SQLite file: how they are made, what migrates them, and what they raise."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import apsw
from apsw import Connection

from wats.clock import to_ms, utc_now
from wats.errors import MigrationFailed, StoreUnavailable
from wats.store.migrate import AppliedMigration, Migration, missing_migrations
from wats.store.sqlite.message_index import WriterConnection

_Row = TypeVar("_Row", bound=tuple[Any, ...])

MEMORY = ":memory:"

CHECKPOINT_PAGES = 16_000
"""How far the write-ahead log grows, 64 MB, before it is copied into the file. Measured: with the
1000 of SQLite the pages that every update touches are copied so often that an update takes a
quarter more time than with this, with 4000 a tenth more; the longest commit is hardly longer."""

CACHE_KIB = 16_000
"""How much of the file the writer keeps in memory at the most: the indexes of the last hundred
thousand messages. With the 2000 of SQLite an update costs a twentieth more."""

_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS wats_schema_migrations (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    checksum TEXT NOT NULL,           -- SHA-256 of the file
    applied_at INTEGER NOT NULL       -- milliseconds since 1970, UTC
) STRICT
"""

_APPLIED = "SELECT id, version, checksum FROM wats_schema_migrations ORDER BY version"

_RECORD_MIGRATION = """
INSERT INTO wats_schema_migrations (id, version, checksum, applied_at) VALUES (?, ?, ?, ?)
"""

_SCHEMA_VERSION = "SELECT coalesce(max(version), 0) FROM wats_schema_migrations"


def translate(error: Exception) -> Exception:
    """Turn an error of SQLite or of the file system into `StoreUnavailable`; leave others."""
    if not isinstance(error, apsw.Error | OSError):
        return error
    unavailable = StoreUnavailable()
    unavailable.__cause__ = error
    return unavailable


def connect_writer(path: str, busy_seconds: float) -> Connection:
    """Open *path* for writing; a new file can be read by its owner alone."""
    if path != MEMORY:
        _make_private_file(path)
    connection = _connect(path, busy_seconds, WriterConnection)
    try:
        _use_wal(connection, busy_seconds)
        # FULL: a commit returns when it is on the disk, not when the kernel has heard of it.
        connection.execute("PRAGMA synchronous = FULL")
        # What is erased shall not be found in the file. Most builds leave this off.
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except apsw.Error:
        connection.close()
        raise
    return connection


def connect_reader(path: str, busy_seconds: float) -> Connection:
    """Open *path*, which a writer has made, for reading."""
    connection = _connect(path, busy_seconds, Connection)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: str, busy_seconds: float, kind: type[Connection]) -> Connection:
    # Without SQLite's locks around every call: a connection belongs to one thread.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX
    connection = kind(path, flags=flags)
    connection.set_busy_timeout(round(busy_seconds * 1000))
    return connection


def change(connection: Connection, statement: str, rows: Iterable[Any]) -> int:
    """Execute *statement* with each of *rows*; return how many rows of tables that changed."""
    before = connection.total_changes()
    connection.executemany(statement, rows)
    return connection.total_changes() - before


def delete_found(
    connection: Connection, delete: str, is_there: str, rows: Sequence[_Row]
) -> Sequence[_Row]:
    """Execute *delete* with each of *rows*; return those for which there was something to delete.

    To be called inside a transaction, with rows of which no two are the same. Hardly ever is one
    not there, so which it is is asked, by *is_there*, only then.
    """
    connection.execute("SAVEPOINT deletion")
    found = rows
    if change(connection, delete, rows) < len(rows):
        connection.execute("ROLLBACK TO deletion")
        answers = connection.executemany(is_there, rows)
        found = [row for row, (yes,) in zip(rows, answers, strict=True) if yes]
        connection.executemany(delete, found)
    connection.execute("RELEASE deletion")
    return found


def _make_private_file(path: str) -> None:
    # Only a new file is opened here: to close any descriptor of a database that is in use would
    # drop SQLite's locks on it. Its -wal and -shm files take the mode of the file itself.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _use_wal(connection: Connection, busy_seconds: float) -> None:
    # Several processes may do this to a new file at once, and SQLite refuses all but one of them
    # at once: the busy timeout does not hold for a change of the journal mode.
    give_up_at = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def roll_back(connection: Connection) -> None:
    """Undo the open transaction, if SQLite has not done so itself, as it may on a full disk."""
    if connection.in_transaction:
        with suppress(apsw.Error):
            connection.execute("ROLLBACK")


def migrate(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Apply what is missing of *migrations*, each in a transaction of its own.

    The write lock of the transaction keeps other processes out, and is gone with this process.

    Raises:
        MigrationFailed: One failed; the database is as it was before that one.
        SchemaMismatch: The database has other migrations than these.
    """
    while _apply_next(connection, migrations):
        pass


def _apply_next(connection: Connection, migrations: Sequence[Migration]) -> bool:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_CREATE_MIGRATIONS)
        missing = missing_migrations(migrations, _applied(connection))
        if missing:
            _apply(connection, missing[0])
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return len(missing) > 1


def _applied(connection: Connection) -> Iterator[AppliedMigration]:
    for id_, version, checksum in connection.execute(_APPLIED):
        yield AppliedMigration(id=id_, version=version, checksum=checksum)


def _apply(connection: Connection, migration: Migration) -> None:
    try:
        connection.execute(migration.sql)
    except apsw.Error as error:
        raise MigrationFailed from error
    row = migration.id, migration.version, migration.checksum, to_ms(utc_now())
    connection.execute(_RECORD_MIGRATION, row)


def schema_version(connection: Connection) -> int:
    """Read the number of the last migration that was applied."""
    version: int = connection.execute(_SCHEMA_VERSION).get
    return version
