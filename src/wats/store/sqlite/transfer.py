"""Read and write complete SQLite stores, while no other process has the file open."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import apsw
import msgspec

from wats.errors import CopyRefused, StoreUnavailable
from wats.store.migrate import load_migrations
from wats.store.records import message_of, status_of, window_digest
from wats.store.sqlite import messages, statuses
from wats.store.sqlite.clock import StoreClock
from wats.store.sqlite.connection import Writer, connect_writer, migrate
from wats.store.sqlite.open_faults import cause_of, explain, issue_of
from wats.store.transfer import (
    BATCH_ROWS,
    CANNOT_COPY,
    CONFLICT,
    IN_USE,
    MISSING,
    NOT_EMPTY,
    TABLES,
    Batches,
    ConsumerRow,
    DeadLetterRow,
    DeliveryRow,
    IdentityRow,
    Loaded,
    MessageRow,
    OutboxRow,
    RequestRow,
    StatusRow,
    StoredRow,
    WindowRow,
)

_TABLES: Final[Mapping[type[StoredRow], str]] = {
    ConsumerRow: "wats_consumers",
    IdentityRow: "wats_inbox",
    MessageRow: "wats_messages",
    StatusRow: "(SELECT 1 FROM wats_statuses UNION ALL SELECT 1 FROM wats_early_statuses)",
    DeliveryRow: "wats_deliveries",
    DeadLetterRow: "wats_dead_deliveries",
    RequestRow: "wats_requests",
    OutboxRow: "wats_outbox",
    WindowRow: "wats_windows",
}

# Rows of the other types have the columns of their tables.
_EXPORT: Final[Mapping[type[StoredRow], str]] = {
    ConsumerRow: "SELECT name, seen_at, is_paused FROM wats_consumers",
    IdentityRow: """
        SELECT coalesce(phone_number_id, ''), occurred_at, key, kind, received_at
        FROM wats_inbox ORDER BY id
    """,
    StatusRow: """
        SELECT phone_number_id, wa_message_id, s.status, participant, error_code, occurred_at
        FROM wats_statuses AS s CROSS JOIN wats_messages ON row_id = s.id >> 16
        UNION ALL
        SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at
        FROM wats_early_statuses
    """,
    DeliveryRow: """
        SELECT NULL, id, update_id, siblings, consumer, ordering_key,
            CASE WHEN lease IS NULL THEN due_at ELSE arrived_at END,
            lease IS NOT NULL AND is_final, attempts, error, arrived_at, payload
        FROM wats_deliveries ORDER BY id
    """,
    DeadLetterRow: """
        SELECT NULL, id, update_id, siblings, consumer, ordering_key, attempts, error, arrived_at,
            died_at, payload
        FROM wats_dead_deliveries
    """,
    WindowRow: """
        SELECT max(number), digest, max(at) FROM (
            SELECT NULL AS number, digest, last_inbound_at AS at FROM wats_windows
            UNION ALL
            SELECT phone_number_id, wats_digest(phone_number_id, from_phone), opened_at
            FROM wats_messages WHERE opened_at IS NOT NULL
        ) GROUP BY digest
    """,
}

# A head is exhausted if the lease of its last permitted attempt has expired. An ordering key that
# several numbers share has a head for each of them in PostgreSQL; here, the first stays the head.
_INSERT: Final[Mapping[type[StoredRow], str]] = {
    IdentityRow: """
        INSERT INTO wats_inbox (phone_number_id, occurred_at, key, kind, received_at)
        VALUES (nullif(?, ''), ?, ?, ?, ?)
    """,
    DeliveryRow: """
        INSERT INTO wats_deliveries (
            id, update_id, siblings, consumer, ordering_key, due_at, is_final, lease, attempts,
            error, arrived_at, payload
        )
        SELECT ?2, ?3, ?4, ?5, ?6, iif(is_head, ?7, NULL), is_head AND ?8,
            iif(is_head AND ?8, 1, NULL), ?9, ?10, ?11, ?12
        FROM (
            SELECT ?7 IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM wats_deliveries
                WHERE ordering_key = ?6 AND consumer = ?5 AND due_at IS NOT NULL
            ) AS is_head
        )
    """,
    DeadLetterRow: """
        INSERT INTO wats_dead_deliveries (
            id, update_id, siblings, consumer, ordering_key, attempts, error, arrived_at, died_at,
            payload
        )
        VALUES (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
    """,
    WindowRow: "INSERT INTO wats_windows (digest, last_inbound_at) VALUES (?2, ?3)",
}

_FINISH = """
UPDATE wats_deliveries SET followers = (
    SELECT count(*) FROM wats_deliveries AS follower
    WHERE follower.ordering_key = wats_deliveries.ordering_key
        AND follower.consumer = wats_deliveries.consumer AND follower.due_at IS NULL
) WHERE due_at IS NOT NULL;
UPDATE wats_consumers SET (pending, leased, retry) = (
    SELECT count(*) FILTER (WHERE lease IS NULL AND attempts = 0),
        count(*) FILTER (WHERE lease IS NOT NULL),
        count(*) FILTER (WHERE lease IS NULL AND attempts > 0)
    FROM wats_deliveries WHERE consumer = name
);
UPDATE wats_queue SET last_id = max(
    last_id, (SELECT coalesce(max(id), 0) FROM wats_deliveries),
    (SELECT coalesce(max(id), 0) FROM wats_dead_deliveries)
), now = max(now, (SELECT coalesce(max(arrived_at), 0) FROM wats_deliveries));
"""
"""The clock goes on from the last arrival: by a clock behind that of the source, none were due."""


def _export(row_type: type[StoredRow]) -> str:
    names = ", ".join(row_type.__struct_fields__)
    return _EXPORT.get(row_type) or f"SELECT {names} FROM {_TABLES[row_type]} ORDER BY rowid"


def _insertion(row_type: type[StoredRow]) -> str:
    names = row_type.__struct_fields__
    values = ", ".join("?" * len(names))
    table = f"{_TABLES[row_type]} ({', '.join(names)})"
    return _INSERT.get(row_type) or f"INSERT INTO {table} VALUES ({values})"


def _count(writer: Writer, row_type: type[StoredRow]) -> int:
    count: int = writer.execute(f"SELECT count(*) FROM {_TABLES[row_type]}").get
    return count


def _ignore() -> None:
    """Wake no process, since no other process has the file open."""


@contextmanager
def _exclusive(path: str) -> Iterator[Writer]:
    """Open the file exclusively, in a transaction that is rolled back at the end.

    Raises:
        CopyRefused: Another process has the file open.
    """
    clock = StoreClock()
    try:
        writer = Writer(path, clock, _ignore)
        try:
            # Each connection to a file with a write-ahead log holds a shared lock on the file.
            writer.execute("PRAGMA locking_mode = EXCLUSIVE")
            writer.execute("PRAGMA secure_delete = ON")
            writer.execute("BEGIN EXCLUSIVE")
            clock.start(writer)
            yield writer
        finally:
            writer.roll_back()
            writer.close()
    except apsw.BusyError as error:
        raise CopyRefused(IN_USE) from error
    except apsw.Error as error:
        raise StoreUnavailable(CANNOT_COPY, issue=issue_of(cause_of(error, path), path)) from error


def _prepare(path: str) -> None:
    """Create or migrate the tables."""
    try:
        writer = connect_writer(path, 0.5, lambda: 0, _ignore)
        try:
            migrate(writer, load_migrations("sqlite"))
        finally:
            writer.close()
    except apsw.BusyError as error:
        raise CopyRefused(IN_USE) from error
    except (apsw.Error, OSError) as error:
        raise explain(error, path) from error


async def export(path: str) -> Batches:
    """Yield all rows of the store in the file *path*, in bounded batches.

    Raises:
        CopyRefused: The file does not exist, or another process has it open.
    """
    if not os.path.isfile(path):  # noqa: ASYNC240, PTH113  # nothing else runs
        raise CopyRefused(MISSING)
    _prepare(path)
    with _exclusive(path) as connection:
        connection.create_scalar_function("wats_digest", _digest, 2)
        for row_type in TABLES:
            rows: Any = connection.execute(_export(row_type))
            while batch := list(islice(rows, BATCH_ROWS)):
                yield [_row_of(row_type, values) for values in batch]


def _digest(*number_and_customer: Any) -> int:
    return window_digest(*number_and_customer)


def _row_of(row_type: type[StoredRow], values: Sequence[Any]) -> StoredRow:
    flag = _FLAGS.get(row_type)
    if flag is not None:
        values = (*values[:flag], bool(values[flag]), *values[flag + 1 :])
    return row_type(*values)


_FLAGS: Final[Mapping[type[StoredRow], int]] = {ConsumerRow: 2, DeliveryRow: 7}
"""The positions of truth values, which SQLite returns as numbers."""


async def load(path: str, batches: Batches) -> Loaded:
    """Write all rows into the store in the file *path*, in one transaction; return the counts.

    Raises:
        CopyRefused: The store is not empty, or another process has the file open.
    """
    _prepare(path)
    with _exclusive(path) as writer:
        content = [row_type for row_type in TABLES if row_type is not ConsumerRow]
        if any(_count(writer, row_type) for row_type in content):
            raise CopyRefused(NOT_EMPTY)
        writer.execute("DELETE FROM wats_consumers")
        read = dict.fromkeys(TABLES, 0)
        async for batch in batches:
            read[type(batch[0])] += len(batch)
            _insert(writer, batch)
        writer.execute(_FINISH)
        stored = {row_type: _count(writer, row_type) for row_type in TABLES}
        loaded = Loaded(read, stored)
        loaded.check()
        writer.commit()
    return loaded


def _insert(writer: Writer, batch: Sequence[StoredRow]) -> None:
    row_type = type(batch[0])
    rows = [msgspec.structs.astuple(row) for row in batch]
    if row_type is MessageRow:
        messages.record(writer, [message_of(row) for row in rows])
    elif row_type is StatusRow:
        statuses.record(writer, [status_of(row) for row in rows])
    else:
        try:
            writer.executemany(_insertion(row_type), rows)
        except apsw.ConstraintError as error:
            raise CopyRefused(CONFLICT) from error
