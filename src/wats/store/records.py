"""The values that stores accept and return. No I/O; independent of message types.

Times are aware UTC datetimes with millisecond precision. Structs are used because creating a frozen
dataclass with slots takes ten times as long, and the inbound path creates five for each update.
Those are not tracked by the garbage collector (`gc=False`), as they cannot be part of a cycle.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from wats.clock import from_ms
from wats.privacy import fingerprint
from wats.sends import OUTBOX as OUTBOX


class Direction(StrEnum):
    """The direction of a message."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The projection of one message: parties, times, type and status, without content.

    Personal data: `from_phone` or `to_phone` (the customer's wa_id or business-scoped user id) and
    `wa_message_id`, which encodes a phone number.
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
    """Assigned by the store; an opaque cursor for `list_messages`."""


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One status transition of an outbound message, reported by Meta at *occurred_at*."""

    phone_number_id: str
    wa_message_id: str
    status: str
    participant: str = ""
    """The group member that the status is about; empty for messages to one recipient."""
    error_code: int | None = None
    occurred_at: datetime


class WindowRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The service window that a customer's message opened with one business number.

    A store may keep a digest in place of the customer, as windows are only looked up by customer.
    """

    phone_number_id: str
    customer: str
    last_inbound_at: datetime


class SendProof(msgspec.Struct, frozen=True, gc=False):
    """Callback data of a status: Meta accepted the message of the outbox item *id*.

    Attributes:
        nonce: The random number of the item, which only its own message has.
        response: The response for the idempotency key of the item, unless it has one.
        message: The record of the message, without the type and recipient, which the item has.
    """

    id: int
    nonce: int
    response: bytes
    message: MessageRecord | None = None


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One update to store in the inbox.

    Attributes:
        key: 16 bytes, the same for every redelivery of this update and for no other update.
        occurred_at: Meta's time of the update, which redeliveries repeat. Part of the identity.
        received_at: Our wall-clock time, for display and for retention.
        kind: The update's kind, for display.
        phone_number_id: The business number of the update, if it has one.
        ordering_key: The number shared by all updates of a conversation, which are kept in order.
        payload: The encoded update; opaque here.
        consumers: The names of the consumers that get the update; may be empty.
        message: The message to record, if the update is a message.
        status: The transition to record, if the update is a status.
        window: The window that the update opens, if any.
        proof: The item of the outbox that the update proves to be sent, if any.
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
    proof: SendProof | None = None


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer of updates.

    Attributes:
        name: Stored with every delivery, so it must be stable across restarts.
        lease_seconds: The duration of a lease without renewal.
        max_attempts: The number of attempts after which a delivery becomes a dead letter. The store
            uses it for deliveries whose lease expires during the last attempt.
        batch: The maximum number of deliveries of one ordering key in one call.
    """

    name: str
    lease_seconds: float = 30.0
    max_attempts: int = 10
    batch: int = 1


BATCH_BYTES = 512 * 1024
"""The maximum size of the payloads of a delivery and its followers, unless it has none."""


class Follower(msgspec.Struct, frozen=True, gc=False):
    """A delivery of the same ordering key behind a leased one, which may be handled with it.

    It is not leased: only the holder of the lease of its head can handle it.
    """

    id: int
    update_id: int
    payload: bytes


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One update for one consumer, leased to this process.

    Attributes:
        id: Increases in order of arrival within an ordering key.
        update_id: The id of the first delivery of the update; its other deliveries have the
            following ids.
        siblings: The number of deliveries that the update had.
        phone_number_id: The business number of the update, or empty.
        attempt: 1 for the first call of the consumer. Counted when the lease is given.
        is_exhausted: Whether the lease of the last permitted attempt expired. Such a delivery must
            be settled as dead without a call.
        lease: A random number, which proves that a settlement or renewal is by the lease holder.
        followers: The next deliveries of its ordering key, for a consumer with batches.
        age_seconds: The time from its arrival to the lease, by the clock of the store.
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
    followers: tuple[Follower, ...] = ()
    age_seconds: float = 0.0


def may_have_followers(consumer: Consumer, attempts: int) -> bool:
    """Return whether a delivery is claimed with followers, after *attempts*."""
    return consumer.batch > 1 and attempts == 0 and consumer.max_attempts > 1


def first_followers(rows: Iterable[Sequence[Any]], head_bytes: int) -> tuple[Follower, ...]:
    """Return the followers to handle with a head of *head_bytes*.

    Args:
        rows: The values of each follower in order, and its number of attempts.
        head_bytes: The size of the payload of the head.
    """
    found: list[Follower] = []
    size = head_bytes
    for id_, update_id, payload, attempts in rows:
        size += len(payload)
        if attempts or size > BATCH_BYTES:
            break
        found.append(Follower(id_, update_id, payload))
    return tuple(found)


class Claimed(msgspec.Struct, frozen=True):
    """The result of a claim: leased deliveries, and whether *more* could be leased."""

    deliveries: Sequence[Delivery]
    more: bool
    wait_seconds: float = 0.0
    """When the rate limit permits the next one; 0 if it is not the obstacle."""


def unused(deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    """Return those of claimed *deliveries* that can be released if no consumer gets them.

    The lease of an exhausted delivery shows that a call has begun which may have been carried out.
    It must expire again: after a release, the consumer would be called once more.
    """
    return [each for each in deliveries if not each.is_exhausted]


class Received(msgspec.Struct, frozen=True, gc=False):
    """The result of storing a new update.

    Attributes:
        leased: The deliveries that were leased on arrival.
        waiting: The number of deliveries that were stored without a lease.
        sent_at: When the message was recorded as sent, if the update is the status `delivered` of
            a recorded message.
    """

    leased: Sequence[Delivery] = ()
    waiting: int = 0
    sent_at: datetime | None = None


def leased_on_arrival(results: Sequence[Sequence[Received | None]]) -> Sequence[Delivery]:
    """Return the deliveries that the updates of several webhooks leased on arrival."""
    received = [each for every in results for each in every if each is not None]
    return [delivery for each in received for delivery in each.leased]


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """How the lease of one delivery ended.

    `state` is `DONE`, `DEAD`, `RETRY` or `PENDING`. The last two are due again after
    `retry_seconds`; the attempt of a `PENDING` delivery is not counted.
    """

    delivery: Delivery
    state: "DeliveryState"
    retry_seconds: float = 0.0
    error: str | None = None
    """The class name of the error, and the status of a subscriber's response; never its text."""
    also: Sequence[Follower] = ()
    """The first followers of a delivery that is `DONE`, which were handled with it."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The result of settlements.

    Attributes:
        done: The ids of updates without remaining deliveries and dead letters.
        due: The consumers for which a delivery became claimable.
        lost: The deliveries that `acknowledge` did not settle, because their leases had ended.
    """

    done: Sequence[int] = ()
    due: frozenset[str] = frozenset()
    lost: Sequence[Delivery] = ()


class DeliveryState(StrEnum):
    """The states of a delivery; `TRANSITIONS` lists the permitted steps."""

    PENDING = "pending"
    LEASED = "leased"
    RETRY = "retry"
    DONE = "done"
    DEAD = "dead"


TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset(
        {
            DeliveryState.LEASED,
            DeliveryState.DONE,  # handled with the delivery before it
        }
    ),
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
    DeliveryState.DEAD: frozenset({DeliveryState.PENDING}),  # retried by an operator
}
"""All transitions of a delivery. The stores write no others."""


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """The number of deliveries of one consumer in each state."""

    pending: int = 0
    leased: int = 0
    retry: int = 0
    dead: int = 0

    @property
    def outstanding(self) -> int:
        """The number of deliveries that are neither done nor dead."""
        return self.pending + self.leased + self.retry


class InboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """The depth of every registered consumer, and the age of the oldest delivery.

    Attributes:
        consumers: The depths by name, including consumers that are no longer configured.
        configured: The names of the consumers of this process.
        oldest_seconds: The age of the oldest outstanding delivery of a configured consumer, or 0;
            apart from the outbox.
        outbox_seconds: The age of the oldest outstanding delivery of the outbox, or 0.
    """

    consumers: Mapping[str, Depth]
    configured: frozenset[str]
    oldest_seconds: float = 0.0
    outbox_seconds: float = 0.0

    @property
    def inbound(self) -> frozenset[str]:
        """The names of the configured consumers of updates."""
        return self.configured - {OUTBOX}

    @property
    def outbox(self) -> Depth:
        """The depth of the outbox."""
        return self.consumers.get(OUTBOX, Depth())

    @property
    def total(self) -> Depth:
        """The sum over all configured consumers of updates, and all their dead letters."""
        depths = [depth for name, depth in self.consumers.items() if name in self.inbound]
        dead = (depth.dead for name, depth in self.consumers.items() if name != OUTBOX)
        return Depth(
            pending=sum(depth.pending for depth in depths),
            leased=sum(depth.leased for depth in depths),
            retry=sum(depth.retry for depth in depths),
            dead=sum(dead),
        )

    @property
    def orphaned(self) -> Mapping[str, int]:
        """The number of outstanding deliveries of each consumer that is not configured."""
        return {
            name: depth.outstanding
            for name, depth in self.consumers.items()
            if name not in self.configured and depth.outstanding
        }


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long records are kept, in seconds.

    Attributes:
        inbox: Identities of updates, which identify redeliveries.
        dead: Dead letters.
        unseen: Deliveries of consumers that no process has registered for this time. Processes
            register their consumers again in each round of the upkeep.
        messages: Messages, statuses and windows. Messages are kept for at least `inbox`.
    """

    inbox: float
    dead: float
    unseen: float
    messages: float


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an attempt to reserve an idempotency key.

    `RESERVED`: the caller must send. `REPLAY`: a request with the same body was completed with
    `response`. `CONFLICT`: the key was used with another body. `IN_FLIGHT`: another request holds
    the key. `UNKNOWN`: the outcome of the request with this key is unknown. `LIMITED`: the rate
    limit refused the message, and the key is not reserved. `FULL`: too many messages wait in the
    outbox, and the key is not reserved.
    """

    outcome: "ReservationOutcome"
    response: bytes = b""
    outbox_id: int | None = None
    """The item of the outbox that uses the key."""
    wait_seconds: float = 0.0
    """How long the message has to wait for the rate limit, if it is `RESERVED` or `LIMITED`."""


