"""The API of messages: send one, read its status, and list the latest."""

import re
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

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
from wats.ids import is_safe_id
from wats.inbound.replies import read_mark
from wats.outbound.accept import SendRequest
from wats.outbound.composers.describe import schemas
from wats.outbound.messages import (
    BSUID_PATTERN,
    MAX_TEXT_LENGTH,
    RECIPIENT_PATTERN,
    TYPE_PATTERN,
    Outgoing,
    digits_of,
    is_plain,
    parse_read_mark,
    parse_text,
)
from wats.outbound.payload import TEXT_NAMES, text_payload
from wats.outbound.requests import parse_message
from wats.outbound.sender import SCOPE
from wats.outbound.transmit import Endpoint
from wats.store import Store
from wats.store.records import MessageFilter, MessageRecord, StatusRecord, is_cursor
from wats.telemetry.contract.values import ErrorCategory, Method
from wats.web.api.outbox import OutboxItem, later, sent
from wats.web.bodies import (
    DEFAULT_LIMIT,
    Body,
    GraphAnswer,
    Id,
    Moment,
    parse_limit,
    parse_moment,
)
from wats.web.exchange import Request, Response, json_response
from wats.web.parts import Parts
from wats.web.problems import problem
from wats.web.routing import (
    ASYNC_PREFER,
    PREFER,
    Operation,
    Parameter,
    Posture,
    Route,
    decode_segment,
)

MAX_STATUSES = 100
"""The number of statuses that a message is shown with; a group has some for each participant."""
MAX_ID_LENGTH = 1024

# The API prefix is not part of a key's scope: a new prefix must not permit a second send.
_TEXT_SCOPE = "/messages/text"

IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", "header", {"type": "string", "minLength": 1, "maxLength": 256}
)
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

Phone: TypeAlias = Annotated[
    str,
    Meta(
        pattern=f"^{RECIPIENT_PATTERN}$",
        description="A phone number, optionally preceded by '+', with spaces, hyphens and "
        "parentheses between its digits.",
    ),
]
Text: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TEXT_LENGTH,
        description="Counted in code points; line ends and tabs are kept, line ends as line feeds.",
    ),
]


class TextMessage(Body, frozen=True):
    """A text message to one recipient."""

    to: Phone
    text: Text
    preview_url: bool | UnsetType = UNSET


