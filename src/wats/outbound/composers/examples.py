"""One body for each composer, for the documentation: the keys in addition to `to` and `type`."""

from collections.abc import Mapping
from typing import Any, Final

from wats.outbound.composers.composer import Composer

_PICTURE: Final = {"link": "https://example.com/room.jpg"}
_SECTIONS: Final = [{"title": "Cakes", "productItems": [{"productRetailerId": "sku-1"}]}]

_EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "image": {**_PICTURE, "caption": "Your room"},
    "video": {"mediaId": "1234567890", "caption": "The way to us"},
    "audio": {"mediaId": "1234567890", "voice": True},
    "document": {"link": "https://example.com/7.pdf", "filename": "invoice.pdf"},
    "sticker": {"mediaId": "1234567890"},
    "location": {"latitude": 51.5, "longitude": -0.12, "name": "Shop", "address": "1 High St"},
    "reaction": {"messageId": "wamid.HBgL", "emoji": "👍"},
    "removeReaction": {"messageId": "wamid.HBgL"},
    "contacts": {
        "contacts": [
            {
                "name": {"formattedName": "Ada King", "firstName": "Ada"},
                "phones": [{"phone": "+44 20 7946 0000", "type": "WORK"}],
            }
        ]
    },
    "pin": {"pinType": "pin", "messageId": "wamid.HBgL", "expirationDays": 7},
    "interactiveButtons": {
        "bodyText": "Shall we deliver tomorrow?",
        "buttons": [{"id": "yes", "title": "Yes"}, {"id": "no", "title": "No"}],
    },
    "interactiveList": {
        "bodyText": "Choose a time.",
        "buttonText": "Times",
        "sections": [{"rows": [{"id": "9", "title": "9:00"}, {"id": "10", "title": "10:00"}]}],
    },
    "interactiveCtaUrl": {
        "header": {"image": _PICTURE},
        "bodyText": "Your order is on its way.",
        "displayText": "Track",
        "url": "https://example.com/orders/7",
    },
    "callPermissionRequest": {"bodyText": "May we call you about order 7?"},
    "interactiveVoiceCall": {"bodyText": "Call us about order 7.", "displayText": "Call"},
    "interactiveProduct": {"catalogId": "987", "productRetailerId": "sku-1"},
    "interactiveProducts": {
        "headerText": "Our cakes",
        "bodyText": "Baked today.",
        "catalogId": "987",
        "sections": _SECTIONS,
    },
    "interactiveCatalog": {"bodyText": "All of our cakes."},
    "interactiveLocationRequest": {"bodyText": "Where shall we deliver?"},
    "interactiveContactRequest": {"bodyText": "May we have your number?"},
    "interactiveFlow": {
        "bodyText": "Three questions about your visit.",
        "flowId": "1234567890",
        "flowToken": "visit-7",
        "buttonText": "Start",
        "flowAction": "navigate",
        "screen": "FIRST",
    },
    "interactiveAddress": {"bodyText": "Where shall we deliver?", "country": "IN"},
    "interactiveCarousel": {
        "bodyText": "Two rooms are free.",
        "cards": [
            {
                "header": {"image": _PICTURE},
                "bodyText": name,
                "urlButton": {"displayText": "Book", "url": "https://example.com/book"},
            }
            for name in ("Blue room", "Red room")
        ],
    },
    "interactiveProductCarousel": {
        "bodyText": "Our cakes",
        "cards": [{"productRetailerId": sku, "catalogId": "987"} for sku in ("sku-1", "sku-2")],
    },
    "interactiveOrderDetails": {
        "bodyText": "Your order",
        "referenceId": "order-7",
        "goodsType": "physical-goods",
        "currency": "INR",
        "totalAmount": 2160,
        "order": {
            "items": [{"retailerId": "sku-1", "name": "Cake", "amount": 2000, "quantity": 1}],
            "subtotal": 2000,
            "tax": {"amount": 160},
        },
    },
    "interactiveOrderStatus": {
        "bodyText": "Your order is on its way.",
        "referenceId": "order-7",
        "orderStatus": "shipped",
    },
    "template": {
        "name": "order_shipped",
        "language": "en_US",
        "header": {"document": {"link": "https://example.com/7.pdf", "filename": "invoice.pdf"}},
        "body": [{"text": "Ada"}, {"text": "7"}],
        "buttons": [{"index": 0, "urlText": "orders/7"}],
    },
}


def example_of(composer: Composer) -> dict[str, Any]:
    """Return a valid body for *composer*."""
    to = "Y2FwaV9ncm91cDox" if composer.is_for_groups else "15550001234"
    return {"to": to, "type": composer.kind, **_EXAMPLES[composer.kind]}
