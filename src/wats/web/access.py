"""The operations that a token permits, as a value."""

from dataclasses import dataclass
from typing import Final

from wats.config.numbers import SCOPES, TELEMETRY


@dataclass(frozen=True, slots=True)
class Access:
    """The operations that the token of a request permits.

    Attributes:
        scopes: The scopes of the token; none without a valid token.
        numbers: The phone number ids that it is limited to; `None` if it is not.
    """

    scopes: frozenset[str]
    numbers: frozenset[str] | None = None


NO_ACCESS: Final = Access(frozenset())
TELEMETRY_ACCESS: Final = Access(frozenset({TELEMETRY}))
FULL_ACCESS: Final = Access(frozenset(SCOPES))
