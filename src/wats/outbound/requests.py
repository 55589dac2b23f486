"""The bodies of `POST P/messages`: Graph's own form, and the composers. No I/O."""

from collections.abc import Callable, Iterator

import msgspec

from wats.errors import Detail
from wats.outbound.composers import composer_of
from wats.outbound.composers.composer import Composer
from wats.outbound.messages import (
    GRAPH_MALFORMED,
    Ask,
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
    ask = parse_object(body, GRAPH_MALFORMED)
    composer = composer_of(ask)
    if composer is None:
        return body, check_graph_message(ask, groups_enabled=groups_enabled)
    mistakes = _mistakes(composer, ask, groups_enabled=groups_enabled, strict=is_strict())
    refuse(mistakes, GRAPH_MALFORMED)
    return msgspec.json.encode(composer.build(ask)), composer.record_of(ask)


def _mistakes(
    composer: Composer, ask: Ask, *, groups_enabled: bool, strict: bool
) -> Iterator[Detail]:
    if not groups_enabled:
        yield from disabled_group_mistakes(ask)
    yield from composer.mistakes(ask, strict=strict)
