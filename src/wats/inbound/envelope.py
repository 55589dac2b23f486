"""From the bytes of a webhook to its envelope: JSON that can be walked and stored. No I/O."""

import re
from typing import Any, TypeAlias

import msgspec

from wats.errors import WebhookRefused
from wats.nesting import is_shallow

Envelope: TypeAlias = dict[str, Any]
"""A webhook body that names WhatsApp as its object and has a list of entries."""

WHATSAPP = "whatsapp_business_account"

_SURROGATES = re.compile(
    r"""(
        \\u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2}  # a pair: one character
        | \\[^u]                                                     # any other escape
    )
    | \\u[dD][89a-fA-F][0-9a-fA-F]{2}                                # half a pair, alone
    """,
    re.VERBOSE,
)


def parse(body: bytes) -> Envelope:
    """Return the envelope in *body*, every text of which can be written as UTF-8.

    Invalid UTF-8 and halves of surrogate pairs become the replacement character, so that the other
    messages of the body are not lost.

    Raises:
        WebhookRefused: `invalid_json`, `invalid_envelope`, `missing_object_field`,
            `unsupported_object` or `invalid_entry_array`.
    """
    envelope = _decode(body)
    if not isinstance(envelope, dict):
        raise WebhookRefused("invalid_envelope", "Webhook envelope is not an object.")
    subject = envelope.get("object")
    if not isinstance(subject, str):
        raise WebhookRefused(
            "missing_object_field", "Webhook envelope is missing the `object` field."
        )
    if subject != WHATSAPP:
        raise WebhookRefused("unsupported_object", "Unsupported webhook object.")
    if not isinstance(envelope.get("entry"), list):
        raise WebhookRefused("invalid_entry_array", "Webhook envelope `entry` must be an array.")
    return envelope


def _decode(body: bytes) -> object:
    try:
        value = _read(body)
        if is_shallow(body, value):
            return value
    except (msgspec.DecodeError, RecursionError):
        pass
    # Raised outside of the handler, so that no decoder's exception is attached as its context.
    raise WebhookRefused("invalid_json", "Request body is not valid JSON.")


def _read(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(_mended(body))


def _mended(body: bytes) -> str:
    text = body.decode("utf-8-sig", errors="replace")
    return _SURROGATES.sub(lambda escape: escape[1] or "\ufffd", text)
