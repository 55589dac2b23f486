"""Fast path for the usual webhooks: one message or one status, read in one typed decode. No I/O.

The structs declare every member that a usual webhook may have, down to the item, and forbid all
others. So nothing in the body is skipped without validation, and a body of any other form takes the
slow path (`envelope`, `normalize`). Both paths give the same update for the same body.
"""

from datetime import datetime
from functools import lru_cache
from types import MemberDescriptorType
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType
from typing_extensions import override

from wats.inbound.items import message_key, moment, seconds_of, status_key
from wats.inbound.projection import error_code
from wats.inbound.updates import MessageHead, StatusHead, Update, identifier
from wats.nesting import is_surely_shallow
from wats.telemetry.contract.values import UpdateKind

# Looked up once: Python 3.11 needs 0.1 us for a member of an Enum.
_MESSAGE: Final = UpdateKind.MESSAGE
_STATUS: Final = UpdateKind.STATUS


class _ContactItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    profile: Any = None
    identity_key_hash: Any = None


class _MessageItem(msgspec.Struct, rename={"phone": "from"}, forbid_unknown_fields=True, gc=False):
    id: str
    timestamp: str
    type: str
    phone: str | None = None
    from_user_id: str | None = None
    from_parent_user_id: str | None = None
    text: Any = None
    image: Any = None
    video: Any = None
    audio: Any = None
    document: Any = None
    sticker: Any = None
    location: Any = None
    contacts: Any = None
    origin: Any = None
    interactive: Any = None
    button: Any = None
    order: Any = None
    reaction: Any = None
    unsupported: Any = None
    context: Any = None
    referral: Any = None
    identity: Any = None
    errors: Any = None


class _StatusItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    status: str
    timestamp: str
    recipient_id: str | None = None
    recipient_user_id: str | None = None
    recipient_parent_user_id: str | None = None
    recipient_type: Literal["individual"] | None = None
    conversation: Any = None
    pricing: Any = None
    errors: Any = None
    message_status: Any = None
    biz_opaque_callback_data: Any = None


