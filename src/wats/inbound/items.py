"""From one item of a webhook to one update: its conversation, its time and its key. No I/O.

Two rules hold for every update. The item is kept complete and unchanged. Key and time are derived
from Meta's data only, so that they are the same in every redelivery, alone or among other updates.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from wats.clock import EPOCH
from wats.inbound.updates import Update, identifier
from wats.telemetry.contract.values import UpdateKind

Item: TypeAlias = dict[str, Any]
_Names: TypeAlias = tuple[str, ...]

_CANONICAL = msgspec.json.Encoder(order="sorted")
_YEAR_10000 = 253_402_300_800
_LONGEST_TIME = 12
_LONGEST_COPY = 1024

_NUMBER_HOLDERS: _Names = ("metadata", "recipient", "phone_number_settings")

# The members that name a customer: by user id, by the company's user id, and by number.
_FROM: tuple[_Names, _Names] = (("from_user_id", "from_parent_user_id"), ("from",))
_TO: tuple[_Names, _Names] = (("to_user_id", "to_parent_user_id"), ("to",))
_RECIPIENT: tuple[_Names, _Names] = (
    ("recipient_user_id", "recipient_parent_user_id"),
    ("recipient_id",),
)
_PARTICIPANT: tuple[_Names, _Names] = (
    ("recipient_participant_user_id", "recipient_participant_parent_user_id"),
    ("recipient_participant_id",),
)
_CONTACT: tuple[_Names, _Names] = (("user_id", "parent_user_id"), ("wa_id",))
_ABOUT: tuple[_Names, _Names] = (
    ("from_user_id", "user_id"),
    ("from", "wa_id", "phone_number"),
)
_RECIPIENTS = [*_RECIPIENT[0], *_RECIPIENT[1], *_PARTICIPANT[0], *_PARTICIPANT[1]]


class SkipReason(StrEnum):
    """The reason why a part of an envelope became no update."""

    MALFORMED_ENTRY = "malformed_entry"
    MALFORMED_CHANGE = "malformed_change"
    MALFORMED_ITEM = "malformed_item"
    MALFORMED_ID = "malformed_id"
    MISSING_PHONE_NUMBER_ID = "missing_phone_number_id"
    MISSING_SENDER = "missing_sender"
    EMPTY_VALUE = "empty_value"
    UNREAD_MEMBER = "unread_member"
    DUPLICATE = "duplicate"


class Change(msgspec.Struct, kw_only=True):
    """The data that the items of one change share.

    Attributes:
        path: The position of their value in its change.
        number: The id of their business number, if they have one.
        display_number: The same number as Meta writes it, if known.
        contacts: Meta's data about customers, unchecked.
    """

    path: str
    field: str
    number: str | None
    display_number: str | None
    waba_id: str
    entry_seconds: int | None
    received_at: datetime
    contacts: object
    _index: dict[str, Item] | None = None

    def drop_long_contacts(self) -> None:
        """Drop contacts that are too long to be copied into many updates; see `is_short`."""
        if isinstance(self.contacts, list):
            # Their positions stay, so that a remaining contact is not taken for the only one.
            self.contacts = [each if is_short(each) else None for each in self.contacts]

    def contact_of(self, user: str | None, phone: str | None) -> Item | None:
        """Return the contact with one of the given identities, or else the only contact.

        A single contact is accepted without a match, since numbers of some countries are written in
        two ways. One of several is not: a message without a name is better than a wrong name.
        """
        contacts = self.contacts
        if not isinstance(contacts, list):
            return None
        if len(contacts) == 1:
            return contacts[0] if isinstance(contacts[0], dict) else None
        if self._index is None:
            self._index = {
                name: contact
                for contact in contacts
                if isinstance(contact, dict)
                for name in (identifier(contact.get("wa_id")), identifier(contact.get("user_id")))
                if name is not None
            }
        return next((self._index[name] for name in (user, phone) if name in self._index), None)

    def update(
        self,
        kind: UpdateKind,
        key: str,
        item: Item,
        *,
        user: str | None,
        phone: str | None,
        group: str | None = None,
        seconds: int | None,
    ) -> Update:
        """Return *item* as an update.

        The conversation is named by the customer's user id if known, else by the number: a customer
        with a username always has the user id and sometimes the number, and messages from the
        customer and statuses of messages to the customer must share one conversation.
        """
        contact = self.contact_of(user, phone)
        if user is None and phone is not None and contact is not None and "user_id" in contact:
            is_theirs = identifier(contact.get("wa_id")) == phone
            user = identifier(contact["user_id"]) if is_theirs else None
        other = group or user or phone
        time = seconds if seconds is not None else self.entry_seconds
        return Update(
            key=key,
            kind=kind,
            field=self.field,
            waba_id=self.waba_id,
            phone_number_id=self.number,
            conversation=f"{self.number}|{other}" if self.number and other else None,
            occurred_at=moment(time) if time is not None else EPOCH,
            received_at=self.received_at,
            contact=contact,
            raw=item,
            display_phone_number=self.display_number,
        )


def read_message(change: Change, item: Item, kind: UpdateKind) -> Update | SkipReason:
    """Read a message that a customer sent, or that the platform wrote about one."""
    number = change.number
    if number is None:
        return SkipReason.MISSING_PHONE_NUMBER_ID
    message_id = identifier(item.get("id"))
    if message_id is None:
        return SkipReason.MALFORMED_ID
    message_type = item.get("type")
    if message_type == "system":
        kind = UpdateKind.SYSTEM
    elif message_type == "request_welcome":
        kind = UpdateKind.CHAT_OPENED
    user, phone = _person(item, *_FROM)
    if user is None and phone is None:
        user, phone = _person(change.contact_of(None, None) or {}, *_CONTACT)
        # A system message is about a customer, it is not from one.
        if user is None and phone is None and kind is not UpdateKind.SYSTEM:
            return SkipReason.MISSING_SENDER
    return change.update(
        kind,
        message_key(number, message_id),
        item,
        user=user,
        phone=phone,
        group=identifier(item.get("group_id")),
        seconds=seconds_of(item.get("timestamp")),
    )


def read_status(change: Change, item: Item, kind: UpdateKind) -> Update | SkipReason:
    """Read the status of a message for one recipient, or of its payment."""
    number = change.number
    if number is None:
        return SkipReason.MISSING_PHONE_NUMBER_ID
    message_id = identifier(item.get("id"))
    if message_id is None:
        return SkipReason.MALFORMED_ID
    if kind is UpdateKind.STATUS and item.get("type") == "payment":
        kind = UpdateKind.PAYMENT_STATUS
    seconds = seconds_of(item.get("timestamp"))
    recipients = [item.get(name) for name in _RECIPIENTS]
    key = status_key(
        kind, number, message_id, item.get("status"), recipients, seconds, item.get("payment")
    )
    if item.get("recipient_type") == "group":
        group = identifier(item.get("recipient_id"))
        user, phone = _person(item, *_PARTICIPANT)
    else:
        group = None
        user, phone = _person(item, *_RECIPIENT)
    return change.update(kind, key, item, user=user, phone=phone, group=group, seconds=seconds)


def read_call(change: Change, item: Item, kind: UpdateKind) -> Update | SkipReason:
    """Read the beginning or the end of a call; an unknown event is `unknown`."""
    event = item.get("event")
    match event:
        case "connect":
            kind = UpdateKind.CALL_CONNECT
        case "terminate":
            kind = UpdateKind.CALL_TERMINATE
        case _:
            return read_event(change, item, UpdateKind.UNKNOWN)
    return _of_call(change, item, kind, event)


def read_call_status(change: Change, item: Item, kind: UpdateKind) -> Update | SkipReason:
    """Read the status of a call that we made."""
    return _of_call(change, item, kind, item.get("status"))


def _of_call(change: Change, item: Item, kind: UpdateKind, step: object) -> Update | SkipReason:
    if change.number is None:
        return SkipReason.MISSING_PHONE_NUMBER_ID
    call_id = identifier(item.get("id"))
    if call_id is None:
        return SkipReason.MALFORMED_ID
    user, phone = (
        _person(item, *_RECIPIENT)
        if kind is UpdateKind.CALL_STATUS
        else _person(item, *_TO)
        if item.get("direction") == "BUSINESS_INITIATED"
        else _person(item, *_FROM)
    )
    return change.update(
        kind,
        _key(kind, change.number, call_id, step),
        item,
        user=user,
        phone=phone,
        seconds=seconds_of(item.get("timestamp")),
    )


def read_copy(change: Change, item: Item, kind: UpdateKind) -> Update:
    """Read a message that was not sent to us: an echo, one of the history, one in standby."""
    message_id = identifier(item.get("id"))
    seconds = seconds_of(item.get("timestamp"))
    user, phone = _person(item, *_TO)
    if user is None and phone is None:
        user, phone = _person(item, *_FROM)
    return change.update(
        kind,
        _key(kind, change.field, change.number or change.waba_id, message_id)
        if message_id is not None
        else _content_key(change, item, kind, seconds),
        item,
        user=user,
        phone=phone,
        group=identifier(item.get("group_id")),
        seconds=seconds,
    )


def read_group(change: Change, item: Item, kind: UpdateKind) -> Update | SkipReason:
    """Read an event in a group of one of our numbers."""
    if change.number is None:
        return SkipReason.MISSING_PHONE_NUMBER_ID
    return read_event(change, item, kind)


def read_event(change: Change, item: Item, kind: UpdateKind) -> Update:
    """Read an item without an id, which is identified by its content and time."""
    seconds = seconds_of(item.get("timestamp"))
    if seconds is None and isinstance(metadata := item.get("metadata"), dict):
        seconds = seconds_of(metadata.get("timestamp"))
    sender = item.get("sender")
    user, phone = _person(sender if isinstance(sender, dict) else item, *_ABOUT)
    return change.update(
        kind,
        _content_key(change, item, kind, seconds),
        item,
        user=user,
        phone=phone,
        group=identifier(item.get("group_id")),
        seconds=seconds,
    )


def _content_key(change: Change, item: Item, kind: UpdateKind, seconds: int | None) -> str:
    # The same content may occur at two times; an item without a time takes the time of its entry.
    time = change.entry_seconds if seconds is None else None
    return _key(kind, change.field, change.waba_id, change.number, time, item)


def message_key(number: str, message_id: str) -> str:
    """Return the key of a message that the business number *number* received."""
    return _key("message", number, message_id)


def status_key(
    kind: UpdateKind,
    number: str,
    message_id: str,
    status: object,
    recipients: Sequence[object],
    seconds: int | None,
    payment: object = None,
) -> str:
    """Return the key of a status; *recipients* has one element per member that names one."""
    return _key(kind, number, message_id, status, recipients, seconds, payment)


def _key(*parts: object) -> str:
    # JSON says where each part ends, and sorted members make equal items equal bytes.
    return hashlib.blake2b(_CANONICAL.encode(parts), digest_size=16).hexdigest()


def is_short(value: object) -> bool:
    """Return whether *value* has at most 1 KiB as JSON, which all of Meta's own have."""
    return len(_CANONICAL.encode(value)) <= _LONGEST_COPY


