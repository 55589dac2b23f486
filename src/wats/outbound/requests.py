"""The bodies of `POST P/messages`: Graph's own form, and the composers. No I/O."""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from wats.errors import Detail
from wats.outbound.composers import COMPOSERS, composer_of
from wats.outbound.composers.composer import Composer
from wats.outbound.messages import (
    GRAPH_MALFORMED,
    Fields,
    Outgoing,
    check_graph_message,
    disabled_group_mistakes,
    parse_object,
    refuse,
)


def parse_message(
    body: bytes, *, groups_enabled: bool, is_strict: Callable[[], bool]
) -> tuple[bytes, Outgoing | None]:
    """Return the payload of *body* for Graph, and its record; `None` if it marks one as read.

    A message in Graph's form is its own payload. Unknown keys of a composer are ignored, or refused
    if *is_strict*, which is called for a composer only: a plain text does not pay for it.

    Raises:
        MalformedRequest: The body is not a valid message; `details` hold every mistake.
    """
    fields = parse_object(body, GRAPH_MALFORMED)
    composer = composer_of(fields)
    if composer is None:
        if "messaging_product" not in fields:
            refuse(_unknown_type(fields), GRAPH_MALFORMED)
        return body, check_graph_message(fields, groups_enabled=groups_enabled)
    mistakes = _mistakes(composer, fields, groups_enabled=groups_enabled, strict=is_strict())
    refuse(mistakes, GRAPH_MALFORMED)
    return msgspec.json.encode(composer.build(fields)), composer.record_of(fields)


_TYPES: Final = frozenset({"text", *(each.graph_type for each in COMPOSERS.values())})
"""The types of Graph that are known: an incomplete message of these is one in Graph's form."""

_UNKNOWN_TYPE: Final = Detail(
    "type",
    f"must be one of {', '.join(COMPOSERS)}; or, in Graph's format, the name of an object in the "
    "same body",
)


def _unknown_type(fields: Fields) -> Iterator[Detail]:
    """Yield the mistake of *fields*, without a product, if its type is not a known one.

    Its other keys are not checked: without a type, it is not known which they can be.
    """
    kind = fields.get("type")
    if isinstance(kind, str) and kind not in _TYPES and not isinstance(fields.get(kind), dict):
        yield _UNKNOWN_TYPE


def _mistakes(
    composer: Composer, fields: Fields, *, groups_enabled: bool, strict: bool
) -> Iterator[Detail]:
    if not groups_enabled:
        yield from disabled_group_mistakes(fields)
    yield from composer.mistakes(fields, strict=strict)
