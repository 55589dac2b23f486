import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.store.postgres.server import NUMBERS, Server, execute
from wats.store import Store
from wats.store.postgres import PostgresStore
from wats.store.records import Arrival, Consumer, Direction, MessageRecord

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def url_of(server: Server) -> Callable[[str], str]:
    """The URL of a database by its name."""
    return server.url


@pytest.fixture
async def empty_database(url_of: Callable[[str], str]) -> AsyncIterator[str]:
    """The URL of a new database without tables."""
    name = f"empty_{next(NUMBERS)}"
    await execute(url_of("postgres"), f"CREATE DATABASE {name}")
    yield url_of(name)
    await execute(url_of("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(url_of: Callable[[str], str], template: str) -> AsyncIterator[str]:
    """The URL of a new database with the tables of wats."""
    name = f"test_{next(NUMBERS)}"
    create = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    await execute(url_of("postgres"), create)
    yield url_of(name)
    await execute(url_of("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def role(url_of: Callable[[str], str]) -> AsyncIterator[str]:
    """A role that owns nothing."""
    name = f"canary_{next(NUMBERS)}"
    await execute(url_of("postgres"), f"CREATE ROLE {name} LOGIN")
    yield name
    await execute(url_of("postgres"), f"DROP OWNED BY {name}; DROP ROLE {name}")


MakeStore = Callable[..., Awaitable[Store]]


@pytest.fixture
async def open_replica(database: str) -> AsyncIterator[MakeStore]:
    """Open another store on the database of the test, with a consumer."""
    async with AsyncExitStack() as stores:

        async def open_replica(*consumers: Consumer) -> Store:
            store = PostgresStore(database)
            await store.open()
            stores.push_async_callback(store.close)
            await store.register(consumers or [Consumer(name="handlers", lease_seconds=60.0)])
            return store

        yield open_replica


@pytest.fixture
async def store(open_replica: MakeStore) -> Store:
    return await open_replica()


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Any]:
    """A connection to the database of the test, in addition to those of the store."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def pass_time(sql: Any) -> Callable[[float], Awaitable[None]]:
    """Let the clock of the store go on by some seconds."""

    async def pass_time(seconds: float) -> None:
        await sql.execute("UPDATE wats_clock SET shift = shift + $1", round(seconds * 1000))

    return pass_time


@pytest.fixture
def arrival() -> Callable[..., Arrival]:
    """Make arrivals that differ in their keys, unless a test gives them."""
    numbers = itertools.count(1)

    def make(**changes: object) -> Arrival:
        number = next(numbers)
        values: dict[str, object] = {
            "key": number.to_bytes(16, "big"),
            "occurred_at": NOON,
            "received_at": NOON,
            "kind": "message",
            "phone_number_id": "1",
            "ordering_key": number,
            "payload": b"update %d" % number,
            "consumers": ("handlers",),
        }
        return Arrival(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def message() -> Callable[..., MessageRecord]:
    """Make records of outbound messages, unless a test gives them."""

    def make(wa_message_id: str = "wamid.1", **changes: object) -> MessageRecord:
        values: dict[str, object] = {
            "phone_number_id": "1",
            "wa_message_id": wa_message_id,
            "direction": Direction.OUTBOUND,
            "to_phone": "2",
            "type": "text",
            "status": "accepted",
            "created_at": NOON,
            "updated_at": NOON,
        }
        return MessageRecord(**(values | changes))  # type: ignore[arg-type]

    return make
