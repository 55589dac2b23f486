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
    """Who waits for the answer to a webhook."""

    @property
    def is_there(self) -> bool:
        """Whether an answer could still reach them."""

    def answer(self, response: Response) -> None:
        """Send them *response*."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook route, for requests that need no routing.

    Attributes:
        path: The request target that it answers, as bytes on the wire.
        max_body_bytes: Longer bodies take the slow path, which knows what to answer.
        take: Answers the body and signature of a POST to its asker, once, now or later.
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
    """Answer Meta's challenge with the word that came along, if it knows the verify token."""
    challenge = answer_challenge(request.query, parts.verify_token)
    return Response(200, challenge.encode(), TEXT_TYPE)


async def receive(parts: Parts, request: Request) -> Response:
    """Take a webhook; what is answered 200 is on disk, or handled where there is no store."""
    body = await request.body(parts.profile.webhook.max_body_bytes)
    if not body and request.header(b"transfer-encoding") is not None:
        raise WebhookRefused("missing_body", "POST body is required.")
    return answer(await parts.receiver.receive(body, request.header(b"x-hub-signature-256")))


@lru_cache(maxsize=64)
def answer(receipt: Receipt) -> Response:
    """Return what Meta is told. Most webhooks bring one update, so most answers are the same."""
    return json_response(
        bodies.WebhookReceipt(
            status="ok",
            received=receipt.received,
            dispatched=receipt.dispatched,
            skipped=receipt.skipped,
        )
    )


def count_refusal(telemetry: Telemetry, error: CallerError) -> None:
    """Count that a webhook request was refused for *error*, whichever way it came."""
    reason = _REASONS.get(error.code, RejectionReason.UNKNOWN)
    telemetry.webhook_rejected(reason)
    if reason in _UNPROVED:
        telemetry.auth_failure(_UNPROVED[reason])
