"""The projection of an update: its message, its status, and the window it opens. No I/O."""

from typing import Any, Final

import msgspec

from wats.clock import EPOCH
from wats.inbound.updates import MessageHead, StatusHead, Update, identifier, read_sender
from wats.sends import read_callback
from wats.store.records import Direction, MessageRecord, SendProof, StatusRecord, WindowRecord
from wats.telemetry.contract.values import UpdateKind

# Looked up once: Python 3.11 needs 0.1 us for a member of an Enum.
_MESSAGE: Final = UpdateKind.MESSAGE
_STATUS: Final = UpdateKind.STATUS
_INBOUND: Final = Direction.INBOUND

_LARGEST_CODE = 2**31 - 1

_NOT_WRITTEN = ("edit", "revoke")
"""Types of a message that change an earlier one; taking a message back is not writing one."""


class Records(msgspec.Struct, frozen=True, gc=False):
    """The records of one update: a message, a status, or an opened window; or none.

    The callback data of a status can be the *proof* that an item of the outbox was sent.
    """

    message: MessageRecord | None = None
    status: StatusRecord | None = None
    window: WindowRecord | None = None
    proof: SendProof | None = None


def records(update: Update) -> Records:
    """Return the records of *update*."""
    kind = update.kind
    if kind is _MESSAGE:
        return _message_records(update, message_head(update))
    if kind is _STATUS:
        return Records(status=status_record(update), proof=_proof(update))
    if kind is UpdateKind.CALL_CONNECT and update.raw.get("direction") == "USER_INITIATED":
        return Records(window=_window(update, _customer(update)))
    return Records()


def message_head(update: Update) -> MessageHead:
    """Return the head of *update*, a message; read it from the item if necessary."""
    head = update.head
    if isinstance(head, MessageHead):
        return head
    raw = update.raw
    is_written = raw.get("type") not in _NOT_WRITTEN
    return MessageHead(
        id=identifier(raw.get("id")),
        # Some databases could not store an invalid id either.
        type=identifier(raw.get("type")) or "unknown",
        customer=_customer(update),
        opens_window=is_written and raw.get("group_id") is None,
    )


def status_head(update: Update) -> StatusHead:
    """Return the head of *update*, a status; read it from the item if necessary."""
    head = update.head
    if isinstance(head, StatusHead):
        return head
    raw = update.raw
    return StatusHead(
        id=identifier(raw.get("id")),
        status=identifier(raw.get("status")),
        participant=identifier(raw.get("recipient_participant_id"))
        or identifier(raw.get("recipient_participant_user_id"))
        or identifier(raw.get("recipient_participant_parent_user_id"))
        or "",
        error_code=error_code(raw.get("errors")),
        callback=identifier(raw.get("biz_opaque_callback_data")),
    )


def _message_records(update: Update, head: MessageHead) -> Records:
    window = _window(update, head.customer) if head.opens_window else None
    number = update.phone_number_id
    if number is None or head.id is None:
        return Records(window=window)
    message = MessageRecord(
        phone_number_id=number,
        wa_message_id=head.id,
        direction=_INBOUND,
        from_phone=head.customer,
        type=head.type,
        status="received",
        created_at=update.received_at,
        updated_at=update.received_at,
    )
    return Records(message=message, window=window)


def status_record(update: Update) -> StatusRecord | None:
    """Return the transition to record; `None` if *update* is not a status of a message.

    The status of a payment is not a status of its message.
    """
    number = update.phone_number_id
    if update.kind is not _STATUS or number is None:
        return None
    head = status_head(update)
    if head.id is None or head.status is None:
        return None
    return StatusRecord(
        phone_number_id=number,
        wa_message_id=head.id,
        status=head.status,
        participant=head.participant,
        error_code=head.error_code,
        occurred_at=update.occurred_at,
    )


def _proof(update: Update) -> SendProof | None:
    """Return the item of the outbox that *update*, a status, proves to be sent."""
    head = status_head(update)
    number = update.phone_number_id
    if head.callback is None or head.id is None or number is None:
        return None
    found = read_callback(head.callback)
    if found is None:
        return None
    response = {"messaging_product": "whatsapp", "messages": [{"id": head.id}]}
    message = MessageRecord(
        phone_number_id=number,
        wa_message_id=head.id,
        direction=Direction.OUTBOUND,
        type="unknown",
        status="sent",
        graph_message_id=head.id,
        created_at=update.received_at,
        updated_at=update.received_at,
    )
    return SendProof(*found, msgspec.json.encode(response), message)


def _window(update: Update, customer: str | None) -> WindowRecord | None:
    """Return the customer service window that *update* opens.

    A window opens when a customer writes to a business number or calls it. It does not open for a
    group, which has no window; for a system message or an opened chat, which no customer wrote; nor
    for an edit or a deletion, which change an earlier message. If unclear, a window is left closed:
    a template can be sent at any time, and a message outside of the window cannot.

    The time is Meta's, limited to the time of receipt: a wrong clock cannot keep a window open.
    """
    if customer is None or update.phone_number_id is None:
        return None
    at = update.occurred_at
    return WindowRecord(
        phone_number_id=update.phone_number_id,
        customer=customer,
        last_inbound_at=update.received_at if at == EPOCH else min(at, update.received_at),
    )


def _customer(update: Update) -> str | None:
    phone = identifier(update.raw.get("from"))
    if phone is not None:
        return phone
    sender = read_sender(update.raw, contact=update.contact)
    return sender.wa_id or sender.user_id or sender.parent_user_id


def error_code(errors: Any) -> int | None:
    """Return the code of the first of *errors*, if it is a number that a store can keep."""
    first = errors[0] if isinstance(errors, list) and errors else None
    code = first.get("code") if isinstance(first, dict) else None
    if not isinstance(code, int) or isinstance(code, bool):
        return None
    return code if 0 <= code <= _LARGEST_CODE else None
