"""Authentication: every request's token is checked once, before its path is read."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from enum import Enum

from wats.privacy import Secret
from wats.web.exchange import header_values

_BEARER = re.compile(rb"bearer +(.+)", re.IGNORECASE | re.DOTALL)


class Access(Enum):
    """The surfaces that a request's token opens."""

    NONE = 0
    TELEMETRY = 1
    ALL = 2


class Gate:
    """Checks tokens, always against every active one and in the same number of steps.

    The work depends on the `Authorization` header alone and never on the path, so its time does not
    reveal which paths exist. Digests are compared, so it reveals nothing about the tokens either.
    """

    def __init__(self, service: Sequence[Secret], telemetry: Sequence[Secret]) -> None:
        self._service = tuple(service)
        self._telemetry = tuple(telemetry)

    def judge(self, headers: Iterable[tuple[bytes, bytes]]) -> Access:
        """Return the surfaces that the token in *headers* opens; two tokens open none."""
        values = header_values(headers, b"authorization")
        if not values:
            return Access.NONE
        match = _BEARER.fullmatch(values[0])
        candidate = match[1] if match is not None and len(values) == 1 else b""
        digest = hashlib.sha256(candidate).digest()
        opens_all = [token.matches_digest(digest) for token in self._service]
        opens_telemetry = [token.matches_digest(digest) for token in self._telemetry]
        if any(opens_all):
            return Access.ALL
        return Access.TELEMETRY if any(opens_telemetry) else Access.NONE
