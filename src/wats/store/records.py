"""What the store keeps, as values. No I/O, and no knowledge of any message type.

Times are aware UTC datetimes with millisecond precision. Structs, not dataclasses: a frozen
dataclass with slots costs ten times as much to make, and the inbound path makes three per update.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from wats.clock import from_ms
from wats.privacy import fingerprint


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
        key: 16 bytes, the same for every redelivery of this update and for no other update.
        occurred_at: Meta's time of the update. Part of its identity: redeliveries repeat it.
        received_at: Our wall-clock time, for people and for retention.
        kind: The update's kind, for the operator.
        phone_number_id: The business number that the update concerns, if it concerns one.
        ordering_key: A number that all updates of one conversation share; their order is kept.
        payload: The encoded update; opaque here.
        consumers: The names of the consumers that get the update; may be empty.
        message: The message to project, if the update is one.
        status: The transition to project, if the update is one.
        window: The window that the update opens, if it opens one.
    """

    key: bytes
    occurred_at: datetime
    received_at: datetime
    kind: str
    phone_number_id: str | None
    ordering_key: int
    payload: bytes
    consumers: tuple[str, ...] = ()
    message: MessageRecord | None = None
    status: StatusRecord | None = None
    window: WindowRecord | None = None


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer of updates as the store knows it.

    Attributes:
        name: Kept with every delivery, so it must outlive restarts.
        lease_seconds: How long a lease lasts without a renewal.
        max_attempts: After how many attempts a delivery becomes a dead letter. The store needs it
            for deliveries whose lease expires during the last attempt.
    """

    name: str
    lease_seconds: float = 30.0
    max_attempts: int = 10


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One update for one consumer, leased to this process.

    Attributes:
        id: The order of arrival: ids of later arrivals of an ordering key are higher.
        update_id: The id of the first delivery of the same update; the others follow it.
        siblings: How many deliveries the update had.
        phone_number_id: The business number of the update; empty if it concerns none.
        attempt: 1 for the first call of the consumer. Counted when the lease was given.
        is_exhausted: The lease of the last permitted attempt expired, so this delivery must be
            settled as dead without a call.
        lease: Proves that a settlement or renewal is by the process that holds the lease.
    """

    id: int
    update_id: int
    siblings: int
    phone_number_id: str = ""
    consumer: str
    ordering_key: int
    attempt: int
    is_exhausted: bool = False
    lease: int
    payload: bytes


class Claimed(msgspec.Struct, frozen=True):
    """The result of a claim: the leased deliveries, and whether *more* could be leased now."""

    deliveries: Sequence[Delivery]
    more: bool


class Received(msgspec.Struct, frozen=True):
    """The result for an update that is new.

    Attributes:
        leased: Its deliveries that were leased on arrival.
        waiting: How many of its deliveries were stored without a lease.
        sent_at: When the message was recorded as sent, if the update is the status that one of
            ours was delivered.
    """

    leased: Sequence[Delivery] = ()
    waiting: int = 0
    sent_at: datetime | None = None


class Settlement(msgspec.Struct, frozen=True):
    """How the lease of one delivery ended.

    `state` is `DONE`, `DEAD`, `RETRY` (due again after `retry_seconds`), or `PENDING`: released,
    because the consumer was not called; then the attempt is not counted.
    """

    delivery: Delivery
    state: "DeliveryState"
    retry_seconds: float = 0.0
    error: str | None = None
    """The class name of the error; never its text."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The result of settlements.

    Attributes:
        done: The ids of the updates that have no delivery and no dead letter left.
        due: The consumers that have a delivery which can be claimed now because of this.
    """

    done: Sequence[int] = ()
    due: frozenset[str] = frozenset()


