"""The outbox for operators: list, show, retry and discard messages that are sent later."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.clock import to_iso
from wats.errors import OutboxItemNotFound
from wats.outbound.items import type_of
from wats.store.admin import DeliveryFilter, StoredDelivery
from wats.store.outbox import OUTCOME_UNKNOWN, SendState, send_state
from wats.store.records import OUTBOX, DeliveryState, is_cursor
from wats.telemetry.contract.values import Method
from wats.web.bodies import Body, Count, Moment, parse_moment
from wats.web.exchange import Request, Response, json_response
from wats.web.inputs import check_query, invalid, read_body, store_of
from wats.web.ops.audit import log_action
from wats.web.ops.deliveries import MAX_IDS, ChangedCount, content_of, id_of, limit_of
from wats.web.parts import Parts
from wats.web.routing import Operation, Parameter, Posture, Route

_STATES: Final[dict[str, DeliveryState]] = {
    SendState.QUEUED: DeliveryState.PENDING,
    SendState.SENDING: DeliveryState.LEASED,
    SendState.RETRY: DeliveryState.RETRY,
    SendState.FAILED: DeliveryState.DEAD,
    SendState.UNKNOWN: DeliveryState.DEAD,
}
"""The states that a list can be limited to; a message that was sent is in no list."""

_TEXT: Final = {"type": "string"}
_PARAMETERS: Final = (
    Parameter("state", "query", {"enum": [*map(str, _STATES)]}),
    Parameter("before", "query", {"type": "string", "format": "date-time"}),
    Parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}),
    Parameter("cursor", "query", _TEXT),
)
_NAMES: Final = frozenset(parameter.name for parameter in _PARAMETERS)
_MALFORMED: Final = "The body must hold 'ids': 1 to 100 ids of outbox items."


class OutboxView(Body, frozen=True):
    """A message in the outbox without content; `error` is the class of the last error."""

    id: str
    state: SendState
    type: str
    attempts: Count
    error: str | None
    arrived_at: Moment
    due_at: Moment | None
    died_at: Moment | None
    content_bytes: Count


class OutboxList(Body, frozen=True):
    """A page of messages in the outbox, in order of arrival."""

    items: tuple[OutboxView, ...]
    next_cursor: str | None


class OutboxDetails(OutboxView, frozen=True):
    """A message in the outbox, with its content if that was requested."""

    content: msgspec.Raw | UnsetType = UNSET


class OutboxIds(Body, frozen=True):
    """Ids of messages in the outbox."""

    ids: Annotated[
        tuple[Annotated[str, Meta(pattern="^[1-9][0-9]{0,17}$")], ...],
        Meta(min_length=1, max_length=MAX_IDS),
    ]


class OutboxRetry(OutboxIds, frozen=True):
    """Messages to send again; those with an unknown outcome only if *even_unknown*."""

    even_unknown: bool = False


async def list_items(parts: Parts, request: Request) -> Response:
    """Return a page of messages; without a state, of those that are not sent yet."""
    store = store_of(parts)
    check_query(request, _NAMES)
    query, state = request.query, request.query.get("state")
    page = await store.list_deliveries(
        _filter_of(query), limit=limit_of(request), after=id_of(query.get("cursor", "0"))
    )
    items = (OutboxView(**_fields(each)) for each in page.items)
    return json_response(
        OutboxList(
            # A page of failed messages is found among all dead letters, and may be short.
            items=tuple(each for each in items if state in {None, each.state}),
            next_cursor=None if page.next_after is None else str(page.next_after),
        )
    )


def _filter_of(query: dict[str, str]) -> DeliveryFilter:
    """Return the messages that *query* asks for.

    Raises:
        MalformedRequest: A parameter is invalid.
    """
    state = query.get("state")
    if state is not None and state not in _STATES:
        raise invalid("state", f"must be one of {', '.join(_STATES)}")
    before = parse_moment(query["before"]) if "before" in query else None
    if "before" in query and before is None:
        raise invalid("before", "must be a time with a zone, such as 2026-11-22T12:00:00Z")
    return DeliveryFilter(
        consumer=OUTBOX,
        state=None if state is None else _STATES[state],
        error=OUTCOME_UNKNOWN if state == SendState.UNKNOWN else None,
        before=before,
    )


def _fields(item: StoredDelivery) -> dict[str, Any]:
    return {
        "id": str(item.id),
        "state": send_state(item.state, item.error),
        "type": type_of(item.head),
        "attempts": item.attempts,
        "error": item.error,
        "arrived_at": to_iso(item.arrived_at),
        "due_at": None if item.due_at is None else to_iso(item.due_at),
        "died_at": None if item.died_at is None else to_iso(item.died_at),
        "content_bytes": item.payload_bytes,
    }


async def show_item(parts: Parts, request: Request) -> Response:
    """Return one message that is not sent; its content only on request, which is logged."""
    store = store_of(parts)
    check_query(request, {"content"})
    with_content = request.query.get("content", "false")
    if with_content not in {"true", "false"}:
        raise invalid("content", "must be true or false")
    text = request.parameters["outboxId"]
    found = await store.read_delivery(int(text)) if is_cursor(text) else None
    if found is None or found[0].consumer != OUTBOX:
        raise OutboxItemNotFound
    item, payload = found
    content: msgspec.Raw | UnsetType = UNSET
    if with_content == "true":
        log_action(parts, "content_shown", 1)
        content = content_of(payload)
    return json_response(OutboxDetails(**_fields(item), content=content))


async def retry(parts: Parts, request: Request) -> Response:
    """Send failed messages again, and on request those with an unknown outcome."""
    store = store_of(parts)
    asked = await read_body(request, OutboxRetry, _MALFORMED)
    changed = await store.retry_sends(_ids(asked), even_unknown=asked.even_unknown)
    log_action(parts, "outbox_retried", changed)
    return json_response(ChangedCount(changed=changed))


async def discard(parts: Parts, request: Request) -> Response:
    """Delete messages that are not being sent, with their content."""
    store = store_of(parts)
    changed = await store.discard_sends(_ids(await read_body(request, OutboxIds, _MALFORMED)))
    log_action(parts, "outbox_discarded", changed)
    return json_response(ChangedCount(changed=changed))


def _ids(body: OutboxIds) -> list[int]:
    return [int(each) for each in dict.fromkeys(body.ids)]


def routes(admin: str) -> tuple[Route, ...]:
    """Return the routes of the outbox below *admin*."""
    listing = Operation(
        Method.GET,
        list_items,
        "listOutbox",
        "List messages that are not sent yet in order of arrival, or dead letters of the outbox.",
        OutboxList,
        parameters=_PARAMETERS,
        problems=(400,),
    )
    one = Operation(
        Method.GET,
        show_item,
        "showOutboxItem",
        "Return a message that is not sent, with its content on request.",
        OutboxDetails,
        parameters=(Parameter("content", "query", {"type": "boolean", "default": False}),),
        problems=(400,),
    )
    retrying = Operation(
        Method.POST,
        retry,
        "retryOutboxItems",
        "Send failed messages again, each in its place in the conversation.",
        ChangedCount,
        body=OutboxRetry,
        problems=(400, 413),
    )
    discarding = Operation(
        Method.POST,
        discard,
        "discardOutboxItems",
        "Delete messages that are not being sent, with their content.",
        ChangedCount,
        body=OutboxIds,
        problems=(400, 413),
    )
    path = f"{admin}/outbox"
    return (
        Route(path, admin, Posture.ADMIN, "admin", (listing,)),
        Route(f"{path}/retry", admin, Posture.ADMIN, "admin", (retrying,)),
        Route(f"{path}/discard", admin, Posture.ADMIN, "admin", (discarding,)),
        Route(f"{path}/:outboxId", admin, Posture.ADMIN, "admin", (one,)),
    )
