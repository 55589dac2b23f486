"""The bodies that Meta writes: identifiers, webhook envelopes and their signature. No I/O.

A webhook is made of parts, each one message, status or group event. A part that must be delivered
again is put into a new envelope with the other parts that are due then, as Meta does it; so a
receiver that recognizes envelopes instead of their items sees the same part twice.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from wats.graph.errors import find_rule
from wats.privacy import Secret
from wats.simulator.settings import SimulatedNumber, SimulatorSettings

MESSAGES: Final = "messages"
DETAILS: Final = "Made up by the simulator."

_WORD_BREAK: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class WebhookPart:
    """One item of a webhook.

    Attributes:
        field: The change's field.
        list_key: The list in the change's value that holds the item.
        item: The item.
        contact: The author, for messages.
        number: The phone number id of the business number; the default number if it is empty.
    """

    field: str
    list_key: str
    item: Mapping[str, Any]
    contact: Mapping[str, Any] | None = None
    number: str = ""


def new_wamid(number: str, *, inbound: bool = False) -> str:
    """Return a message id in WhatsApp's form: like theirs, it has the *number* in it."""
    kind, size = (b"\x12", 10) if inbound else (b"\x11", 9)
    unique = secrets.token_hex(size).upper().encode()
    head = b"\x1c" + bytes([0x18, len(number) % 256]) + number.encode(errors="replace")
    packed = head + b"\x15\x02\x00" + kind + bytes([0x18, len(unique)]) + unique + b"\x00"
    return "wamid." + base64.b64encode(packed).decode()


def message_part(
    sender: str, content: Mapping[str, Any], *, name: str, at: int, group_id: str | None = None
) -> WebhookPart:
    """Return a message of a customer; *content* holds `type` and the content of that type."""
    item = {
        "from": sender,
        "id": new_wamid(sender, inbound=True),
        "timestamp": str(at),
        **({"group_id": group_id} if group_id else {}),
        **content,
    }
    return WebhookPart(MESSAGES, "messages", item, {"profile": {"name": name}, "wa_id": sender})


def status_part(
    wamid: str,
    status: str,
    recipient: Mapping[str, str],
    *,
    at: int,
    pricing: Mapping[str, Any] | None = None,
    callback_data: str | None = None,
    error_code: int | None = None,
) -> WebhookPart:
    """Return the webhook part that reports *status* of *wamid* at *recipient*."""
    item: dict[str, Any] = {"id": wamid, "status": status, "timestamp": str(at), **recipient}
    if pricing is not None:
        item["pricing"] = pricing
    if error_code is not None:
        item["errors"] = [webhook_error(error_code)]
    if callback_data is not None:
        item["biz_opaque_callback_data"] = callback_data
    return WebhookPart(MESSAGES, "statuses", item)


def group_part(field: str, kind: str, *, at: int, **content: Any) -> WebhookPart:
    """Return a group event; *content* without a value is left out."""
    present = {key: value for key, value in content.items() if value is not None}
    return WebhookPart(field, "groups", {"timestamp": str(at), "type": kind, **present})


def pricing_of(message_type: str) -> Mapping[str, Any]:
    """Return the price of a message of this type: a template is billed, a reply is free."""
    if message_type == "template":
        billed = {"billable": True, "category": "marketing", "type": "regular"}
        return {"pricing_model": "PMP", **billed}
    free = {"billable": False, "category": "service", "type": "free_customer_service"}
    return {"pricing_model": "PMP", **free}


def error_title(code: int) -> str:
    """Return a title for *code*, as words."""
    rule = find_rule(code)
    if rule is None:
        return "Something went wrong"
    return _WORD_BREAK.sub(" ", rule.name).removesuffix(" Error")


def webhook_error(code: int) -> dict[str, Any]:
    """Return an error in the form of a webhook."""
    title = error_title(code)
    return {"code": code, "title": title, "message": title, "error_data": {"details": DETAILS}}


def envelope(parts: Sequence[WebhookPart], settings: SimulatorSettings, *, at: int) -> bytes:
    """Return the webhook that delivers *parts* in their order.

    Neighbors of one number and kind share a change. The text is escaped like Meta's, slashes
    included, so that a receiver that checks the signature of anything but the raw bytes fails.
    """
    entries = []
    default = settings.phone_number_id
    for number, of_number in groupby(parts, key=lambda part: part.number or default):
        found = settings.number(number) or SimulatedNumber(
            phone_number_id=number, waba_id=settings.waba_id
        )
        changes = [
            {"field": field, "value": _value(list_key, list(alike), found)}
            for (field, list_key), alike in groupby(
                of_number, key=lambda part: (part.field, part.list_key)
            )
        ]
        entries.append({"id": found.waba_id, "time": at, "changes": changes})
    text = json.dumps(
        {"object": "whatsapp_business_account", "entry": entries}, separators=(",", ":")
    )
    return text.replace("/", "\\/").encode()


def _value(list_key: str, parts: Sequence[WebhookPart], number: SimulatedNumber) -> dict[str, Any]:
    contacts = {part.contact["wa_id"]: part.contact for part in parts if part.contact is not None}
    return {
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": number.display_phone_number,
            "phone_number_id": number.phone_number_id,
        },
        **({"contacts": list(contacts.values())} if contacts else {}),
        list_key: [part.item for part in parts],
    }


def signature(app_secret: Secret, body: bytes) -> str:
    """Return the value of `X-Hub-Signature-256` for *body*."""
    digest = hmac.new(app_secret.reveal().encode(), body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"
