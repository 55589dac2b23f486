"""The Graph JSON of messages in our own form. No I/O."""

import msgspec

from wats.outbound.messages import OutboundText


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
