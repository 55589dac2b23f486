"""The Graph JSON of messages in our own form. No I/O."""

from collections.abc import Mapping
from typing import Final

import msgspec

from wats.outbound.messages import OutboundText

TEXT_NAMES: Final[Mapping[str, str]] = {
    "to": "to",
    "text": "text",
    "text.preview_url": "previewUrl",
}
"""Our names for the members of a text's payload, by their paths in it."""


class _TextMember(msgspec.Struct):
    body: str
    preview_url: bool | msgspec.UnsetType


class _TextPayload(msgspec.Struct):
    messaging_product: str
    to: str
    type: str
    text: _TextMember


def text_payload(message: OutboundText) -> bytes:
    """Return the payload for Graph; the preview is included only if the caller set it."""
    preview = msgspec.UNSET if message.preview_url is None else message.preview_url
    return msgspec.json.encode(
        _TextPayload("whatsapp", message.to, "text", _TextMember(message.text, preview))
    )
