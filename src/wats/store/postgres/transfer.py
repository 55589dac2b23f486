"""Read and write complete PostgreSQL stores, while no service uses the database."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec

from wats.errors import CopyRefused
from wats.store.migrate import load_migrations
from wats.store.postgres.connection import Connection, Connector, Limits, close, translated
from wats.store.postgres.control import USE_ALONE
from wats.store.postgres.migrations import migrate
from wats.store.postgres.open_faults import explained
from wats.store.postgres.rows import add_numbers, clean
from wats.store.transfer import (
    BATCH_ROWS,
    CONFLICT,
    IN_USE,
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

_UNBOUNDED: Final = """
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET enable_seqscan = on;
SET enable_hashjoin = on;
"""

_EXPORT: Final[Mapping[type[StoredRow], str]] = {
    ConsumerRow: "SELECT name, seen_at, is_paused FROM wats_consumers ORDER BY name",
    IdentityRow: "SELECT phone_number_id, occurred_at, key, kind, received_at FROM wats_inbox",
    MessageRow: """
        SELECT row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type,
            status, graph_message_id, created_at, updated_at
        FROM wats_messages ORDER BY row_id
    """,
    StatusRow: """
        SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at
        FROM wats_statuses ORDER BY id
    """,
    DeliveryRow: """
        SELECT phone_number_id, id, update_id, siblings, consumer, ordering_key,
            CASE WHEN lease IS NULL THEN due_at ELSE arrived_at END, is_final, attempts, error,
            arrived_at, payload
        FROM wats_deliveries ORDER BY id
    """,
    DeadLetterRow: """
        SELECT phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts, error,
            arrived_at, died_at, payload
        FROM wats_dead_deliveries ORDER BY id
    """,
    RequestRow: """
        SELECT scope, key_hash, request_hash, state, reserved_until, expires_at, response,
            outbox_id
        FROM wats_requests
    """,
    OutboxRow: """
        SELECT phone_number_id, id, nonce, scope, key_hash, request_hash, keep_ms, expires_at
        FROM wats_outbox ORDER BY id
    """,
    WindowRow: """
        SELECT max(phone_number_id), digest, max(last_inbound_at) FROM wats_windows GROUP BY digest
    """,
}

_INSERT: Final[Mapping[type[StoredRow], str]] = {
    ConsumerRow: """
        INSERT INTO wats_consumers (name, seen_at, is_paused)
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::bool[])
    """,
    IdentityRow: """
        INSERT INTO wats_inbox (phone_number_id, occurred_at, key, kind, received_at)
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[], $5::bigint[])
    """,
    MessageRow: """
        INSERT INTO wats_messages (
            row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
            graph_message_id, created_at, updated_at
        ) OVERRIDING SYSTEM VALUE
        SELECT * FROM unnest(
            $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::text[], $10::bigint[], $11::bigint[]
        )
    """,
    StatusRow: """
        INSERT INTO wats_statuses (
            phone_number_id, wa_message_id, status, participant, error_code, occurred_at
        )
        SELECT * FROM unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]
        )
    """,
    DeliveryRow: """
        INSERT INTO wats_deliveries (
            phone_number_id, id, update_id, siblings, consumer, ordering_key, due_at, is_final,
            attempts, error, arrived_at, payload, followers, last_id
        )
        SELECT new.*, CASE WHEN due_at IS NOT NULL THEN 0 END, id FROM unnest(
            $1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::bigint[],
            $7::bigint[], $8::bool[], $9::int[], $10::text[], $11::bigint[], $12::bytea[]
        ) AS new (
            phone_number_id, id, update_id, siblings, consumer, ordering_key, due_at, is_final,
            attempts, error, arrived_at, payload
        )
    """,
    DeadLetterRow: """
        INSERT INTO wats_dead_deliveries (
            phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts, error,
            arrived_at, died_at, payload
        )
        SELECT * FROM unnest(
            $1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::bigint[],
            $7::int[], $8::text[], $9::bigint[], $10::bigint[], $11::bytea[]
        )
    """,
    RequestRow: """
        INSERT INTO wats_requests (
            scope, key_hash, request_hash, state, reserved_until, expires_at, response, outbox_id
        )
        SELECT * FROM unnest(
            $1::text[], $2::bytea[], $3::bytea[], $4::text[], $5::bigint[], $6::bigint[],
            $7::bytea[], $8::bigint[]
        )
    """,
    OutboxRow: """
        INSERT INTO wats_outbox (
            phone_number_id, id, nonce, scope, key_hash, request_hash, keep_ms, expires_at
        )
        SELECT * FROM unnest(
            $1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[],
            $7::bigint[], $8::bigint[]
        )
    """,
    # The digest includes the number, so extra rows of a window under other numbers are never found.
    WindowRow: """
        INSERT INTO wats_windows (phone_number_id, digest, last_inbound_at)
        SELECT coalesce(new.number, wats_numbers.phone_number_id), digest, last_inbound_at
        FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS new (number, digest, last_inbound_at)
        JOIN wats_numbers ON coalesce(new.number = wats_numbers.phone_number_id, true)
    """,
}

_FINISH: Final = """
UPDATE wats_deliveries AS delivery SET due_at = arrived_at, followers = 0
FROM (
    SELECT phone_number_id, consumer, min(id) AS id
    FROM wats_deliveries GROUP BY 1, 2, ordering_key HAVING count(followers) = 0
) AS first
WHERE delivery.phone_number_id = first.phone_number_id AND delivery.consumer = first.consumer
    AND delivery.id = first.id;
