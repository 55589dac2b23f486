"""`/metrics`, for Prometheus."""

from wats.telemetry.contract.values import Method
from wats.telemetry.metrics.exposition import OPENMETRICS_TYPE, TEXT_TYPE
from wats.web.exchange import Headers, Request, Response
from wats.web.parts import Parts
from wats.web.routing import Operation, Posture, Route

METRICS_TYPES = (TEXT_TYPE, OPENMETRICS_TYPE)
"""The media types of the exposition."""

_METRICS_VARY = (b"vary", b"Accept, Accept-Encoding")


async def metrics(parts: Parts, request: Request) -> Response:
    """Return the exposition in the form that the scraper prefers."""
    rendered = parts.telemetry.render(request.header(b"accept"), request.header(b"accept-encoding"))
    headers: Headers = (_METRICS_VARY,)
    if rendered.content_encoding is not None:
        headers = (*headers, (b"content-encoding", rendered.content_encoding.encode()))
    return Response(200, rendered.body, rendered.content_type.encode(), headers)


def route() -> Route:
    """Return the route of the metrics."""
    scrape = Operation(
        Method.GET,
        metrics,
        "getMetrics",
        "Return the metrics for Prometheus.",
        METRICS_TYPES,
    )
    return Route("/metrics", "/metrics", Posture.HIDDEN, "status", (scrape,))
