"""The API of messages: send one, and see what became of it and of those that came in."""

import re
from http import HTTPStatus

from wats.clock import to_iso
from wats.errors import (
    Detail,
    MalformedRequest,
    MessageNotFound,
    StoreError,
    StoreNotConfigured,
    StoreUnavailable,
)
from wats.outbound.messages import Outgoing, is_plain, parse_graph_message, parse_text
from wats.outbound.payload import text_payload
from wats.store import Store
from wats.store.records import MessageRecord
from wats.web import bodies
from wats.web.exchange import Request, Response, json_response
from wats.web.parts import Parts
from wats.web.problems import problem
from wats.web.segments import decode_segment

DEFAULT_LIMIT = 50
MAX_CURSOR_LENGTH = 1024
MAX_ID_LENGTH = 1024

# The API prefix is no part of a key's scope: to move the API must not allow a second send.
_TEXT_SCOPE = "/messages/text"
_SCOPE = "/messages"

_LIMIT = re.compile("[1-9][0-9]?|100")
_REPLAYED = ((b"idempotency-replayed", b"true"),)


async def send_text(parts: Parts, request: Request) -> Response:
    """Send a text to one person."""
    body = await request.body()
    message = parse_text(body)
    outgoing = Outgoing(type="text", recipient=message.to)
    return await _send(parts, request, _TEXT_SCOPE, body, text_payload(message), outgoing)


async def send(parts: Parts, request: Request) -> Response:
    """Send a message of any type, or mark one as read, by passing on what the caller wrote."""
    body = await request.body()
    outgoing = parse_graph_message(body, groups_enabled=parts.groups_enabled)
    return await _send(parts, request, _SCOPE, body, body, outgoing)


async def _send(
    parts: Parts,
    request: Request,
    scope: str,
    body: bytes,
    payload: bytes,
    message: Outgoing | None,
) -> Response:
    try:
        accepted = await parts.acceptor.accept(
            payload,
            scope=scope,
            idempotency_key=request.header(b"idempotency-key"),
            request_body=body,
            message=message,
        )
    except StoreNotConfigured as error:
        # Not 503: no retry will help, and to send without the promise would be a false safety.
        return problem(HTTPStatus.NOT_IMPLEMENTED, error.code, error.message)
    return Response(HTTPStatus.OK, accepted.body, headers=_REPLAYED if accepted.replayed else ())


async def list_messages(parts: Parts, request: Request) -> Response:
    """Return a page of messages of both directions, the last recorded first."""
    store = _store_of(parts)
    limit, cursor = _limit_of(request), _cursor_of(request)
    try:
        page = await store.list_messages(limit=limit, cursor=cursor)
    except StoreError as error:
        raise _unreachable() from error
    return json_response(
        bodies.MessageList(
            items=tuple(_view(record) for record in page.items), next_cursor=page.next_cursor
        )
    )


async def get_message(parts: Parts, request: Request) -> Response:
    """Return one message by its WhatsApp id."""
    store = _store_of(parts)
    wamid = decode_segment(request.parameters["id"])
    if wamid is None:
        raise MalformedRequest("malformed_path", "Message id segment is invalid.")
    if not is_plain(wamid, MAX_ID_LENGTH):
        raise MalformedRequest("malformed_path", "Message id must be a safe non-empty string.")
    try:
        record = await store.get_message(wamid)
    except StoreError as error:
        raise _unreachable() from error
    if record is None:
        raise MessageNotFound
    return json_response(_view(record))


def _store_of(parts: Parts) -> Store:
    if parts.store is None:
        raise StoreNotConfigured("Message projections require a persistence store.")
    return parts.store


def _unreachable() -> StoreUnavailable:
    return StoreUnavailable("Message projection store could not be reached.")


def _limit_of(request: Request) -> int:
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if _LIMIT.fullmatch(text) is None:
        message = "limit must be an integer from 1 to 100."
        raise MalformedRequest(
            "malformed_query", message, [Detail("limit", "must be an integer from 1 to 100")]
        )
    return int(text)


def _cursor_of(request: Request) -> str | None:
    cursor = request.query.get("cursor")
    if cursor is not None and not is_plain(cursor, MAX_CURSOR_LENGTH):
        message = "cursor must be a safe non-empty string."
        reason = "must be the 'nextCursor' of an earlier response"
        raise MalformedRequest("malformed_query", message, [Detail("cursor", reason)])
    return cursor


def _view(record: MessageRecord) -> bodies.MessageView:
    return bodies.MessageView(
        row_id=record.row_id,
        wa_message_id=record.wa_message_id,
        direction=record.direction.value,
        from_phone=record.from_phone,
        to_phone=record.to_phone,
        type=record.type,
        status=record.status,
        graph_message_id=record.graph_message_id,
        created_at=to_iso(record.created_at),
        updated_at=to_iso(record.updated_at),
    )
