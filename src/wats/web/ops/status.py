"""The endpoints for operators: the state of the service, and diagnostics for support."""

import asyncio
import sys
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from wats.privacy import REDACTED
from wats.store import Store
from wats.store.records import StoreHealth
from wats.telemetry.contract.values import Method
from wats.version import __version__
from wats.web.bodies import Body, Count
from wats.web.exchange import Request, Response, json_response
from wats.web.ops.health import HEALTH_SECONDS, UNREACHABLE, health_of
from wats.web.parts import HOOK_LABEL, Parts
from wats.web.routing import Operation, Posture, Route


class FeatureFlags(Body, frozen=True):
    """The enabled features."""

    group_routes: bool
    persistence: bool


class StoreView(Body, frozen=True):
    """The health of the database, without its location."""

    ok: bool
    backend: Annotated[str, Meta(extra_json_schema={"enum": ["sqlite", "postgres", "unknown"]})]
    current_version: int
    redacted_location: str


class InboxView(Body, frozen=True):
    """The deliveries of all consumers; `orphaned` are those of consumers that are not configured.

    `oldestSeconds` is the age of the oldest outstanding delivery of a configured consumer.
    """

    pending: Count
    leased: Count
    retry: Count
    dead: Count
    orphaned: Count
    oldest_seconds: float


class OutboxCounts(Body, frozen=True):
    """The messages that are sent later; `dead` are those that failed or have an unknown outcome.

    `orphaned` are the pending messages of numbers that are not configured, at least.
    `oldestSeconds` is the age of the oldest message that is not sent.
    """

    pending: Count
    processing: Count
    dead: Count
    orphaned: Count
    oldest_seconds: float


class NumberView(Body, frozen=True):
    """The settings of a business number, without its ids."""

    name: str
    has_own_token: bool
    throughput: Count | None


class ServiceStatus(Body, frozen=True):
    """A snapshot for operators."""

    service: str
    version: str
    uptime_seconds: Count
    graph_api_version: str
    service_mode: str
    routes: tuple[str, ...]
    feature_flags: FeatureFlags
    persistence: StoreView | None
    numbers: tuple[NumberView, ...] | UnsetType = UNSET
    """Left out if the config has only the default number."""
    inbox: InboxView | None = None
    outbox: OutboxCounts | None = None


class GraphShape(Body, frozen=True):
    """The configured Graph API."""

    api_version: str


class AuthShape(Body, frozen=True):
    """The redacted access token."""

    access_token: str


class ServiceShape(Body, frozen=True):
    """The address and prefix of the API."""

    host: str
    port: int
    api_prefix: str


class WebhookShape(Body, frozen=True):
    """The configuration of the webhook."""

    path: str
    verify_token: str
    app_secret: str
    max_body_bytes: int


class ConfigShape(Body, frozen=True):
    """The configuration without secrets."""

    graph: GraphShape
    auth: AuthShape
    service: ServiceShape
    webhook: WebhookShape


class Diagnostics(Body, frozen=True):
    """Diagnostics of bounded size for a support request."""

    service: str
    version: str
    graph_api_version: str
    service_mode: str
    runtime: str
    routes: tuple[str, ...]
    feature_flags: FeatureFlags
    persistence: StoreView
    metric_families: tuple[str, ...]
    recent_errors: dict[str, int]
    config_shape: ConfigShape


async def status(parts: Parts, request: Request) -> Response:
    """Return the operator's snapshot."""
    view = inbox = outbox = None
    if (store := parts.store) is not None:
        health, (inbox, outbox) = await asyncio.gather(health_of(store), _depths_of(parts, store))
        view = _view(health)
    return json_response(
        ServiceStatus(
            service="wats",
            version=__version__,
            uptime_seconds=int(parts.uptime_seconds()),
            graph_api_version=parts.profile.graph.api_version,
            service_mode=_mode(parts),
            routes=parts.route_labels,
            feature_flags=_flags(parts),
            persistence=view,
            numbers=_numbers(parts),
            inbox=inbox,
            outbox=outbox,
        )
    )


async def _depths_of(parts: Parts, store: Store) -> tuple[InboxView | None, OutboxCounts | None]:
    """Read the counters of the inbox and the outbox; `None` without a timely response."""
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            depth = await store.depth()
            orphaned_sends = await store.orphaned_sends(parts.numbers.ids)
    except Exception:  # the rest of the status is more useful than the reason
        return None, None
    total, sends = depth.total, depth.outbox
    inbox = InboxView(
        pending=total.pending,
        leased=total.leased,
        retry=total.retry,
        dead=total.dead,
        orphaned=sum(depth.orphaned.values()),
        oldest_seconds=depth.oldest_seconds,
    )
    outbox = OutboxCounts(
        pending=sends.pending + sends.retry,
        processing=sends.leased,
        dead=sends.dead,
        orphaned=orphaned_sends,
        oldest_seconds=depth.outbox_seconds,
    )
    return inbox, outbox


async def diagnostics(parts: Parts, request: Request) -> Response:
    """Return the bounded snapshot for a support request."""
    profile = parts.profile
    health = UNREACHABLE if parts.store is None else await health_of(parts.store)
    return json_response(
        Diagnostics(
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
            config_shape=ConfigShape(
                graph=GraphShape(api_version=profile.graph.api_version),
                auth=AuthShape(access_token=REDACTED),
                service=ServiceShape(
                    host=profile.service.host,
                    port=profile.service.port,
                    api_prefix=profile.service.api_prefix,
                ),
                webhook=WebhookShape(
                    path=HOOK_LABEL,
                    verify_token=REDACTED,
                    app_secret=REDACTED,
                    max_body_bytes=profile.webhook.max_body_bytes,
                ),
            ),
        )
    )


def _numbers(parts: Parts) -> tuple[NumberView, ...] | UnsetType:
    if not parts.profile.numbers:
        return UNSET
    return tuple(
        NumberView(
            name=each.config.name,
            has_own_token=each.has_own_token,
            throughput=each.config.throughput,
        )
        for each in parts.numbers.all
    )


def _mode(parts: Parts) -> str:
    persistence = ["persistence"] if parts.store is not None else []
    groups = ["groups"] if parts.groups_enabled else []
    return "+".join(["webhook", *persistence, *groups])


def _flags(parts: Parts) -> FeatureFlags:
    return FeatureFlags(group_routes=parts.groups_enabled, persistence=parts.store is not None)


def _view(health: StoreHealth) -> StoreView:
    known = health.adapter in {"sqlite", "postgres"}
    return StoreView(
        ok=health.ok,
        backend=health.adapter if known else "unknown",
        current_version=health.schema_version,
        redacted_location=f"[REDACTED_{health.adapter.upper()}_DATABASE]" if known else REDACTED,
    )


def status_route() -> Route:
    """Return the route of the snapshot."""
    snapshot = Operation(
        Method.GET, status, "getStatus", "Return a snapshot for operators.", ServiceStatus
    )
    return Route("/status", "/status", Posture.HIDDEN, "status", (snapshot,))


def diagnostics_route() -> Route:
    """Return the route of the snapshot for support."""
    support = Operation(
        Method.GET,
        diagnostics,
        "getDiagnostics",
        "Return diagnostics of bounded size for support.",
        Diagnostics,
    )
    path = "/debug/diagnostics"
    return Route(path, path, Posture.HIDDEN, "status", (support,))
