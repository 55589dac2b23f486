"""The content of messages and statuses, in Meta's words and shapes. No I/O."""

from typing import Any

import msgspec

from wats.inbound.parts import Moment, Part, read


class ErrorData(Part, frozen=True):
    """The details of an error."""

    details: str | None = None


class PlatformError(Part, frozen=True):
    """An error as Meta reports it in a webhook. Act on `code`; the texts change."""

    code: int | None = None
    title: str | None = None
    message: str | None = None
    error_data: ErrorData | None = None
    details: str | None = None
    href: str | None = None


class ReferredProduct(Part, frozen=True):
    """The product that a message refers to."""

    catalog_id: str | None = None
    product_retailer_id: str | None = None


class Context(Part, frozen=True):
    """The reference of a message. A forwarded message has a context without an id."""

    id: str | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    forwarded: bool | None = None
    frequently_forwarded: bool | None = None
    referred_product: ReferredProduct | None = None


class WelcomeMessage(Part, frozen=True):
    """The greeting of an ad."""

    text: str | None = None


class Referral(Part, frozen=True):
    """The ad or post that led the customer here."""

    source_url: str | None = None
    source_id: str | None = None
    source_type: str | None = None
    headline: str | None = None
    body: str | None = None
    media_type: str | None = None
    image_url: str | None = None
    video_url: str | None = None
    thumbnail_url: str | None = None
    ctwa_clid: str | None = None
    welcome_message: WelcomeMessage | None = None


class Identity(Part, frozen=True):
    """The state of the customer's security code."""

    acknowledged: bool | None = None
    created_timestamp: Moment | None = None
    hash: str | None = None


class Text(Part, frozen=True):
    """A text message; its body is empty if Meta sent none."""

    body: str = ""


class Media(Part, frozen=True):
    """An image, video, audio, document or sticker; `Message.type` has the kind."""

    id: str | None = None
    mime_type: str | None = None
    sha256: str | None = None
    caption: str | None = None
    filename: str | None = None
    url: str | None = None
    voice: bool | None = None
    animated: bool | None = None


class Location(Part, frozen=True):
    """A location. Zero is a coordinate like any other."""

    latitude: float | None = None
    longitude: float | None = None
    name: str | None = None
    address: str | None = None
    url: str | None = None


class ContactName(Part, frozen=True):
    """The parts of a name on a contact card."""

    formatted_name: str | None = None
    first_name: str | None = None
    middle_name: str | None = None
    last_name: str | None = None
    prefix: str | None = None
    suffix: str | None = None


class ContactPhone(Part, frozen=True):
    """A phone number on a contact card."""

    phone: str | None = None
    wa_id: str | None = None
    type: str | None = None


class ContactEmail(Part, frozen=True):
    """An e-mail address on a contact card."""

    email: str | None = None
    type: str | None = None


class ContactUrl(Part, frozen=True):
    """A web address on a contact card."""

    url: str | None = None
    type: str | None = None


class ContactAddress(Part, frozen=True):
    """A postal address on a contact card."""

    street: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    country: str | None = None
    country_code: str | None = None
    type: str | None = None


class ContactOrganization(Part, frozen=True):
    """Where the person on a contact card works."""

    company: str | None = None
    department: str | None = None
    title: str | None = None


class ContactCard(Part, frozen=True):
    """One contact card. A reply to a contact request has a `vcard` and may have no name."""

    name: ContactName | None = None
    phones: tuple[ContactPhone, ...] = ()
    emails: tuple[ContactEmail, ...] = ()
    urls: tuple[ContactUrl, ...] = ()
    addresses: tuple[ContactAddress, ...] = ()
    org: ContactOrganization | None = None
    birthday: str | None = None
    vcard: str | None = None


class Contacts(Part, frozen=True):
    """The contact cards that a customer sent; `origin` shows whether they were requested."""

    contacts: tuple[ContactCard, ...] = ()
    origin: str | None = None


class ButtonReply(Part, frozen=True):
    """The reply button that was tapped."""

    id: str | None = None
    title: str | None = None


class ListReply(Part, frozen=True):
    """The row of a list that was chosen."""

    id: str | None = None
    title: str | None = None
    description: str | None = None


class NfmReply(Part, frozen=True):
    """A completed Flow or address form."""

    name: str | None = None
    body: str | None = None
    response_json: str | None = None

    @property
    def response(self) -> Any:
        """The fields that the customer filled in, decoded; `None` if missing or not JSON."""
        try:
            return msgspec.json.decode(self.response_json or "null")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None


class CallPermissionReply(Part, frozen=True):
    """Whether, and until when, the business may call."""

    response: str | None = None
    is_permanent: bool | None = None
    expiration_timestamp: Moment | None = None
    response_source: str | None = None


class ProductReply(Part, frozen=True):
    """The product that was chosen."""

    catalog_id: str | None = None
    product_retailer_id: str | None = None


class ProductListReply(Part, frozen=True):
    """The products that were chosen."""

    catalog_id: str | None = None
    product_items: tuple[ReferredProduct, ...] = ()


class CtaUrlReply(Part, frozen=True):
    """The link button that was tapped."""

    id: str | None = None
    title: str | None = None
    url: str | None = None


