"""The content of an outbox item, as its delivery holds it. No I/O."""

import re
from collections.abc import Collection
from typing import Any, Final

import msgspec

from wats.outbound.messages import Outgoing
from wats.outbound.transmit import Endpoint, Transmission
from wats.sends import ItemHead, callback_of
from wats.store.outbox import SendState

_CALLBACK: Final = "biz_opaque_callback_data"


class QueuedMessage(ItemHead, frozen=True, kw_only=True):
    """A message in the outbox; its head is first, so that lists find it without decoding the rest.

    Attributes:
        nonce: The random number of the item.
        is_group: As in `Outgoing`, like *names*.
        payload: The JSON for Graph, without our callback data.
    """

    endpoint: Endpoint
    nonce: int
    is_group: bool = False
    names: dict[str, str] | None = None
    payload: msgspec.Raw

    def transmission(self, outbox_id: int) -> Transmission:
        """Return the request to Graph, with callback data that names the item *outbox_id*."""
        return Transmission(
            with_callback(bytes(self.payload), outbox_id, self.nonce),
            self.phone_number_id,
            self.endpoint,
            Outgoing(
                type=self.type, recipient=self.recipient, is_group=self.is_group, names=self.names
            ),
        )


_TYPE: Final = re.compile(rb'\{"type":"([a-z0-9_]{1,32})"')
_NUMBER: Final = re.compile(rb'\{"type":"[a-z0-9_]{1,32}","phone_number_id":"([0-9]{1,32})"')

NUMBER_NOT_CONFIGURED: Final = "NumberNotConfigured"
"""The error of a waiting message whose business number is not configured."""

_DECODER: Final = msgspec.json.Decoder(QueuedMessage)


def encode_item(send: Transmission, message: Outgoing, *, nonce: int) -> bytes:
    """Return the payload of the delivery of *send*."""
    return msgspec.json.encode(
        QueuedMessage(
            type=message.type,
            phone_number_id=send.phone_number_id,
            endpoint=send.endpoint,
            nonce=nonce,
            recipient=message.recipient,
            is_group=message.is_group,
            names=None if message.names is None else dict(message.names),
            payload=msgspec.Raw(send.payload),
        )
    )


def decode_item(payload: bytes) -> QueuedMessage:
    """Return the item in the payload of a delivery.

    Raises:
        msgspec.MsgspecError: It was not written by wats.
    """
    return _DECODER.decode(payload)


def type_of(head: bytes) -> str:
    """Return the type of the message in the payload that begins with *head*."""
    match = _TYPE.match(head)
    return match[1].decode() if match else "unknown"


def number_of(head: bytes) -> str | None:
    """Return the business number of the item whose payload begins with *head*."""
    match = _NUMBER.match(head)
    return match[1].decode() if match else None


def obstacle(state: SendState, number: str | None, configured: Collection[str]) -> str | None:
    """Return why a waiting message of *number* cannot be sent at all, or `None`."""
    is_waiting = state in {SendState.QUEUED, SendState.RETRY}
    return NUMBER_NOT_CONFIGURED if is_waiting and number not in configured else None


def with_callback(payload: bytes, outbox_id: int, nonce: int) -> bytes:
    """Return *payload*, a JSON object, with our callback data, unless it has any.

    All else is left as the caller wrote it.
    """
    fields: dict[str, Any] = msgspec.json.decode(payload)
    if _CALLBACK in fields:
        return payload
    ours = f',"{_CALLBACK}":"{callback_of(outbox_id, nonce)}"}}'
    return payload.rstrip()[:-1] + ours.encode()
