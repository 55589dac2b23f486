"""Authentication: every request's token is checked once, before its path is read."""

import hashlib
import re
from collections.abc import Iterable, Sequence

from wats.privacy import Secret
from wats.web.access import NO_ACCESS, Access
from wats.web.exchange import header_values

_BEARER = re.compile(rb"bearer +(.+)", re.IGNORECASE | re.DOTALL)


class Authenticator:
    """Checks tokens, always against every active one and in the same number of steps.

    The work depends on the `Authorization` header alone and never on the path, so its time does not
    reveal which paths exist. Digests are compared, so it reveals nothing about the tokens either.

    Args:
        tokens: Every token, with the access that it gives. If tokens are equal, the first counts.
    """

    def __init__(self, tokens: Iterable[tuple[Secret, Access]]) -> None:
        self._tokens: Sequence[tuple[Secret, Access]] = tuple(tokens)

    def access_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Access:
        """Return the access that the token in *headers* gives; two tokens give none."""
        values = header_values(headers, b"authorization")
        if not values:
            return NO_ACCESS
        match = _BEARER.fullmatch(values[0])
        candidate = match[1] if match is not None and len(values) == 1 else b""
        digest = hashlib.sha256(candidate).digest()
        given = [access for token, access in self._tokens if token.matches_digest(digest)]
        return given[0] if given else NO_ACCESS