class Interactive(Part, frozen=True):
    """The reply to an interactive message; `type` names the one field that is filled."""

    type: str | None = None
    button_reply: ButtonReply | None = None
    list_reply: ListReply | None = None
    nfm_reply: NfmReply | None = None
    call_permission_reply: CallPermissionReply | None = None
    product_reply: ProductReply | None = None
    product_list_reply: ProductListReply | None = None
    cta_url_reply: CtaUrlReply | None = None


class Button(Part, frozen=True):
    """The quick-reply button of a template that was tapped."""

    payload: str | None = None
    text: str | None = None


class OrderItem(Part, frozen=True):
    """One line of an order. Meta sends the numbers as numbers and as text; both are read."""

    product_retailer_id: str | None = None
    quantity: int | None = None
    item_price: float | None = None
    currency: str | None = None


class Order(Part, frozen=True):
    """A cart that was sent as an order."""

    catalog_id: str | None = None
    text: str | None = None
    product_items: tuple[OrderItem, ...] = ()


class Reaction(Part, frozen=True):
    """A reaction to the message *message_id*."""

    message_id: str | None = None
    emoji: str | None = None

    @property
    def is_removal(self) -> bool:
        """Whether the customer took their reaction back: Meta sends no emoji, or an empty one."""
        return not self.emoji


class System(Part, frozen=True):
    """Something changed about a customer, such as their number or their user id.

    `wa_id` and `user_id` are the new ones; `Message.sender` is the former identity. `new_wa_id` and
    `customer` are the older spelling.
    """

    type: str | None = None
    body: str | None = None
    wa_id: str | None = None
    new_wa_id: str | None = None
    customer: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    identity: str | None = None


class Revoke(Part, frozen=True):
    """The customer deleted the message *original_message_id*."""

    original_message_id: str | None = None


class Unsupported(Part, frozen=True):
    """A message that Meta does not pass on; `Message.errors` hold the reason."""

    type: str | None = None
    title: str | None = None
    description: str | None = None


class Edit(Part, frozen=True):
    """The customer changed the message *original_message_id*; `content` is its new content."""

    original_message_id: str | None = None
    type: str | None = None
    context: Context | None = None
    content: Part | None = None


class Origin(Part, frozen=True):
    """The origin of a conversation."""

    type: str | None = None


class Conversation(Part, frozen=True):
    """The conversation that Meta counts a message to."""

    id: str | None = None
    origin: Origin | None = None
    expiration_timestamp: Moment | None = None


class Pricing(Part, frozen=True):
    """The price of a message, by model (`PMP`: per message, `CBP`: per conversation)."""

    billable: bool | None = None
    pricing_model: str | None = None
    category: str | None = None
    type: str | None = None


class Amount(Part, frozen=True):
    """An amount of money: *value* divided by *offset*."""

    value: int | None = None
    offset: int | None = None


class PaymentMethod(Part, frozen=True):
    """How a customer paid."""

    type: str | None = None


class PaymentError(Part, frozen=True):
    """Why a payment failed."""

    code: str | None = None
    reason: str | None = None


class Transaction(Part, frozen=True):
    """One attempt to pay."""

    id: str | None = None
    type: str | None = None
    status: str | None = None
    created_timestamp: Moment | None = None
    updated_timestamp: Moment | None = None
    amount: Amount | None = None
    currency: str | None = None
    method: PaymentMethod | None = None
    error: PaymentError | None = None


class Payment(Part, frozen=True):
    """The payment of a payment status."""

    reference_id: str | None = None
    amount: Amount | None = None
    currency: str | None = None
    receipt: str | None = None
    transaction: Transaction | None = None


CONTENT_TYPES: dict[str, type[Part]] = {
    "text": Text,
    "image": Media,
    "video": Media,
    "audio": Media,
    "document": Media,
    "sticker": Media,
    "location": Location,
    "interactive": Interactive,
    "button": Button,
    "order": Order,
    "reaction": Reaction,
    "system": System,
    "revoke": Revoke,
    "unsupported": Unsupported,
}
"""The types whose content is an object under the name of the type."""


def read_content(message: dict[str, Any]) -> Part | None:
    """Return the content of *message*; `None` if its type has none or is unknown."""
    kind = message.get("type")
    match kind:
        case "contacts" if isinstance(message.get("contacts"), list):
            return read(Contacts, message)
        case "edit":
            return _read_edit(message.get("edit"))
        case str() if kind in CONTENT_TYPES:
            return read(CONTENT_TYPES[kind], message.get(kind))
        case _:
            return None


def _read_edit(raw: object) -> Edit | None:
    if not isinstance(raw, dict):
        return None
    inner = raw.get("message")
    message = inner if isinstance(inner, dict) else {}
    original_message_id = raw.get("original_message_id")
    kind = message.get("type")
    return Edit(
        original_message_id=original_message_id if isinstance(original_message_id, str) else None,
        type=kind if isinstance(kind, str) else None,
        context=read(Context, message.get("context")),
        # An edit of an edit is not followed, so that nesting is less deep than in the webhook.
        content=None if kind == "edit" else read_content(message),
    )
