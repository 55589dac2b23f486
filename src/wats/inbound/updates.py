"""What we make of a webhook: updates, each with its key, and their typed views. No I/O."""

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
    """Who wrote a message: every identity that Meta gave, any of which may be absent.

    All of it is personal data. Key people by `user_id` where there is one: a customer with a
    username may come without a phone number.
    """

    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    username: str | None = None
    name: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a customer, typed. All that it holds is in `Update.raw`, typed or not.

    `content` is `None` for a type that has none or that is not known yet.
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
    """How far a message that was sent came, or how its payment stands."""

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
    """One thing that happened, as Meta told it.

    Attributes:
        key: 32 hexadecimal digits: the same whenever Meta delivers this again, in whatever
            company, and another for everything else.
        kind: What it is.
        field: The field of the webhook that it came in.
        waba_id: The id of the webhook's entry: the WhatsApp Business Account, except for
            `partner_solutions`, where it is a business portfolio.
        phone_number_id: The business number that it concerns, if it concerns one.
        conversation: Whom it was exchanged with, a customer or a group, at which number. Two
            updates that share it are handled in order. `None` where there is no conversation.
        occurred_at: Meta's time: of the item, else of its entry, else 1970. Part of the identity
            of an update, and for that reason never our time.
        received_at: When we received it first.
        contact: What Meta said about the customer, as it came.
        raw: The item, as it came.
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
        """The message, if this is one of a customer's; it is read anew each time.

        System messages and opened chats are messages by form. Echoes, history and standby are
        not: they look like messages, and nobody should answer them by accident.
        """
        if self.kind not in _MESSAGES:
            return None
        return read_message(self.raw, contact=self.contact, timestamp=self.occurred_at)

    @property
    def status(self) -> Status | None:
        """The status, if this is one of a message or of its payment; it is read anew each time."""
        return read(Status, self.raw) if self.kind in _STATUSES else None


_MESSAGES = frozenset({UpdateKind.MESSAGE, UpdateKind.SYSTEM, UpdateKind.CHAT_OPENED})
_STATUSES = frozenset({UpdateKind.STATUS, UpdateKind.PAYMENT_STATUS})

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Update)


def encode(update: Update) -> bytes:
    """Return *update* as JSON, for the store and for whoever else it is handed to."""
    return _ENCODER.encode(update)


def decode(payload: bytes) -> Update:
    """Return the update that `encode` made *payload* of, equal to it."""
    return _DECODER.decode(payload)


def identifier(value: object) -> str | None:
    """Return *value* as an identifier; Meta writes some of them as numbers.

    Returns:
        `None` if it cannot be one: see `is_safe_id`.
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
    """Return *raw* as a message; for items that `Update.message` keeps away from handlers.

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
    """Return who sent *raw*: what the item itself says goes before what *contact* says."""
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
