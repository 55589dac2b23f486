"""Whether clients without a token can distinguish a hidden route from an unknown path. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_ITS_OWN: Final = {"date"}
"""Headers whose values depend on the time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The responses, as bytes, to one unauthenticated request that was sent to several paths.

    Attributes:
        request: The request, as in `GET without a token`.
        unknown: The responses of paths that do not exist; at least two.
        hidden: The responses of routes that must look like them, by path.
    """

    request: str
    unknown: Sequence[bytes]
    hidden: Mapping[str, bytes]

    def differences(self) -> list[str]:
        """Return where a response of a hidden route differs, as in `GET /status (the headers)`."""
        parts = [_ResponseParts.of(answer) for answer in self.unknown]
        varying = self._varying_headers(parts)
        found = []
        for path, answer in self.hidden.items():
            part = _ResponseParts.of(answer).difference(
                parts[0], varying, self._has_varying_body(parts)
            )
            if part:
                found.append(f"{self.request}: {path} ({part})")
        return found

    def is_vague(self) -> bool:
        """Return whether even paths that do not exist have different responses.

        A proxy between the service and us writes the responses then, and hides differences.
        """
        parts = [_ResponseParts.of(answer) for answer in self.unknown]
        kinds = {(each.status, tuple(name for name, _ in each.headers)) for each in parts}
        return len(kinds) > 1 or self._has_varying_body(parts)

    @staticmethod
    def _varying_headers(parts: Sequence["_ResponseParts"]) -> set[str]:
        pairs = {pair for each in parts for pair in each.headers}
        shared = set.intersection(*(set(each.headers) for each in parts))
        return {name for name, _ in pairs - shared} | _ITS_OWN

    @staticmethod
    def _has_varying_body(parts: Sequence["_ResponseParts"]) -> bool:
        return len({each.body for each in parts}) > 1


@dataclass(frozen=True, slots=True)
class _ResponseParts:
    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(cls, answer: bytes) -> "_ResponseParts":
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(first, tuple((name.lower(), value.strip()) for name, _, value in pairs), body)

    def difference(
        self, other: "_ResponseParts", varying: set[str], has_varying_body: bool
    ) -> str | None:
        if self.status != other.status:
            return "the status"
        if self._fixed(varying) != other._fixed(varying):
            return "the headers"
        return "the body" if self.body != other.body and not has_varying_body else None

    def _fixed(self, varying: set[str]) -> list[tuple[str, str]]:
        return [(name, "" if name in varying else value) for name, value in self.headers]
