"""Graph's checks of a body, and of a message before it accepts it. No I/O."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from wats.simulator.faults import GraphFault, invalid
from wats.simulator.groups import Groups

MAX_TEXT: Final = 4096
TYPES: Final = frozenset(
    {
        "audio", "button", "contacts", "document", "image", "interactive", "location", "pin",
        "reaction", "sticker", "template", "text", "video",
    }
)  # fmt: skip

_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("audio", "document", "image", "sticker", "video"), ("id|link",)),
    "interactive": ("type", "action"),
    "location": ("latitude", "longitude"),
    "pin": ("type", "message_id"),
    "reaction": ("message_id", "emoji"),
    "template": ("name", "language.code"),
}
"""The members of the content of each type that Graph needs; of alternatives, one."""

_PARAMETERS: Final = "action.parameters."
_NEEDED_INTERACTIVE: Final[Mapping[str, tuple[str, ...]]] = {
    "address_message": ("body.text", "action.name", _PARAMETERS + "country"),
    "button": ("body.text", "action.buttons"),
    "call_permission_request": ("action.name",),
    "carousel": ("body.text", "action.cards"),
    "catalog_message": ("body.text", "action.name"),
    "cta_url": ("body.text", "action.name", _PARAMETERS + "display_text", _PARAMETERS + "url"),
    "flow": (
        *("body.text", "action.name", _PARAMETERS + "flow_message_version"),
        *(_PARAMETERS + "flow_cta", _PARAMETERS + "flow_id|flow_name"),
    ),
    "list": ("body.text", "action.button", "action.sections"),
    "location_request_message": ("body.text", "action.name"),
    "order_details": (
        *("body.text", "action.name", _PARAMETERS + "reference_id"),
        *(_PARAMETERS + "type", _PARAMETERS + "currency", _PARAMETERS + "total_amount.value"),
    ),
    "order_status": ("body.text", _PARAMETERS + "reference_id", _PARAMETERS + "order.status"),
    "product": ("action.catalog_id", "action.product_retailer_id"),
    "product_list": ("header.text", "body.text", "action.catalog_id", "action.sections"),
    "request_contact_info": ("body.text", "action.name"),
    "voice_call": ("body.text", "action.name"),
}
"""The same for each type of interactive message."""

_PHONE: Final = re.compile(r"\+?\(?[0-9](?:[ ()-]{0,3}[0-9]){0,14}")


@dataclass(frozen=True, slots=True)
class Addressee:
    """The recipient of a message.

    Attributes:
        kind: A person's number, a group, or a business-scoped user id.
        id: The digits of the number, or the id.
        input: The recipient as the caller wrote it.
    """

    kind: Literal["individual", "group", "user"]
    id: str
    input: str

    def contact(self) -> dict[str, str]:
        """Return the name of the recipient in Graph's response."""
        return {"input": self.input, "user_id" if self.kind == "user" else "wa_id": self.id}


def check_message(payload: Mapping[str, Any], groups: Groups) -> Addressee:
    """Return the recipient of *payload*.

    Raises:
        GraphFault: Graph would refuse it.
    """
    addressee = _addressee(payload, groups)
    kind = payload.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise GraphFault(400, 131009 if kind else 100, details="The parameter type is invalid.")
    content = payload.get(kind)
    if not content or not isinstance(content, dict | list):
        raise GraphFault(400, 131008, details="The content of the type is missing.")
    if kind == "text":
        _check_text(content)
    _check_members(kind, content)
    return addressee


def with_decoded_content(payload: dict[str, Any]) -> dict[str, Any]:
    """Return *payload* with its content as an object or array, if it is a text with that JSON."""
    kind = payload.get("type")
    content = payload.get(kind) if isinstance(kind, str) else None
    if isinstance(content, str):
        with suppress(msgspec.DecodeError, RecursionError):
            return {**payload, str(kind): msgspec.json.decode(content)}
    return payload


def check_marketing_message(payload: Mapping[str, Any]) -> None:
    """Refuse a message that is no template for a person, or has invalid options.

    Raises:
        GraphFault: Graph would refuse it.
    """
    if payload.get("type") != "template":
        raise GraphFault(400, 134100)
    if payload.get("recipient_type", "individual") != "individual":
        raise invalid("The parameter recipient_type must be individual.")
    if payload.get("product_policy", "STRICT") not in ("CLOUD_API_FALLBACK", "STRICT"):
        raise invalid("The parameter product_policy is invalid.")
    if not isinstance(payload.get("message_activity_sharing", False), bool):
        raise invalid("The parameter message_activity_sharing is invalid.")


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object in *body*.

    Raises:
        GraphFault: There is none.
    """
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise invalid("The body must be a JSON object.")
    return payload


def check_product(payload: Mapping[str, Any]) -> None:
    """Refuse a body whose product is not WhatsApp.

    Raises:
        GraphFault: It does not.
    """
    if payload.get("messaging_product") != "whatsapp":
        raise invalid("The parameter messaging_product is required.")


def _addressee(payload: Mapping[str, Any], groups: Groups) -> Addressee:
    to, user = payload.get("to"), payload.get("recipient")
    if payload.get("recipient_type") == "group":
        if not isinstance(to, str) or to not in groups:
            raise GraphFault(400, 131041)
        return Addressee("group", to, to)
    if isinstance(to, str) and to:
        if not _PHONE.fullmatch(to):
            raise GraphFault(400, 131009, details="The parameter to is not a phone number.")
        return Addressee("individual", re.sub("[^0-9]", "", to), to)
    if isinstance(user, str) and user:
        return Addressee("user", user, user)
    raise invalid("The parameter to is required.")


def _check_members(kind: str, content: Any) -> None:
    if kind == "contacts":
        for number, card in enumerate(content):
            _need(card, "name.formatted_name", f"contacts[{number}]")
    for path in _NEEDED.get(kind, ()):
        _need(content, path, kind)
    if kind == "pin" and content["type"] == "pin":
        _need(content, "expiration_days", kind)
    if kind == "interactive":
        needed = _NEEDED_INTERACTIVE.get(str(content["type"]))
        if needed is None:
            raise GraphFault(400, 131009, details="The parameter interactive.type is invalid.")
        for path in needed:
            _need(content, path, kind)


def _need(content: Any, path: str, parent: str) -> None:
    """Refuse *content* without a member at *path*, of which the last step can have alternatives."""
    *parents, last = path.split(".")
    for step in parents:
        content = content.get(step) if isinstance(content, dict) else None
    names = last.split("|")
    if not isinstance(content, dict) or not any(content.get(name) is not None for name in names):
        raise GraphFault(400, 131008, details=f"The parameter {parent}.{path} is required.")


def _check_text(content: Any) -> None:
    body = content.get("body") if isinstance(content, dict) else None
    if not isinstance(body, str) or not 1 <= len(body) <= MAX_TEXT or body.isspace():
        raise invalid("The parameter text.body must have 1 to 4096 characters.")
