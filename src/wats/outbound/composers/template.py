"""The composer of templates, with every kind of component. No I/O."""

from collections.abc import Iterator
from typing import Any, Final

from wats.outbound.composers.common import (
    CURRENCY,
    FILENAME,
    LABEL,
    LINK,
    LOCATION,
    LONG_ID,
    MAX_PRODUCTS,
    PRODUCT_SECTIONS,
    media,
    required,
    typed,
)
from wats.outbound.composers.composer import Composer
from wats.outbound.composers.interactive import ORDER_PARAMETERS
from wats.outbound.composers.rules import AnyOf, OneOf
from wats.outbound.composers.values import Array, Field, Free, Number, Record, Shaped, TextValue

Built = dict[str, Any]


def _as_parameter(built: Built) -> Built:
    name = {key: built.pop(key) for key in ("parameter_name",) if key in built}
    [kind] = built
    return {"type": kind, **name, **built}


def _as_header(parameter: Built) -> Built:
    return {"type": "header", "parameters": [parameter]}


def _as_body(parameters: list[Built]) -> Built:
    return {"type": "body", "parameters": parameters}


def _as_offer(offer: Built) -> Built:
    return {"type": "limited_time_offer", "parameters": [typed({"limited_time_offer": offer})]}


def _as_tap_target(target: Built) -> Built:
    kind = "tap_target_configuration"
    return {"type": kind, "parameters": [typed({kind: [target]})]}


def _as_carousel(cards: list[Built]) -> Built:
    numbered = [{"card_index": index, **card} for index, card in enumerate(cards)]
    return {"type": "carousel", "cards": numbered}


def _as_button(built: Built) -> Built:
    index = built.pop("index")
    [(kind, parameters)] = built.items()
    given = {"parameters": parameters} if parameters else {}
    return {"type": "button", "sub_type": kind, "index": str(index), **given}


def _as_payload(value: str) -> list[Built]:
    return [typed({"payload": value})]


def _as_text(value: str) -> list[Built]:
    return [typed({"text": value})]


def _as_coupon(value: str) -> list[Built]:
    return [typed({"coupon_code": value})]


def _as_action(value: Built) -> list[Built]:
    return [typed({"action": value})] if value else []


def _as_order(value: Built) -> list[Built]:
    return _as_action({"order_details": value})


def _as_parameters(value: Built) -> list[Built]:
    return [typed({key: each}) for key, each in value.items()]


_NAME: Final = Field("name", "parameter_name", LABEL)
_CURRENCY: Final = Record(
    (
        required("fallbackValue", "fallback_value", LABEL),
        required("code", "code", CURRENCY),
        required("amount1000", "amount_1000", Number(0, 10**15)),
    )
)
_DATE_TIME: Final = Record((required("fallbackValue", "fallback_value", LABEL),))
_PRODUCT: Final = Record(
    (
        required("productRetailerId", "product_retailer_id", LONG_ID),
        required("catalogId", "catalog_id", LONG_ID),
    )
)
_HEADER: Final = Record(
    (
        _NAME,
        Field("text", "text", LABEL),
        Field("image", "image", media()),
        Field("video", "video", media()),
        Field("document", "document", media(FILENAME)),
        Field("location", "location", Record(LOCATION)),
        Field("product", "product", _PRODUCT),
    ),
    rules=(OneOf(("text", "image", "video", "document", "location", "product")),),
)
_PARAMETER: Final = Record(
    (
        _NAME,
        Field("text", "text", TextValue(32768, lines=True)),
        Field("currency", "currency", _CURRENCY),
        Field("dateTime", "date_time", _DATE_TIME),
    ),
    rules=(OneOf(("text", "currency", "dateTime")),),
)
_THUMBNAIL: Final = Field("thumbnailProductRetailerId", "thumbnail_product_retailer_id", LONG_ID)
_PRODUCTS: Final = Record(
    (
        Field(_THUMBNAIL.name, _THUMBNAIL.graph, LONG_ID, required=True),
        required("sections", "sections", PRODUCT_SECTIONS),
    ),
    rules=(MAX_PRODUCTS,),
)
_FLOW: Final = Record(
    (
        Field("flowToken", "flow_token", LONG_ID),
        Field("flowActionData", "flow_action_data", Free()),
    ),
    rules=(AnyOf(("flowToken", "flowActionData")),),
)
_CALL: Final = Record(
    (
        Field("ttlMinutes", "ttl_minutes", Number(1, 43200)),
        Field("payload", "payload", TextValue(512)),
    ),
    rules=(AnyOf(("ttlMinutes", "payload")),),
)
_BUTTON_KINDS: Final = (
    Field("payload", "quick_reply", Shaped(LONG_ID, _as_payload)),
    Field("urlText", "url", Shaped(LONG_ID, _as_text)),
    Field("couponCode", "copy_code", Shaped(LABEL, _as_coupon)),
    Field("flow", "flow", Shaped(_FLOW, _as_action)),
    Field("catalog", "catalog", Shaped(Record((_THUMBNAIL,)), _as_action)),
    Field("products", "mpm", Shaped(_PRODUCTS, _as_action)),
    Field("voiceCall", "voice_call", Shaped(_CALL, _as_parameters)),
    Field("order", "order_details", Shaped(Record(ORDER_PARAMETERS), _as_order)),
)
_BUTTON: Final = Record(
    (required("index", "index", Number(0, 9)), *_BUTTON_KINDS),
    rules=(OneOf(tuple(each.name for each in _BUTTON_KINDS)),),
)


_BODY: Final = Array(Shaped(_PARAMETER, _as_parameter), 1, 100)


def _components(position: str) -> Iterator[Field]:
    """Yield the keys of the components that both a template and a card can have."""
    yield Field("header", position, Shaped(Shaped(_HEADER, _as_parameter), _as_header))
    yield Field("body", position, Shaped(_BODY, _as_body))
    yield Field("buttons", position, Array(Shaped(_BUTTON, _as_button), 1, 10))


_CARD: Final = Record(
    tuple(_components("components+")), rules=(AnyOf(("header", "body", "buttons")),)
)
_OFFER: Final = Record((required("expirationTimeMs", "expiration_time_ms", Number(0, 10**15)),))
_TAP_TARGET: Final = Record((required("url", "url", LINK), required("title", "title", LABEL)))
_COMPONENTS: Final = "template.components+"

COMPOSERS: Final = (
    Composer(
        "template",
        "template",
        "An approved template, with the values of its variables.",
        (
            required("name", "template.name", TextValue(512)),
            required("language", "template.language.code", TextValue(64)),
            *_components(_COMPONENTS),
            Field("limitedTimeOffer", _COMPONENTS, Shaped(_OFFER, _as_offer)),
            Field("tapTarget", _COMPONENTS, Shaped(_TAP_TARGET, _as_tap_target)),
            Field("cards", _COMPONENTS, Shaped(Array(_CARD, 1, 10), _as_carousel)),
        ),
    ),
)
