"""Texts that must not leave the service, replaced in a stream of bytes. No I/O."""

import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final
from urllib.parse import quote

import msgspec

PUBLIC_ROOT: Final = "https://graph.facebook.com"


class Substitution:
    """Replaces each of some texts in a stream, also where pieces of the stream divide one.

    At most the length of the longest text is held back.
    """

    def __init__(self, replacements: Mapping[bytes, bytes]) -> None:
        self._replacements = {found: new for found, new in replacements.items() if found}
        longest_first = sorted(self._replacements, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))
        self._kept = max(map(len, longest_first), default=1) - 1

    async def __call__(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield *chunks* with the replacements."""
        held = b""
        async for chunk in chunks:
            ready, held = self._divide(held + chunk)
            if ready:
                yield ready
        if held:
            yield self._replace(held)

    def _divide(self, held: bytes) -> tuple[bytes, bytes]:
        """Return the part of *held* that is complete, with replacements, and the rest."""
        end = len(held) - self._kept
        if end <= 0:
            return b"", held
        for found in self._pattern.finditer(held):
            if found.start() >= end:
                break
            end = max(end, found.end())
        return self._replace(held[:end]), held[end:]

    def _replace(self, text: bytes) -> bytes:
        return self._pattern.sub(lambda found: self._replacements[found[0]], text)


def response_substitution(
    secrets: Collection[str], roots: tuple[str, ...], own_root: str
) -> Substitution:
    """Return the substitution for responses of Graph.

    Links to further pages have the access token, and Graph's address. Both occur in JSON, in which
    a slash can be escaped.

    Args:
        secrets: Texts to remove: the access tokens and their proofs.
        roots: Addresses of Graph with its version; each ends with a slash.
        own_root: The address that replaces them.
    """
    forms = {form: "" for secret in secrets for form in (secret, quote(secret, safe=""))}
    forms |= {msgspec.json.encode(secret)[1:-1].decode(): "" for secret in secrets}
    for root in roots:
        forms |= {root: own_root, root.replace("/", r"\/"): own_root.replace("/", r"\/")}
    return Substitution({form.encode(): new.encode() for form, new in forms.items()})
