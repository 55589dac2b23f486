"""What the store keeps, as values. No I/O, and no knowledge of any message type.

Times are aware UTC datetimes with millisecond precision. Structs, not dataclasses: a frozen
dataclass with slots costs ten times as much to make, and the inbound path makes three per update.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec


class Direction(StrEnum):
    """Which way a message went."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The projection of one message: who, when, which kind and how far it came; never its content.

    What is kept about people: `from_phone` or `to_phone` (the customer's wa_id, or their
    business-scoped user id) and `wa_message_id`, which encodes a phone number.
    """

    phone_number_id: str
    wa_message_id: str
    direction: Direction
    from_phone: str | None = None
    to_phone: str | None = None
    type: str
    status: str
    graph_message_id: str | None = None
    created_at: datetime
    updated_at: datetime
    row_id: str = ""
    """Given by the store; opaque, and a cursor for `list_messages`."""


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of an outbound message, as Meta reported it. *occurred_at* is Meta's time."""

    phone_number_id: str
    wa_message_id: str
    status: str
    participant: str = ""
    """For a group message, the member whose status this is; empty otherwise."""
    error_code: int | None = None
    occurred_at: datetime


class WindowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's message opened their service window with one business number.

    A store need not keep who the customer is, only what finds the window when they are named.
    """

    phone_number_id: str
    customer: str
    last_inbound_at: datetime


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One update on its way into the inbox.

    Attributes:
        key: 16 bytes, the same for every delivery of this update and for no other update.
        occurred_at: Meta's time of the update. Part of its identity: redeliveries repeat it.
        kind: The update's kind, for the operator.
        lane: A number that all updates of one conversation share; their order is kept.
        payload: The encoded update; opaque here. Erased when every target is done with it.
        targets: The names of those who must handle it; empty if nobody does.
        lease_seconds: For how long the caller wants to have its deliveries at once; 0 leaves them
            to a claim.
        wants_sent_at: Whether the caller wants to know when the message was sent, if the update is
            the status that it was delivered.
        message: The message to project, if the update is one.
        status: The transition to project, if the update is one.
        window: The window that the update opens, if it does.
    """

    key: bytes
    occurred_at: datetime
    received_at: datetime
    kind: str
    phone_number_id: str | None
    lane: int
    payload: bytes
    targets: tuple[str, ...] = ()
    lease_seconds: float = 0.0
    wants_sent_at: bool = False
    message: MessageRecord | None = None
    status: StatusRecord | None = None
    window: WindowRecord | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One update leased to us for one target."""

    update_id: int
    target: str
    lane: int
    attempt: int
    """1 for the first time that the target sees it. A crash counts as an attempt."""
    lease_id: int
    payload: bytes


class Kept(msgspec.Struct, frozen=True):
    """What became of an update that is new.

    Attributes:
        leased: Its deliveries that are leased to who brought it.
        sent_at: When the message was recorded as sent, if that is wanted and this is the status
            that one of ours was delivered.
    """

    leased: Sequence[Delivery] = ()
    sent_at: datetime | None = None


class Settlement(msgspec.Struct, frozen=True):
    """How one leased delivery ended.

    `state` is `DONE`, `RETRY` (then `due_at` says when) or `DEAD`. A `PENDING` settlement gives
    the delivery back untouched: it was leased, but its target never saw it.
    """

    delivery: Delivery
    state: "DeliveryState"
    due_at: datetime | None = None
    error: str | None = None
    """The class name of what went wrong; never a text."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What settlements led to.

    Attributes:
        done: The ids of the updates that all of their targets are done with now.
        more: Whether deliveries that waited behind the settled ones can be claimed now.
    """

    done: tuple[int, ...]
    more: bool


class DeliveryState(StrEnum):
    """Where a delivery is in its life; `TRANSITIONS` says which step may follow which."""

    PENDING = "pending"
    LEASED = "leased"
    RETRY = "retry"
    DONE = "done"
    DEAD = "dead"


TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.LEASED}),
    DeliveryState.LEASED: frozenset(
        {
            DeliveryState.DONE,
            DeliveryState.RETRY,
            DeliveryState.DEAD,
            DeliveryState.PENDING,  # given back at shutdown
            DeliveryState.LEASED,  # renewed, or leased again after its lease ran out
        }
    ),
    DeliveryState.RETRY: frozenset({DeliveryState.LEASED}),
    DeliveryState.DONE: frozenset(),
    DeliveryState.DEAD: frozenset(),
}
"""The whole life of a delivery. The stores write no other step."""


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt to reserve an idempotency key.

    `RESERVED`: it is ours, send now. `REPLAY`: it was completed with the same body, here is the
    `response`. `CONFLICT`: it belongs to another body. `IN_FLIGHT`: another request holds it now,
    until `reserved_until`. `UNKNOWN`: its request ended without anybody knowing how.
    """

    outcome: "ReservationOutcome"
    response: bytes = b""
    reserved_until: datetime | None = None


class ReservationOutcome(StrEnum):
    """See `Reservation`."""

    RESERVED = "reserved"
    REPLAY = "replay"
    CONFLICT = "conflict"
    IN_FLIGHT = "in_flight"
    UNKNOWN = "unknown"


class StoreHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the store can be read and has the schema that this wats needs."""

    ok: bool
    adapter: str
    schema_version: int


class InboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries wait, and since when the oldest one does."""

    pending: int
    leased: int
    retry: int
    dead: int
    oldest_at: datetime | None = None


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, newest first, and the cursor of the next page if there is one."""

    items: tuple[MessageRecord, ...]
    next_cursor: str | None = None


STATUS_RANK: dict[str, int] = {
    "received": 0,
    "accepted": 0,
    "sent": 1,
    "warning": 1,
    "delivered": 3,
    "read": 4,
    "played": 5,
    "failed": 2,
    "deleted": 6,
}
"""How far a message came. A status replaces another only if its rank is higher.

`failed` stands above `sent` and below `delivered`: it is final unless a later `delivered` or
`read` proves that the message arrived after all. Webhooks come in any order and more than once
(https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status).
A status that is not in this table is kept in the history and changes nothing.
"""