class TextContent(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a message of the type `text`."""

    body: Text
    preview_url: bool | UnsetType = UNSET


class TypedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of any type in Graph's format; it is forwarded unchanged.

    `type` names the key of the content: an array for `contacts`, an object for every other type.
    The message needs `to`, `recipient`, or both.
    """

    messaging_product: Literal["whatsapp"]
    recipient_type: Literal["individual", "group"] | UnsetType = UNSET
    to: (
        Annotated[
            str, Meta(min_length=1, max_length=256, description="A phone number, or a group's id.")
        ]
        | UnsetType
    ) = UNSET
    recipient: (
        Annotated[str, Meta(pattern=f"^{BSUID_PATTERN}$", description="A business-scoped user id.")]
        | UnsetType
    ) = UNSET
    type: Annotated[str, Meta(pattern=f"^{TYPE_PATTERN}$")]
    text: TextContent | UnsetType = UNSET


class ReadMark(msgspec.Struct, frozen=True, kw_only=True):
    """Mark a customer's message as read, optionally with a typing indicator."""

    messaging_product: Literal["whatsapp"]
    status: Literal["read"]
    message_id: Id
    typing_indicator: dict[str, Any] | UnsetType = UNSET


GraphMessage: TypeAlias = TypedMessage | ReadMark


class MarkRead(Body, frozen=True):
    """Whether the customer sees a typing indicator, until a message or for 25 seconds."""

    typing: bool | UnsetType = UNSET


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


async def send_text(parts: Parts, request: Request) -> Response:
    """Send a text to one person."""
    body = await request.json_body()
    message = parse_text(body, strict=request.is_strict)
    outgoing = Outgoing(type="text", recipient=digits_of(message.to), names=TEXT_NAMES)
    return await forward(parts, request, _TEXT_SCOPE, body, text_payload(message), outgoing)


async def send(parts: Parts, request: Request) -> Response:
    """Send a message of any type, in Graph's format or by a composer, or mark one as read."""
    body = await request.json_body()
    payload, outgoing = parse_message(
        body, groups_enabled=parts.groups_enabled, is_strict=lambda: request.is_strict
    )
    return await forward(parts, request, SCOPE, body, payload, outgoing)


async def mark_read(parts: Parts, request: Request) -> Response:
    """Mark a customer's message as read. Repeating it has no effect, so it needs no key."""
    wamid = decode_segment(request.parameters["id"])
    if wamid is None or not is_safe_id(wamid):
        raise MalformedRequest("malformed_path", "Message id must be a safe non-empty string.")
    typing = parse_read_mark(await request.json_body(), strict=request.is_strict)
    mark = {"messaging_product": "whatsapp", **read_mark(wamid, typing=typing)}
    accepted = await parts.acceptor.accept(
        SendRequest(
            payload=msgspec.json.encode(mark),
            scope=SCOPE,
            idempotency_key=None,
            request_body=b"",
            message=None,
            phone_number_id=request.number,
        )
    )
    return Response(HTTPStatus.OK, accepted.body)


async def forward(
    parts: Parts,
    request: Request,
    scope: str,
    body: bytes,
    payload: bytes,
    message: Outgoing | None,
    endpoint: Endpoint = "messages",
) -> Response:
    """Send *payload* to *endpoint* of Graph, once for each idempotency key of *request*.

    If the client prefers that, a message is stored in the outbox and sent later.
    """
    asked = SendRequest(
        payload=payload,
        scope=scope,
        idempotency_key=request.header(b"idempotency-key"),
        request_body=body,
        message=message,
        phone_number_id=request.number,
        endpoint=endpoint,
    )
    try:
        if message is not None and request.is_async:
            return await later(parts, request, await parts.acceptor.accept_later(asked))
        accepted = await parts.acceptor.accept(asked)
    except StoreNotConfigured as error:
        # Not 503, since a retry cannot succeed. Nor is it sent: a retry would send it again.
        return problem(HTTPStatus.NOT_IMPLEMENTED, error.code, error.message)
    return sent(accepted)


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


_LISTING = Operation(
    Method.GET,
    list_messages,
    "listMessages",
    "List inbound and outbound messages, newest record first.",
    MessageList,
    parameters=(_PAGE_SIZE, _CURSOR, *_FILTER_PARAMETERS),
    problems=(400,),
)
_ONE = Operation(
    Method.GET,
    get_message,
    "getMessage",
    "Return one message by its WhatsApp id.",
    MessageDetails,
    problems=(400, 404),
)


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the routes of messages below *prefix*."""
    text = Operation(
        Method.POST,
        send_text,
        "sendText",
        "Send a text message.",
        GraphAnswer,
        body=TextMessage,
        parameters=(IDEMPOTENCY_KEY, ASYNC_PREFER),
        accepted=OutboxItem,
        problems=(400, 409, 429, 501, 502),
    )
    any_type = Operation(
        Method.POST,
        send,
        "sendMessage",
        "Send a message of any type, in Graph's format or by a composer.",
        GraphAnswer,
        body=GraphMessage,
        parameters=(IDEMPOTENCY_KEY, ASYNC_PREFER),
        accepted=OutboxItem,
        problems=(400, 409, 429, 501, 502),
        schemas=schemas(),
    )
    read = Operation(
        Method.POST,
        mark_read,
        "markRead",
        "Mark a customer's message as read, optionally with a typing indicator.",
        GraphAnswer,
        body=MarkRead,
        needs_body=False,
        parameters=(PREFER,),
        problems=(400, 502),
    )
    text_path, path = f"{prefix}/messages/text", f"{prefix}/messages"
    return (
        Route(text_path, text_path, Posture.API, "messages", (text,)),
        Route(path, path, Posture.API, "messages", (_LISTING, any_type)),
        Route(f"{path}/*id/read", f"{path}/:id/read", Posture.API, "messages", (read,)),
        Route(f"{path}/*id", f"{path}/:id", Posture.API, "messages", (_ONE,)),
    )


def admin_routes(admin: str) -> tuple[Route, ...]:
    """Return the queries of messages below *admin*, which are for all numbers."""
    listing, one = (replace(each, name=f"{each.name}OfAdmin") for each in (_LISTING, _ONE))
    path = f"{admin}/messages"
    return (
        Route(path, admin, Posture.ADMIN, "admin", (listing,)),
        Route(f"{path}/*id", admin, Posture.ADMIN, "admin", (one,)),
    )
