"""The records of messages: list the latest, and read one with its statuses."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from wats.clock import to_iso
from wats.errors import (
    Detail,
    MalformedRequest,
    MessageNotFound,
    StoreError,
    StoreNotConfigured,
    StoreUnavailable,
)
from wats.graph.errors import ADVICE, Action, find_rule
from wats.outbound.messages import TYPE_PATTERN, is_plain
from wats.store import Store
from wats.store.records import MessageFilter, MessageRecord, StatusRecord, is_cursor
from wats.telemetry.contract.values import ErrorCategory, Method
from wats.web.bodies import DEFAULT_LIMIT, Body, Moment, parse_limit, parse_moment
from wats.web.exchange import Request, Response, json_response
from wats.web.parts import Parts
from wats.web.routing import Operation, Parameter, Posture, Route, decode_segment

MAX_STATUSES = 100
"""The number of statuses that a message is shown with; a group has some for each participant."""
MAX_ID_LENGTH = 1024

_PAGE_SIZE = Parameter(
    "limit", "query", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}
)
_CURSOR = Parameter("cursor", "query", {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"})

_PERSON = re.compile(r"\+?[A-Za-z0-9._=-]{1,256}"), "must be a phone number or the id of a user"
_FILTERS = {
    "direction": (re.compile("inbound|outbound"), "must be 'inbound' or 'outbound'"),
    "status": (re.compile("[a-z_]{1,40}"), "must be a status, such as 'failed'"),
    "type": (re.compile(TYPE_PATTERN), "must be the name of a message type, such as 'template'"),
    "from": _PERSON,
    "to": _PERSON,
    "phoneNumberId": (re.compile("[0-9]{1,32}"), "must be the id of a business number"),
}
"""The parameters that select messages by a value: its form, and a text for the caller."""
_SINCE = Parameter("since", "query", {"type": "string", "format": "date-time"})
_FILTER_PARAMETERS = (
    *(
        Parameter(name, "query", {"type": "string", "pattern": f"^(?:{pattern.pattern})$"})
        for name, (pattern, _) in _FILTERS.items()
    ),
    _SINCE,
)
_PARAMETERS = frozenset({"limit", "cursor", "since", *_FILTERS})
_NAME = re.compile("[A-Za-z_.-]{1,40}")
"""The names of unknown parameters that are repeated to the caller: none can hold a number."""


class MessageView(Body, frozen=True):
    """The record of one message, without content."""

    row_id: str
    phone_number_id: str
    wa_message_id: str
    direction: Literal["inbound", "outbound"]
    from_phone: str | None
    to_phone: str | None
    type: str
    status: str
    graph_message_id: str | None
    created_at: Moment
    updated_at: Moment


class DeliveryError(Body, frozen=True, kw_only=False):
    """The reason why a message was not delivered."""

    meta_code: int
    category: str
    advice: str


class DeliveryStatus(Body, frozen=True):
    """A status that Meta reported; *participant* is a member of the group that got the message."""

    status: str
    occurred_at: Moment
    participant: str | None
    meta_code: int | None


class MessageDetails(MessageView, frozen=True):
    """The record of one message, the reason of its failure, and its latest statuses."""

    error: DeliveryError | None
    statuses: tuple[DeliveryStatus, ...]


class MessageList(Body, frozen=True):
    """A page of messages, newest record first."""

    items: tuple[MessageView, ...]
    next_cursor: str | None


async def list_messages(parts: Parts, request: Request) -> Response:
    """Return a page of messages of both directions, newest record first."""
    store = _store_of(parts)
    wanted = _filter_of(request)
    limit, cursor = _limit_of(request), _cursor_of(request)
    try:
        page = await store.list_messages(limit=limit, cursor=cursor, wanted=wanted)
    except StoreError as error:
        raise _unreachable() from error
    return json_response(
        MessageList(
            items=tuple(MessageView(**_fields(record)) for record in page.items),
            next_cursor=page.next_cursor,
        )
    )


async def get_message(parts: Parts, request: Request) -> Response:
    """Return one message by its WhatsApp id, with the history of its statuses."""
    store = _store_of(parts)
    wamid = decode_segment(request.parameters["id"])
    if wamid is None:
        raise MalformedRequest("malformed_path", "Message id segment is invalid.")
    if not is_plain(wamid, MAX_ID_LENGTH):
        raise MalformedRequest("malformed_path", "Message id must be a safe non-empty string.")
    try:
        record = await store.get_message(wamid, phone_number_id=request.number)
        statuses = await store.list_statuses(wamid) if record is not None else ()
    except StoreError as error:
        raise _unreachable() from error
    if record is None:
        raise MessageNotFound
    history = [each for each in statuses if each.phone_number_id == record.phone_number_id]
    return json_response(
        MessageDetails(
            **_fields(record),
            error=_error_of(record, history),
            statuses=tuple(map(_status_view, history[-MAX_STATUSES:])),
        )
    )


def _store_of(parts: Parts) -> Store:
    if parts.store is None:
        raise StoreNotConfigured("Message projections require a persistence store.")
    return parts.store


def _unreachable() -> StoreUnavailable:
    return StoreUnavailable("Message projection store could not be reached.")


def _limit_of(request: Request) -> int:
    limit = parse_limit(request.query.get("limit", str(DEFAULT_LIMIT)))
    if limit is None:
        reason = "must be an integer from 1 to 100"
        raise _invalid("limit", reason, f"limit {reason}.")
    return limit


def _cursor_of(request: Request) -> str | None:
    cursor = request.query.get("cursor")
    if cursor is not None and not is_cursor(cursor):
        reason = "must be the 'nextCursor' of an earlier response"
        raise _invalid("cursor", reason, "cursor must be a safe non-empty string.")
    return cursor


def _filter_of(request: Request) -> MessageFilter:
    """Return the messages that the query asks for.

    Raises:
        MalformedRequest: With a detail for each parameter that is unknown or invalid.
    """
    query = request.query
    details = [
        Detail(name if _NAME.fullmatch(name) else "?", "is not a parameter of this route")
        for name in query
        if name not in _PARAMETERS
    ]
    details += [
        Detail(name, expects)
        for name, (pattern, expects) in _FILTERS.items()
        if name in query and pattern.fullmatch(query[name].strip()) is None
    ]
    found = {name: query[name].strip() for name in _FILTERS if name in query}
    number = request.number or found.get("phoneNumberId")
    if found.get("phoneNumberId", number) != number:
        details.append(Detail("phoneNumberId", "must be the number of the path"))
    since = parse_moment(query["since"]) if "since" in query else None
    if "since" in query and since is None:
        details.append(Detail("since", "must be a time with a zone, such as 2026-11-22T12:00:00Z"))
    if details:
        raise MalformedRequest("malformed_query", "The query is invalid.", details)
    return MessageFilter(
        phone_number_id=number,
        direction=found.get("direction"),
        status=found.get("status"),
        type=found.get("type"),
        from_phone=found.get("from"),
        to_phone=found.get("to"),
        since=since,
    )


def _invalid(name: str, reason: str, message: str) -> MalformedRequest:
    return MalformedRequest("malformed_query", message, [Detail(name, reason)])


def _fields(record: MessageRecord) -> dict[str, Any]:
    return {
        "row_id": record.row_id,
        "phone_number_id": record.phone_number_id,
        "wa_message_id": record.wa_message_id,
        "direction": record.direction.value,
        "from_phone": record.from_phone,
        "to_phone": record.to_phone,
        "type": record.type,
        "status": record.status,
        "graph_message_id": record.graph_message_id,
        "created_at": to_iso(record.created_at),
        "updated_at": to_iso(record.updated_at),
    }


def _error_of(record: MessageRecord, history: Sequence[StatusRecord]) -> DeliveryError | None:
    """Return why *record* failed, by the last failure with a code in its *history*."""
    codes = [each.error_code for each in history if each.status == "failed"]
    code = next((code for code in reversed(codes) if code is not None), None)
    if record.status != "failed" or code is None:
        return None
    rule = find_rule(code)
    if rule is None:
        return DeliveryError(code, ErrorCategory.UNKNOWN.value, ADVICE[Action.INSPECT])
    return DeliveryError(code, rule.category.value, rule.advice)


def _status_view(status: StatusRecord) -> DeliveryStatus:
    return DeliveryStatus(
        status=status.status,
        occurred_at=to_iso(status.occurred_at),
        participant=status.participant or None,
        meta_code=status.error_code,
    )


LISTING = Operation(
    Method.GET,
    list_messages,
    "listMessages",
    "List inbound and outbound messages, newest record first.",
    MessageList,
    parameters=(_PAGE_SIZE, _CURSOR, *_FILTER_PARAMETERS),
    problems=(400,),
)
ONE = Operation(
    Method.GET,
    get_message,
    "getMessage",
    "Return one message by its WhatsApp id.",
    MessageDetails,
    problems=(400, 404),
)


def routes(admin: str) -> tuple[Route, ...]:
    """Return the queries of messages below *admin*, which are for all numbers."""
    listing, one = (replace(each, name=f"{each.name}OfAdmin") for each in (LISTING, ONE))
    path = f"{admin}/messages"
    return (
        Route(path, admin, Posture.ADMIN, "admin", (listing,)),
        Route(f"{path}/*id", admin, Posture.ADMIN, "admin", (one,)),
    )
