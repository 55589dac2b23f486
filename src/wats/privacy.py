"""Values that must not be seen: secrets, and fingerprints of identifiers. No I/O."""

import hashlib
import hmac
from typing import Final, final
from zlib import crc32

from typing_extensions import override

REDACTED: Final = "[REDACTED]"


@final
class Secret:
    """A token, key or password that is never printed, logged, pickled or compared in variable time.

    Its value is accessible through `reveal()` alone, so a reader can find every use of a secret by
    searching for that name.
    """

    __slots__ = ("_digest", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._digest = hashlib.sha256(value.encode()).digest()

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def matches(self, candidate: bytes) -> bool:
        """Return whether *candidate* is this secret, in a time that reveals nothing about either.

        Both sides are compared as SHA-256 digests, so neither length nor position of a difference
        shows. Hashing the candidate takes time by its own length, which its sender knows anyway.
        """
        return self.matches_digest(hashlib.sha256(candidate).digest())

    def matches_digest(self, digest: bytes) -> bool:
        """Return whether *digest* is the SHA-256 of this secret, in constant time."""
        return hmac.compare_digest(self._digest, digest)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches_digest(other._digest)

    @override
    def __hash__(self) -> int:
        return hash(self._digest)

    @override
    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    @override
    def __str__(self) -> str:
        return REDACTED

    @override
    def __reduce__(self) -> tuple[object, ...]:
        msg = "A Secret cannot be pickled; pass the place where it is read from."
        raise TypeError(msg)


def fingerprint(text: str) -> int:
    """Return a 64-bit fingerprint of *text*, as a signed integer; collisions are very rare.

    It serves to find a text again without keeping it. It is not secret: the fingerprint of a known
    phone number can be computed.
    """
    data = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def short_fingerprint(text: str) -> int:
    """Return a 31-bit fingerprint of *text*; one in two thousand million other texts has the same.

    For data that is verified afterwards, or tolerates collisions: SQLite needs four bytes for it,
    and six for one bit more.
    """
    return crc32(text.encode(errors="surrogatepass")) & 0x7FFF_FFFF
