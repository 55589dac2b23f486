"""Receipts of leased updates: opaque texts with which any process can settle a delivery. No I/O."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import msgspec

from wats.privacy import Secret
from wats.store.records import Delivery
from wats.telemetry.contract.values import UpdateKind

MAX_CHARACTERS: Final = 1024
"""The length above which a text is not decoded."""

_PURPOSE: Final = b"wats receipts of pulled updates"
_TAG_BYTES: Final = 16


class Leased(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery that was leased to a poll: all that its settlement needs, without its content.

    Attributes:
        arrived_ms: When the update arrived, on a wall clock: for telemetry only.
        leased_ms: When it was leased, likewise.
        traceparent: The span of the webhook of the update, if it was stored.
    """

    consumer: str
    number: str
    id: int
    update_id: int
    siblings: int
    ordering_key: int
    attempt: int
    lease: int
    kind: UpdateKind
    arrived_ms: int
    leased_ms: int
    traceparent: str = ""

    @property
    def delivery(self) -> Delivery:
        """The delivery, without its content."""
        return Delivery(
            id=self.id,
            update_id=self.update_id,
            siblings=self.siblings,
            phone_number_id=self.number,
            consumer=self.consumer,
            ordering_key=self.ordering_key,
            attempt=self.attempt,
            lease=self.lease,
            payload=b"",
        )


class ReceiptBook:
    """Issues receipts and reads them again.

    A receipt is authenticated, so that no client can settle a delivery that it was not given, and
    has a random lease in it, so that it is void after the lease.

    Args:
        secrets: The secrets from which the keys are derived; the first one signs.
    """

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self._keys = [hmac.digest(each.reveal().encode(), _PURPOSE, "sha256") for each in secrets]

    def issue(self, leased: Leased) -> str:
        """Return the receipt of *leased*."""
        data = msgspec.msgpack.encode(leased)
        return base64.urlsafe_b64encode(data + _tag(self._keys[0], data)).decode().rstrip("=")

    def read(self, receipt: str) -> Leased | None:
        """Return the lease of *receipt*; `None` if it was not issued with one of these secrets."""
        if len(receipt) > MAX_CHARACTERS:
            return None
        try:
            signed = base64.urlsafe_b64decode(receipt + "=" * (-len(receipt) % 4))
        except (ValueError, binascii.Error):
            return None
        data, tag = signed[:-_TAG_BYTES], signed[-_TAG_BYTES:]
        if not any(hmac.compare_digest(_tag(key, data), tag) for key in self._keys):
            return None
        try:
            return msgspec.msgpack.decode(data, type=Leased)
        except msgspec.MsgspecError:  # of another version of wats
            return None


def _tag(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)[:_TAG_BYTES]