class DeliveryState(StrEnum):
    """The states of a delivery; `TRANSITIONS` lists the permitted steps."""

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
            DeliveryState.PENDING,  # released
            DeliveryState.LEASED,  # renewed, or leased again after its lease expired
        }
    ),
    DeliveryState.RETRY: frozenset({DeliveryState.LEASED}),
    DeliveryState.DONE: frozenset(),
    DeliveryState.DEAD: frozenset(),
}
"""The whole life of a delivery. The stores write no other step."""


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries of one consumer are in which state."""

    pending: int = 0
    leased: int = 0
    retry: int = 0
    dead: int = 0

    @property
    def outstanding(self) -> int:
        """How many deliveries still have to be handled."""
        return self.pending + self.leased + self.retry


class InboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """The depth of every consumer that the store knows, and the age of the oldest delivery.

    Attributes:
        consumers: By name, also of consumers that are no longer configured.
        configured: The names of the consumers of this process.
        oldest_seconds: The age of the oldest outstanding delivery of a configured consumer; 0 if
            there is none.
    """

    consumers: Mapping[str, Depth]
    configured: frozenset[str]
    oldest_seconds: float = 0.0

    @property
    def total(self) -> Depth:
        """The sum over all configured consumers, and all dead letters."""
        depths = [depth for name, depth in self.consumers.items() if name in self.configured]
        return Depth(
            pending=sum(depth.pending for depth in depths),
            leased=sum(depth.leased for depth in depths),
            retry=sum(depth.retry for depth in depths),
            dead=sum(depth.dead for depth in self.consumers.values()),
        )

    @property
    def orphaned(self) -> Mapping[str, int]:
        """How many deliveries wait for consumers that are not configured, by name."""
        return {
            name: depth.outstanding
            for name, depth in self.consumers.items()
            if name not in self.configured and depth.outstanding
        }


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was given up. Its payload is kept until it expires."""

    id: int
    update_id: int
    consumer: str
    attempts: int
    error: str | None
    died_at: datetime


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long records are kept, in seconds.

    Attributes:
        inbox: The identity of an update, by which a redelivery is recognized.
        dead: Dead letters, and the deliveries of consumers that are no longer configured.
        messages: Messages, statuses and windows; messages never shorter than `inbox`.
    """

    inbox: float
    dead: float
    messages: float


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an attempt to reserve an idempotency key.

    `RESERVED`: send now. `REPLAY`: completed with the same body; `response` is its answer.
    `CONFLICT`: used with another body. `IN_FLIGHT`: another request holds the key.
    `UNKNOWN`: the outcome of its request is unknown.
    """

    outcome: "ReservationOutcome"
    response: bytes = b""


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


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, newest first, and the cursor of the next page if there is one."""

    items: tuple[MessageRecord, ...]
    next_cursor: str | None = None


class MessageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that a caller wants; `None` admits every value.

    Phone numbers match with and without a '+' in front.
    """

    direction: str | None = None
    status: str | None = None
    type: str | None = None
    from_phone: str | None = None
    to_phone: str | None = None
    since: datetime | None = None

    @property
    def rows(self) -> int | None:
        """The limit of rows to read for a page; `None` if every row is admitted."""
        return None if self == ALL_MESSAGES else SCAN_ROWS

    def admits(self, message: MessageRecord) -> bool:
        """Return whether *message* is wanted."""
        return (
            self.direction in {None, message.direction}
            and self.status in {None, message.status}
            and self.type in {None, message.type}
            and _is_same(self.from_phone, message.from_phone)
            and _is_same(self.to_phone, message.to_phone)
            and (self.since is None or message.created_at >= self.since)
        )

    def is_past(self, message: MessageRecord) -> bool:
        """Return whether neither *message* nor one that was recorded earlier can be wanted."""
        return self.since is not None and message.created_at < self.since - OUT_OF_ORDER


ALL_MESSAGES = MessageFilter()

SCAN_ROWS = 2000
"""The limit of rows that are read for a page of some messages, so that none takes long."""

OUT_OF_ORDER = timedelta(hours=1)
"""The longest that a message may be recorded after a younger one."""


def _is_same(wanted: str | None, phone: str | None) -> bool:
    if wanted is None:
        return True
    return phone is not None and wanted.removeprefix("+") == phone.removeprefix("+")


def page_of(messages: Sequence[MessageRecord], limit: int, wanted: MessageFilter) -> MessagePage:
    """Return the page that begins with *messages*: newest first, one more than may be read.

    A page of some messages can have fewer than *limit*, and even none, and still a cursor.
    """
    found: list[MessageRecord] = []
    for place, message in enumerate(messages):
        if wanted.is_past(message):
            break
        if place == (wanted.rows or limit):
            return MessagePage(items=tuple(found), next_cursor=messages[place - 1].row_id)
        if wanted.admits(message):
            if len(found) == limit:
                return MessagePage(items=tuple(found), next_cursor=found[-1].row_id)
            found.append(message)
    return MessagePage(items=tuple(found))


STATUS_RANK: dict[str, int] = {
    "received": 0,
    "accepted": 0,
    "held_for_quality_assessment": 0,
    "paused": 0,
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

_UNRANKED = -1


def rank_of(status: str) -> int:
    """Return the rank of *status*; one that has none replaces nothing."""
    return STATUS_RANK.get(status, _UNRANKED)


def window_digest(phone_number_id: str, customer: str) -> int:
    """Return the key of the window of *customer* with this number; the same in every store."""
    # The only key of a window in its table, so two windows must not share it by chance.
    return fingerprint(f"{phone_number_id} {customer}")


def message_of(row: Sequence[Any]) -> MessageRecord:
    """Return the message in *row*: its columns in the order of the attributes, `row_id` first."""
    return MessageRecord(
        row_id=str(row[0]),
        phone_number_id=row[1],
        wa_message_id=row[2],
        direction=Direction(row[3]),
        from_phone=row[4],
        to_phone=row[5],
        type=row[6],
        status=row[7],
        graph_message_id=row[8],
        created_at=from_ms(row[9]),
        updated_at=from_ms(row[10]),
    )


_CURSOR = re.compile("[1-9][0-9]{0,17}")


def is_cursor(text: str) -> bool:
    """Return whether *text* can be a cursor: every cursor of a page is the id of a row."""
    return _CURSOR.fullmatch(text) is not None


def row_id_of(cursor: str, last_row_id: int) -> int:
    """Return the row id that *cursor* is; 0 if it cannot be one."""
    row_id = int(cursor) if is_cursor(cursor) else 0
    return row_id if row_id <= last_row_id else 0
