"""The endpoints for operators and orchestrators: liveness, readiness, state."""

import asyncio
import sys

from wats.privacy import REDACTED
from wats.store import Store
from wats.store.records import StoreHealth
from wats.telemetry.metrics.exposition import OPENMETRICS_TYPE, TEXT_TYPE
from wats.version import __version__
from wats.web import bodies
from wats.web.exchange import Headers, Request, Response, json_response
from wats.web.parts import HOOK_LABEL, Parts
from wats.web.problems import problem

METRICS_TYPES = (TEXT_TYPE, OPENMETRICS_TYPE)
"""The media types of the exposition."""

_METRICS_VARY = (b"vary", b"Accept, Accept-Encoding")
HEALTH_SECONDS = 1.0
"""The time limit of a health check of the store before it counts as unreachable."""

_UNREACHABLE = StoreHealth(ok=False, adapter="unknown", schema_version=0)


async def healthz(parts: Parts, request: Request) -> Response:
    """Respond without checking anything."""
    return json_response(bodies.Health(ok=True, service="wats"))


async def readyz(parts: Parts, request: Request) -> Response:
    """Return 200 if the store can be read and has our schema, and stored updates are dispatched."""
    if parts.store is not None and not (await _health_of(parts.store)).ok:
        return problem(503, "not_ready", "The persistence check failed.")
    if not parts.receiver.is_dispatching:
        return problem(503, "not_ready", "Stored updates are not dispatched.")
    return json_response(bodies.Health(ok=True, service="wats"))


async def openapi(parts: Parts, request: Request) -> Response:
    """Return the OpenAPI document; unauthenticated clients get one without the hidden routes."""
    document = parts.complete_document if request.authorized else parts.anonymous_document
    return Response(200, document)


async def metrics(parts: Parts, request: Request) -> Response:
    """Return the exposition in the form that the scraper prefers."""
    rendered = parts.telemetry.render(request.header(b"accept"), request.header(b"accept-encoding"))
    headers: Headers = (_METRICS_VARY,)
    if rendered.content_encoding is not None:
        headers = (*headers, (b"content-encoding", rendered.content_encoding.encode()))
    return Response(200, rendered.body, rendered.content_type.encode(), headers)


async def status(parts: Parts, request: Request) -> Response:
    """Return the operator's snapshot."""
    store = parts.store
    return json_response(
        bodies.Status(
            service="wats",
            version=__version__,
            uptime_seconds=int(parts.uptime_seconds()),
            graph_api_version=parts.profile.graph.api_version,
            service_mode=_mode(parts),
            routes=parts.route_labels,
            feature_flags=_flags(parts),
            persistence=None if store is None else _view(await _health_of(store)),
        )
    )


async def diagnostics(parts: Parts, request: Request) -> Response:
    """Return the bounded snapshot for a support request."""
    profile = parts.profile
    health = _UNREACHABLE if parts.store is None else await _health_of(parts.store)
    return json_response(
        bodies.Diagnostics(
            service="wats",
            version=__version__,
            graph_api_version=profile.graph.api_version,
            service_mode=_mode(parts),
            runtime="python" if sys.implementation.name == "cpython" else "unknown",
            routes=parts.route_labels,
            feature_flags=_flags(parts),
            persistence=_view(health),
            metric_families=parts.telemetry.metric_families(),
            recent_errors=parts.telemetry.errors.snapshot(),
            config_shape=bodies.ConfigShape(
                graph=bodies.GraphShape(api_version=profile.graph.api_version),
                auth=bodies.AuthShape(access_token=REDACTED),
                service=bodies.ServiceShape(
                    host=profile.service.host,
                    port=profile.service.port,
                    api_prefix=profile.service.api_prefix,
                ),
                webhook=bodies.WebhookShape(
                    path=HOOK_LABEL,
                    verify_token=REDACTED,
                    app_secret=REDACTED,
                    max_body_bytes=profile.webhook.max_body_bytes,
                ),
            ),
        )
    )


async def _health_of(store: Store) -> StoreHealth:
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await store.health()
    except Exception:  # a store that fails to report its health, for any reason, is unhealthy
        return _UNREACHABLE


def _mode(parts: Parts) -> str:
    persistence = ["persistence"] if parts.store is not None else []
    groups = ["groups"] if parts.groups_enabled else []
    return "+".join(["webhook", *persistence, *groups])


def _flags(parts: Parts) -> bodies.FeatureFlags:
    return bodies.FeatureFlags(
        group_routes=parts.groups_enabled, persistence=parts.store is not None
    )


def _view(health: StoreHealth) -> bodies.StoreView:
    known = health.adapter in {"sqlite", "postgres"}
    return bodies.StoreView(
        ok=health.ok,
        backend=health.adapter if known else "unknown",
        current_version=health.schema_version,
        redacted_location=f"[REDACTED_{health.adapter.upper()}_DATABASE]" if known else REDACTED,
    )
