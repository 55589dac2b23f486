import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.store.postgres.server import Server, ServerClock
from wats.store import Store
from wats.store.open import open_store
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Direction,
    MessageRecord,
    Reservation,
    Settlement,
)
from wats.store.sqlite import SQLiteStore
from wats.testing import FakeClock

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

CONSUMERS = [
    Consumer(name=name, lease_seconds=60.0, max_attempts=5)
    for name in ("handlers", "other", "a", "b")
]


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> FakeClock:
    """Return the clock of the store, which begins at noon."""
    if "kind" in request.fixturenames and request.getfixturevalue("kind") == "postgres":
        return ServerClock(request.getfixturevalue("server").folder, NOON)
    return FakeClock(NOON)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    server = Server()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a database with the tables of wats, of which copies are made fast."""
    return server.make_template()


@pytest.fixture
def postgres_url(server: Server, template: str, clock: FakeClock) -> Iterator[str]:
    """The URL of an empty database, which follows the clock of the test."""
    assert isinstance(clock, ServerClock)
    name = server.take_database(template, clock)
    yield server.url(name)
    server.give_back(name)


KINDS = "sqlite-file", "sqlite-memory", "sqlite-gathering", "postgres"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the store of the test."""
    return str(request.param)


@pytest.fixture
def closed_store(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: FakeClock,
) -> Store:
    if kind == "postgres":
        return open_store(request.getfixturevalue("postgres_url"))
    if kind == "sqlite-gathering":  # indexes messages so often that every test includes it
        return SQLiteStore(str(tmp_path / "wats.db"), now=clock, index_batch=1)
    urls = {
        "sqlite-file": f"sqlite:///{tmp_path}/wats.db",
        "sqlite-memory": "sqlite:///:memory:",
    }
    return open_store(urls[kind], now=clock)


@pytest.fixture
async def store(closed_store: Store) -> AsyncIterator[Store]:
    await closed_store.open()
    await closed_store.register(CONSUMERS)
    yield closed_store
    await closed_store.close()


@pytest.fixture
def claim(store: Store) -> Callable[..., Awaitable[Sequence[Delivery]]]:
    """Claim everything that is due, unless a limit is given."""

    async def claim(consumer: str = "handlers", *, limit: int = 100) -> Sequence[Delivery]:
        return (await store.claim(consumer, limit)).deliveries

    return claim


@pytest.fixture
def settle(store: Store) -> Callable[..., Awaitable[Sequence[int]]]:
    """Settle deliveries with one state; return the updates that are done."""

    async def settle(
        deliveries: Sequence[Delivery],
        state: DeliveryState = DeliveryState.DONE,
        *,
        retry_seconds: float = 0.0,
    ) -> Sequence[int]:
        settlements = [
            Settlement(delivery, state, retry_seconds, "ValueError") for delivery in deliveries
        ]
        return list((await store.settle(settlements)).done)

    return settle


@pytest.fixture
def reserve(store: Store) -> Callable[..., Awaitable[Reservation]]:
    """Reserve a key for a minute and keep it for a day."""

    async def reserve(
        *, scope: str = "send", key_hash: bytes = b"key", request_hash: bytes = b"body"
    ) -> Reservation:
        return await store.reserve_request(
            scope=scope,
            key_hash=key_hash,
            request_hash=request_hash,
            reserve_seconds=60.0,
            keep_seconds=24 * 3600.0,
        )

    return reserve


@pytest.fixture
def arrival() -> Callable[..., Arrival]:
    """Make arrivals with different keys and ordering keys, unless these are given."""
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
        return Arrival(**(values | changes))

    return make


@pytest.fixture
def message() -> Callable[..., MessageRecord]:
    """Make records of outbound messages, unless another direction is given."""

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
        return MessageRecord(**(values | changes))

    return make
