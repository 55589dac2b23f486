"""The identifiers of one person, and the search for these in stored data. No I/O."""

import re
from base64 import b64decode, b64encode
from typing import Final

_WAMID: Final = re.compile(rb"wamid\.([0-9A-Za-z+/_-]+)")

_START: Final = rb"(?:(?<![0-9])|(?<=\\u00[01][0-9a-f]))"
"""Before a number there is no digit, except for the end of an escape sequence of JSON."""

MIN_LENGTH: Final = 5
"""A shorter identifier would be part of too many others."""


class Person:
    """A customer, identified by a phone number or a business-scoped user id.

    Attributes:
        spellings: The identifier in each form in which it may be stored.
        cores: The parts of the ids of messages that encode the phone number.
    """

    def __init__(self, user: str) -> None:
        self.id = user.removeprefix("+")
        is_phone = self.id.isdecimal()
        self.spellings = (self.id, f"+{self.id}") if is_phone else (self.id,)
        self.cores = _cores(self.id.encode()) if is_phone else ()
        word = re.escape(self.id.encode())
        self._word = re.compile(
            _START + word + rb"(?![0-9])" if is_phone else rb"(?<![\w.])" + word + rb"(?!\w)"
        )
        self._trace = re.compile(b"|".join([word, *(re.escape(c.encode()) for c in self.cores)]))
        self._has_cores = bool(self.cores)

    def is_in(self, data: bytes) -> bool:
        """Return whether *data* names the person, also within the id of a message."""
        if self._word.search(data) is not None:
            return True
        return self._has_cores and any(
            self._word.search(_decoded(match[1])) is not None for match in _WAMID.finditer(data)
        )

    def traces(self, data: bytes) -> int:
        """Return how often the identifier is in the raw pages *data*, where columns are adjacent.

        A longer number that contains the identifier is counted too.
        """
        return sum(1 for _ in self._trace.finditer(data))


def _decoded(encoded: bytes) -> bytes:
    plain = encoded.translate(bytes.maketrans(b"-_", b"+/"))
    return b64decode(plain + b"=" * (-len(plain) % 4)) if len(plain) % 4 != 1 else b""


def _cores(digits: bytes) -> tuple[str, ...]:
    """Return the Base64 digits that encode *digits*, for each of the three alignments."""
    cores = []
    for offset in range(3):
        encoded = b64encode(b"\0" * offset + digits).rstrip(b"=")
        first, last = -(-offset * 8 // 6), (offset + len(digits)) * 8 // 6
        cores.append(encoded[first:last].decode())
    return tuple(cores)
