"""The names of telemetry in OpenTelemetry: our own, or the stable conventions. No I/O.

The stable ones are its semantic conventions for HTTP:
<https://opentelemetry.io/docs/specs/semconv/http/http-metrics/> and
<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from typing_extensions import override

from wats.telemetry.contract.families import (
    GRAPH_DURATION,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    Family,
)
from wats.telemetry.contract.values import (
    OTEL_ATTR,
    UNMATCHED,
    EndpointFamily,
    Method,
    Outcome,
    SpanName,
    StatusClass,
)
from wats.telemetry.sinks.isolation import Attributes, AttributeValue

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the conventions that `StableConventions` follows."""

OTHER: Final = "_OTHER"
"""The value for a method, or an error, that the conventions do not name."""

ERROR_TYPE: Final = "error.type"
STATUS_CODE: Final = "http.response.status_code"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

DURATION_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
"""The bounds that the conventions advise for the duration of a request, in seconds."""

Translate: TypeAlias = Callable[[Attributes], Attributes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A family as an OpenTelemetry metric.

    Attributes:
        name: The name of the instrument.
        unit: Its unit, in UCUM.
        description: The measured quantity.
        buckets: The upper bounds of a histogram.
        translate: Returns the attributes of a measurement for those that a sink receives.
    """

    name: str
    unit: str
    description: str
    buckets: tuple[float, ...]
    translate: Translate


def failed(attributes: Attributes) -> bool:
    """Return whether the operation with *attributes* failed.

    A request that we refuse (4xx) did not fail; one whose client left before the response did.
    """
    outcome = attributes.get(OTEL_ATTR.OPERATION_OUTCOME)
    if outcome is not None:
        return outcome == Outcome.ERROR
    answer = attributes.get(OTEL_ATTR.HTTP_STATUS_CLASS)
    return answer in (StatusClass.SERVER_ERROR, StatusClass.UNKNOWN)


class Conventions:
    """Names and attributes as in every sink."""

    schema_url: str | None = None

    def metric(self, family: Family) -> Metric | None:
        """Return the metric name of *family*, or `None` if another family includes its data."""
        return _ours(family)

    def span(self, name: str, attributes: Attributes) -> tuple[str, Attributes]:
        """Return the name and attributes of the span that sinks receive as *name*."""
        return name, attributes


class StableConventions(Conventions):
    """The stable semantic conventions for HTTP; everything else keeps our names.

    `http.server.request.duration` replaces both of our families of requests, its count being the
    other one; `http.client.request.duration` replaces that of Graph calls. Attributes beyond the
    conventions are added. Deviations:

    - `url.path`, `url.query`, `url.full`, `client.address` and `user_agent.original` are left out,
      required or not. They are text of callers and hold ids of people.
    - `http.request.method` of a Graph call is `POST` for messages, where no other is used, and else
      `_OTHER`: telemetry does not receive it.
    - `http.route` is `/webhook` for the webhook, for every configured path.
    - Methods beyond RFC 9110 and PATCH are `_OTHER`, and no variable changes that list.

    `error.type` is the status, or `_OTHER` if there was none or it was not the cause.

    Args:
        url_scheme: The scheme that clients use, `http` or `https`.
        graph_url: Where Graph is.

    Raises:
        ValueError: *graph_url* names no host.
    """

    schema_url = SCHEMA_URL

    def __init__(self, *, url_scheme: str, graph_url: str) -> None:
        graph = urlsplit(graph_url)
        if not graph.hostname:
            msg = "'graph_url' must be a URL with a host."
            raise ValueError(msg)
        port = graph.port or (443 if graph.scheme == "https" else 80)
        self._server_only: dict[str, AttributeValue] = {URL_SCHEME: url_scheme}
        self._client_only: dict[str, AttributeValue] = {
            SERVER_ADDRESS: graph.hostname,
            SERVER_PORT: port,
        }

    @override
    def metric(self, family: Family) -> Metric | None:
        if family is HTTP_REQUESTS:
            return None
        if family is HTTP_REQUEST_DURATION:
            return _duration(family, "http.server.request.duration", self._server)
        if family is GRAPH_DURATION:
            return _duration(family, "http.client.request.duration", self._client)
        if family is GRAPH_OPERATIONS:
            return replace(_ours(family), translate=self._client)
        return _ours(family)

    @override
    def span(self, name: str, attributes: Attributes) -> tuple[str, Attributes]:
        if name == SpanName.HTTP_REQUEST:
            stable = self._server(attributes)
            return _span_name(stable), stable
        if name == SpanName.GRAPH_REQUEST:
            stable = self._client(attributes)
            return _span_name(stable), stable
        return name, {**attributes, ERROR_TYPE: OTHER} if failed(attributes) else attributes

    def _server(self, attributes: Attributes) -> Attributes:
        stable = _stable(attributes) | self._server_only
        if stable.get(OTEL_ATTR.HTTP_ROUTE) == UNMATCHED:
            del stable[OTEL_ATTR.HTTP_ROUTE]
        return stable

    def _client(self, attributes: Attributes) -> Attributes:
        stable = _stable(attributes) | self._client_only
        if attributes.get(OTEL_ATTR.GRAPH_ENDPOINT_FAMILY) == EndpointFamily.MESSAGES:
            stable[OTEL_ATTR.HTTP_METHOD] = Method.POST.value
        return stable


def _ours(family: Family) -> Metric:
    return Metric(
        name=family.name,
        unit=family.unit,
        description=family.help,
        buckets=family.buckets,
        translate=lambda attributes: attributes,
    )


def _duration(family: Family, name: str, translate: Translate) -> Metric:
    return replace(_ours(family), name=name, buckets=DURATION_BUCKETS, translate=translate)


def _stable(attributes: Attributes) -> dict[str, AttributeValue]:
    """Return *attributes* with method, status and error in the form of the conventions."""
    stable = dict(attributes)
    stable.pop(OTEL_ATTR.HTTP_STATUS_CLASS, None)
    status = stable.pop(OTEL_ATTR.HTTP_STATUS_CODE, 0)
    if stable.get(OTEL_ATTR.HTTP_METHOD, Method.UNKNOWN) == Method.UNKNOWN:
        stable[OTEL_ATTR.HTTP_METHOD] = OTHER
    if status:
        stable[STATUS_CODE] = status
    if failed(attributes):
        stable[ERROR_TYPE] = str(status) if int(status) >= 400 else OTHER
    return stable


def _span_name(stable: Attributes) -> str:
    method = stable[OTEL_ATTR.HTTP_METHOD]
    route = stable.get(OTEL_ATTR.HTTP_ROUTE)
    verb = "HTTP" if method == OTHER else str(method)
    return verb if route is None else f"{verb} {route}"
