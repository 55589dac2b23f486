"""Meta's webhook: the challenge, and the updates."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from wats.errors import CallerError, PayloadTooLarge, WebhookRefused
from wats.inbound.receive import Receipt
from wats.inbound.signature import answer_challenge
from wats.log import Log
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import AuthSurface, Method, RejectionReason
from wats.telemetry.repeats import Repeats
from wats.web.bodies import Body, Count
from wats.web.exchange import TEXT_TYPE, Request, Response, json_response
from wats.web.parts import HOOK_LABEL, Parts
from wats.web.routing import Operation, Parameter, Posture, Route


class WebhookClient(Protocol):
    """The recipient of the response to a webhook."""

    @property
    def is_connected(self) -> bool:
        """Whether a response could still reach the client."""

    def respond(self, response: Response) -> None:
        """Send *response*."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook route, for requests that need no routing.

    Attributes:
        path: The request target that it serves, as bytes on the wire.
        max_body_bytes: Longer bodies take the slow path, which refuses them.
        take: Responds to the body and signature of a POST through its client, once, now or later.
        refused: Counts a request that was refused with a status because it is not valid HTTP.
        reads_traces: Whether `traceparent` is read, so that a head with one takes the slow path.
    """

    path: bytes
    max_body_bytes: int
    take: Callable[[bytes, str | None, WebhookClient], None]
    refused: Callable[[int], None]
    reads_traces: bool = False


def _take_nothing(_body: bytes, _signature: str | None, _client: WebhookClient) -> None:
    raise NotImplementedError


def _count_nothing(_status: int) -> None:
    pass


NO_HOOK = Hook(path=b"", max_body_bytes=0, take=_take_nothing, refused=_count_nothing)
"""Of an application without a fast path: no request target is empty."""


_TEXT = {"type": "string"}
_HUB = tuple(
    Parameter(name, "query", _TEXT, required=True)
    for name in ("hub.mode", "hub.verify_token", "hub.challenge")
)
_SIGNATURE = Parameter("x-hub-signature-256", "header", _TEXT, required=True)

_REASONS = {reason.value: reason for reason in RejectionReason}
_UNPROVED = {
    RejectionReason.INVALID_VERIFY_TOKEN: AuthSurface.WEBHOOK_VERIFY,
    RejectionReason.MISSING_SIGNATURE: AuthSurface.WEBHOOK_SIGNATURE,
    RejectionReason.INVALID_SIGNATURE_FORMAT: AuthSurface.WEBHOOK_SIGNATURE,
    RejectionReason.SIGNATURE_MISMATCH: AuthSurface.WEBHOOK_SIGNATURE,
}
"""The refusals of requests that were not authenticated as Meta's."""


class WebhookReceipt(Body, frozen=True):
    """The counts of a webhook's updates, by outcome."""

    status: Literal["ok"]
    received: Count
    dispatched: Count
    skipped: Count


async def verify(parts: Parts, request: Request) -> Response:
    """Respond to Meta's challenge with its text, if it has the verify token."""
    challenge = answer_challenge(request.query, parts.verify_token)
    return Response(200, challenge.encode(), TEXT_TYPE)


async def receive(parts: Parts, request: Request) -> Response:
    """Accept a webhook; 200 means that its updates are on disk, or handled without a store."""
    try:
        body = await request.body(parts.profile.webhook.max_body_bytes)
    except PayloadTooLarge:
        raise PayloadTooLarge("Body exceeds maxBodyBytes.") from None
    if not body and request.header(b"transfer-encoding") is not None:
        raise WebhookRefused("missing_body", "POST body is required.")
    return answer(await parts.receiver.receive(body, request.header(b"x-hub-signature-256")))


@lru_cache(maxsize=64)
def answer(receipt: Receipt) -> Response:
    """Return the response for Meta; nearly always that for one update, prepared once."""
    return json_response(
        WebhookReceipt(
            status="ok",
            received=receipt.received,
            dispatched=receipt.dispatched,
            skipped=receipt.skipped,
        )
    )


class Rejections:
    """Records rejected webhook requests of either path: counts all, and logs one per interval."""

    def __init__(self, telemetry: Telemetry, log: Log) -> None:
        self._telemetry = telemetry
        self._log = log
        self._repeats = Repeats()

    def record(self, error: CallerError) -> None:
        """Record that a webhook request was rejected for *error*."""
        reason = _REASONS.get(error.code, RejectionReason.UNKNOWN)
        self._telemetry.webhooks.rejected(reason)
        if reason in _UNPROVED:
            self._telemetry.http.auth_failure(_UNPROVED[reason])
        suppressed = self._repeats.admit(reason)
        if suppressed is not None:
            self._log(
                {
                    "event": "wats.webhook.rejected",
                    "reason": reason.value,
                    "suppressed": suppressed,
                }
            )


def route(path: str) -> Route:
    """Return the route of the webhook, at *path*."""
    challenge = Operation(
        Method.GET,
        verify,
        "verifyWebhook",
        "Verify the webhook: respond to Meta's challenge.",
        ("text/plain",),
        parameters=_HUB,
        problems=(400, 401, 503),
    )
    updates = Operation(
        Method.POST,
        receive,
        "receiveWebhook",
        "Receive a signed webhook from Meta, and store it before the response.",
        WebhookReceipt,
        body=dict[str, Any],
        parameters=(_SIGNATURE,),
        problems=(400, 401, 503),
    )
    return Route(path, HOOK_LABEL, Posture.OPEN, "webhook", (challenge, updates))