class _Metadata(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    phone_number_id: str
    display_phone_number: str | None = None


class _Value(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    metadata: _Metadata
    messaging_product: Any = None
    contacts: tuple[Raw] | UnsetType = UNSET
    messages: tuple[Raw] | UnsetType = UNSET
    statuses: tuple[Raw] | UnsetType = UNSET


class _UsualChange(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    value: _Value
    field: Literal["messages"]


class _UsualEntry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    changes: tuple[_UsualChange]
    time: Any = None


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    object: Literal["whatsapp_business_account"]
    entry: tuple[_UsualEntry]


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_message = msgspec.json.Decoder(_MessageItem).decode
_decode_status = msgspec.json.Decoder(_StatusItem).decode
_decode_contact = msgspec.json.Decoder(_ContactItem).decode


# A service has few accounts and business numbers.
@lru_cache(maxsize=256)
def _business(*names: str | None) -> tuple[str | None, ...]:
    """Return the ids of an account and its number, and the number as Meta writes it."""
    return tuple(identifier(name) for name in names)


_NO_CONTACT = _ContactItem()

_SLOW_TYPES = frozenset({"system", "request_welcome", "edit", "revoke"})
"""Message types of another kind, or that open no window."""

_COMMON_TYPES = frozenset({"text", "image", "audio", "interactive", "button", "reaction"})
"""Message types that need no check."""


class UsualUpdate(Update, frozen=True, kw_only=True):
    """An update that keeps its item and contact as JSON until either is accessed.

    Equality and `repr` are those of an `Update` with the same fields.
    """

    @property  # type: ignore[misc]  # mypy expects a field; the slot of the field is still used
    @override
    def raw(self) -> dict[str, Any]:
        """The item, unchanged."""
        return cast("dict[str, Any]", _decoded(_RAW, self))

    @property  # type: ignore[misc]  # as above
    @override
    def contact(self) -> dict[str, Any] | None:
        """Meta's data about the customer, unchanged."""
        return cast("dict[str, Any] | None", _decoded(_CONTACT, self))

    @override
    def __eq__(self, other: object) -> bool:
        return _plain(self) == _plain(other)

    # The inherited method would compare JSON.
    @override
    def __ne__(self, other: object) -> bool:
        return not self == other

    @override
    def __hash__(self) -> int:
        return hash(_plain(self))

    @override
    def __repr__(self) -> str:
        return repr(_plain(self))


_RAW: MemberDescriptorType = vars(Update)["raw"]
_CONTACT: MemberDescriptorType = vars(Update)["contact"]


def _decoded(slot: MemberDescriptorType, update: UsualUpdate) -> object:
    value = slot.__get__(update)
    if isinstance(value, Raw):
        value = msgspec.json.decode(value)
        slot.__set__(update, value)
    return value


def _plain(value: object) -> object:
    if not isinstance(value, UsualUpdate):
        return value
    return Update(**{name: getattr(value, name) for name in Update.__struct_fields__})


def read(body: bytes, received_at: datetime) -> Update | None:
    """Return the update in *body*; `None` if the body has to take the slow path.

    The update is equal to the only one that `normalize` returns for this body. Its `raw` and
    `contact` are decoded on first access.
    """
    if not is_surely_shallow(body):
        return None
    try:
        return _read(body, received_at)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _read(body: bytes, received_at: datetime) -> Update | None:
    entry = _decode(body).entry[0]
    value = entry.changes[0].value
    metadata = value.metadata
    waba_id, number, display_number = _business(
        entry.id, metadata.phone_number_id, metadata.display_phone_number
    )
    if waba_id is None or number is None:
        return None
    raw_contact = None if value.contacts is UNSET else value.contacts[0]
    common = _Common(
        number,
        display_number,
        waba_id,
        received_at,
        raw_contact,
        _NO_CONTACT if raw_contact is None else _decode_contact(raw_contact),
    )
    if value.statuses is UNSET and value.messages is not UNSET:
        return _read_message(common, value.messages[0])
    if value.messages is UNSET and value.statuses is not UNSET:
        return _read_status(common, value.statuses[0])
    return None


class _Common(msgspec.Struct, gc=False):
    """The parts of a webhook around its item."""

    number: str
    display_number: str | None
    waba_id: str
    received_at: datetime
    raw_contact: Raw | None
    contact: _ContactItem

    def update(
        self,
        kind: UpdateKind,
        key: str,
        raw: Raw,
        other: str | None,
        seconds: int,
        head: MessageHead | StatusHead,
    ) -> UsualUpdate:
        """Return the update; *other* is the customer by whom its conversation is known."""
        update = UsualUpdate(
            key=key,
            kind=kind,
            field="messages",
            waba_id=self.waba_id,
            phone_number_id=self.number,
            conversation=f"{self.number}|{other}" if other else None,
            occurred_at=moment(seconds),
            received_at=self.received_at,
            contact=self.raw_contact,  # type: ignore[arg-type]  # JSON until it is accessed
            raw=raw,  # type: ignore[arg-type]
            display_phone_number=self.display_number,
        )
        msgspec.structs.force_setattr(update, "_head", head)
        return update


def _read_message(common: _Common, raw: Raw) -> Update | None:
    item, contact = _decode_message(raw), common.contact
    type_ = item.type if item.type in _COMMON_TYPES else identifier(item.type) or "unknown"
    message_id, seconds = identifier(item.id), seconds_of(item.timestamp)
    phone = identifier(item.phone)
    user = identifier(item.from_user_id) or identifier(item.from_parent_user_id)
    if message_id is None or seconds is None or (user is None and phone is None):
        return None
    if item.type in _SLOW_TYPES:
        return None
    customer = phone or _customer(item, contact)
    head = MessageHead(message_id, type_, customer, opens_window=True)
    key = message_key(common.number, message_id)
    other = user or _user_of(contact, phone) or phone
    return common.update(_MESSAGE, key, raw, other, seconds, head)


def _read_status(common: _Common, raw: Raw) -> Update | None:
    item, contact = _decode_status(raw), common.contact
    message_id, seconds = identifier(item.id), seconds_of(item.timestamp)
    if message_id is None or seconds is None:
        return None
    user_id, parent_id, phone = (
        item.recipient_user_id,
        item.recipient_parent_user_id,
        item.recipient_id,
    )
    recipients = (user_id, parent_id, phone, None, None, None)
    key = status_key(_STATUS, common.number, message_id, item.status, recipients, seconds)
    head = StatusHead(
        message_id,
        identifier(item.status),
        "",
        error_code(item.errors),
        identifier(item.biz_opaque_callback_data),
    )
    user, phone = identifier(user_id) or identifier(parent_id), identifier(phone)
    other = user or _user_of(contact, phone) or phone
    return common.update(_STATUS, key, raw, other, seconds, head)


def _customer(item: _MessageItem, contact: _ContactItem) -> str | None:
    return (
        identifier(contact.wa_id)
        or identifier(item.from_user_id)
        or identifier(contact.user_id)
        or identifier(item.from_parent_user_id)
        or identifier(contact.parent_user_id)
    )


def _user_of(contact: _ContactItem, phone: str | None) -> str | None:
    return identifier(contact.user_id) if contact.wa_id == phone and phone is not None else None
