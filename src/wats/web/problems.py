"""Errors as responses: the one envelope for every failure. No I/O."""

from http import HTTPStatus
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from wats.errors import (
    CallerError,
    Detail,
    GraphError,
    GraphRefused,
    IdempotencyInFlight,
    InsufficientScope,
    MethodNotAllowed,
    Overloaded,
    RateLimited,
    StoreClosed,
    StoreUnavailable,
    TooManyPolls,
    Unauthorized,
    WatsError,
)
from wats.outbound.failures import OUTCOMES
from wats.web.bodies import Body
from wats.web.exchange import Headers, Response, json_response

_REJECTED = "was rejected by Meta"

STORE_RETRY_AFTER_SECONDS = 5
OVERLOAD_RETRY_AFTER_SECONDS = 5
POLLS_RETRY_AFTER_SECONDS = 5


class ProblemDetail(Body, frozen=True):
    """One mistake: its path, and the valid values. Never the invalid value."""

    path: str
    reason: str


class Problem(Body, frozen=True):
    """The reason of a failure. `code` is for programs and stable; `message` can change."""

    code: str
    message: str
    details: tuple[ProblemDetail, ...] | UnsetType = UNSET
    meta_code: int | UnsetType = UNSET
    meta_subcode: int | UnsetType = UNSET
    meta_type: str | UnsetType = UNSET
    fbtrace_id: str | UnsetType = UNSET
    outcome: Literal["not_sent", "unknown"] | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
    category: str | UnsetType = UNSET
    advice: str | UnsetType = UNSET


class ErrorEnvelope(Body, frozen=True):
    """The envelope of every error response."""

    error: Problem


def problem(
    status: int, code: str, message: str, *, headers: Headers = (), **more: Any
) -> Response:
    """Return the standard envelope: `{"error": {"code", "message", ...}}`, in that order."""
    return json_response({"error": {"code": code, "message": message, **more}}, status, headers)


NOT_FOUND = problem(HTTPStatus.NOT_FOUND, "not_found", "Route not found.")
"""The catch-all: the response to an unknown path, and to a telemetry path without a valid token."""

INTERNAL_ERROR = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "The service failed.")


def as_response(error: WatsError) -> Response:
    """Return the response body for *error*."""
    if isinstance(error, GraphError):
        return _graph_problem(error)
    if isinstance(error, StoreClosed):  # for a caller this is the same: it will exist later
        error = StoreUnavailable()
    return problem(
        error.status, error.code, error.message, headers=_headers_of(error), **_details_of(error)
    )


def _headers_of(error: WatsError) -> Headers:
    match error:
        case Unauthorized():
            return ((b"www-authenticate", b"Bearer"),)
        case InsufficientScope():  # RFC 6750, 3.1
            return ((b"www-authenticate", b'Bearer error="insufficient_scope"'),)
        case MethodNotAllowed(allow=allow):
            return ((b"allow", ", ".join(allow).encode()),)
        case StoreUnavailable():
            return ((b"retry-after", b"%d" % STORE_RETRY_AFTER_SECONDS),)
        case Overloaded():
            return ((b"retry-after", b"%d" % OVERLOAD_RETRY_AFTER_SECONDS),)
        case TooManyPolls():
            return ((b"retry-after", b"%d" % POLLS_RETRY_AFTER_SECONDS),)
        case (
            IdempotencyInFlight(retry_after_seconds=seconds)
            | RateLimited(retry_after_seconds=seconds)
        ):
            return ((b"retry-after", b"%d" % seconds),)
        case _:
            return ()


def _details_of(error: WatsError) -> dict[str, Any]:
    details: tuple[Detail, ...] = error.details if isinstance(error, CallerError) else ()
    if not details:
        return {}
    return {"details": [{"path": each.path, "reason": each.reason} for each in details]}


def _graph_problem(error: GraphError) -> Response:
    """Return 503 for rate limits and 502 for the rest, with Meta's error reduced to numbers."""
    is_throttled = isinstance(error, GraphRefused) and error.throttled
    said = error.diagnostics
    meta = {
        "details": [{"path": said.parameter, "reason": _REJECTED}] if said.parameter else None,
        "metaCode": said.meta_code,
        "metaSubcode": said.meta_subcode,
        "metaType": said.meta_type,
        "fbtraceId": said.fbtrace_id,
    }
    headers = ((b"retry-after", error.retry_after.encode("ascii")),) if error.retry_after else ()
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE if is_throttled else error.status,
        error.code,
        error.message,
        headers=headers,
        **{key: value for key, value in meta.items() if value is not None},
        outcome=OUTCOMES[error.may_have_happened],
        retryable=said.retryable,
        category=said.category,
        advice=said.advice,
    )
