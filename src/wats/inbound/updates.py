"""The updates in a webhook, each with its key, and their typed views. No I/O."""

from datetime import datetime
from typing import Any

import msgspec

from wats.ids import MAX_ID_LENGTH, is_safe_id
from wats.inbound.content import (
    Context,
    Conversation,
    Identity,
    Moment,
    Part,
    Payment,
    PlatformError,
    Pricing,
    Referral,
    read,
    read_all,
    read_content,
)
from wats.telemetry.contract.values import UpdateKind

_TOO_LONG = 10**32
"""The first number that is longer than any identifier of Meta's."""


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """The author of a message: every identity that Meta gave, any of which may be absent.

    All fields are personal data. Identify people by `user_id` if present: a customer with a
    username may have no phone number here.
    """

    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    username: str | None = None
    name: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a customer, typed. Its complete content is in `Update.raw`, typed or not.

    `content` is `None` for a type without content or an unknown type.
    """

    id: str
    type: str | None
    timestamp: datetime
    sender: Sender
    group_id: str | None = None
    context: Context | None = None
    content: Part | None = None
    referral: Referral | None = None
    identity: Identity | None = None
    errors: tuple[PlatformError, ...] = ()


class Status(Part, frozen=True):
    """The status of a sent message, or of its payment."""

    id: str | None = None
    status: str | None = None
    timestamp: Moment | None = None
    type: str | None = None
    recipient_id: str | None = None
    recipient_type: str | None = None
    recipient_user_id: str | None = None
    recipient_parent_user_id: str | None = None
    recipient_participant_id: str | None = None
    recipient_participant_user_id: str | None = None
    conversation: Conversation | None = None
    pricing: Pricing | None = None
    errors: tuple[PlatformError, ...] = ()
    message_status: str | None = None
    biz_opaque_callback_data: str | None = None
    payment: Payment | None = None


class MessageHead(msgspec.Struct, frozen=True, gc=False):
    """The members of a message that its records need.

    Attributes:
        customer: Any identifier of the sender; the phone number takes precedence.
        opens_window: Whether the customer wrote it, in a chat of their own.
    """

    id: str | None
    type: str
    customer: str | None
    opens_window: bool


class StatusHead(msgspec.Struct, frozen=True, gc=False):
    """The members of a status that its record needs."""

    id: str | None
    status: str | None
    participant: str
    error_code: int | None


class _Headed:
    """A slot for the head of an item.

    The slot is not a field of the struct: equality, encoding, `copy` and `replace` ignore it, so a
    changed update cannot keep the head of another item.
    """

    __slots__ = ("_head",)

    _head: MessageHead | StatusHead

    @property
    def head(self) -> MessageHead | StatusHead | None:
        """The head of the item, if it was read before the item itself."""
        return getattr(self, "_head", None)


class Update(_Headed, msgspec.Struct, frozen=True, kw_only=True):
    """One event, as Meta reported it.

    Attributes:
        key: 32 hexadecimal digits: the same in every redelivery, alone or among other updates, and
            different for every other update.
        kind: The kind of event.
        field: The webhook field that held it.
        waba_id: The id of the webhook's entry: the WhatsApp Business Account, except for
            `partner_solutions`, where it is a business portfolio.
        phone_number_id: The business number that it concerns, if any.
        conversation: The other party, a customer or a group, and our number. Updates with the same
            conversation are handled in order. `None` where there is no conversation.
        occurred_at: Meta's time: of the item, else of its entry, else 1970. Part of the identity
            of an update, and for that reason never our time.
        received_at: When we first received it.
        contact: Meta's data about the customer, unchanged.
        raw: The item, unchanged.
    """

    key: str
    kind: UpdateKind
    field: str
    waba_id: str
    phone_number_id: str | None = None
    conversation: str | None = None
    occurred_at: datetime
    received_at: datetime
    contact: dict[str, Any] | None = None
    raw: dict[str, Any]

    @property
    def message(self) -> Message | None:
        """The message, if a customer sent it; it is decoded at each access.

        System messages and opened chats have the form of messages. Echoes, history and standby are
        excluded: they look like messages, and a handler must not reply by accident.
        """
        if self.kind not in _MESSAGES:
            return None
        return read_message(self.raw, contact=self.contact, timestamp=self.occurred_at)

    @property
    def status(self) -> Status | None:
        """The status of a message or of its payment, if this is one; decoded at each access."""
        return read(Status, self.raw) if self.kind in _STATUSES else None


_MESSAGES = frozenset({UpdateKind.MESSAGE, UpdateKind.SYSTEM, UpdateKind.CHAT_OPENED})
_STATUSES = frozenset({UpdateKind.STATUS, UpdateKind.PAYMENT_STATUS})

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Update)


class _Origin(msgspec.Struct, frozen=True, gc=False):
    """The member of a payload that is not part of its update."""

    traceparent: Any = None


_ORIGIN = msgspec.json.Decoder(_Origin)


def encode(update: Update, traceparent: str = "") -> bytes:
    """Return *update* as JSON, for the store and for other consumers.

    Args:
        update: The update.
        traceparent: The span of its webhook. An additional member, which `decode` ignores.
    """
    payload = _ENCODER.encode(update)
    return payload[:-1] + b',"traceparent":"%b"}' % traceparent.encode() if traceparent else payload


def decode(payload: bytes) -> Update:
    """Return the update of which *payload* is the result of `encode`, equal to it."""
    return _DECODER.decode(payload)


def traceparent_of(payload: bytes) -> object:
    """Return the span of the webhook of the update in *payload*, if it was stored."""
    return _ORIGIN.decode(payload).traceparent


def identifier(value: object) -> str | None:
    """Return *value* as an identifier; Meta writes some identifiers as numbers.

    Returns:
        `None` if it is not valid: see `is_safe_id`.
    """
    if isinstance(value, str):
        # As `is_safe_id`, without another call: an update has ten identifiers.
        if value.isprintable() and 0 < len(value) <= MAX_ID_LENGTH and not value.isspace():
            return value
        return value if is_safe_id(value) else None
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_LONG:
        return str(value)
    return None


def read_message(
    raw: dict[str, Any], *, contact: dict[str, Any] | None, timestamp: datetime
) -> Message | None:
    """Return *raw* as a message; for items that `Update.message` excludes.

    Returns:
        `None` if it has no id.
    """
    message_id = identifier(raw.get("id"))
    if message_id is None:
        return None
    kind = raw.get("type")
    return Message(
        id=message_id,
        type=kind if isinstance(kind, str) else None,
        timestamp=timestamp,
        sender=read_sender(raw, contact=contact),
        group_id=identifier(raw.get("group_id")),
        context=read(Context, raw.get("context")),
        content=read_content(raw),
        referral=read(Referral, raw.get("referral")),
        identity=read(Identity, raw.get("identity")),
        errors=read_all(PlatformError, raw.get("errors")),
    )


def read_sender(raw: dict[str, Any], *, contact: dict[str, Any] | None) -> Sender:
    """Return the sender of *raw*: its own members take precedence over *contact*."""
    about = contact if contact is not None else {}
    profile = about.get("profile")
    named = profile if isinstance(profile, dict) else {}
    name = named.get("name")
    return Sender(
        wa_id=identifier(raw.get("from")) or identifier(about.get("wa_id")),
        user_id=identifier(raw.get("from_user_id")) or identifier(about.get("user_id")),
        parent_user_id=identifier(raw.get("from_parent_user_id"))
        or identifier(about.get("parent_user_id")),
        username=identifier(named.get("username")) or identifier(about.get("username")),
        name=name if isinstance(name, str) else None,
    )
