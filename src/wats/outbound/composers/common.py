"""The values that several composers have, with Meta's limits. No I/O."""

from typing import Any, Final

from msgspec import UNSET

from wats.outbound.composers.rules import OneOf, Total
from wats.outbound.composers.values import (
    Array,
    Constant,
    Field,
    Number,
    Record,
    Shaped,
    TextValue,
    Value,
)

MAX_LINK: Final = 2048

LABEL: Final = TextValue(60)
BUTTON_LABEL: Final = TextValue(20)
BODY_TEXT: Final = TextValue(1024, lines=True)
ID: Final = TextValue(256)
LONG_ID: Final = TextValue(2048)
LINK: Final = TextValue(
    MAX_LINK, pattern=r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]\S*", form="an http or https URL"
)
CURRENCY: Final = TextValue(3, pattern="[A-Z]{3}", form="a currency such as EUR")
COUNTRY: Final = TextValue(2, pattern="[A-Z]{2}", form="a country such as IN")


def unless_empty(value: Any) -> Any:
    """Return *value*, or `UNSET` if it is empty or false, which omits the member."""
    return value or UNSET


def typed(built: dict[str, Any]) -> dict[str, Any]:
    """Return the object of one member with its name as `type`."""
    [kind] = built
    return {"type": kind, **built}


def media(*more: Field | Constant) -> Record:
    """Return an object for a file: its id or its link, and *more*."""
    return Record(
        (Field("mediaId", "id", LONG_ID), Field("link", "link", LINK), *more),
        rules=(OneOf(("mediaId", "link")),),
    )


def under(parent: str, *members: Field | Constant) -> tuple[Field | Constant, ...]:
    """Return *members* with their positions below *parent*."""
    return tuple(
        Constant(f"{parent}.{each.graph}", each.value)
        if isinstance(each, Constant)
        else Field(each.name, f"{parent}.{each.graph}", each.value, each.required, each.aliases)
        for each in members
    )


def required(name: str, graph: str, value: Value) -> Field:
    """Return a key that must be given."""
    return Field(name, graph, value, required=True)


FILENAME: Final = Field("filename", "filename", ID)
LOCATION: Final = (
    required("latitude", "latitude", Number(-90, 90, whole=False)),
    required("longitude", "longitude", Number(-180, 180, whole=False)),
    Field("name", "name", LABEL),
    Field("address", "address", BODY_TEXT),
)
PRODUCT_SECTIONS: Final = Array(
    Record(
        (
            required("title", "title", TextValue(24)),
            required(
                "productItems",
                "product_items",
                Array(
                    Record((required("productRetailerId", "product_retailer_id", LONG_ID),)), 1, 30
                ),
            ),
        )
    ),
    1,
    10,
)
MAX_PRODUCTS: Final = Total("sections", "productItems", 30)


def money(amount: int) -> dict[str, Any]:
    """Return an amount in hundredths of the currency in Graph's form."""
    return {"value": amount, "offset": 100}


AMOUNT: Final = Shaped(Number(0, 10**12), money)