def numbers_of(value: Item) -> tuple[str | None, str | None]:
    """Return the id of the business number of *value*, and the number as Meta writes it."""
    for name in _NUMBER_HOLDERS:
        if isinstance(holder := value.get(name), dict):
            number, display = holder.get("phone_number_id"), holder.get("display_phone_number")
            return identifier(number), identifier(display)
    return None, None


def _person(item: Item, users: _Names, phones: _Names) -> tuple[str | None, str | None]:
    """Return the user id and the number of a customer, from the first member with each."""
    user = phone = None
    for name in users:
        if name in item and (user := identifier(item[name])) is not None:
            break
    for name in phones:
        if name in item and (phone := identifier(item[name])) is not None:
            break
    return user, phone


def seconds_of(value: object) -> int | None:
    """Return *value* as whole seconds since 1970, if it is a time before the year 10000."""
    if isinstance(value, str):
        return _seconds_in(value) if len(value) <= _LONGEST_TIME else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value < _YEAR_10000 else None


# Of two thousand updates in a second, most have the same time.
@lru_cache(maxsize=64)
def _seconds_in(text: str) -> int | None:
    return seconds_of(int(text)) if text.isascii() and text.isdigit() else None


@lru_cache(maxsize=64)
def moment(seconds: int) -> datetime:
    """Return the UTC time that is *seconds* after 1970."""
    return datetime.fromtimestamp(seconds, UTC)
