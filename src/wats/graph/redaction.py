"""Texts that must not leave the service, replaced in a stream of bytes. No I/O."""

import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final
from urllib.parse import quote

import msgspec

PUBLIC_ROOT: Final = "https://graph.facebook.com"

_NOTHING: Final = re.compile(rb"(?!)")


class Substitution:
    """Replaces each of some texts in a stream, also where pieces of the stream divide one.

    At most the length of the longest text is held back. Of maybe thousands of texts few occur: each
    is searched for separately, which is far faster than an expression for all of them.
    """

    def __init__(self, replacements: Mapping[bytes, bytes]) -> None:
        self._replacements = {found: new for found, new in replacements.items() if found}
        self._longest_first = sorted(self._replacements, key=len, reverse=True)
        self._kept = max(map(len, self._longest_first), default=1) - 1

    async def __call__(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield *chunks* with the replacements."""
        held = b""
        async for chunk in chunks:
            ready, held = self._divide(held + chunk)
            if ready:
                yield ready
        if held:
            yield self.whole(held)

    def _divide(self, held: bytes) -> tuple[bytes, bytes]:
        """Return the part of *held* that is complete, with replacements, and the rest."""
        end = len(held) - self._kept
        if end <= 0:
            return b"", held
        for found in self._pattern(held).finditer(held):
            if found.start() >= end:
                break
            end = max(end, found.end())
        return self.whole(held[:end]), held[end:]

    def whole(self, text: bytes) -> bytes:
        """Return *text*, which is complete, with the replacements."""
        return self._pattern(text).sub(lambda found: self._replacements[found[0]], text)

    def _pattern(self, text: bytes) -> re.Pattern[bytes]:
        """Return a pattern of the texts that occur in *text*."""
        present = [each for each in self._longest_first if each in text]
        return re.compile(b"|".join(map(re.escape, present))) if present else _NOTHING


def forms_of(secret: str) -> frozenset[bytes]:
    """Return the texts by which *secret* occurs in JSON: as it is, escaped, and in a URL."""
    escaped = msgspec.json.encode(secret)[1:-1]
    return frozenset({secret.encode(), quote(secret, safe="").encode(), escaped} - {b""})


def without(body: bytes, hidden: Collection[bytes]) -> bytes:
    """Return *body* without the texts in *hidden*, which hardly ever occur."""
    if not any(text in body for text in hidden):
        return body
    return Substitution(dict.fromkeys(hidden, b"")).whole(body)


def response_substitution(
    hidden: Collection[bytes], roots: tuple[str, ...], own_root: str
) -> Substitution:
    """Return the substitution for responses of Graph.

    Links to further pages have the access token, and Graph's address. Both occur in JSON, in which
    a slash can be escaped.

    Args:
        hidden: Texts to remove: the forms of the access tokens and of their proofs.
        roots: Addresses of Graph with its version; each ends with a slash.
        own_root: The address that replaces them.
    """
    addresses: dict[str, str] = {}
    for root in roots:
        addresses |= {root: own_root, root.replace("/", r"\/"): own_root.replace("/", r"\/")}
    encoded = {found.encode(): new.encode() for found, new in addresses.items()}
    return Substitution({**dict.fromkeys(hidden, b""), **encoded})
