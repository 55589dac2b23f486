"""From the bytes of a webhook to its envelope: JSON that can be walked and stored. No I/O."""

import re
from typing import Any, TypeAlias

import msgspec

from wats.errors import WebhookRefused

Envelope: TypeAlias = dict[str, Any]
"""A webhook body that names WhatsApp as its object and has a list of entries."""

WHATSAPP = "whatsapp_business_account"

MAX_DEPTH = 512
"""The deepest nesting that is read; Meta's own bodies stay under 20.

Python can recurse about a thousand levels, and code that handles or stores an update needs some of
them for its own calls. Refusing here means that nothing later can run out of levels.
"""

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
        if _is_shallow(body, value):
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


def is_surely_shallow(body: bytes) -> bool:
    """Return whether *body* has too few pairs of brackets to be nested deeper than `MAX_DEPTH`."""
    return len(body) <= 2 * MAX_DEPTH or body.count(b"{") + body.count(b"[") <= MAX_DEPTH


def _is_shallow(body: bytes, value: object) -> bool:
    # Most bodies need no walk at all.
    if is_surely_shallow(body):
        return True
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False
