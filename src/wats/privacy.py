"""Values that must not be seen: secrets, and stand-ins for identifiers in logs. No I/O."""

import hashlib
import hmac
import secrets
from typing import Final, final

from typing_extensions import override

REDACTED: Final = "[REDACTED]"


@final
class Secret:
    """A token, key or password that is never printed, logged, pickled or compared in variable time.

    What it holds is had by `reveal()` alone, so a reader can find every place where a secret is
    used by searching for that word.
    """

    __slots__ = ("_digest", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._digest = hashlib.sha256(value.encode()).digest()

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def matches(self, candidate: bytes) -> bool:
        """Tell whether *candidate* is this secret, in a time that tells nothing about either.

        Both sides are compared as SHA-256 digests, so neither length nor position of a difference
        shows. Hashing the candidate takes time by its own length, which its sender knows anyway.
        """
        return self.matches_digest(hashlib.sha256(candidate).digest())

    def matches_digest(self, digest: bytes) -> bool:
        """Tell whether *digest* is the SHA-256 of this secret, in constant time."""
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


class Pseudonyms:
    """Short stand-ins that let two log lines about one thing be matched, and nothing else.

    Each is the keyed BLAKE2b of an identifier under a random key that is never written down: it
    cannot be turned back by trying all phone numbers, and it means nothing after a restart.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key if key is not None else secrets.token_bytes(32)

    def of(self, identifier: str) -> str:
        """Return ten hexadecimal digits that stand for *identifier*."""
        data = identifier.encode(errors="surrogatepass")
        return hashlib.blake2b(data, key=self._key, digest_size=5).hexdigest()
