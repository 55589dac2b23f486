"""The input of operations on deliveries: the store, queries and bodies."""

from collections.abc import Collection
from typing import Final, TypeVar

import msgspec

from wats.errors import Detail, MalformedRequest, StoreNotConfigured
from wats.outbound.messages import parse_object
from wats.store import Store
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
        PayloadTooLarge: The body is too large.
    """
    found = parse_object(await request.body(_MAX_BODY_BYTES), message)
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


def invalid(name: str, reason: str) -> MalformedRequest:
    """Return the error for the parameter *name*."""
    return MalformedRequest("malformed_query", "The query is invalid.", [Detail(name, reason)])
