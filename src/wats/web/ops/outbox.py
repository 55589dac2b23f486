"""The outbox for operators: list, show, retry and discard messages that are sent later."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from wats.errors import OutboxItemNotFound
from wats.outbound.items import number_of, obstacle, type_of
from wats.store.admin import DeliveryFilter, DeliveryPage, StoredDelivery
from wats.store.outbox import OUTCOME_UNKNOWN, SendState, send_state
from wats.store.records import OUTBOX, DeliveryState, is_cursor
from wats.telemetry.contract.values import Method
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
from wats.web.ops.deliveries import (
    ChangedCount,
    Ids,
    fields_of,
    id_of,
    numbers_of,
    show_content,
)
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
    """A message in the outbox without content.

    `error` is the class of the last error, or `NumberNotConfigured` while the message waits for the
    configuration of its business number.
    """

    id: str
    state: SendState
    phone_number_id: str | None
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

    ids: Ids


class OutboxRetry(OutboxIds, frozen=True):
    """Messages to send again; those with an unknown outcome only if *even_unknown*."""

    even_unknown: bool = False


async def list_items(parts: Parts, request: Request) -> Response:
    """Return a page of messages; without a state, of all that are not sent."""
    store = store_of(parts)
    check_query(request, _NAMES)
    query, state = request.query, request.query.get("state")
    limit, after = limit_of(request), id_of(query.get("cursor", "0"))
    wanted = _filters_of(request)
    pages = [await store.list_deliveries(each, limit=limit, after=after) for each in wanted]
    page = _merged(pages, limit)
    items = (OutboxView(**_fields(parts, each)) for each in page.items)
    return json_response(
        OutboxList(
            # A page of failed messages is found among all dead letters, and may be short.
            items=tuple(each for each in items if state in {None, each.state}),
            next_cursor=None if page.next_after is None else str(page.next_after),
        )
    )


def _merged(pages: Sequence[DeliveryPage], limit: int) -> DeliveryPage:
    """Return the page that begins with the first items of *pages*, by their ids."""
    end = min((page.next_after for page in pages if page.next_after is not None), default=None)
    # An item that fails between the two reads is in both pages.
    found = {each.id: each for page in pages for each in page.items}
    ids = [id_ for id_ in sorted(found) if end is None or id_ <= end]
    if len(ids) > limit:
        ids = ids[:limit]
        end = ids[-1]
    return DeliveryPage(items=tuple(found[id_] for id_ in ids), next_after=end)


def _filters_of(request: Request) -> Sequence[DeliveryFilter]:
    """Return the messages that the query asks for; outstanding ones and dead letters are two lists.

    Raises:
        MalformedRequest: A parameter is invalid.
    """
    state = request.query.get("state")
    if state is not None and state not in _STATES:
        raise invalid("state", f"must be one of {', '.join(_STATES)}")
    states = (None, DeliveryState.DEAD) if state is None else (_STATES[state],)
    error = OUTCOME_UNKNOWN if state == SendState.UNKNOWN else None
    before = before_of(request)
    return [
        DeliveryFilter(consumer=OUTBOX, state=each, error=error, before=before) for each in states
    ]


def _fields(parts: Parts, item: StoredDelivery) -> dict[str, Any]:
    state, number = send_state(item.state, item.error), number_of(item.head)
    return {
        **fields_of(item),
        "state": state,
        "phone_number_id": number,
        "type": type_of(item.head),
        "error": obstacle(state, number, parts.numbers.ids) or item.error,
    }


async def show_item(parts: Parts, request: Request) -> Response:
    """Return one message that is not sent; its content only on request, which is logged."""
    store, with_content = store_of(parts), wants_content(request)
    text = request.parameters["outboxId"]
    found = await store.read_delivery(int(text)) if is_cursor(text) else None
    if found is None or found[0].consumer != OUTBOX:
        raise OutboxItemNotFound
    item, payload = found
    content = show_content(parts, payload) if with_content else UNSET
    return json_response(OutboxDetails(**_fields(parts, item), content=content))


async def retry(parts: Parts, request: Request) -> Response:
    """Send failed messages again, and on request those with an unknown outcome."""
    store = store_of(parts)
    asked = await read_body(request, OutboxRetry, _MALFORMED)
    changed = await store.retry_sends(numbers_of(asked.ids), even_unknown=asked.even_unknown)
    log_action(parts, "outbox_retried", changed)
    return json_response(ChangedCount(changed=changed))


async def discard(parts: Parts, request: Request) -> Response:
    """Delete messages that are not being sent, with their content."""
    store = store_of(parts)
    asked = await read_body(request, OutboxIds, _MALFORMED)
    changed = await store.discard_sends(numbers_of(asked.ids))
    log_action(parts, "outbox_discarded", changed)
    return json_response(ChangedCount(changed=changed))


def routes(admin: str) -> tuple[Route, ...]:
    """Return the routes of the outbox below *admin*."""
    listing = Operation(
        Method.GET,
        list_items,
        "listOutbox",
        "List messages that are not sent in order of arrival.",
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
        problems=(400,),
    )
    discarding = Operation(
        Method.POST,
        discard,
        "discardOutboxItems",
        "Delete messages that are not being sent, with their content.",
        ChangedCount,
        body=OutboxIds,
        problems=(400,),
    )
    path = f"{admin}/outbox"
    return (
        Route(path, admin, Posture.ADMIN, "admin", (listing,)),
        Route(f"{path}/retry", admin, Posture.ADMIN, "admin", (retrying,)),
        Route(f"{path}/discard", admin, Posture.ADMIN, "admin", (discarding,)),
        Route(f"{path}/:outboxId", admin, Posture.ADMIN, "admin", (one,)),
    )
