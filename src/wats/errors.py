"""Every error that wats raises on purpose, in one tree. No I/O.

    WatsError
    ├── ConfigError                       the operator: the configuration cannot work
    ├── CallerError                       the caller: HTTP 4xx
    │   ├── Unauthorized · InsufficientScope · RouteNotFound · MethodNotAllowed
    │   ├── PayloadTooLarge · LengthRequired · UploadTimeout
    │   ├── UnsupportedMediaType · MediaTypeMismatch
    │   ├── MalformedHTTP                 bytes that are not a request in HTTP/1.x
    │   ├── MalformedRequest              a body, query or path that cannot be used
    │   ├── WebhookRefused                a body that is not a webhook, or not from Meta
    │   ├── MessageNotFound · MediaNotFound · ConsumerNotFound · DeliveryNotFound
    │   │   · OutboxItemNotFound
    │   ├── TooManyPolls                  of one puller, in this process
    │   ├── RateLimited                   Meta's rate limit, before Graph is called
    │   ├── WindowClosed                  a free-form message outside of the service window
    │   └── IdempotencyError
    │       └── InvalidIdempotencyKey · IdempotencyConflict · IdempotencyInFlight
    │           · IdempotencyOutcomeUnknown
    ├── Overloaded                        too many bytes of requests, or files, in flight
    ├── ReplyError                        a handler: nothing was sent
    │   └── NoHandlerCall · NoMessage
    ├── NotStarted · ForkedApplication    an application under a foreign server
    ├── StoreError                        our database
    │   ├── StoreUnavailable · StoreNotConfigured · StoreClosed · StoreInUse
    │   │   └── DatabaseMoved             its files are gone or replaced
    │   ├── MigrationFailed · SchemaMismatch
    │   └── CopyRefused · BackupRefused
    └── GraphError                        Meta
        └── GraphRefused · GraphUnreachable · GraphOutcomeUnknown · MediaUnusable

An error carries the data that a caller needs to react: a stable `code`, the HTTP `status` of its
response, and a `message` that never holds a value from a caller, a customer or Meta.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Detail:
    """One mistake: its position, as a path such as `text.body`, and the reason. Never the value."""

    path: str
    reason: str


class WatsError(Exception):
    """The root of the tree."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    text: ClassVar[str] = "The service failed."

    def __init__(self, message: str | None = None) -> None:
        self.message = message if message is not None else self.text
        super().__init__(self.message)

    def with_code(self) -> str:
        """Return the message for an operator, with the stable code."""
        return f"{self} ({self.code})"


MAX_SHOWN_ISSUES = 50
"""The number of mistakes in the text of a `ConfigError`: a file can have ten thousand."""


class ConfigError(WatsError):
    """The configuration cannot work. `issues` holds every mistake, each with its path."""

    code = "invalid_config"
    text = "The configuration is invalid."

    def __init__(self, issues: Sequence["ConfigIssue"], message: str | None = None) -> None:
        super().__init__(message)
        self.issues = tuple(issues)

    @override
    def __str__(self) -> str:
        shown = [f"  {issue}" for issue in self.issues[:MAX_SHOWN_ISSUES]]
        if len(self.issues) > MAX_SHOWN_ISSUES:
            shown.append(f"  {len(self.issues) - MAX_SHOWN_ISSUES} more mistakes are not shown.")
        return "\n".join([self.message, *shown])

    @override
    def with_code(self) -> str:
        return str(self)  # each issue has a code of its own


@dataclass(frozen=True, slots=True)
class ConfigIssue:
    """One mistake of the operator, with a stable code, the path of the key and the remedy."""

    code: str
    path: str
    reason: str

    @override
    def __str__(self) -> str:
        return f"{self.path}: {self.reason} ({self.code})"


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
    text = "Body exceeds maxBodyBytes."


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
    """The body is not a form, or its file has a type that WhatsApp does not accept."""

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
    text = "Idempotency-Key is invalid."


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


class Overloaded(WatsError):
    """Request bodies or files in flight exceed the budget of the process; retry later."""

    code = "overloaded"
    status = 503
    text = "Too many request bodies are in flight."


class ReplyError(WatsError):
    """A handler cannot reply to an update; nothing was sent."""


class NoHandlerCall(ReplyError):
    """The code that replies does not run in a handler that a running service called."""

    code = "no_handler_call"
    text = "Only a handler that a running service calls can reply to an update."


class NoMessage(ReplyError):
    """The update has no recipient of a reply: it is not a message that a customer wrote."""

    code = "no_message"
    text = "The update is not a message of a customer, so there is nothing to reply to."


class NotStarted(WatsError):
    """The application is served, but its server has not started it."""

    code = "not_started"
    status = 503
    text = "The service is not started."


class ForkedApplication(WatsError):
    """The application was made by another process, before a fork; both would share counters."""

    code = "forked_application"
    text = (
        "The application was made before a fork. Make it in each process, "
        "or use 'wats serve --workers'."
    )


class StoreError(WatsError):
    """The database could not execute an operation.

    `issue` is present if a database cannot be opened: the config key, the path as the operator
    wrote it, and the cause. It is part of the text for the terminal, and not of `message`.
    """

    code = "persistence_unavailable"
    status = 503
    text = "The store could not be reached."

    def __init__(self, message: str | None = None, *, issue: ConfigIssue | None = None) -> None:
        super().__init__(message)
        self.issue = issue

    @override
    def __str__(self) -> str:
        return self.message if self.issue is None else f"{self.message}\n  {self.issue}"

    @override
    def with_code(self) -> str:
        cause = "" if self.issue is None else f"\n  {self.issue}"
        return f"{self.message} ({self.code}){cause}"


