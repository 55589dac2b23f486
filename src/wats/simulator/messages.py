"""Graph's checks of a message before it accepts it. No I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from wats.simulator.faults import GraphFault, invalid
from wats.simulator.groups import Groups

MAX_TEXT: Final = 4096
TYPES: Final = frozenset(
    {
        "audio", "button", "contacts", "document", "image", "interactive", "location", "pin",
        "reaction", "sticker", "template", "text", "video",
    }
)  # fmt: skip

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
    if kind not in TYPES:
        raise GraphFault(400, 131009 if kind else 100, details="The parameter type is invalid.")
    content = payload.get(kind)
    if not content or not isinstance(content, dict | list):
        raise GraphFault(400, 131008, details="The content of the type is missing.")
    if kind == "text":
        _check_text(content)
    return addressee


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


def _check_text(content: Any) -> None:
    body = content.get("body") if isinstance(content, dict) else None
    if not isinstance(body, str) or not 1 <= len(body) <= MAX_TEXT or body.isspace():
        raise invalid("The parameter text.body must have 1 to 4096 characters.")
