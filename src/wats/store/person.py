"""The identifiers of one person, and the search for these in stored data. No I/O."""

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Final

_WAMID: Final = re.compile(rb"wamid\.([0-9A-Za-z+/_-]+)=*")

_NUMBER: Final = re.compile(rb"[0-9]{7,15}")

_USUAL_ID: Final = re.compile(rb"\x1c\x18.([0-9]{7,15})(?![0-9])", re.DOTALL)
"""The beginning of a decoded id: two constant bytes, a length, and the number of the customer."""

_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
"""From the alphabet of Base64 for URLs to the standard one."""

_START: Final = rb"(?:(?<![0-9])|(?<=\\u00[01][0-9a-f]))"
"""Before a number there is no digit, except for the end of an escape sequence of JSON."""


class Person:
    """A customer, identified by a phone number or a business-scoped user id.

    Attributes:
        id: The identifier, without a '+'.
        spellings: The identifier in each form in which it may be stored.
        cores: Texts of which every id of a message that encodes the phone number has one.
    """

    def __init__(self, user: str) -> None:
        self.id = user.removeprefix("+")
        is_phone = self.id.isdecimal()
        self.spellings = (self.id, f"+{self.id}") if is_phone else (self.id,)
        self.cores = _cores(self.id.encode()) if is_phone else ()
        self._bytes = self.id.encode()
        self._bytes_of_cores = tuple(core.encode() for core in self.cores)
        word = re.escape(self._bytes)
        self._word = re.compile(
            _START + word + rb"(?![0-9])" if is_phone else rb"(?<![\w.])" + word + rb"(?!\w)"
        )

    def is_in(self, data: bytes) -> bool:
        """Return whether *data* names the person, also within the id of a message."""
        return self._word.search(data) is not None or any(
            self._word.search(decoded) is not None for decoded in self._decoded_ids(data)
        )

    def traces(self, data: bytes) -> int:
        """Return how often the identifier is in the raw pages *data*, where columns are adjacent.

        A longer number that contains the identifier is counted too.
        """
        encoded = sum(self._bytes in decoded for decoded in self._decoded_ids(data))
        return data.count(self._bytes) + encoded

    def _decoded_ids(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded ids of messages in *data* that may encode the phone number."""
        cores = self._bytes_of_cores
        if any(core in data for core in cores):
            for match in _WAMID.finditer(data):
                if any(core in match[1] for core in cores):
                    yield _decoded(match[1])


def names_only(wa_message_id: str, customer: str) -> bool:
    """Return whether the id of a message can name no other number than *customer*."""
    data = wa_message_id.encode(errors="surrogatepass")
    match = _WAMID.fullmatch(data)
    decoded = data if match is None else _decoded(match[1])
    if (usual := _USUAL_ID.match(decoded)) is not None:
        return usual[1] == customer.removeprefix("+").encode(errors="surrogatepass")
    return _NUMBER.search(decoded) is None


def _decoded(encoded: bytes) -> bytes:
    plain = encoded.translate(_STANDARD)
    return a2b_base64(plain + b"=" * (-len(plain) % 4)) if len(plain) % 4 != 1 else b""


def _cores(digits: bytes) -> tuple[str, ...]:
    """Return the Base64 digits that encode *digits*, for each of the three alignments."""
    cores = []
    for offset in range(3):
        encoded = b64encode(b"\0" * offset + digits).rstrip(b"=")
        first, last = -(-offset * 8 // 6), (offset + len(digits)) * 8 // 6
        cores.append(encoded[first:last].decode())
    return tuple(cores)
