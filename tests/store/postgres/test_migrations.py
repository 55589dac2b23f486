"""Migrations of a PostgreSQL database, also by several concurrent processes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from tests.store.postgres.server import execute
from wats.errors import MigrationFailed, SchemaMismatch, StoreUnavailable
from wats.store.migrate import Migration, load_migrations
from wats.store.postgres import PostgresStore
from wats.store.postgres.migrations import migrate

FIRST = Migration(
    id="0001_first",
    version=1,
    sql="-- A comment; with a semicolon.\nCREATE TABLE a (b text);\nCREATE TABLE c (d text);\n",
)
SECOND = Migration(id="0002_second", version=2, sql="ALTER TABLE a ADD COLUMN e text;")
BROKEN = Migration(id="0002_broken", version=2, sql="CREATE TABLE f (g text); NONSENSE;")
LATER = "INSERT INTO wats_schema_migrations VALUES ('9999_later', 9999, '', {tolerates}, 0)"


async def apply(url: str, migrations: Sequence[Migration]) -> None:
    connection: Any = await asyncpg.connect(url)
    try:
        await migrate(connection, migrations)
    finally:
        await connection.close()


async def value(url: str, query: str) -> Any:
    connection: Any = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_the_package_has_migrations_in_ascending_order() -> None:
    migrations = load_migrations("postgres")

    versions = [each.version for each in migrations]
    assert versions == sorted(set(versions))
    assert versions[0] == 1


async def test_missing_migrations_are_applied_in_order_and_recorded(empty_database: str) -> None:
    await apply(empty_database, [FIRST])
    await apply(empty_database, [FIRST, SECOND])
    await apply(empty_database, [FIRST, SECOND])

    query = "SELECT array_agg(checksum ORDER BY version) FROM wats_schema_migrations"
    assert await value(empty_database, query) == [FIRST.checksum, SECOND.checksum]
    await execute(empty_database, "SELECT b, e, d FROM a, c")


async def test_a_failed_migration_leaves_the_database_as_it_was_before_it(
    empty_database: str,
) -> None:
    with pytest.raises(MigrationFailed):
        await apply(empty_database, [FIRST, BROKEN])

    assert await value(empty_database, "SELECT to_regclass('f')") is None
    assert await value(empty_database, "SELECT max(version) FROM wats_schema_migrations") == 1
    await apply(empty_database, [FIRST, SECOND])


async def test_a_database_with_another_migration_is_refused(empty_database: str) -> None:
    await apply(empty_database, [FIRST, SECOND])

    with pytest.raises(SchemaMismatch):
        await apply(empty_database, [FIRST, BROKEN])


async def test_several_stores_may_migrate_a_new_database_concurrently(empty_database: str) -> None:
    stores = [PostgresStore(empty_database) for _ in range(4)]

    await asyncio.gather(*(store.open() for store in stores))

    assert all([(await store.health()).ok for store in stores])
    await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize(("tolerates", "ok"), [(1, True), (9999, False)])
async def test_a_later_schema_is_used_if_it_tolerates_this_version(
    database: str, tolerates: int, ok: bool
) -> None:
    running, started = PostgresStore(database), PostgresStore(database)
    await running.open()

    await execute(database, LATER.format(tolerates=tolerates))

    health = await running.health()
    assert (health.ok, health.schema_version) == (ok, 9999)
    if ok:
        await started.open()
    else:
        with pytest.raises(SchemaMismatch):
            await started.open()
    await started.close()
    await running.close()


async def test_a_server_that_is_not_there_is_unavailable_at_the_start() -> None:
    store = PostgresStore("postgresql://wats:hunter2@127.0.0.1:1/wats")

    with pytest.raises(StoreUnavailable) as caught:
        await store.open()

    assert "hunter2" not in str(caught.value)
    await store.close()


async def test_a_role_without_the_right_to_create_tables_can_use_them(
    database: str, url_of: Callable[[str], str]
) -> None:
    await execute(
        database,
        "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN; "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest; "
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO guest",
    )
    store = PostgresStore(database.replace("postgres@", "guest@", 1))

    await store.open()

    assert (await store.health()).ok
    await store.close()
    await execute(database, "DROP OWNED BY guest; DROP ROLE guest")


WIDENED = Migration(
    id="0002_widened",
    version=2,
    sql="ALTER TABLE c ADD COLUMN e text; ALTER TABLE a ADD COLUMN e text;",
)


async def test_a_migration_that_waits_for_a_transaction_delays_others_only_briefly(
    empty_database: str,
) -> None:
    await apply(empty_database, [FIRST])
    slow, other = await asyncpg.connect(empty_database), await asyncpg.connect(empty_database)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("INSERT INTO a VALUES ('x')")
    await other.execute("SET lock_timeout = '3s'")

    migrating = asyncio.create_task(apply(empty_database, [FIRST, WIDENED]))
    for _ in range(20):
        await other.execute("INSERT INTO a VALUES ('y')")
        await asyncio.sleep(0.1)
    assert not migrating.done()
    await transaction.commit()
    await migrating

    await other.execute("SELECT e FROM a")
    await slow.close()
    await other.close()


async def test_a_migration_that_loses_a_deadlock_is_repeated(empty_database: str) -> None:
    await apply(empty_database, [FIRST])
    writer = await asyncpg.connect(empty_database)
    await writer.execute("SET deadlock_timeout = '1min'")  # so that it is not the one that loses
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("INSERT INTO a VALUES ('x')")

    migrating = asyncio.create_task(apply(empty_database, [FIRST, WIDENED]))
    held = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while not await writer.fetchval(held):
        await asyncio.sleep(0.01)
    await writer.execute("INSERT INTO c VALUES ('y')")
    await transaction.commit()
    await migrating

    await writer.execute("SELECT e FROM a")
    await writer.close()
