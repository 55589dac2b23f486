"""Paths and queries of Graph's URLs. No I/O."""

import hashlib
import hmac
import re
from typing import Final
from urllib.parse import quote, unquote

from wats.errors import Detail, MalformedRequest
from wats.privacy import Secret

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f/\\?#]")
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MOST_DECODINGS: Final = 5


def joined(*queries: str) -> str:
    """Return one query of all *queries* that are not empty."""
    return "&".join(query for query in queries if query)


def proof_of(access_token: Secret, app_secret: Secret | None) -> str:
    """Return the query parameter that proves that the caller knows the app secret; may be empty."""
    if app_secret is None:
        return ""
    key, message = app_secret.reveal().encode(), access_token.reveal().encode()
    return f"appsecret_proof={hmac.new(key, message, hashlib.sha256).hexdigest()}"


def encoded(segment: str, index: int) -> str:
    """Return *segment* percent-encoded, however often it was encoded before.

    Decoding is repeated until nothing changes, so that no `%252e%252e` becomes `..` on another
    host.
    """
    if segment.isascii() and segment.isalnum():
        return segment  # the usual id or name: nothing to decode or to encode
    for _ in range(_MOST_DECODINGS):
        if _STRAY_PERCENT.search(segment):
            raise _malformed(index)
        decoded = unquote(segment, errors="surrogateescape")
        if decoded == segment:
            break
        segment = decoded
    else:
        raise _malformed(index)
    if not segment.strip() or segment in {".", ".."} or _UNSAFE.search(segment):
        raise _malformed(index)
    try:
        return quote(segment, safe="")
    except UnicodeEncodeError:
        raise _malformed(index) from None


def _malformed(index: int) -> MalformedRequest:
    detail = Detail(f"path[{index}]", "is not a valid path segment")
    return MalformedRequest("malformed_path", "The Graph path is invalid.", [detail])
