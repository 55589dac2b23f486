"""The composers of interactive messages. No I/O."""

from typing import Any, Final

from wats.outbound.composers.common import (
    AMOUNT,
    BODY_TEXT,
    BUTTON_LABEL,
    COUNTRY,
    CURRENCY,
    FILENAME,
    ID,
    LABEL,
    LINK,
    LONG_ID,
    MAX_PRODUCTS,
    PRODUCT_SECTIONS,
    media,
    money,
    required,
    typed,
    under,
)
from wats.outbound.composers.composer import Composer
from wats.outbound.composers.rules import OneOf, Rule, Total
from wats.outbound.composers.values import (
    Array,
    Choice,
    Constant,
    Field,
    Free,
    Number,
    Record,
    Shaped,
    TextValue,
)

_Members = tuple[Field | Constant, ...]


def _as_text_header(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _as_reply_button(button: dict[str, Any]) -> dict[str, Any]:
    return {"type": "reply", "reply": button}


def _as_quick_reply(button: dict[str, Any]) -> dict[str, Any]:
    return {"type": "quick_reply", "quick_reply": button}


def _as_cards(kind: str, cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"card_index": index, "type": kind, **card} for index, card in enumerate(cards)]


def _as_media_cards(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _as_cards("cta_url", cards)


def _as_product_cards(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _as_cards("product", cards)


def _as_charge(charge: dict[str, Any]) -> dict[str, Any]:
    return {**money(charge.pop("amount")), **charge}


def _header(*kinds: tuple[str, Record]) -> Field:
    is_alone = len(kinds) == 1
    record = Record(
        tuple(Field(name, name, value, required=is_alone) for name, value in kinds),
        rules=() if is_alone else (OneOf(tuple(name for name, _ in kinds)),),
    )
    return Field("header", "header", Shaped(record, typed))


_IMAGE: Final = ("image", media())
_VIDEO: Final = ("video", media())
_DOCUMENT: Final = ("document", media(FILENAME))

_TEXT_HEADER: Final = Field("headerText", "header", Shaped(LABEL, _as_text_header))
_MEDIA_HEADER: Final = _header(_IMAGE, _VIDEO, _DOCUMENT)
_ONE_HEADER: Final = OneOf(("headerText", "header"), required=False)
_BODY: Final = required("bodyText", "body.text", BODY_TEXT)
_FOOTER: Final = Field("footerText", "footer.text", LABEL)

_BUTTON: Final = Record((required("id", "id", ID), required("title", "title", BUTTON_LABEL)))
_REPLY_BUTTONS: Final = Array(Shaped(_BUTTON, _as_reply_button), 1, 3)
_URL_BUTTON: Final[_Members] = (
    Constant("name", "cta_url"),
    required("displayText", "parameters.display_text", BUTTON_LABEL),
    required("url", "parameters.url", LINK),
)

_ROW: Final = Record(
    (
        required("id", "id", ID),
        required("title", "title", TextValue(24)),
        Field("description", "description", TextValue(72, lines=True)),
    )
)
_SECTION: Final = Record(
    (Field("title", "title", TextValue(24)), required("rows", "rows", Array(_ROW, 1, 10)))
)

_MEDIA_CARD: Final = Record(
    (
        Field("header", "header", _header(_IMAGE, _VIDEO).value, required=True),
        Field("bodyText", "body.text", TextValue(160, lines=True)),
        Field("urlButton", "action", Record(_URL_BUTTON)),
        Field("buttons", "action.buttons", Array(Shaped(_BUTTON, _as_quick_reply), 1, 3)),
    ),
    rules=(OneOf(("urlButton", "buttons")),),
)
_PRODUCT_CARD: Final = Record(
    under(
        "action",
        required("productRetailerId", "product_retailer_id", LONG_ID),
        required("catalogId", "catalog_id", LONG_ID),
    )
)

_CHARGE: Final = Shaped(
    Record(
        (
            required("amount", "amount", Number(0, 10**12)),
            Field("description", "description", LABEL),
        )
    ),
    _as_charge,
)
_ITEM: Final = Record(
    (
        required("retailerId", "retailer_id", LONG_ID),
        required("name", "name", LABEL),
        required("amount", "amount", AMOUNT),
        required("quantity", "quantity", Number(1, 10**6)),
        Field("saleAmount", "sale_amount", AMOUNT),
    )
)
_REFERENCE: Final = required(
    "referenceId",
    "reference_id",
    TextValue(35, pattern="[A-Za-z0-9_.-]+", form="letters, digits, '_', '-' and '.'"),
)
_ORDER: Final = Record(
    (
        Constant("status", "pending"),
        Field("catalogId", "catalog_id", LONG_ID),
        required("items", "items", Array(_ITEM, 1, 999)),
        required("subtotal", "subtotal", AMOUNT),
        required("tax", "tax", _CHARGE),
        Field("shipping", "shipping", _CHARGE),
        Field("discount", "discount", _CHARGE),
    )
)
ORDER_PARAMETERS: Final[_Members] = (
    _REFERENCE,
    required("goodsType", "type", Choice(("digital-goods", "physical-goods"))),
    Field("paymentType", "payment_type", LABEL),
    Field("paymentSettings", "payment_settings", Array(Free(), 1, 10)),
    required("currency", "currency", CURRENCY),
    required("totalAmount", "total_amount", AMOUNT),
    Field("order", "order", _ORDER),
)
"""The order of the composer and of the button of a template."""


def _interactive(
    kind: str,
    graph_kind: str,
    summary: str,
    *members: Field | Constant,
    rules: tuple[Rule, ...] = (),
) -> Composer:
    all_members = under("interactive", Constant("type", graph_kind), *members)
    return Composer(kind, "interactive", summary, all_members, rules)


def _action(name: str | None, *members: Field | Constant) -> _Members:
    return under("action", *(() if name is None else (Constant("name", name),)), *members)


COMPOSERS: Final = (
    _interactive(
        "interactiveButtons",
        "button",
        "A text with up to three buttons that reply.",
        _TEXT_HEADER,
        _MEDIA_HEADER,
        _BODY,
        _FOOTER,
        *_action(None, required("buttons", "buttons", _REPLY_BUTTONS)),
        rules=(_ONE_HEADER,),
    ),
    _interactive(
        "interactiveList",
        "list",
        "A text with a list of rows that reply.",
        _TEXT_HEADER,
        required("bodyText", "body.text", TextValue(4096, lines=True)),
        _FOOTER,
        *_action(
            None,
            required("buttonText", "button", BUTTON_LABEL),
            required("sections", "sections", Array(_SECTION, 1, 10)),
        ),
        rules=(Total("sections", "rows", 10),),
    ),
    _interactive(
        "interactiveCtaUrl",
        "cta_url",
        "A text with a button that opens a URL.",
        _TEXT_HEADER,
        _MEDIA_HEADER,
        _BODY,
        _FOOTER,
        *under("action", *_URL_BUTTON),
        rules=(_ONE_HEADER,),
    ),
    _interactive(
        "callPermissionRequest",
        "call_permission_request",
        "A request for permission to call the customer.",
        _BODY,
        _FOOTER,
        *_action("call_permission_request"),
    ),
    _interactive(
        "interactiveVoiceCall",
        "voice_call",
        "A text with a button that calls the business on WhatsApp.",
        _BODY,
        *_action(
            "voice_call",
            Field("displayText", "parameters.display_text", BUTTON_LABEL),
            Field("ttlMinutes", "parameters.ttl_minutes", Number(1, 43200)),
            Field("payload", "parameters.payload", TextValue(512)),
        ),
    ),
    _interactive(
        "interactiveProduct",
        "product",
        "One product of a catalog.",
        Field("bodyText", "body.text", BODY_TEXT),
        _FOOTER,
        *_action(
            None,
            required("catalogId", "catalog_id", LONG_ID),
            required("productRetailerId", "product_retailer_id", LONG_ID),
        ),
    ),
    _interactive(
        "interactiveProducts",
        "product_list",
        "Several products of a catalog.",
        Field("headerText", "header", Shaped(LABEL, _as_text_header), required=True),
        _BODY,
        _FOOTER,
        *_action(
            None,
            required("catalogId", "catalog_id", LONG_ID),
            required("sections", "sections", PRODUCT_SECTIONS),
        ),
        rules=(MAX_PRODUCTS,),
    ),
    _interactive(
        "interactiveCatalog",
        "catalog_message",
        "A text with a button that opens the catalog.",
        _TEXT_HEADER,
        _BODY,
        _FOOTER,
        *_action(
            "catalog_message",
            Field(
                "thumbnailProductRetailerId", "parameters.thumbnail_product_retailer_id", LONG_ID
            ),
        ),
    ),
    _interactive(
        "interactiveLocationRequest",
        "location_request_message",
        "A text with a button that sends the customer's location.",
        _BODY,
        *_action("send_location"),
    ),
    _interactive(
        "interactiveContactRequest",
        "request_contact_info",
        "A text with a button that shares the customer's phone number.",
        _BODY,
        *_action("request_contact_info"),
    ),
    _interactive(
        "interactiveFlow",
        "flow",
        "A text with a button that opens a flow.",
        _TEXT_HEADER,
        _MEDIA_HEADER,
        _BODY,
        _FOOTER,
        *_action(
            "flow",
            Constant("parameters.flow_message_version", "3"),
            Field("flowToken", "parameters.flow_token", LONG_ID),
            Field("flowId", "parameters.flow_id", ID),
            Field("flowName", "parameters.flow_name", ID),
            required("buttonText", "parameters.flow_cta", TextValue(30)),
            Field("mode", "parameters.mode", Choice(("draft", "published"))),
            Field("flowAction", "parameters.flow_action", Choice(("navigate", "data_exchange"))),
            Field("screen", "parameters.flow_action_payload.screen", ID),
            Field("data", "parameters.flow_action_payload.data", Free()),
        ),
        rules=(_ONE_HEADER, OneOf(("flowId", "flowName"))),
    ),
    _interactive(
        "interactiveAddress",
        "address_message",
        "A text with a button that asks for a postal address.",
        _TEXT_HEADER,
        _BODY,
        _FOOTER,
        *_action(
            "address_message",
            required("country", "parameters.country", COUNTRY),
            Field("values", "parameters.values", Free()),
            Field(
                "savedAddresses",
                "parameters.saved_addresses",
                Array(
                    Record((required("id", "id", ID), required("value", "value", Free()))), 1, 100
                ),
            ),
            Field("validationErrors", "parameters.validation_errors", Free()),
        ),
    ),
    _interactive(
        "interactiveCarousel",
        "carousel",
        "Cards with a picture or a video and buttons, next to each other.",
        _BODY,
        *_action(
            None, required("cards", "cards", Shaped(Array(_MEDIA_CARD, 2, 10), _as_media_cards))
        ),
    ),
    _interactive(
        "interactiveProductCarousel",
        "carousel",
        "Products of a catalog, next to each other.",
        _BODY,
        *_action(
            None, required("cards", "cards", Shaped(Array(_PRODUCT_CARD, 2, 10), _as_product_cards))
        ),
    ),
    _interactive(
        "interactiveOrderDetails",
        "order_details",
        "An order, with a button to review and pay it.",
        _header(_IMAGE),
        _BODY,
        _FOOTER,
        *_action("review_and_pay", *under("parameters", *ORDER_PARAMETERS)),
    ),
    _interactive(
        "interactiveOrderStatus",
        "order_status",
        "A new state of an order.",
        _BODY,
        _FOOTER,
        *_action(
            "review_order",
            *under(
                "parameters",
                _REFERENCE,
                required(
                    "orderStatus",
                    "order.status",
                    Choice(
                        (
                            "pending",
                            "processing",
                            "partially_shipped",
                            "shipped",
                            "completed",
                            "canceled",
                        )
                    ),
                ),
                Field("description", "order.description", TextValue(120, lines=True)),
            ),
        ),
    ),
)
