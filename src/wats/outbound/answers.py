"""The public form of a 2xx response of Graph: always a JSON object. No I/O.

Meta carried the request out. A response that cannot be read must not look like a failure, since a
failure invites to send again; and it must not be passed on unchanged, since a proxy may have
written it. So it becomes `{}`: accepted, without further knowledge.
"""

from typing import Any

import msgspec

from wats.ids import is_safe_id


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


def encode(payload: Any) -> bytes:
    """Return *payload* as the compact JSON of the response to our caller."""
    return msgspec.json.encode(as_object(payload))
