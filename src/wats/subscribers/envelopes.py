"""Meta's envelope with the updates of one request. No I/O."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from wats.inbound.normalize import FIELDS
from wats.inbound.updates import Update
from wats.telemetry.contract.values import UpdateKind

_ENVELOPE: Final = "whatsapp_business_account"

_MEMBERS: Final = {
    UpdateKind.MESSAGE: "messages",
    UpdateKind.SYSTEM: "messages",
    UpdateKind.CHAT_OPENED: "messages",
    UpdateKind.STATUS: "statuses",
    UpdateKind.PAYMENT_STATUS: "statuses",
    UpdateKind.USER_ACTION: "user_actions",
    UpdateKind.CALL_CONNECT: "calls",
    UpdateKind.CALL_TERMINATE: "calls",
    UpdateKind.CALL_STATUS: "statuses",
    UpdateKind.UNKNOWN: "calls",  # a call with an unknown event
    UpdateKind.ERROR: "errors",
}
"""The members of values that have items of several kinds."""


def encode_envelope(update: Update, display_phone_number: str) -> bytes:
    """Return the webhook body that Meta would send for *update* alone.

    The value has the members that wats keeps: the item, its contact and its business number, which
    is *display_phone_number* for an update that an earlier version stored without it.
    """
    return encode_entries([entry_of(update, display_phone_number)])


def encode_entries(entries: Sequence[dict[str, Any]]) -> bytes:
    """Return the webhook body with *entries*, each with one update."""
    return msgspec.json.encode({"object": _ENVELOPE, "entry": entries})


def entry_of(update: Update, display_phone_number: str) -> dict[str, Any]:
    """Return the entry of an envelope with *update*; see `encode_envelope`."""
    entry: dict[str, Any] = {"id": update.waba_id}
    if (seconds := int(update.occurred_at.timestamp())) > 0:
        entry["time"] = seconds
    value = _value_of(update, display_phone_number)
    entry["changes"] = [{"value": value, "field": update.field}]
    return entry


def _value_of(update: Update, display_phone_number: str) -> dict[str, Any]:
    items = _items_of(update)
    is_known = update.field in FIELDS and bool(FIELDS[update.field].members)
    return {**_around(update, display_phone_number), **items} if is_known else items


def _items_of(update: Update) -> dict[str, Any]:
    member, item = _member_of(update), update.raw
    if member is None:
        return item
    if FIELDS[update.field].shares_errors and member != "errors" and item.get("errors"):
        # Meta has the errors of a call next to it, where clients look for them.
        alone = {name: value for name, value in item.items() if name != "errors"}
        return {member: [alone], "errors": item["errors"]}
    return {member: [item]}


def _around(update: Update, display_phone_number: str) -> dict[str, Any]:
    around: dict[str, Any] = {"messaging_product": "whatsapp"}
    if update.phone_number_id is not None:
        around["metadata"] = {
            "display_phone_number": update.display_phone_number or display_phone_number,
            "phone_number_id": update.phone_number_id,
        }
    if update.contact is not None:
        around["contacts"] = [update.contact]
    return around


def _member_of(update: Update) -> str | None:
    """Return the member of the value whose item *update* is; `None` if it is the value itself."""
    kind, raw = update.kind, update.raw
    if kind is UpdateKind.ERROR:
        return "errors"
    field = FIELDS.get(update.field)
    if field is None or not field.members:
        return None
    if kind is UpdateKind.UNKNOWN and len(raw) == 1:
        return None  # a member that is not known, with its name
    if "messaging_product" in raw:
        return None
    names = list(field.members)
    if _MEMBERS.get(kind) in names:
        return _MEMBERS[kind]
    if len(names) == 1 or "id" not in raw:
        return _of_events(names)
    return _of_copies(raw, names)


def _of_events(names: list[str]) -> str:
    """Return the member that has items without an id."""
    return next((each for each in ("history", "standby") if each in names), names[0])


def _of_copies(raw: dict[str, Any], names: list[str]) -> str:
    """Return the member of a message, of its copy, or of its status."""
    wanted = "statuses" if "status" in raw else "message_echoes" if "to" in raw else "messages"
    return wanted if wanted in names else "messages" if "messages" in names else names[0]
