"""The updates in a webhook, each with its key, and their typed views. No I/O."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, cast

import msgspec
from typing_extensions import TypeVar

from wats.errors import Detail, MalformedRequest, NoMessage
from wats.ids import MAX_ID_LENGTH, is_safe_id
from wats.inbound import replies
from wats.inbound.content import Context, Identity, PlatformError, Referral, read_content
from wats.inbound.events import Customer, Status
from wats.inbound.message_types import (
    MESSAGE_CLASSES,
    AnyMessage,
    InboundOther,
    Message,
    MessageHeader,
    Sender,
)
from wats.inbound.parts import Part, read, read_all
from wats.inbound.typed import AnyContent, read_typed
from wats.sends import Sent
from wats.telemetry.contract.values import UpdateKind

_TOO_LONG = 10**32
"""The first number that is longer than any identifier of Meta's."""


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
    callback: str | None = None


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


ContentT_co = TypeVar("ContentT_co", bound=Part | None, covariant=True, default=AnyContent | None)


class Update(_Headed, msgspec.Struct, Generic[ContentT_co], frozen=True, kw_only=True):
    """One event, as Meta reported it. `Update[Text]` is one whose content is a `Text`.

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
        display_phone_number: The business number as Meta writes it, if the webhook had it.
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
    display_phone_number: str | None = None

    @property
    def content(self) -> ContentT_co:
        """The item, or the content of the message, as the class of its kind, field and type.

        `None` if the type or the field is unknown. It is decoded at each access.
        """
        return cast("ContentT_co", read_typed(self.kind, self.field, self.raw))

    @property
    def customer(self) -> Customer | None:
        """Meta's data about the customer, from `contact`; decoded at each access."""
        return read(Customer, self.contact)

    @property
    def message(self) -> AnyMessage | None:
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

    async def reply(
        self, message: str | replies.Content, *, quote: bool = False, key: str | None = None
    ) -> Sent:
        """Reply to the message of a customer, in the chat or group in which it was written.

        The business number that received the message sends the reply. In a retry of the handler, a
        reply that an earlier attempt sent is not sent again. The n-th reply of an attempt replaces
        the n-th one of an earlier attempt, so replies must depend on the update alone; give a reply
        that does not a *key*.

        Args:
            message: A text of at most 4096 characters, or a message in Graph's format without its
                recipient, such as `{"type": "image", "image": {"link": …}}`.
            quote: Whether the reply quotes the message.
            key: A name of the reply that is unique in its handler, in place of its position.

        Raises:
            NoHandlerCall: No handler of a running service is being called.
            NoMessage: The update is not a message that a customer wrote.
            MalformedRequest: The message is not valid; `details` hold every mistake.
            StoreUnavailable: The key could not be reserved; nothing was sent.
            IdempotencyConflict: An earlier attempt sent another reply with this key.
            IdempotencyInFlight: An earlier attempt with this key is still being sent.
            GraphRefused: Meta refused it; nothing was sent.
            GraphUnreachable: Nothing was sent.
            GraphOutcomeUnknown: Meta may have accepted it. It will not be sent again: in a retry,
                the result of this reply is one with `is_certain` false.
        """
        content = replies.text(message) if isinstance(message, str) else message
        origin = self._origin()
        reply = {**content, **_address_of(origin, content)}
        if quote:
            reply["context"] = {"message_id": origin.id}
        return await replies.current_outlet().reply(
            reply, update_key=self.key, phone_number_id=self.phone_number_id, name=key
        )

    async def reply_template(
        self,
        name: str,
        language: str,
        body: Sequence[str] = (),
        *,
        components: Sequence[replies.Content] = (),
        quote: bool = False,
        key: str | None = None,
    ) -> Sent:
        """Reply with a template, which Meta also delivers outside of the service window.

        Args:
            name: The name of the template.
            language: Its language in Meta's form, such as `en_US`.
            body: The texts for the parameters of its body, in order.
            components: Further components in Graph's format, such as a header.
            quote: As for `reply`.
            key: As for `reply`.

        Raises:
            WatsError: As for `reply`.
        """
        content = replies.template(name, language, body, components)
        return await self.reply(content, quote=quote, key=key)

    async def mark_read(self, *, typing: bool = False) -> None:
        """Mark the message of a customer as read.

        Marking it again has no effect, so it needs no idempotency key.

        Args:
            typing: Whether the customer also sees that a reply is being written, until the reply
                arrives or 25 seconds have passed.

        Raises:
            WatsError: As for `reply`, except for the errors of keys.
        """
        mark = replies.read_mark(self._origin().id, typing=typing)
        await replies.current_outlet().mark(mark, phone_number_id=self.phone_number_id)

    def _origin(self) -> Message:
        """Return the message to reply to."""
        message = self.message if self.kind in _ANSWERED else None
        if message is None:
            raise NoMessage
        return message


