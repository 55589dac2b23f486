"""The messages of customers, a class for each content, so that a type checker narrows them. No I/O.

match update.message:
    case Text(body=body): ...
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Generic, TypeAlias, cast, final

import msgspec
from typing_extensions import TypeVar, override

from wats.inbound.content import (
    Button,
    Contacts,
    Context,
    Edit,
    Identity,
    Interactive,
    Location,
    Media,
    Order,
    PlatformError,
    Reaction,
    Referral,
    Revoke,
    System,
    Text,
    Unsupported,
)
from wats.inbound.parts import Part


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


class MessageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The members that messages of every type have, and the content alone."""

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


ContentT_co = TypeVar("ContentT_co", bound=Part | None, covariant=True, default=Part | None)


class Message(Generic[ContentT_co]):
    """A message of a customer. Its complete content is in `Update.raw`, typed or not.

    A message is an instance of the class of its content too, such as `Text`, so `match` and
    `isinstance` narrow it. The members of this class take precedence: `id` of an image is the id of
    the message, and `content.id` that of the file.
    """

    __slots__ = ()

    header: MessageHeader

    @property
    def id(self) -> str:
        """The WhatsApp id of the message."""
        return self.header.id

    @property
    def type(self) -> str | None:
        """The type in Meta's words, such as `text` or `image`."""
        return self.header.type

    @property
    def timestamp(self) -> datetime:
        """Meta's time of the message, in UTC."""
        return self.header.timestamp

    @property
    def sender(self) -> Sender:
        """The author."""
        return self.header.sender

    @property
    def group_id(self) -> str | None:
        """The id of the group that the message was sent to, if any."""
        return self.header.group_id

    @property
    def context(self) -> Context | None:
        """The message that this one quotes, or its forwarding."""
        return self.header.context

    @property
    def content(self) -> ContentT_co:
        """The content alone; `None` for a type without content or an unknown type."""
        return cast("ContentT_co", self.header.content)

    @property
    def referral(self) -> Referral | None:
        """The ad or post that led the customer here."""
        return self.header.referral

    @property
    def identity(self) -> Identity | None:
        """The state of the customer's security code."""
        return self.header.identity

    @property
    def errors(self) -> tuple[PlatformError, ...]:
        """Meta's errors about the message."""
        return self.header.errors


@final
class InboundText(Message[Text], Text, frozen=True, kw_only=True):
    """A text message."""

    header: MessageHeader


@final
class InboundMedia(Message[Media], Media, frozen=True, kw_only=True):
    """An image, video, audio, document or sticker, by `type`."""

    header: MessageHeader

    @property  # type: ignore[misc]  # mypy expects the field of Media
    @override
    def id(self) -> str:
        """The WhatsApp id of the message."""
        return self.header.id

    @property
    def media_id(self) -> str | None:
        """The id of the file at Meta."""
        return self.content.id


@final
class InboundLocation(Message[Location], Location, frozen=True, kw_only=True):
    """A location."""

    header: MessageHeader


@final
class InboundContacts(Message[Contacts], Contacts, frozen=True, kw_only=True):
    """Contact cards."""

    header: MessageHeader


@final
class InboundInteractive(Message[Interactive], Interactive, frozen=True, kw_only=True):
    """The reply to an interactive message."""

    header: MessageHeader


@final
class InboundButton(Message[Button], Button, frozen=True, kw_only=True):
    """A tap on the quick-reply button of a template."""

    header: MessageHeader


@final
class InboundOrder(Message[Order], Order, frozen=True, kw_only=True):
    """An order."""

    header: MessageHeader


@final
class InboundReaction(Message[Reaction], Reaction, frozen=True, kw_only=True):
    """A reaction to a message."""

    header: MessageHeader


@final
class InboundSystem(Message[System], System, frozen=True, kw_only=True):
    """A change of a customer."""

    header: MessageHeader


@final
class InboundRevoke(Message[Revoke], Revoke, frozen=True, kw_only=True):
    """The deletion of a message."""

    header: MessageHeader


@final
class InboundEdit(Message[Edit], Edit, frozen=True, kw_only=True):
    """The change of a message."""

    header: MessageHeader


@final
class InboundUnsupported(Message[Unsupported], Unsupported, frozen=True, kw_only=True):
    """A message that Meta does not pass on."""

    header: MessageHeader


@final
class InboundOther(Message[None], Part, frozen=True, kw_only=True):
    """A message of a type without content, of an unknown type, or without usable content."""

    header: MessageHeader


AnyMessage: TypeAlias = (
    InboundText
    | InboundMedia
    | InboundLocation
    | InboundContacts
    | InboundInteractive
    | InboundButton
    | InboundOrder
    | InboundReaction
    | InboundSystem
    | InboundRevoke
    | InboundEdit
    | InboundUnsupported
    | InboundOther
)
"""A message of any type."""

MESSAGE_CLASSES: Final[Mapping[type[Part], type[AnyMessage]]] = {
    Text: InboundText,
    Media: InboundMedia,
    Location: InboundLocation,
    Contacts: InboundContacts,
    Interactive: InboundInteractive,
    Button: InboundButton,
    Order: InboundOrder,
    Reaction: InboundReaction,
    System: InboundSystem,
    Revoke: InboundRevoke,
    Edit: InboundEdit,
    Unsupported: InboundUnsupported,
}
"""The class of a message, by the class of its content."""
