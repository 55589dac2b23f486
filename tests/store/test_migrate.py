import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from apsw import Connection

from wats.errors import MigrationFailed, SchemaMismatch, StoreUnavailable
from wats.store.migrate import (
    AppliedMigration,
    Migration,
    load_migrations,
    missing_migrations,
)
from wats.store.sqlite import SQLiteStore
from wats.store.sqlite.connection import Writer, connect_writer, migrate, schema_version

FIRST = Migration(
    id="0001_first",
    version=1,
    sql="-- A comment; with a semicolon.\nCREATE TABLE a (b TEXT);\nCREATE TABLE c (d TEXT);\n",
)
SECOND = Migration(id="0002_second", version=2, sql="ALTER TABLE a ADD COLUMN e TEXT;")
BROKEN = Migration(id="0002_broken", version=2, sql="CREATE TABLE f (g TEXT);\nNONSENSE;")


def applied(migration: Migration) -> AppliedMigration:
    return AppliedMigration(
        id=migration.id,
        version=migration.version,
        checksum=migration.checksum,
        tolerates=migration.tolerates,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wats.db"


@pytest.fixture
def connection(path: Path) -> Iterator[Writer]:
    connection = connect_writer(str(path), 0.1, lambda: 0, lambda: None)
    yield connection
    connection.close()


def tables(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {name for (name,) in rows}


def test_the_package_has_migrations_in_ascending_order() -> None:
    migrations = load_migrations("sqlite")

    versions = [m.version for m in migrations]
    assert versions == sorted(set(versions))
    assert versions[0] == 1
    assert all(m.id.startswith(f"{m.version:04}_") for m in migrations)


def test_a_checksum_is_the_digest_of_the_sql() -> None:
    assert FIRST.checksum == hashlib.sha256(FIRST.sql.encode()).hexdigest()


def test_an_applied_migration_is_not_missing() -> None:
    ours = [FIRST, SECOND]

    assert list(missing_migrations(ours, [])) == ours
    assert list(missing_migrations(ours, [applied(FIRST)])) == [SECOND]
    assert list(missing_migrations(ours, [applied(FIRST), applied(SECOND)])) == []


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(replace(applied(SECOND), tolerates=2), id="newer-database"),
        pytest.param(AppliedMigration(id="0001_first", version=1, checksum="0"), id="edited"),
        pytest.param(
            AppliedMigration(id="0001_first", version=2, checksum=FIRST.checksum), id="renumbered"
        ),
    ],
)
def test_an_applied_migration_that_is_not_ours_is_a_mismatch(theirs: AppliedMigration) -> None:
    with pytest.raises(SchemaMismatch):
        missing_migrations([FIRST], [theirs])


def test_missing_migrations_are_applied_in_order_and_recorded(
    connection: Connection,
) -> None:
    migrate(connection, [FIRST])
    migrate(connection, [FIRST, SECOND])
    migrate(connection, [FIRST, SECOND])

    rows = connection.execute("SELECT id, version, checksum FROM wats_schema_migrations").fetchall()
    assert rows == [(m.id, m.version, m.checksum) for m in (FIRST, SECOND)]
    connection.execute("SELECT b, e, d FROM a, c")
    assert schema_version(connection, 2) == (2, 0)


def test_a_failed_migration_leaves_the_database_as_it_was_before_it(
    connection: Connection,
) -> None:
    with pytest.raises(MigrationFailed):
        migrate(connection, [FIRST, BROKEN])

    assert tables(connection) == {"wats_schema_migrations", "a", "c"}
    assert schema_version(connection, 1) == (1, 0)
    migrate(connection, [FIRST, SECOND])


def test_a_mismatch_leaves_the_database_as_it_was(connection: Connection) -> None:
    migrate(connection, [FIRST, SECOND])

    edited = replace(FIRST, sql=FIRST.sql + " ")
    with pytest.raises(SchemaMismatch):
        migrate(connection, [edited, SECOND])

    assert not connection.in_transaction
    assert schema_version(connection, 2) == (2, 0)


def migrate_further(path: Path, *, tolerates: int) -> None:
    with closing(Connection(str(path))) as connection:
        connection.execute(
            "INSERT INTO wats_schema_migrations VALUES ('9999_later', 9999, '', ?, 0)", (tolerates,)
        )


async def test_a_store_refuses_a_newer_database_and_can_be_closed(path: Path) -> None:
    await make_store(path)
    migrate_further(path, tolerates=9999)
    store = SQLiteStore(str(path))

    with pytest.raises(SchemaMismatch):
        await store.open()

    await store.close()


@pytest.mark.parametrize(("tolerates", "is_usable"), [(1, True), (9999, False)])
async def test_a_store_is_healthy_despite_a_newer_migration_that_tolerates_it(
    path: Path, tolerates: int, is_usable: bool
) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    migrate_further(path, tolerates=tolerates)

    health = await store.health()

    assert health.ok is is_usable
    assert health.schema_version == 9999
    await store.close()


async def test_a_store_opens_a_newer_database_that_tolerates_it(path: Path) -> None:
    await make_store(path)
    migrate_further(path, tolerates=1)
    store = SQLiteStore(str(path))

    await store.open()

    assert (await store.health()).ok
    await store.close()


def test_a_newer_migration_that_tolerates_us_is_no_mismatch() -> None:
    assert missing_migrations([FIRST], [applied(FIRST), applied(SECOND)]) == ()


async def make_store(path: Path) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await store.close()


OPEN = """
import asyncio, sys
from wats.store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1])
    sys.stdin.readline()
    await store.open()
    assert (await store.health()).ok
    await store.close()

asyncio.run(main())
"""


def test_several_processes_may_migrate_a_new_file_concurrently(path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(path)], stdin=subprocess.PIPE, text=True)
        for _ in range(4)
    ]

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=30)

    assert [process.returncode for process in processes] == [0] * 4


DIE_IN_A_MIGRATION = """
import os, sys
from wats.store.sqlite.connection import connect_writer

connection = connect_writer(sys.argv[1], 5, lambda: 0, lambda: None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE wats_inbox (half TEXT)")
os.kill(os.getpid(), 9)
"""


def test_a_crash_in_the_middle_of_a_migration_leaves_no_lock_and_no_half(path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_IN_A_MIGRATION, str(path)], check=False, timeout=30)

    asyncio.run(make_store(path))


async def test_a_store_waits_for_a_running_migration_up_to_a_limit(path: Path) -> None:
    await make_store(path)
    other = Connection(str(path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")
    impatient = SQLiteStore(str(path), busy_seconds=0.05)
    patient = SQLiteStore(str(path), busy_seconds=10)

    with pytest.raises(StoreUnavailable):
        await impatient.open()
    opening = asyncio.create_task(patient.open())
    await asyncio.sleep(0.1)
    assert not opening.done()
    other.execute("ROLLBACK")
    await opening

    await patient.close()
    other.close()


async def test_a_new_file_that_another_process_locks_is_waited_for(path: Path) -> None:
    other = Connection(str(path))
    other.set_busy_timeout(5000)
    other.execute("CREATE TABLE a (b)")
    other.execute("BEGIN IMMEDIATE")
    impatient = SQLiteStore(str(path), busy_seconds=0.05)
    patient = SQLiteStore(str(path), busy_seconds=10)

    with pytest.raises(StoreUnavailable):
        await impatient.open()
    opening = asyncio.create_task(patient.open())
    await asyncio.sleep(0.1)
    other.execute("ROLLBACK")
    await opening

    await patient.close()
    other.close()
