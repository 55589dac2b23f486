"""The rows of a copy from one store to another, in a form common to both stores.

Times are milliseconds of the store's clock. Leases belong to processes and are not copied: a leased
delivery is due again, with its attempts.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from wats.errors import CopyRefused

CANNOT_COPY: Final = "The database cannot be copied."

BATCH_ROWS: Final = 500
"""The maximum number of rows in memory."""


class ConsumerRow(msgspec.Struct, frozen=True):
    """A registered consumer."""

    name: str
    seen_at: int
    is_paused: bool


class IdentityRow(msgspec.Struct, frozen=True):
    """The identity of an update without a message."""

    phone_number_id: str
    occurred_at: int
    key: bytes
    kind: str
    received_at: int


class MessageRow(msgspec.Struct, frozen=True):
    """A message; *row_id* increases in the order of recording."""

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
        phone_number_id: `None` if the store does not record it.
        due_at: The due time of a head; `None` for a follower.
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
    """A dead letter; *phone_number_id* is `None` if the store does not record it."""

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
    outbox_id: int | None = None


class OutboxRow(msgspec.Struct, frozen=True):
    """The key of an item of the outbox; its content is in a delivery."""

    phone_number_id: str
    id: int
    nonce: int
    scope: str
    key_hash: bytes
    request_hash: bytes
    keep_ms: int
    expires_at: int


class WindowRow(msgspec.Struct, frozen=True):
    """A window; *phone_number_id* is `None` if the store does not record it."""

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
    | OutboxRow
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
    OutboxRow: "outbox items",
    WindowRow: "windows",
}
"""The copied types in the order of copying, with their names in the output."""

Batches: TypeAlias = AsyncGenerator[Sequence[StoredRow], None]
"""Batches of rows. A batch has rows of one type, and types are in the order of `TABLES`."""

IN_USE: Final = "The database is in use: stop all services and programs that have it open."
NOT_EMPTY: Final = "The target is not empty: use an empty database."
MISSING: Final = "The source does not exist."
INCOMPLETE: Final = "The row counts of source and target differ, so nothing was copied."
CONFLICT: Final = "The target cannot hold a row of the source, so nothing was copied."
"""The reason for refusing a copy."""


class Loaded(msgspec.Struct, frozen=True):
    """The number of rows of each type that were read, and that are in the target afterwards."""

    read: Mapping[type[StoredRow], int]
    stored: Mapping[type[StoredRow], int]

    def check(self) -> None:
        """Compare the counts. Call it before the commit.

        Raises:
            CopyRefused: The counts differ.
        """
        if any(self.read[row_type] != self.stored[row_type] for row_type in TABLES):
            raise CopyRefused(INCOMPLETE)