UPDATE wats_deliveries AS head SET followers = queue.followers, last_id = queue.last_id
FROM (
    SELECT phone_number_id, consumer, ordering_key, count(*) - 1 AS followers, max(id) AS last_id
    FROM wats_deliveries GROUP BY 1, 2, 3 HAVING count(*) > 1
) AS queue
WHERE head.phone_number_id = queue.phone_number_id AND head.consumer = queue.consumer
    AND head.ordering_key = queue.ordering_key AND head.followers IS NOT NULL;
INSERT INTO wats_depths (phone_number_id, consumer, slot, pending, leased, retry, dead)
SELECT phone_number_id, consumer, 0, sum(pending), 0, sum(retry), sum(dead) FROM (
    SELECT phone_number_id, consumer, (attempts = 0)::int AS pending, (attempts > 0)::int AS retry,
        0 AS dead
    FROM wats_deliveries
    UNION ALL
    SELECT phone_number_id, consumer, 0, 0, 1 FROM wats_dead_deliveries
) AS delivery GROUP BY 1, 2;
SELECT setval('wats_update_ids', greatest(
    (SELECT last_value FROM wats_update_ids), (SELECT coalesce(max(id), 0) FROM wats_deliveries),
    (SELECT coalesce(max(id), 0) FROM wats_dead_deliveries)
));
SELECT setval(pg_get_serial_sequence('wats_messages', 'row_id'), max(row_id)) FROM wats_messages;
UPDATE wats_clock SET latest = greatest(latest, (SELECT max(arrived_at) FROM wats_deliveries));
"""
"""The clock goes on from the last arrival: by a clock behind that of the source, none were due.

An ordering key that several numbers share has one head in SQLite; here, each number gets a head.
"""

_COUNTS: Final[Mapping[type[StoredRow], str]] = {
    ConsumerRow: "SELECT count(*) FROM wats_consumers",
    IdentityRow: "SELECT count(*) FROM wats_inbox",
    MessageRow: "SELECT count(*) FROM wats_messages",
    StatusRow: "SELECT count(*) FROM wats_statuses",
    DeliveryRow: "SELECT count(*) FROM wats_deliveries",
    DeadLetterRow: "SELECT count(*) FROM wats_dead_deliveries",
    RequestRow: "SELECT count(*) FROM wats_requests",
    OutboxRow: "SELECT count(*) FROM wats_outbox",
    WindowRow: "SELECT count(DISTINCT digest) FROM wats_windows",
}


@asynccontextmanager
async def _alone(url: str, password: str | None) -> AsyncIterator[Connection]:
    """Connect, migrate, and exclude services while the connection is open.

    Raises:
        CopyRefused: A service uses the database.
        StoreError: The database cannot be opened.
    """
    connection = None
    try:
        with explained(url):
            connection = await Connector(url, password, Limits()).connect()
            with translated():
                await _prepare(connection)
        with translated():
            yield connection
    finally:
        if connection is not None:
            await close(connection)


async def _prepare(connection: Connection) -> None:
    await migrate(connection, load_migrations("postgres"))
    await connection.execute(_UNBOUNDED)
    if not await connection.fetchval(USE_ALONE):
        raise CopyRefused(IN_USE)


async def export(url: str, password: str | None) -> Batches:
    """Yield all rows of the store at *url*, in bounded batches.

    Raises:
        CopyRefused: A service uses the database.
    """
    async with _alone(url, password) as connection, connection.transaction():
        for row_type in TABLES:
            rows = await connection.cursor(_EXPORT[row_type])
            while batch := await rows.fetch(BATCH_ROWS):
                yield [row_type(*values) for values in batch]


async def load(url: str, password: str | None, batches: Batches) -> Loaded:
    """Write all rows into the store at *url*, in one transaction.

    Raises:
        CopyRefused: The store is not empty, or a service uses the database.
    """
    async with _alone(url, password) as connection, connection.transaction():
        content = [row_type for row_type in TABLES if row_type is not ConsumerRow]
        for row_type in content:
            if await connection.fetchval(_COUNTS[row_type]):
                raise CopyRefused(NOT_EMPTY)
        await connection.execute("DELETE FROM wats_consumers; DELETE FROM wats_depths")
        read = dict.fromkeys(TABLES, 0)
        async for batch in batches:
            read[type(batch[0])] += len(batch)
            await _insert(connection, batch)
        await connection.execute(_FINISH)
        stored = {kind: await connection.fetchval(_COUNTS[kind]) for kind in TABLES}
        loaded = Loaded(read, stored)
        loaded.check()
    return loaded


async def _insert(connection: Connection, batch: Sequence[StoredRow]) -> None:
    rows = [tuple(map(_cleaned, msgspec.structs.astuple(row))) for row in batch]
    numbers = {clean(getattr(row, "phone_number_id", None) or "") for row in batch}
    await add_numbers(connection, numbers)
    try:
        await connection.execute(_INSERT[type(batch[0])], *zip(*rows, strict=True))
    except asyncpg.IntegrityConstraintViolationError as error:
        raise CopyRefused(CONFLICT) from error


def _cleaned(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value
