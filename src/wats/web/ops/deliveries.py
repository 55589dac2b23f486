"""Outstanding deliveries and dead letters: list, show, retry, replay and discard."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.clock import to_iso
from wats.errors import ConsumerNotFound, DeliveryNotFound
from wats.inbound.updates import kind_of, mark_of, number_of
from wats.store.admin import DeliveryFilter, StoredDelivery
from wats.store.records import OUTBOX, DeliveryState, is_cursor
from wats.telemetry.contract.values import Method, UpdateKind
from wats.web.bodies import Body, Count, Moment
from wats.web.exchange import Request, Response, json_response
from wats.web.inputs import (
    before_of,
    check_query,
    invalid,
    limit_of,
    read_body,
    store_of,
    wants_content,
)
from wats.web.ops.audit import log_action
from wats.web.parts import Parts
from wats.web.routing import Operation, Parameter, Posture, Route

MAX_IDS: Final = 100

_TEXT: Final = {"type": "string"}
_STATES: Final = [state.value for state in DeliveryState if state is not DeliveryState.DONE]

_PARAMETERS: Final = (
    Parameter("state", "query", {"enum": _STATES}),
    Parameter("consumer", "query", _TEXT),
    Parameter("kind", "query", {"enum": [kind.value for kind in UpdateKind]}),
    Parameter("error", "query", _TEXT),
    Parameter("before", "query", {"type": "string", "format": "date-time"}),
    Parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}),
    Parameter("cursor", "query", _TEXT),
)
_NAMES: Final = frozenset(parameter.name for parameter in _PARAMETERS)

_IDS_MALFORMED: Final = "The body must hold 'ids': 1 to 100 ids of deliveries."
_REPLAY_MALFORMED: Final = f"{_IDS_MALFORMED[:-1]}, and the name of a 'consumer'."


class DeliveryView(Body, frozen=True):
    """A delivery without content.

    `error` is the class of the last error, followed by the status of a subscriber's response, as in
    `SubscriberRefused 413`.
    """

    id: str
    update_id: str
    consumer: str
    state: str
    kind: str
    phone_number_id: str | None
    attempts: Count
    error: str | None
    arrived_at: Moment
    due_at: Moment | None
    died_at: Moment | None
    content_bytes: Count


class DeliveryList(Body, frozen=True):
    """A page of deliveries, in order of arrival."""

    items: tuple[DeliveryView, ...]
    next_cursor: str | None


class DeliveryDetails(DeliveryView, frozen=True):
    """A delivery, with the content of its update if that was requested."""

    content: msgspec.Raw | UnsetType = UNSET


Ids: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(pattern="^[1-9][0-9]{0,17}$")], ...],
    Meta(min_length=1, max_length=MAX_IDS),
]


class DeliveryIds(Body, frozen=True):
    """Ids of deliveries."""

    ids: Ids


class ReplayRequest(Body, frozen=True):
    """Ids of deliveries, whose updates *consumer* shall get again."""

    ids: Ids
    consumer: Annotated[str, Meta(min_length=1, max_length=1024)]


class ChangedCount(Body, frozen=True):
    """The number of deliveries that were there and were changed."""

    changed: Count


async def list_deliveries(parts: Parts, request: Request) -> Response:
    """Return a page of deliveries; with `state=dead` of dead letters."""
    store = store_of(parts)
    wanted, query = _filter_of(request), request.query
    page = await store.list_deliveries(
        wanted, limit=limit_of(request), after=id_of(query.get("cursor", "0"))
    )
    return json_response(
        DeliveryList(
            items=tuple(DeliveryView(**_fields(each)) for each in page.items),
            next_cursor=None if page.next_after is None else str(page.next_after),
        )
    )


def _filter_of(request: Request) -> DeliveryFilter:
    """Return the deliveries that the query asks for.

    Raises:
        MalformedRequest: A parameter is unknown or invalid.
    """
    check_query(request, _NAMES)
    query = request.query
    state, kind = query.get("state"), query.get("kind")
    if state is not None and state not in _STATES:
        raise invalid("state", f"must be one of {', '.join(_STATES)}")
    if kind is not None and kind not in set(UpdateKind):
        raise invalid("kind", "must be a kind of updates")
    return DeliveryFilter(
        state=None if state is None else DeliveryState(state),
        consumer=query.get("consumer"),
        error=query.get("error"),
        mark=None if kind is None else mark_of(UpdateKind(kind)),
        before=before_of(request),
    )


def id_of(cursor: str) -> int:
    """Return *cursor* as an id.

    Raises:
        MalformedRequest: The parameter is invalid.
    """
    if cursor != "0" and not is_cursor(cursor):
        raise invalid("cursor", "must be the 'nextCursor' of an earlier response")
    return int(cursor)


def _fields(delivery: StoredDelivery) -> dict[str, Any]:
    return {
        **fields_of(delivery),
        "update_id": str(delivery.update_id),
        "consumer": delivery.consumer,
        "state": delivery.state.value,
        "kind": kind_of(delivery.head),
        "phone_number_id": number_of(delivery.head),
    }


def fields_of(delivery: StoredDelivery) -> dict[str, Any]:
    """Return the fields that an update and an item of the outbox have in common."""
    return {
        "id": str(delivery.id),
        "attempts": delivery.attempts,
        "error": delivery.error,
        "arrived_at": to_iso(delivery.arrived_at),
        "due_at": None if delivery.due_at is None else to_iso(delivery.due_at),
        "died_at": None if delivery.died_at is None else to_iso(delivery.died_at),
        "content_bytes": delivery.payload_bytes,
    }


async def show_delivery(parts: Parts, request: Request) -> Response:
    """Return one delivery or dead letter; its content only on request, which is logged."""
    store, with_content = store_of(parts), wants_content(request)
    text = request.parameters["deliveryId"]
    found = await store.read_delivery(int(text)) if is_cursor(text) else None
    if found is None or found[0].consumer == OUTBOX:
        raise DeliveryNotFound
    delivery, payload = found
    content = show_content(parts, payload) if with_content else UNSET
    return json_response(DeliveryDetails(**_fields(delivery), content=content))


def show_content(parts: Parts, payload: bytes) -> msgspec.Raw:
    """Return *payload* as JSON, and log that; `null` if it was not written by wats."""
    log_action(parts, "content_shown", 1)
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(b"null")
    return msgspec.Raw(payload)


async def retry(parts: Parts, request: Request) -> Response:
    """Make dead letters deliveries again, and end the backoff of outstanding deliveries."""
    store = store_of(parts)
    ids = await _ids(request)
    changed = await store.retry_dead(ids) + await store.expedite(ids)
    log_action(parts, "deliveries_retried", changed)
    return json_response(ChangedCount(changed=changed))


async def replay(parts: Parts, request: Request) -> Response:
    """Give the updates of deliveries and dead letters to a consumer again."""
    store = store_of(parts)
    asked = await read_body(request, ReplayRequest, _REPLAY_MALFORMED)
    changed = await store.replay(numbers_of(asked.ids), asked.consumer)
    if changed is None:
        raise ConsumerNotFound
    log_action(parts, "deliveries_replayed", changed)
    return json_response(ChangedCount(changed=changed))


async def discard(parts: Parts, request: Request) -> Response:
    """Delete deliveries and dead letters with their content."""
    store = store_of(parts)
    changed = await store.discard(await _ids(request))
    log_action(parts, "deliveries_discarded", changed)
    return json_response(ChangedCount(changed=changed))


async def _ids(request: Request) -> list[int]:
    body = await read_body(request, DeliveryIds, _IDS_MALFORMED)
    return numbers_of(body.ids)


def numbers_of(ids: Sequence[str]) -> list[int]:
    """Return *ids* as numbers, each once."""
    return [int(each) for each in dict.fromkeys(ids)]


def routes(admin: str) -> tuple[Route, ...]:
    """Return the routes of deliveries below *admin*."""
    listing = Operation(
        Method.GET,
        list_deliveries,
        "listDeliveries",
        "List outstanding deliveries in order of arrival, or dead letters.",
        DeliveryList,
        parameters=_PARAMETERS,
        problems=(400,),
    )
    one = Operation(
        Method.GET,
        show_delivery,
        "showDelivery",
        "Return a delivery or dead letter, with its content on request.",
        DeliveryDetails,
        parameters=(Parameter("content", "query", {"type": "boolean", "default": False}),),
        problems=(400,),
    )
    retrying = Operation(
        Method.POST,
        retry,
        "retryDeadLetters",
        "Retry dead letters, each in its place in the conversation, or deliveries in backoff now.",
        ChangedCount,
        body=DeliveryIds,
        problems=(400,),
    )
    replaying = Operation(
        Method.POST,
        replay,
        "replayDeliveries",
        "Give the updates of deliveries and dead letters to a consumer again.",
        ChangedCount,
        body=ReplayRequest,
        problems=(400,),
    )
    discarding = Operation(
        Method.POST,
        discard,
        "discardDeliveries",
        "Delete deliveries and dead letters with their content.",
        ChangedCount,
        body=DeliveryIds,
        problems=(400,),
    )
    path = f"{admin}/deliveries"
    shown = f"{path}/:deliveryId"
    return (
        Route(path, admin, Posture.ADMIN, "admin", (listing,)),
        Route(f"{path}/retry", admin, Posture.ADMIN, "admin", (retrying,)),
        Route(f"{path}/replay", admin, Posture.ADMIN, "admin", (replaying,)),
        Route(f"{path}/discard", admin, Posture.ADMIN, "admin", (discarding,)),
        Route(shown, admin, Posture.ADMIN, "admin", (one,)),
    )