_MESSAGES = frozenset({UpdateKind.MESSAGE, UpdateKind.SYSTEM, UpdateKind.CHAT_OPENED})
_ANSWERED = frozenset({UpdateKind.MESSAGE, UpdateKind.CHAT_OPENED})
"""The kinds that a customer caused; the platform writes system messages."""
_STATUSES = frozenset({UpdateKind.STATUS, UpdateKind.PAYMENT_STATUS})

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Update)


_KIND = re.compile(rb'\{"key":"[^"]*","kind":"(\w+)"')
_NUMBER = re.compile(
    rb'\{"key":"[^"]*","kind":"\w+","field":"[^"]*","waba_id":"[^"]*","phone_number_id":"([0-9]+)"'
)


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


def kind_of(head: bytes) -> str:
    """Return the kind of the update whose payload begins with *head*, or `unknown`."""
    match = _KIND.match(head)
    return match[1].decode() if match is not None else UpdateKind.UNKNOWN.value


def number_of(head: bytes) -> str | None:
    """Return the phone number id of the update whose payload begins with *head*.

    `None` if the update has none, or a part of it that precedes the number is unusually long.
    """
    match = _NUMBER.match(head)
    return match[1].decode() if match is not None else None


def mark_of(kind: UpdateKind) -> bytes:
    """Return the bytes that the payloads of updates of *kind* begin with, except for their key."""
    return b'","kind":"%b","field"' % kind.value.encode()


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
) -> AnyMessage | None:
    """Return *raw* as a message; for items that `Update.message` excludes.

    Returns:
        `None` if it has no id.
    """
    message_id = identifier(raw.get("id"))
    if message_id is None:
        return None
    kind = raw.get("type")
    content = read_content(raw)
    header = MessageHeader(
        id=message_id,
        type=kind if isinstance(kind, str) else None,
        timestamp=timestamp,
        sender=read_sender(raw, contact=contact),
        group_id=identifier(raw.get("group_id")),
        context=read(Context, raw.get("context")),
        content=content,
        referral=read(Referral, raw.get("referral")),
        identity=read(Identity, raw.get("identity")),
        errors=read_all(PlatformError, raw.get("errors")),
    )
    if content is None:
        return InboundOther(header=header)
    members: tuple[Any, ...] = msgspec.structs.astuple(content)
    return MESSAGE_CLASSES[type(content)](*members, header=header)


def _address_of(message: Message, content: replies.Content) -> dict[str, object]:
    """Return the members of *content* that send it to the chat of *message*.

    Raises:
        MalformedRequest: *content* has another recipient.
    """
    sender = message.sender
    address: dict[str, object] = {"recipient": sender.user_id or sender.parent_user_id}
    if message.group_id is not None:
        address = {"recipient_type": "group", "to": message.group_id}
    elif sender.wa_id is not None:
        address = {"to": sender.wa_id}
    others = [
        Detail(name, "must not be given: a reply is sent to the chat of its message")
        for name in ("to", "recipient")
        if name in content and content[name] != address.get(name)
    ]
    if others:
        raise MalformedRequest("malformed_body", "A reply has no recipient of its own.", others)
    return address


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
