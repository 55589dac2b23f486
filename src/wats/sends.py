"""Sends: a message, its result, the head of an item of the outbox, and callback data. No I/O."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import msgspec

OUTBOX: Final = "outbox"
"""The consumer that sends messages later. No handler and no subscriber may have this name."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a send that Meta accepted, or may have accepted, or that was stored for later.

    Attributes:
        message_id: The WhatsApp id of the message. `None` if Meta's response has none, if the
            outcome is unknown, or if the message is sent later.
        is_replayed: Whether an earlier send with the same idempotency key had this result, so that
            nothing was sent now.
        is_certain: Whether Meta accepted the message. A message that is sent later is uncertain,
            and so is a repeated reply of which an earlier attempt may or may not have reached the
            recipient.
        outbox_id: The id of the item of the outbox, if the message is sent later. The HTTP API
            returns its state.
    """

    message_id: str | None
    is_replayed: bool = False
    is_certain: bool = True
    outbox_id: str | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a handler to the customer or the group whose message it handles.

    Attributes:
        message: The message in Graph's format, with its recipient; or a read mark.
        phone_number_id: The business number that sends it; the configured one by default.
        key: The idempotency key; `None` if a repetition has no effect.
    """

    message: Mapping[str, object]
    phone_number_id: str | None
    key: str | None


SendReply: TypeAlias = Callable[[Reply], Awaitable[Sent]]
"""Sends a reply like a request to the HTTP API."""


class ItemHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first members of an item of the outbox, in the order of its JSON.

    Attributes:
        type: As in `wats.outbound.messages.Outgoing`, like *recipient*.
        phone_number_id: The business number that sends it.
    """

    type: str
    phone_number_id: str
    recipient: str


_HEAD: Final = msgspec.json.Decoder(ItemHead)


def read_item_head(payload: bytes) -> ItemHead | None:
    """Return the first members of the item in *payload*; `None` if wats did not write it."""
    try:
        return _HEAD.decode(payload)
    except msgspec.MsgspecError:
        return None


_CALLBACK: Final = re.compile("wats:([1-9][0-9]{0,17}):([0-9a-f]{1,16})")


def callback_of(outbox_id: int, nonce: int) -> str:
    """Return the callback data of an outbox item: Meta repeats it in each status of the message.

    A status thus proves a send whose outcome is unknown.
    """
    return f"wats:{outbox_id}:{nonce:x}"


def read_callback(text: str) -> tuple[int, int] | None:
    """Return the item and the random number in *text*; `None` for callback data of a caller."""
    match = _CALLBACK.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2], 16))
