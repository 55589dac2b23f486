"""The API of marketing messages: templates whose delivery Meta optimizes."""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.outbound.messages import BSUID_PATTERN, RECIPIENT_PATTERN, parse_marketing_message
from wats.telemetry.contract.values import Method
from wats.web.api.messages import IDEMPOTENCY_KEY, forward
from wats.web.api.outbox import OutboxItem
from wats.web.bodies import GraphAnswer
from wats.web.exchange import Request, Response
from wats.web.parts import Parts
from wats.web.routing import ASYNC_PREFER, Operation, Posture, Route

# The API prefix is not part of a key's scope: a new prefix must not permit a second send.
_SCOPE = "/marketing_messages"

Number: TypeAlias = Annotated[str, Meta(pattern=f"^{RECIPIENT_PATTERN}$")]
UserId: TypeAlias = Annotated[str, Meta(pattern=f"^{BSUID_PATTERN}$")]


class MarketingMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A template in Graph's format, with the options of marketing messages; forwarded unchanged.

    The message needs `to`, `recipient`, or both.
    """

    messaging_product: Literal["whatsapp"]
    recipient_type: Literal["individual"] | UnsetType = UNSET
    to: Number | UnsetType = UNSET
    recipient: UserId | UnsetType = UNSET
    type: Literal["template"]
    template: dict[str, Any]
    product_policy: Literal["CLOUD_API_FALLBACK", "STRICT"] | UnsetType = UNSET
    message_activity_sharing: bool | UnsetType = UNSET


async def send(parts: Parts, request: Request) -> Response:
    """Send a template by Meta's endpoint for marketing messages."""
    body = await request.json_body()
    outgoing = parse_marketing_message(body)
    return await forward(parts, request, _SCOPE, body, body, outgoing, "marketing_messages")


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the route of marketing messages below *prefix*."""
    marketing = Operation(
        Method.POST,
        send,
        "sendMarketingMessage",
        "Send a marketing template, in Graph's format.",
        GraphAnswer,
        body=MarketingMessage,
        parameters=(IDEMPOTENCY_KEY, ASYNC_PREFER),
        accepted=OutboxItem,
        problems=(400, 409, 429, 501, 502),
    )
    path = f"{prefix}/marketing_messages"
    return (Route(path, path, Posture.API, "messages", (marketing,)),)
