"""Errors of requests: HTTP 4xx. No I/O."""

import math
from collections.abc import Sequence

from typing_extensions import override

from wats.errors.base import Detail, WatsError


class CallerError(WatsError):
    """The request cannot be served in its present form."""

    code = "bad_request"
    status = 400
    text = "The request is invalid."
    details: tuple[Detail, ...] = ()
    """Every mistake in the request, if it has been searched for them."""


class Unauthorized(CallerError):
    """The request carries no valid service token."""

    code = "unauthorized"
    status = 401
    text = "Missing or invalid bearer token."


class InsufficientScope(CallerError):
    """The token lacks the scope of the operation."""

    code = "insufficient_scope"
    status = 403
    text = "The token lacks the scope of this operation."


class RouteNotFound(CallerError):
    """The route does not exist, or is hidden from this caller."""

    code = "not_found"
    status = 404
    text = "Route not found."


class MethodNotAllowed(CallerError):
    """The route exists, but not with this method. `allow` holds its methods."""

    code = "method_not_allowed"
    status = 405
    text = "Method not allowed."

    def __init__(self, allow: Sequence[str]) -> None:
        super().__init__()
        self.allow = tuple(allow)


class PayloadTooLarge(CallerError):
    """The body is larger than its cap."""

    code = "payload_too_large"
    status = 413
    text = "The body is too large."


class LengthRequired(CallerError):
    """The body has no `Content-Length`, and its size must be known before it is passed on."""

    code = "length_required"
    status = 411
    text = "The request must have a Content-Length."


class UploadTimeout(CallerError):
    """The next bytes of a file did not arrive in time."""

    code = "upload_timeout"
    status = 408
    text = "The body did not arrive in time."


class UnsupportedMediaType(CallerError):
    """The body is compressed or not a form, or its file has a type that WhatsApp refuses."""

    code = "unsupported_media_type"
    status = 415
    text = "The type of the body or of its file is not supported."

    def __init__(self, details: Sequence[Detail]) -> None:
        super().__init__()
        self.details = tuple(details)


class MediaTypeMismatch(CallerError):
    """The content or the name of a file belongs to another type than the stated one."""

    code = "media_type_mismatch"
    status = 415
    text = "The file does not have the stated type."

    def __init__(self, details: Sequence[Detail]) -> None:
        super().__init__()
        self.details = tuple(details)


class MalformedHTTP(CallerError):
    """The bytes on a connection are not a valid HTTP/1.x request; the connection is closed."""

    code = "malformed_http"
    text = "The request is not valid HTTP/1.x."


class MalformedRequest(CallerError):
    """An invalid body, query or path. `code` has the kind, `details` positions and reasons."""

    def __init__(self, code: str, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # one class, four codes of one shape
        self.details = tuple(details)

    @override
    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {each}" for each in self.details)])


class WebhookRefused(CallerError):
    """A webhook request failed a check, or has an update of a number that is to be refused."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # the reference's codes, see inbound/signature.py
        self.status = status  # type: ignore[misc]


class MessageNotFound(CallerError):
    """No message with this id is known."""

    code = "not_found"
    status = 404
    text = "Message not found."


class WindowClosed(CallerError):
    """The recipient's service window is closed, and `messages.windowGuard` is on; nothing was sent.

    An `Idempotency-Key` can be used again.
    """

    code = "window_closed"
    status = 409
    text = "The customer service window of the recipient is closed; send a template."


class ConsumerNotFound(CallerError):
    """No consumer with this name is registered."""

    code = "consumer_not_found"
    status = 404
    text = "Consumer not found."


class TooManyPolls(CallerError):
    """Too many polls of a puller wait in this process."""

    code = "too_many_polls"
    status = 429
    text = "Too many polls of this puller are waiting."


class DeliveryNotFound(CallerError):
    """No delivery or dead letter has this id; a delivery that is done is deleted."""

    code = "delivery_not_found"
    status = 404
    text = "Delivery not found."


class OutboxItemNotFound(CallerError):
    """No item of the outbox has this id, or its key has expired."""

    code = "outbox_item_not_found"
    status = 404
    text = "Outbox item not found."


class RateLimited(CallerError):
    """Meta's rate limit does not permit the message now; nothing was sent, and a key is free.

    `retry_after_seconds` is when it is expected to be permitted.
    """

    code = "rate_limited"
    status = 429
    text = "The rate limit of Meta does not permit the message now."

    def __init__(self, wait_seconds: float = 1.0) -> None:
        super().__init__()
        self.retry_after_seconds = max(math.ceil(wait_seconds), 1)


class OutboxFull(CallerError):
    """As many messages wait in the outbox as are permitted; nothing was stored.

    An `Idempotency-Key` can be used again. `retry_after_seconds` is when to retry.
    """

    code = "outbox_full"
    status = 429
    text = "Too many messages are waiting in the outbox."
    retry_after_seconds = 30


class MediaNotFound(CallerError):
    """The id belongs to an object of Graph that is not a file."""

    code = "not_found"
    status = 404
    text = "Media not found."


class IdempotencyError(CallerError):
    """The `Idempotency-Key` prevents this request; nothing was sent for it."""


class InvalidIdempotencyKey(IdempotencyError):
    """The key is blank, longer than 256 characters, or holds a control character."""

    code = "invalid_idempotency_key"
    text = "Idempotency-Key must have 1 to 256 characters on one line, and not only spaces."


class IdempotencyConflict(IdempotencyError):
    """The key was used before with another body."""

    code = "idempotency_conflict"
    status = 409
    text = "Idempotency-Key conflicts with a different request body."


class IdempotencyInFlight(IdempotencyError):
    """A request with this key is being sent now; retry in `retry_after_seconds`."""

    code = "idempotency_in_flight"
    status = 409
    text = "A request with this Idempotency-Key is in flight; retry it to get its result."

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class IdempotencyOutcomeUnknown(IdempotencyError):
    """It is unknown whether Meta accepted the message of this key. It is never sent again."""

    code = "idempotency_outcome_unknown"
    status = 409
    text = (
        "It is unknown whether the message of this Idempotency-Key was sent; "
        "use a new key to send it anyway."
    )