class StoreUnavailable(StoreError):
    """The store cannot be reached, written or read now. The operation had no effect."""


class DatabaseMoved(StoreUnavailable):
    """The files of an open database were moved, replaced or removed; nothing can be written."""


class StoreNotConfigured(StoreError):
    """The request needs a store and the service has none."""

    code = "persistence_not_configured"


class StoreClosed(StoreError):
    """The store was used before it was opened or after it was closed."""

    code = "store_closed"
    text = "The store is closed."


class StoreInUse(StoreError):
    """Another service that does not share the counters of this one uses the SQLite database."""

    code = "store_in_use"
    text = (
        "Another service uses this SQLite database. For several processes, use "
        "'wats serve --workers', or PostgreSQL."
    )


class MigrationFailed(StoreError):
    """A migration could not be applied; the database is as it was before it."""

    code = "migration_failed"
    text = "A database migration failed."


class SchemaMismatch(StoreError):
    """The database was migrated by other migrations: those of a newer wats, or edited files."""

    code = "migration_checksum_mismatch"
    text = "The schema version of the database does not match this version of wats."


class CopyRefused(StoreError):
    """A database cannot be copied; the target is as it was before."""

    code = "database_copy_refused"


class BackupRefused(StoreError):
    """A backup cannot be made or restored; the database is as it was before."""

    code = "database_backup_refused"


class GraphCause(StrEnum):
    """The class of the cause of a Graph failure that Graph itself did not report."""

    DNS = "dns"
    REFUSED = "refused"
    TLS = "tls"
    TIMEOUT = "timeout"
    RESET = "reset"
    PROXY = "proxy"
    """A proxy failed, or responded in place of Graph: the response has no error of Graph."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDiagnostics:
    """Meta's description of a failure, sanitised: numbers, and short names without free text.

    Attributes:
        meta_code: Meta's `code`.
        meta_subcode: Meta's `error_subcode`.
        meta_type: Meta's `type`, only if it has the form of the name of an exception.
        fbtrace_id: The id that Meta's support needs, only if it has the expected form.
        name: Our name for the code, as it shows in the error ledger.
        category: The category of the error table; a member of a closed list.
        retryable: Whether the same request can succeed later.
        advice: One sentence that explains the remedy.
        parameter: The path of the request's member that Meta named, such as `template.name`.
    """

    meta_code: int | None = None
    meta_subcode: int | None = None
    meta_type: str | None = None
    fbtrace_id: str | None = None
    name: str = "GraphApiError"
    category: str = "unknown"
    retryable: bool = False
    advice: str = "Do not retry automatically; look up the code."
    parameter: str | None = None


class GraphError(WatsError):
    """A Graph call failed.

    `diagnostics` is the content of the error response, empty if there was none. `retry_after` is
    the header of that response if its value was seconds or a date. `cause` is the class of the
    cause unless Graph itself reported the failure.
    """

    code = "graph_request_failed"
    status = 502
    text = "Graph request failed."
    may_have_happened: ClassVar[bool] = False
    """Whether Meta may have carried the request out."""
    diagnostics = GraphDiagnostics()
    retry_after: str | None = None
    cause: GraphCause | None = None

    @property
    def is_reported(self) -> bool:
        """Whether Graph reported the failure itself, so that its name and category are Graph's."""
        return self.diagnostics.meta_code is not None


class GraphRefused(GraphError):
    """Graph returned an error: a read failed, or a write was certainly not carried out.

    `upstream_status` is the HTTP status of the response. `is_certain` is whether the response
    proves that nothing was carried out; only a read raises a refusal that is not certain.
    """

    is_reported = True

    def __init__(
        self,
        upstream_status: int,
        diagnostics: GraphDiagnostics,
        *,
        retry_after: str | None = None,
        throttled: bool = False,
        is_certain: bool = True,
    ) -> None:
        super().__init__()
        self.upstream_status = upstream_status
        self.diagnostics = diagnostics
        self.retry_after = retry_after
        self.throttled = throttled
        self.is_certain = is_certain


class GraphUnreachable(GraphError):
    """The request never left us, so nothing happened at Meta; it can be sent again."""

    diagnostics = GraphDiagnostics(
        retryable=True, advice="Retry the same request with backoff and a limit on attempts."
    )


class GraphOutcomeUnknown(GraphError):
    """The request was written, and Meta may have carried it out. Never resend it.

    No response arrived, or one that does not prove a refusal, such as the 502 of a proxy.
    """

    may_have_happened = True

    def __init__(
        self,
        diagnostics: GraphDiagnostics = GraphError.diagnostics,
        *,
        retry_after: str | None = None,
    ) -> None:
        super().__init__()
        self.diagnostics = replace(
            diagnostics,
            retryable=False,
            advice="Do not retry automatically: Meta may have carried the request out.",
        )
        self.retry_after = retry_after


class MediaUnusable(GraphError):
    """Graph responded about a file, and the file cannot be passed on to the caller."""

    code = "media_unusable"
    text = "The file cannot be passed on."
    diagnostics = GraphDiagnostics(name="MediaUnusable", advice="Do not retry automatically.")
