"""What the store shows of an update: its message, its status, the window it opens. No I/O."""

from typing import Any

from wats.clock import EPOCH
from wats.inbound.updates import Update, identifier, read_sender
from wats.store.records import Direction, MessageRecord, StatusRecord, WindowRecord
from wats.telemetry.vocabulary import UpdateKind

_LARGEST_CODE = 2**31 - 1

_NOT_WRITTEN = ("edit", "revoke")
"""Types of a message that change one from before; to take a message back is not to write one."""


def message_record(update: Update) -> MessageRecord | None:
    """Return the message to record; `None` if *update* is not one that a customer wrote."""
    number = update.phone_number_id
    if update.kind is not UpdateKind.MESSAGE or number is None:
        return None
    message_id = identifier(update.raw.get("id"))
    if message_id is None:
        return None
    return MessageRecord(
        phone_number_id=number,
        wa_message_id=message_id,
        direction=Direction.INBOUND,
        from_phone=_customer(update),
        # What cannot be an id could not be stored by every database either.
        type=identifier(update.raw.get("type")) or "unknown",
        status="received",
        created_at=update.received_at,
        updated_at=update.received_at,
    )


def status_record(update: Update) -> StatusRecord | None:
    """Return the transition to record; `None` if *update* is no status of a message.

    The status of a payment says nothing about how far its message came.
    """
    raw = update.raw
    number = update.phone_number_id
    if update.kind is not UpdateKind.STATUS or number is None:
        return None
    message_id = identifier(raw.get("id"))
    status = identifier(raw.get("status"))
    if message_id is None or status is None:
        return None
    return StatusRecord(
        phone_number_id=number,
        wa_message_id=message_id,
        status=status,
        participant=identifier(raw.get("recipient_participant_id"))
        or identifier(raw.get("recipient_participant_user_id"))
        or "",
        error_code=_error_code(raw.get("errors")),
        occurred_at=update.occurred_at,
    )


def window_record(update: Update) -> WindowRecord | None:
    """Return the customer service window that *update* opens; `None` if it opens none.

    A window opens when a customer writes to a business number or calls it. So it does not for a
    group, which has no window; for a system message or an opened chat, which nobody wrote; nor for
    an edit or a deletion, which change what was written before. In doubt a window is left closed:
    a template can be sent at any time, and a message outside of the window cannot.

    The time is Meta's, but never later than we received it: no clock of somebody else's can keep a
    window open.
    """
    customer = _customer(update) if _opens_window(update) else None
    if customer is None or update.phone_number_id is None:
        return None
    at = update.occurred_at
    return WindowRecord(
        phone_number_id=update.phone_number_id,
        customer=customer,
        last_inbound_at=update.received_at if at == EPOCH else min(at, update.received_at),
    )


def _opens_window(update: Update) -> bool:
    raw = update.raw
    if update.kind is UpdateKind.MESSAGE:
        return raw.get("group_id") is None and raw.get("type") not in _NOT_WRITTEN
    return update.kind is UpdateKind.CALL_CONNECT and raw.get("direction") == "USER_INITIATED"


def _customer(update: Update) -> str | None:
    phone = identifier(update.raw.get("from"))
    if phone is not None:
        return phone
    sender = read_sender(update.raw, contact=update.contact)
    return sender.wa_id or sender.user_id or sender.parent_user_id


def _error_code(errors: Any) -> int | None:
    first = errors[0] if isinstance(errors, list) and errors else None
    code = first.get("code") if isinstance(first, dict) else None
    if not isinstance(code, int) or isinstance(code, bool):
        return None
    return code if 0 <= code <= _LARGEST_CODE else None
