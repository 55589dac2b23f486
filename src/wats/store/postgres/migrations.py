"""Apply migrations to a PostgreSQL database."""

from collections.abc import Sequence

import asyncpg

from wats.clock import to_ms, utc_now
from wats.errors import MigrationFailed
from wats.store.migrate import AppliedMigration, Migration, missing_migrations
from wats.store.postgres.connection import Connection

MIGRATION_SECONDS = 600
"""The time limit of a migration, and of other processes waiting for its end."""

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

    A lock of the transaction excludes other processes, and is released if this process dies.

    Raises:
        MigrationFailed: A migration failed and was rolled back; earlier ones stay applied.
        SchemaMismatch: The applied migrations differ from *migrations*.
    """
    if await _is_complete(connection, migrations):  # then the user needs no right to create tables
        return
    await connection.execute(f"SET statement_timeout = '{MIGRATION_SECONDS}s'")
    await connection.execute(f"SET lock_timeout = '{MIGRATION_SECONDS}s'")
    while await _apply_next(connection, migrations):
        pass


async def _is_complete(connection: Connection, migrations: Sequence[Migration]) -> bool:
    if not await connection.fetchval(_HAS_MIGRATIONS):
        return False
    return not missing_migrations(migrations, await _applied(connection))


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
    try:
        await connection.execute(migration.sql)
    except asyncpg.PostgresConnectionError:
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
