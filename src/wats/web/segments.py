"""The variable parts of a path, as callers meant them. No I/O."""

import re
from urllib.parse import unquote_to_bytes

_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def decode_segment(segment: str) -> str | None:
    """Return *segment* percent-decoded once, or `None` if it is not the encoding of a text."""
    if _STRAY_PERCENT.search(segment) is not None:
        return None
    try:
        return unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError:
        return None
