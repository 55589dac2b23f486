"""Meta's webhook: the challenge, and the updates."""

from wats.errors import WebhookRefused
from wats.inbound.signature import answer_challenge
from wats.web import bodies
from wats.web.exchange import TEXT_TYPE, Request, Response, json_response
from wats.web.parts import Parts


async def verify(parts: Parts, request: Request) -> Response:
    """Answer Meta's challenge with the word that came along, if it knows the verify token."""
    challenge = answer_challenge(request.query, parts.verify_token)
    return Response(200, challenge.encode(), TEXT_TYPE)


async def receive(parts: Parts, request: Request) -> Response:
    """Take a webhook; what is answered 200 is on disk, or handled where there is no store."""
    body = await request.body(parts.profile.webhook.max_body_bytes)
    if not body and request.header(b"transfer-encoding") is not None:
        raise WebhookRefused("missing_body", "POST body is required.")
    return await take(parts, body, request.header(b"x-hub-signature-256"))


async def take(parts: Parts, body: bytes, signature: str | None) -> Response:
    """Take the body of a webhook with the signature that came along."""
    receipt = await parts.receiver.receive(body, signature)
    return json_response(
        bodies.WebhookReceipt(
            status="ok",
            received=receipt.received,
            dispatched=receipt.dispatched,
            skipped=receipt.skipped,
        )
    )
