"""The API of messages: send one, and mark one as read."""

from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.errors import MalformedRequest, StoreNotConfigured
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
    parse_read_mark,
    parse_text,
)
from wats.outbound.payload import TEXT_NAMES, text_payload
from wats.outbound.requests import parse_message
from wats.outbound.sender import SCOPE
from wats.outbound.transmit import Endpoint
from wats.telemetry.contract.values import Method
from wats.web.api.message_records import LISTING, ONE
from wats.web.api.outbox import OutboxItem, later, sent
from wats.web.bodies import Body, GraphAnswer, Id
from wats.web.exchange import Request, Response
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

# The API prefix is not part of a key's scope: a new prefix must not permit a second send.
_TEXT_SCOPE = "/messages/text"

IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", "header", {"type": "string", "minLength": 1, "maxLength": 256}
)

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
        Route(path, path, Posture.API, "messages", (LISTING, any_type)),
        Route(f"{path}/*id/read", f"{path}/:id/read", Posture.API, "messages", (read,)),
        Route(f"{path}/*id", f"{path}/:id", Posture.API, "messages", (ONE,)),
    )
