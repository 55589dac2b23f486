"""The public form of a 2xx response of Graph: always a JSON object. No I/O.

Meta carried the request out. A response that cannot be read must not look like a failure, since a
failure invites to send again; and it must not be passed on unchanged, since a proxy may have
written it. So it becomes `{}`: accepted, without further knowledge.
"""

from typing import Any, Final

import msgspec

from wats.ids import is_safe_id

HELD: Final = frozenset({"held_for_quality_assessment", "paused"})
"""Meta's states of a message that it accepted and does not deliver yet."""


def as_object(payload: Any) -> dict[str, Any]:
    """Return *payload* if it is an object, else an empty one."""
    return payload if isinstance(payload, dict) else {}


def message_id(payload: Any) -> str | None:
    """Return the id that Meta gave the message, or `None` without a usable one."""
    try:
        found = payload["messages"][0]["id"]
    except (TypeError, KeyError, IndexError):
        return None
    return found if isinstance(found, str) and is_safe_id(found) else None


def message_status(payload: Any) -> str:
    """Return the status of an accepted message: `sent`, or the reason why Meta holds it back."""
    message = payload["messages"][0]
    status = message.get("message_status")
    return status if isinstance(status, str) and status in HELD else "sent"


def encode(payload: Any) -> bytes:
    """Return *payload* as the compact JSON of the response to our caller."""
    return msgspec.json.encode(as_object(payload))
