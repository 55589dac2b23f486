"""Checks of a PostgreSQL database that change nothing."""

import pytest

from tests.store.postgres.server import execute
from wats.errors import SchemaMismatch, StoreUnavailable
from wats.store.postgres.probe import probe


async def test_an_empty_database_and_one_of_ours_can_be_used(
    empty_database: str, database: str
) -> None:
    await probe(empty_database, None)
    await probe(database, None)


async def test_the_schema_of_another_version_is_recognized(database: str) -> None:
    await execute(database, "UPDATE wats_schema_migrations SET checksum = ''")

    with pytest.raises(SchemaMismatch):
        await probe(database, None)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await probe("postgresql://user@127.0.0.1:9/name", None)
