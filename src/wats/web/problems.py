"""Errors as responses: one envelope for every failure, and Graph's for its clients. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from wats.errors import (
    CallerError,
    Detail,
    GraphError,
    GraphRefused,
    IdempotencyInFlight,
    IdempotencyOutcomeUnknown,
    InsufficientScope,
    MethodNotAllowed,
    OutboxFull,
    Overloaded,
    RateLimited,
    StoreClosed,
    StoreUnavailable,
    TooManyPolls,
    Unauthorized,
    WatsError,
    WindowClosed,
)
from wats.graph.errors import find_rule
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


class GraphErrorData(msgspec.Struct, frozen=True):
    """The remedy, where clients of Graph show Meta's details."""

    messaging_product: Literal["whatsapp"]
    details: str


class GraphProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failure in Graph's form: `code` is Meta's, and `wats` is the error of our other routes."""

    message: str
    type: str
    code: int
    error_subcode: int | UnsetType = UNSET
    error_data: GraphErrorData
    fbtrace_id: str | UnsetType = UNSET
    wats: Problem


class GraphErrorEnvelope(msgspec.Struct, frozen=True):
    """The envelope of every error response to a client of Graph."""

    error: GraphProblem


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
        error.status,
        error.code,
        error.message,
        headers=_headers_of(error),
        **_details_of(error),
        **_remedy_of(error),
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
            | OutboxFull(retry_after_seconds=seconds)
        ):
            return ((b"retry-after", b"%d" % seconds),)
        case _:
            return ()


def _details_of(error: WatsError) -> dict[str, Any]:
    details: tuple[Detail, ...] = error.details if isinstance(error, CallerError) else ()
    if not details:
        return {}
    return {"details": [{"path": each.path, "reason": each.reason} for each in details]}


def _remedy_of(error: WatsError) -> dict[str, Any]:
    """Return the outcome, category and advice of the Meta error with the same meaning, if any."""
    code = next((code for kind, code in REFUSALS.items() if isinstance(error, kind)), None)
    if (rule := find_rule(code)) is None:
        return {}
    return {
        "outcome": OUTCOMES[False],
        "retryable": rule.retryable,
        "category": rule.category,
        "advice": rule.advice,
    }


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


REFUSALS: Final[Mapping[type[WatsError], int]] = {
    RateLimited: 130429,
    OutboxFull: 130429,
    WindowClosed: 131047,
}
"""Meta's code for a message that wats refuses in place of Meta; nothing was sent."""

GRAPH_CODES: Final[Mapping[type[WatsError], int]] = {
    Unauthorized: 190,
    InsufficientScope: 10,
    **REFUSALS,
    IdempotencyOutcomeUnknown: 131000,
    GraphError: 131000,
    CallerError: 100,
    WatsError: 2,
}
"""Meta's code for an error that Graph did not report, by the first class that the error has."""

_GRAPH_STATUSES: Final = frozenset({400, 401, 403, 404, 429, 500, 503})
_META_TYPE: Final = "OAuthException"


def as_graph_response(error: WatsError) -> Response:
    """Return the response for *error* to a client of Graph: with Meta's code, and Meta's status."""
    ours = as_response(error)
    shown = msgspec.json.decode(ours.body)["error"]
    said = error.diagnostics if isinstance(error, GraphError) else GraphError.diagnostics
    code = said.meta_code
    if code is None:
        code = next(code for kind, code in GRAPH_CODES.items() if isinstance(error, kind))
    body = {
        "message": f"(#{code}) {error.message}",
        "type": said.meta_type or _META_TYPE,
        "code": code,
        "error_subcode": said.meta_subcode,
        "error_data": {"messaging_product": "whatsapp", "details": _explanation(error)},
        "fbtrace_id": said.fbtrace_id,
        "wats": shown,
    }
    present = {name: value for name, value in body.items() if value is not None}
    return json_response({"error": present}, _graph_status(error, ours.status), ours.headers)


def _graph_status(error: WatsError, status: int) -> int:
    """Return Meta's status of a refusal, or a similar one of the closed list of a route."""
    if not isinstance(error, GraphRefused):
        return status
    found = error.upstream_status
    if found in _GRAPH_STATUSES:
        return found
    is_client_error = HTTPStatus.BAD_REQUEST <= found < HTTPStatus.INTERNAL_SERVER_ERROR
    return HTTPStatus.BAD_REQUEST if is_client_error else HTTPStatus.BAD_GATEWAY


def _explanation(error: WatsError) -> str:
    if isinstance(error, GraphError):
        return error.diagnostics.advice
    details = error.details if isinstance(error, CallerError) else ()
    return "; ".join(f"{each.path}: {each.reason}" for each in details) or error.message


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """The form of the errors of a route.

    Attributes:
        envelope: The type of their bodies.
        respond: Returns the response for an error.
    """

    envelope: type
    respond: Callable[[WatsError], Response]


OWN_FORM: Final = ErrorForm(ErrorEnvelope, as_response)
GRAPH_FORM: Final = ErrorForm(GraphErrorEnvelope, as_graph_response)
