"""Types that bodies of the API share. No I/O.

The OpenAPI document is generated from such types, and responses are rendered from them, so that the
order of their fields is the order on the wire. Request bodies are validated by
`wats.outbound.messages` and the module of their noun, which report all mistakes together and know
rules that a schema cannot state.
"""

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Moment: TypeAlias = Annotated[
    str, Meta(description="UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A body in our own camelCase."""


class GraphAnswer(msgspec.Struct, frozen=True):
    """Meta's response; an empty object if Meta accepted but its response cannot be parsed."""


def parse_moment(text: str) -> datetime | None:
    """Return the time in *text*, in which a '+' of the zone may have been decoded to a space."""
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+"))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
