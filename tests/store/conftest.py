import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wats.store import Store
from wats.store.open import open_store
from wats.store.records import (
    Arrival,
    Delivery,
    DeliveryState,
    Direction,
    MessageRecord,
    Reservation,
    Settlement,
)
from wats.store.sqlite import message_index

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite-file", "sqlite-memory", "sqlite-gathering"])
def closed_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    urls = {
        "sqlite-file": f"sqlite:///{tmp_path}/wats.db",
        "sqlite-memory": "sqlite:///:memory:",
        "sqlite-gathering": f"sqlite:///{tmp_path}/wats.db",
    }
    if request.param == "sqlite-gathering":  # so often that every test comes across it
        monkeypatch.setattr(message_index, "INDEX_BATCH", 1)
    return open_store(urls[request.param])


@pytest.fixture
async def store(closed_store: Store) -> AsyncIterator[Store]:
    await closed_store.open()
    yield closed_store
    await closed_store.close()


@pytest.fixture
def claim(store: Store) -> Callable[..., Awaitable[Sequence[Delivery]]]:
    """Claim for a minute, at noon unless told otherwise."""

    async def claim(
        *, now: datetime = NOON, limit: int = 100, targets: Sequence[str] = ("handlers",)
    ) -> Sequence[Delivery]:
        return await store.claim_deliveries(
            targets=targets, limit=limit, lease_seconds=60.0, now=now
        )

    return claim


@pytest.fixture
def settle(store: Store) -> Callable[..., Awaitable[Sequence[int]]]:
    """Let all of some deliveries end in the same way."""

    async def settle(
        deliveries: Sequence[Delivery],
        state: DeliveryState = DeliveryState.DONE,
        *,
        now: datetime = NOON,
        due_at: datetime | None = None,
    ) -> Sequence[int]:
        settlements = [
            Settlement(
                delivery=delivery,
                state=state,
                due_at=due_at,
                error="ValueError",
            )
            for delivery in deliveries
        ]
        return list((await store.settle_deliveries(settlements, now=now)).done)

    return settle


@pytest.fixture
def reserve(store: Store) -> Callable[..., Awaitable[Reservation]]:
    """Reserve a key for a minute and keep it for a day, at noon unless told otherwise."""

    async def reserve(
        *,
        scope: str = "send",
        key_hash: bytes = b"key",
        request_hash: bytes = b"body",
        now: datetime = NOON,
    ) -> Reservation:
        return await store.reserve_request(
            scope=scope,
            key_hash=key_hash,
            request_hash=request_hash,
            now=now,
            reserved_until=now + timedelta(minutes=1),
            expires_at=now + timedelta(hours=24),
        )

    return reserve


@pytest.fixture
def arrival() -> Callable[..., Arrival]:
    """Make arrivals that differ in their keys, unless told otherwise."""
    numbers = itertools.count(1)

    def make(**changes: object) -> Arrival:
        number = next(numbers)
        values: dict[str, object] = {
            "key": number.to_bytes(16, "big"),
            "occurred_at": NOON,
            "received_at": NOON,
            "kind": "message",
            "phone_number_id": "1",
            "lane": number,
            "payload": b"update %d" % number,
            "targets": ("handlers",),
        }
        return Arrival(**(values | changes))

    return make


@pytest.fixture
def message() -> Callable[..., MessageRecord]:
    """Make records of outbound messages, unless told otherwise."""

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
