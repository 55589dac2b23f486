"""Errors of calls of Graph. No I/O."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from typing_extensions import override

from wats.errors.base import WatsError


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
    """Meta's description of a failure, sanitized: numbers, and short names without free text.

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

    @override
    def __str__(self) -> str:
        found = self.diagnostics
        code = "" if found.meta_code is None else f" Meta's code is {found.meta_code}."
        return f"{self.message}{code} {found.advice}"

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
    """The request never left us, or was a read; it changed nothing at Meta and can be repeated."""

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
