"""The input of operations on deliveries: the store, queries and bodies."""

from collections.abc import Collection
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from wats.errors import Detail, MalformedRequest, StoreNotConfigured
from wats.outbound.messages import parse_object
from wats.store import Store
from wats.web.bodies import DEFAULT_LIMIT, parse_limit, parse_moment
from wats.web.exchange import Request
from wats.web.parts import Parts

B = TypeVar("B")

_MAX_BODY_BYTES: Final = 131_072


def store_of(parts: Parts) -> Store:
    """Return the store.

    Raises:
        StoreNotConfigured: The service has none.
    """
    if parts.store is None:
        raise StoreNotConfigured("Operations on deliveries require a persistence store.")
    return parts.store


async def read_body(request: Request, body_type: type[B], message: str) -> B:
    """Return the JSON object of *request* as *body_type*.

    Raises:
        MalformedRequest: The body is not valid; the error has *message*.
        UnsupportedMediaType: The body is compressed.
        PayloadTooLarge: The body is too large.
    """
    found = parse_object(await request.json_body(_MAX_BODY_BYTES), message)
    try:
        return msgspec.convert(found, body_type)
    except msgspec.ValidationError:
        raise MalformedRequest("malformed_body", message) from None


def check_query(request: Request, known: Collection[str]) -> None:
    """Refuse parameters that are not *known*; the error does not repeat their names.

    Raises:
        MalformedRequest: There is one.
    """
    if not request.query.keys() <= set(known):
        raise invalid("?", f"must be one of {', '.join(sorted(known))}")


def limit_of(request: Request, default: int = DEFAULT_LIMIT) -> int:
    """Return the number of rows of a page.

    Raises:
        MalformedRequest: The parameter is invalid.
    """
    limit = parse_limit(request.query.get("limit", str(default)))
    if limit is None:
        raise invalid("limit", "must be an integer from 1 to 100")
    return limit


def before_of(request: Request) -> datetime | None:
    """Return the time of the parameter `before`, if it is given.

    Raises:
        MalformedRequest: The parameter is invalid.
    """
    text = request.query.get("before")
    before = None if text is None else parse_moment(text)
    if text is not None and before is None:
        raise invalid("before", "must be a time with a zone, such as 2026-11-22T12:00:00Z")
    return before


def wants_content(request: Request) -> bool:
    """Return whether `content`, the only parameter, is true.

    Raises:
        MalformedRequest: A parameter is unknown or invalid.
    """
    check_query(request, {"content"})
    text = request.query.get("content", "false")
    if text not in {"true", "false"}:
        raise invalid("content", "must be true or false")
    return text == "true"


def invalid(name: str, reason: str) -> MalformedRequest:
    """Return the error for the parameter *name*."""
    return MalformedRequest("malformed_query", "The query is invalid.", [Detail(name, reason)])
