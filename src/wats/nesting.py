"""The depth to which JSON from outside may be nested. No I/O."""

from typing import Any

MAX_DEPTH = 512
"""The deepest nesting that is read; Meta's own bodies stay under 20.

Python can recurse about a thousand levels, and code that handles or stores a value needs some of
them for its own calls. Refusing here means that nothing later can run out of levels.
"""


def is_surely_shallow(body: bytes) -> bool:
    """Return whether *body* has too few pairs of brackets to be nested deeper than `MAX_DEPTH`."""
    return len(body) <= 2 * MAX_DEPTH or body.count(b"{") + body.count(b"[") <= MAX_DEPTH


def is_shallow(body: bytes, value: object) -> bool:
    """Return whether *value*, decoded from *body*, is nested at most `MAX_DEPTH` levels deep."""
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
