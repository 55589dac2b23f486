"""Connections to a SQLite file: settings, migrations and translation of errors."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import apsw
from apsw import Connection
from typing_extensions import override

from wats.clock import to_ms, utc_now
from wats.errors import DatabaseMoved, MigrationFailed, StoreUnavailable
from wats.store.migrate import AppliedMigration, Migration, missing_migrations
from wats.store.records import Consumer, DeliveryState
from wats.store.sqlite.file_guard import FileGuard, admit, keep_log
from wats.store.sqlite.log_origin import NEXT_NUMBER, number_after
from wats.store.sqlite.message_index import INDEX_BATCH, MessageIndex

MEMORY = ":memory:"

CHECKPOINT_PAGES = 16_000
"""The size of the write-ahead log, about 64 MB, at which it is copied to the file. Pages that every
update changes are copied at each checkpoint. Measured: an update takes 25 % longer with 1000, the
default of SQLite, and 10 % longer with 4000; the longest commit is hardly longer with 16,000."""

CACHED_STATEMENTS = 400
"""The size of the statement cache. APSW evicts a statement after as many uses of others, also of a
single one with many rows: with 100, its default, each batch would prepare all statements anew."""

_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX

_COUNT = {
    DeliveryState.PENDING: "UPDATE wats_consumers SET pending = pending + ? WHERE name = ?",
    DeliveryState.LEASED: "UPDATE wats_consumers SET leased = leased + ? WHERE name = ?",
    DeliveryState.RETRY: "UPDATE wats_consumers SET retry = retry + ? WHERE name = ?",
}

_WAITING = "SELECT pending + retry FROM wats_consumers WHERE name = ?"

_NOTE_TIME = "UPDATE wats_queue SET now = max(now, ?) WHERE id = 1"

NOTE_TIME_EVERY_MS = 1000
"""The interval at which the time is written to the database. If the time of day is set back at a
reboot, leases and retries are extended by at most this interval."""

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
    """Convert errors of SQLite and the file system to `StoreUnavailable`; return others as is."""
    if not isinstance(error, apsw.Error | OSError):
        return error
    unavailable = StoreUnavailable()
    unavailable.__cause__ = error
    return unavailable


class Writer(Connection):
    """A connection that writes, with the state of its open transaction.

    Attributes:
        clock: Returns the time of the store in milliseconds.
        consumers: The consumers of this process by name.
        message_index: The messages that are not indexed yet.
        leaves_work: Whether the transaction made a delivery claimable.
        guard: Checks before each commit that the files are still those that were opened.
    """

    def __init__(
        self,
        path: str,
        clock: Callable[[], int],
        on_work: Callable[[], None],
        index_batch: int = INDEX_BATCH,
    ) -> None:
        # SQLite need not lock every call, because only one thread uses the connection.
        super().__init__(path, flags=_FLAGS, statementcachesize=CACHED_STATEMENTS)
        self.clock = clock
        self.consumers: dict[str, Consumer] = {}
        self.message_index = MessageIndex(index_batch)
        self.leaves_work = False
        self.guard: FileGuard | None = None
        self._on_work = on_work
        self._counts: dict[tuple[str, DeliveryState], int] = {}
        self._noted_ms = 0
        self._flushes = True

    def time_after(self, seconds: float) -> int:
        """Return the time of the store after *seconds* from now."""
        return self.clock() + round(seconds * 1000)

    def count(self, consumer: str, state: DeliveryState, change: int) -> None:
        """Change a counter of *consumer* at the commit of this transaction."""
        key = consumer, state
        self._counts[key] = self._counts.get(key, 0) + change

    def begin(self, *, flushes: bool) -> None:
        """Begin a transaction, whose commit waits for the disk if it *flushes*."""
        if flushes is not self._flushes:
            self.execute(f"PRAGMA synchronous = {'FULL' if flushes else 'NORMAL'}")
            self._flushes = flushes
        self.execute("BEGIN IMMEDIATE")

    def waiting(self, consumer: str) -> int:
        """Return the number of unleased deliveries of *consumer*, as this transaction sees them."""
        committed: int = self.execute(_WAITING, (consumer,)).get or 0
        states = DeliveryState.PENDING, DeliveryState.RETRY
        return committed + sum(self._counts.get((consumer, state), 0) for state in states)

    def commit(self) -> None:
        """Write the counters and the time, commit, then announce claimable deliveries.

        Raises:
            DatabaseMoved: The files are not those that were opened; roll back.
        """
        is_first_in_log = self.guard is not None and self.guard.check() == 0
        for (consumer, state), change_ in self._counts.items():
            if change_:
                self.execute(_COUNT[state], (change_, consumer))
        self._counts.clear()
        if (now := self.clock()) >= self._noted_ms + NOTE_TIME_EVERY_MS or is_first_in_log:
            self.execute(_NOTE_TIME, (now,))
            self.execute(NEXT_NUMBER.format(number_after(self.pragma("user_version"))))
            self._noted_ms = now
        self.execute("COMMIT")
        if is_first_in_log and self.guard is not None:
            self.guard.check_log()
        if self.leaves_work:
            self.leaves_work = False
            self._on_work()

    def roll_back(self) -> None:
        """Roll back the transaction, unless SQLite has done it, for example on a full disk."""
        self._counts.clear()
        self.message_index.forget()
        self._noted_ms = 0
        self.leaves_work = False
        if self.in_transaction:
            with suppress(apsw.Error):
                self.execute("ROLLBACK")

    @override
    def close(self, force: bool = False) -> None:
        """Close; leave the files alone that are at the path instead of those that were opened."""
        try:
            if self.guard is not None:
                self.guard.check()
        except (DatabaseMoved, apsw.Error, OSError):
            # SQLite would remove the log at the path by its name, which may belong to a database
            # that is in use. The commits of ours go to the file that was opened, unless it has
            # another content now.
            keep_log(self)
            if self.guard is not None and not self.guard.is_overwritten:
                with suppress(apsw.Error):
                    self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        super().close(force)
        if self.guard is not None:
            self.guard.close()
            self.guard = None


def connect_writer(
    path: str,
    busy_seconds: float,
    clock: Callable[[], int],
    on_work: Callable[[], None],
    index_batch: int = INDEX_BATCH,
) -> Writer:
    """Open *path* for writing. A new file is accessible to its owner only.

    *on_work* is called after each commit that made a delivery claimable.
    """
    if path != MEMORY:
        admit(path)
        _make_private_file(path)
    writer = Writer(path, clock, on_work, index_batch)
    try:
        writer.set_busy_timeout(round(busy_seconds * 1000))
        _use_wal(writer, busy_seconds)
        # FULL: a commit returns after the disk flush.
        writer.execute("PRAGMA synchronous = FULL")
        # Overwrites deleted content. Off by default in most builds.
        writer.execute("PRAGMA secure_delete = ON")
        writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        writer.execute("PRAGMA temp_store = MEMORY")
    except apsw.Error:
        writer.close()
        raise
    return writer


def connect_reader(path: str, busy_seconds: float) -> Connection:
    """Open *path*, which a writer has created, for reading."""
    connection = Connection(path, flags=_FLAGS)
    connection.set_busy_timeout(round(busy_seconds * 1000))
    connection.execute("PRAGMA query_only = ON")
    return connection


def change(connection: Connection, statement: str, rows: Iterable[Any]) -> int:
    """Execute *statement* with each of *rows*; return the number of changed rows."""
    before = connection.total_changes()
    connection.executemany(statement, rows)
    return connection.total_changes() - before


def _make_private_file(path: str) -> None:
    # Existing files are not opened here: closing any descriptor of a database in use would release
    # SQLite's locks. The -wal and -shm files get the mode of the database file.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _use_wal(connection: Connection, busy_seconds: float) -> None:
    # If several processes do this to a new file, SQLite refuses all but one immediately: the busy
    # timeout does not apply to a change of the journal mode.
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
    """Apply the missing *migrations*, each in a transaction of its own.

    The write lock of the transaction excludes other processes, and is released if this process
    dies.

    Raises:
        MigrationFailed: A migration failed and was rolled back; earlier ones stay applied.
        SchemaMismatch: The applied migrations differ from *migrations*.
    """
    while _apply_next(connection, migrations):
        pass


def _apply_next(connection: Writer, migrations: Sequence[Migration]) -> bool:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_CREATE_MIGRATIONS)
        missing = missing_migrations(migrations, applied_migrations(connection))
        if missing:
            _apply(connection, missing[0])
        connection.execute("COMMIT")
    except BaseException:
        connection.roll_back()
        raise
    return len(missing) > 1


def applied_migrations(connection: Connection) -> Iterator[AppliedMigration]:
    """Read the migrations that the database has, in order."""
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
    """Read the schema version, and the highest `tolerates` of migrations after *needed*."""
    version, tolerated = connection.execute(_SCHEMA_VERSION, (needed,)).get
    return version, tolerated
