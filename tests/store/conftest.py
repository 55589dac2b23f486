import itertools
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from wats.store.records import Arrival, Direction, MessageRecord

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def noon() -> datetime:
    return NOON


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
