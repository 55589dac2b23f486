"""The rows of a store on their way to another store, in the form that both can read and write.

Times are milliseconds of the store's clock. Leases belong to processes and are left behind: a
delivery that was leased is due again, and its attempts are kept.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from wats.errors import CopyRefused

BATCH_ROWS: Final = 500
"""The most rows that are in memory at a time."""


class ConsumerRow(msgspec.Struct, frozen=True):
    """A consumer that the store knows."""

    name: str
    seen_at: int


class IdentityRow(msgspec.Struct, frozen=True):
    """The identity of an update without a message."""

    phone_number_id: str
    occurred_at: int
    key: bytes
    kind: str
    received_at: int


class MessageRow(msgspec.Struct, frozen=True):
    """A message; *row_id* is the order of recording."""

    row_id: int
    phone_number_id: str
    wa_message_id: str
    direction: str
    from_phone: str | None
    to_phone: str | None
    type: str
    status: str
    graph_message_id: str | None
    created_at: int
    updated_at: int


class StatusRow(msgspec.Struct, frozen=True):
    """A status; the statuses of a message are in order of arrival."""

    phone_number_id: str
    wa_message_id: str
    status: str
    participant: str
    error_code: int | None
    occurred_at: int


class DeliveryRow(msgspec.Struct, frozen=True):
    """An outstanding delivery.

    Attributes:
        phone_number_id: `None` if the store does not know it.
        due_at: When a head is due; `None` for a follower.
        is_exhausted: Whether the lease of the last permitted attempt was never settled.
    """

    phone_number_id: str | None
    id: int
    update_id: int
    siblings: int
    consumer: str
    ordering_key: int
    due_at: int | None
    is_exhausted: bool
    attempts: int
    error: str | None
    arrived_at: int
    payload: bytes


class DeadLetterRow(msgspec.Struct, frozen=True):
    """A dead letter; *phone_number_id* is `None` if the store does not know it."""

    phone_number_id: str | None
    id: int
    update_id: int
    siblings: int
    consumer: str
    ordering_key: int
    attempts: int
    error: str | None
    arrived_at: int
    died_at: int
    payload: bytes


class RequestRow(msgspec.Struct, frozen=True):
    """An idempotency key."""

    scope: str
    key_hash: bytes
    request_hash: bytes
    state: str
    reserved_until: int
    expires_at: int
    response: bytes | None


class WindowRow(msgspec.Struct, frozen=True):
    """A window; *phone_number_id* is `None` if the store does not know it."""

    phone_number_id: str | None
    digest: int
    last_inbound_at: int


StoredRow: TypeAlias = (
    ConsumerRow
    | IdentityRow
    | MessageRow
    | StatusRow
    | DeliveryRow
    | DeadLetterRow
    | RequestRow
    | WindowRow
)

TABLES: Final[dict[type[StoredRow], str]] = {
    ConsumerRow: "consumers",
    IdentityRow: "identities",
    MessageRow: "messages",
    StatusRow: "statuses",
    DeliveryRow: "deliveries",
    DeadLetterRow: "dead letters",
    RequestRow: "idempotency keys",
    WindowRow: "windows",
}
"""What is copied, in this order, and how it is named to people."""

Batches: TypeAlias = AsyncGenerator[Sequence[StoredRow], None]
"""Rows of one type each, in the order of `TABLES`."""

IN_USE: Final = "The database is in use: stop all services and programs that have it open."
NOT_EMPTY: Final = "The target is not empty: use an empty database."
MISSING: Final = "The source does not exist."
INCOMPLETE: Final = "The row counts of source and target differ, so nothing was copied."
"""Why a copy is refused."""


class Loaded(msgspec.Struct, frozen=True):
    """How many rows of each type a load read, and how many are in the target afterwards."""

    read: Mapping[type[StoredRow], int]
    stored: Mapping[type[StoredRow], int]

    def check(self) -> None:
        """Compare both; call before the commit.

        Raises:
            CopyRefused: They differ.
        """
        if any(self.read[row_type] != self.stored[row_type] for row_type in TABLES):
            raise CopyRefused(INCOMPLETE)
