"""Connections to a SQLite file: how they are made, what migrates them, and what they raise."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import apsw
from apsw import Connection

from wats.clock import to_ms, utc_now
from wats.errors import MigrationFailed, StoreUnavailable
from wats.store.migrate import AppliedMigration, Migration, missing_migrations
from wats.store.records import Consumer, DeliveryState
from wats.store.sqlite.message_index import INDEX_BATCH, MessageIndex

MEMORY = ":memory:"

CHECKPOINT_PAGES = 16_000
"""How far the write-ahead log grows, 64 MB, before it is copied into the file. Measured: with the
1000 of SQLite the pages that every update touches are copied so often that an update takes a
quarter more time than with this, with 4000 a tenth more; the longest commit is hardly longer."""

CACHE_KIB = 16_000
"""How much of the file the writer keeps in memory at the most: the indexes of the last hundred
thousand messages. With the 2000 of SQLite an update costs a twentieth more."""

_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX

_COUNT = {
    DeliveryState.PENDING: "UPDATE wats_consumers SET pending = pending + ? WHERE name = ?",
    DeliveryState.LEASED: "UPDATE wats_consumers SET leased = leased + ? WHERE name = ?",
    DeliveryState.RETRY: "UPDATE wats_consumers SET retry = retry + ? WHERE name = ?",
}

_NOTE_TIME = "UPDATE wats_queue SET now = max(now, ?) WHERE id = 1"

NOTE_TIME_EVERY_MS = 1000
"""How often the time is written to the database. After a reboot with an older time of day, leases
and retries last this much longer at most."""

_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS wats_schema_migrations (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    checksum TEXT NOT NULL,           -- SHA-256 of the file
    tolerates INTEGER NOT NULL,       -- the oldest version whose processes can still be used
    applied_at INTEGER NOT NULL       -- milliseconds since 1970, UTC
) STRICT
"""

_APPLIED = "SELECT id, version, checksum, tolerates FROM wats_schema_migrations ORDER BY version"

_RECORD_MIGRATION = """
INSERT INTO wats_schema_migrations (id, version, checksum, tolerates, applied_at)
VALUES (?, ?, ?, ?, ?)
"""

_SCHEMA_VERSION = """
SELECT coalesce(max(version), 0), coalesce(max(tolerates) FILTER (WHERE version > ?), 0)
FROM wats_schema_migrations
"""


def translate(error: Exception) -> Exception:
    """Turn an error of SQLite or of the file system into `StoreUnavailable`; leave others."""
    if not isinstance(error, apsw.Error | OSError):
        return error
    unavailable = StoreUnavailable()
    unavailable.__cause__ = error
    return unavailable


class Writer(Connection):
    """A connection that writes, and what belongs to its open transaction.

    Attributes:
        clock: The time of the store in milliseconds.
        consumers: The consumers of this process by name.
        message_index: The messages that are not indexed yet.
        leaves_work: Whether the transaction leaves a delivery that can be claimed.
    """

    def __init__(
        self,
        path: str,
        clock: Callable[[], int],
        on_work: Callable[[], None],
        index_batch: int = INDEX_BATCH,
    ) -> None:
        # Without SQLite's locks around every call: a connection belongs to one thread.
        super().__init__(path, flags=_FLAGS)
        self.clock = clock
        self.consumers: dict[str, Consumer] = {}
        self.message_index = MessageIndex(index_batch)
        self.leaves_work = False
        self._on_work = on_work
        self._counts: dict[tuple[str, DeliveryState], int] = {}
        self._noted_ms = 0

    def count(self, consumer: str, state: DeliveryState, change: int) -> None:
        """Change a counter of *consumer* with this transaction."""
        key = consumer, state
        self._counts[key] = self._counts.get(key, 0) + change

    def commit(self) -> None:
        """Write the counters and the time, commit, and report work that is left."""
        for (consumer, state), change_ in self._counts.items():
            if change_:
                self.execute(_COUNT[state], (change_, consumer))
        self._counts.clear()
        if (now := self.clock()) >= self._noted_ms + NOTE_TIME_EVERY_MS:
            self.execute(_NOTE_TIME, (now,))
            self._noted_ms = now
        self.execute("COMMIT")
        if self.leaves_work:
            self.leaves_work = False
            self._on_work()

    def roll_back(self) -> None:
        """Undo the transaction, if SQLite has not done so itself, as it may on a full disk."""
        self._counts.clear()
        self.message_index.forget()
        self._noted_ms = 0
        self.leaves_work = False
        if self.in_transaction:
            with suppress(apsw.Error):
                self.execute("ROLLBACK")