class ReservationOutcome(StrEnum):
    """See `Reservation`."""

    RESERVED = "reserved"
    REPLAY = "replay"
    CONFLICT = "conflict"
    IN_FLIGHT = "in_flight"
    UNKNOWN = "unknown"
    LIMITED = "limited"
    FULL = "full"


class StoreHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the store can be read and has a usable schema."""

    ok: bool
    adapter: str
    schema_version: int


class MessagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, newest first, and the cursor of the next page, if any."""

    items: tuple[MessageRecord, ...]
    next_cursor: str | None = None


class MessageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that a caller wants; `None` admits every value.

    Phone numbers match with and without a '+' in front.
    """

    phone_number_id: str | None = None
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
            self.phone_number_id in {None, message.phone_number_id}
            and self.direction in {None, message.direction}
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
"""The progress of a message by status. A status replaces another only if its rank is higher.

`failed` ranks above `sent` and below `delivered`: it is final unless a `delivered` or `read` proves
that the message arrived. Webhooks arrive in any order and more than once
(https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status).
A status without a rank is kept in the history and replaces nothing.
"""

_UNRANKED = -1


def rank_of(status: str) -> int:
    """Return the rank of *status*; an unknown status ranks below all others."""
    return STATUS_RANK.get(status, _UNRANKED)


def window_digest(phone_number_id: str, customer: str) -> int:
    """Return the key of the window of *customer* with this number, equal in all stores."""
    # The digest is the only key of a window, so it is long enough to have no collisions.
    return fingerprint(f"{phone_number_id} {customer}")


def message_of(row: Sequence[Any]) -> MessageRecord:
    """Return the message of *row*, whose columns are `row_id` and the other attributes in order."""
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


def status_of(row: Sequence[Any]) -> StatusRecord:
    """Return the status of *row*, which begins with the attributes in order."""
    return StatusRecord(
        phone_number_id=row[0],
        wa_message_id=row[1],
        status=row[2],
        participant=row[3],
        error_code=row[4],
        occurred_at=from_ms(row[5]),
    )


_CURSOR = re.compile("[1-9][0-9]{0,17}")


def is_cursor(text: str) -> bool:
    """Return whether *text* can be a cursor: every cursor of a page is the id of a row."""
    return _CURSOR.fullmatch(text) is not None


def row_id_of(cursor: str, last_row_id: int) -> int:
    """Return *cursor* as a row id, or 0 if it is invalid."""
    row_id = int(cursor) if is_cursor(cursor) else 0
    return row_id if row_id <= last_row_id else 0
