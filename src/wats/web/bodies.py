"""Types that bodies of the API share. No I/O.

The OpenAPI document is generated from such types, and responses are rendered from them, so that the
order of their fields is the order on the wire. Request bodies are validated by
`wats.outbound.messages` and the module of their noun, which report all mistakes together and know
rules that a schema cannot state.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

DEFAULT_LIMIT: Final = 50

_LIMIT: Final = re.compile("[1-9][0-9]?|100")

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Moment: TypeAlias = Annotated[
    str, Meta(description="UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A body in our own camelCase."""


class GraphAnswer(msgspec.Struct, frozen=True):
    """Meta's response; an empty object if Meta accepted but its response cannot be parsed."""


def parse_limit(text: str) -> int | None:
    """Return the number of rows of a page, from 1 to 100, in *text*."""
    return int(text) if _LIMIT.fullmatch(text) is not None else None


def parse_moment(text: str) -> datetime | None:
    """Return the time in *text*, in which a '+' of the zone may have been decoded to a space."""
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+"))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