def connect_writer(
    path: str,
    busy_seconds: float,
    clock: Callable[[], int],
    on_work: Callable[[], None],
    index_batch: int = INDEX_BATCH,
) -> Writer:
    """Open *path* for writing; a new file can be read by its owner alone.

    *on_work* is called after each commit that leaves a delivery which can be claimed.
    """
    if path != MEMORY:
        _make_private_file(path)
    writer = Writer(path, clock, on_work, index_batch)
    try:
        writer.set_busy_timeout(round(busy_seconds * 1000))
        _use_wal(writer, busy_seconds)
        # FULL: a commit returns when it is on the disk, not when the kernel has heard of it.
        writer.execute("PRAGMA synchronous = FULL")
        # Erased content must not be found in the file. Most builds leave this off.
        writer.execute("PRAGMA secure_delete = ON")
        writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        writer.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        writer.execute("PRAGMA temp_store = MEMORY")
    except apsw.Error:
        writer.close()
        raise
    return writer


def connect_reader(path: str, busy_seconds: float) -> Connection:
    """Open *path*, which a writer has made, for reading."""
    connection = _connect(path, busy_seconds)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: str, busy_seconds: float) -> Connection:
    connection = Connection(path, flags=_FLAGS)
    connection.set_busy_timeout(round(busy_seconds * 1000))
    return connection


def change(connection: Connection, statement: str, rows: Iterable[Any]) -> int:
    """Execute *statement* with each of *rows*; return how many rows of tables that changed."""
    before = connection.total_changes()
    connection.executemany(statement, rows)
    return connection.total_changes() - before


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


def migrate(connection: Writer, migrations: Sequence[Migration]) -> None:
    """Apply what is missing of *migrations*, each in a transaction of its own.

    The write lock of the transaction keeps other processes out, and is gone with this process.

    Raises:
        MigrationFailed: One failed; the database is as it was before that one.
        SchemaMismatch: The database has other migrations than these.
    """
    while _apply_next(connection, migrations):
        pass


def _apply_next(connection: Writer, migrations: Sequence[Migration]) -> bool:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_CREATE_MIGRATIONS)
        missing = missing_migrations(migrations, _applied(connection))
        if missing:
            _apply(connection, missing[0])
        connection.execute("COMMIT")
    except BaseException:
        connection.roll_back()
        raise
    return len(missing) > 1


def _applied(connection: Connection) -> Iterator[AppliedMigration]:
    for id_, version, checksum, tolerates in connection.execute(_APPLIED):
        yield AppliedMigration(id=id_, version=version, checksum=checksum, tolerates=tolerates)


def _apply(connection: Connection, migration: Migration) -> None:
    try:
        connection.execute(migration.sql)
    except apsw.Error as error:
        raise MigrationFailed from error
    row = (
        migration.id,
        migration.version,
        migration.checksum,
        migration.tolerates,
        to_ms(utc_now()),
    )
    connection.execute(_RECORD_MIGRATION, row)


def schema_version(connection: Connection, needed: int) -> tuple[int, int]:
    """Read the schema version, and what the migrations after *needed* tolerate."""
    row: Any = connection.execute(_SCHEMA_VERSION, (needed,)).fetchone()
    version, tolerated = row
    return version, tolerated
