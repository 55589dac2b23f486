"""Apply migrations to a PostgreSQL database."""

import asyncio
import random
from collections.abc import Sequence
from time import monotonic
from typing import Final

import asyncpg

from wats.clock import to_ms, utc_now
from wats.errors import MigrationFailed
from wats.faults import Fault
from wats.store.migrate import AppliedMigration, Migration, missing_migrations
from wats.store.postgres.connection import Connection
from wats.store.postgres.open_faults import cannot_open

MIGRATION_SECONDS: Final = 600
"""How long a migration may take, and how long another process waits for it."""

BLOCKED_SECONDS: Final = 0.5
"""How long a migration waits for a table that is in use. Others must wait behind it meanwhile."""

_BLOCKED = asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('wats migration'), hashtext(current_schema()))"

_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS wats_schema_migrations (
    id text PRIMARY KEY,
    version integer NOT NULL,
    checksum text NOT NULL,           -- SHA-256 of the file
    tolerates integer NOT NULL,       -- the oldest schema version that can be used with it
    applied_at bigint NOT NULL        -- milliseconds since 1970, UTC
)
"""

_HAS_MIGRATIONS = "SELECT to_regclass('wats_schema_migrations') IS NOT NULL"

_ENCODING = "SELECT current_setting('server_encoding')"

_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})
"""The encodings in which all texts of webhooks can be stored."""

_APPLIED = "SELECT id, version, checksum, tolerates FROM wats_schema_migrations ORDER BY version"

_RECORD = """
INSERT INTO wats_schema_migrations (id, version, checksum, tolerates, applied_at)
VALUES ($1, $2, $3, $4, $5)
"""

SCHEMA_VERSION = """
SELECT array[
    coalesce(max(version), 0), coalesce(max(tolerates) FILTER (WHERE version > $1), 0)
]
FROM wats_schema_migrations
"""
"""The schema version, and the highest `tolerates` of migrations after a given version."""


async def migrate(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Apply the missing *migrations*, each in a transaction of its own.

    A lock of the transaction keeps other migrations out; it is gone when this process is. Services
    of earlier versions use the tables meanwhile: a migration that would have to wait for them is
    rolled back and repeated, so that they do not wait for it either.

    Raises:
        MigrationFailed: A migration failed and was rolled back; earlier ones stay applied.
        SchemaMismatch: The applied migrations differ from *migrations*.
        StoreUnavailable: The database is new, and cannot store all texts.
    """
    if await _is_complete(connection, migrations):  # then the user needs no right to create tables
        return
    await connection.execute(f"SET statement_timeout = '{MIGRATION_SECONDS}s'")
    await connection.execute(f"SET lock_timeout = '{MIGRATION_SECONDS}s'")
    give_up_at = monotonic() + MIGRATION_SECONDS
    is_missing = True
    while is_missing:
        try:
            is_missing = await _apply_next(connection, migrations)
        except _BLOCKED:
            if monotonic() > give_up_at:
                raise
            await asyncio.sleep(random.uniform(1.0, 3.0) * BLOCKED_SECONDS)  # noqa: S311  # jitter


async def verify(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Check that the applied migrations are *migrations*, or some of the first. Change nothing.

    Raises:
        SchemaMismatch: They differ.
        StoreUnavailable: The database is new, and cannot store all texts.
    """
    if await _has_tables(connection):
        missing_migrations(migrations, await _applied(connection))


async def _is_complete(connection: Connection, migrations: Sequence[Migration]) -> bool:
    if not await _has_tables(connection):
        return False
    return not missing_migrations(migrations, await _applied(connection))


async def _has_tables(connection: Connection) -> bool:
    if await connection.fetchval(_HAS_MIGRATIONS):
        return True
    if await connection.fetchval(_ENCODING) not in _ENCODINGS:
        raise cannot_open(Fault.WRONG_ENCODING)
    return False


async def _apply_next(connection: Connection, migrations: Sequence[Migration]) -> bool:
    async with connection.transaction():
        await connection.execute(_LOCK)
        await connection.execute(_CREATE_MIGRATIONS)
        missing = missing_migrations(migrations, await _applied(connection))
        if missing:
            await _apply(connection, missing[0])
    return len(missing) > 1


async def _applied(connection: Connection) -> Sequence[AppliedMigration]:
    return [
        AppliedMigration(
            id=row["id"],
            version=row["version"],
            checksum=row["checksum"],
            tolerates=row["tolerates"],
        )
        for row in await connection.fetch(_APPLIED)
    ]


async def _apply(connection: Connection, migration: Migration) -> None:
    await connection.execute(f"SET LOCAL lock_timeout = {round(BLOCKED_SECONDS * 1000)}")
    try:
        await connection.execute(migration.sql)
    except (asyncpg.PostgresConnectionError, *_BLOCKED):
        raise
    except asyncpg.PostgresError as error:
        raise MigrationFailed from error
    await connection.execute(
        _RECORD,
        migration.id,
        migration.version,
        migration.checksum,
        migration.tolerates,
        to_ms(utc_now()),
    )
