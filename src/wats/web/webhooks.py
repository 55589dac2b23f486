"""Meta's webhook: the challenge, and the updates."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from wats.errors import CallerError, WebhookRefused
from wats.inbound.receive import Receipt
from wats.inbound.signature import answer_challenge
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import AuthSurface, RejectionReason
from wats.web import bodies
from wats.web.exchange import TEXT_TYPE, Request, Response, json_response
from wats.web.parts import Parts


class Asker(Protocol):
    """The recipient of the response to a webhook."""

    @property
    def is_there(self) -> bool:
        """Whether a response could still reach the client."""

    def answer(self, response: Response) -> None:
        """Send *response*."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook route, for requests that need no routing.

    Attributes:
        path: The request target that it serves, as bytes on the wire.
        max_body_bytes: Longer bodies take the slow path, which refuses them.
        take: Responds to the body and signature of a POST through its asker, once, now or later.
        refused: Counts a request that was refused with a status because it is not valid HTTP.
    """

    path: bytes
    max_body_bytes: int
    take: Callable[[bytes, str | None, Asker], None]
    refused: Callable[[int], None]


def _take_nothing(_body: bytes, _signature: str | None, _asker: Asker) -> None:
    raise NotImplementedError


def _count_nothing(_status: int) -> None:
    pass


NO_HOOK = Hook(path=b"", max_body_bytes=0, take=_take_nothing, refused=_count_nothing)
"""Of an application without a fast path: no request target is empty."""


_REASONS = {reason.value: reason for reason in RejectionReason}
_UNPROVED = {
    RejectionReason.INVALID_VERIFY_TOKEN: AuthSurface.WEBHOOK_VERIFY,
    RejectionReason.MISSING_SIGNATURE: AuthSurface.WEBHOOK_SIGNATURE,
    RejectionReason.INVALID_SIGNATURE_FORMAT: AuthSurface.WEBHOOK_SIGNATURE,
    RejectionReason.SIGNATURE_MISMATCH: AuthSurface.WEBHOOK_SIGNATURE,
}
"""The refusals of requests that did not prove to be Meta's."""


async def verify(parts: Parts, request: Request) -> Response:
    """Respond to Meta's challenge with its text, if it has the verify token."""
    challenge = answer_challenge(request.query, parts.verify_token)
    return Response(200, challenge.encode(), TEXT_TYPE)


async def receive(parts: Parts, request: Request) -> Response:
    """Accept a webhook; 200 means that its updates are on disk, or handled without a store."""
    body = await request.body(parts.profile.webhook.max_body_bytes)
    if not body and request.header(b"transfer-encoding") is not None:
        raise WebhookRefused("missing_body", "POST body is required.")
    return answer(await parts.receiver.receive(body, request.header(b"x-hub-signature-256")))


@lru_cache(maxsize=64)
def answer(receipt: Receipt) -> Response:
    """Return the response for Meta; nearly always that for one update, prepared once."""
    return json_response(
        bodies.WebhookReceipt(
            status="ok",
            received=receipt.received,
            dispatched=receipt.dispatched,
            skipped=receipt.skipped,
        )
    )


def count_refusal(telemetry: Telemetry, error: CallerError) -> None:
    """Count a webhook request that was refused for *error*, on either path."""
    reason = _REASONS.get(error.code, RejectionReason.UNKNOWN)
    telemetry.webhook_rejected(reason)
    if reason in _UNPROVED:
        telemetry.auth_failure(_UNPROVED[reason])
