"""The endpoints without a token for orchestrators and callers: probes, and the API document."""

import asyncio
from typing import Any

from wats.config.numbers import ADMIN, TELEMETRY
from wats.errors import DatabaseMoved, NotStarted, SchemaMismatch
from wats.store import Store
from wats.store.records import StoreHealth
from wats.telemetry.contract.values import Method
from wats.web.bodies import Body
from wats.web.exchange import Request, Response, json_response
from wats.web.parts import Parts, Phase
from wats.web.problems import problem
from wats.web.routing import Operation, Posture, Route

HEALTH_SECONDS = 1.0
"""The time limit of the store before it counts as unreachable."""

UNREACHABLE = StoreHealth(ok=False, adapter="unknown", schema_version=0)


class Health(Body, frozen=True):
    """The service is healthy."""

    ok: bool
    service: str


async def healthz(parts: Parts, request: Request) -> Response:
    """Respond without checking anything."""
    return json_response(Health(ok=True, service="wats"))


async def readyz(parts: Parts, request: Request) -> Response:
    """Return 200 if requests can be served.

    The service is started and not about to stop, the store is readable and has our schema, and
    stored updates are dispatched.
    """
    if parts.life.phase is Phase.STOPPED:
        raise NotStarted
    if parts.life.phase is Phase.DRAINING:
        return problem(503, "not_ready", "The service is about to stop.")
    reason = None if parts.store is None else await _fault_of(parts.store)
    if reason is not None:
        return problem(503, "not_ready", reason)
    if not parts.receiver.is_dispatching:
        return problem(503, "not_ready", "Stored updates are not dispatched.")
    return json_response(Health(ok=True, service="wats"))


async def openapi(parts: Parts, request: Request) -> Response:
    """Return the OpenAPI document, without the routes that are hidden from the client."""
    scopes = request.access.scopes
    document = parts.anonymous_document
    if TELEMETRY in scopes:
        document = parts.complete_document if ADMIN in scopes else parts.telemetry_document
    return Response(200, document)


async def _timely_health(store: Store) -> StoreHealth:
    async with asyncio.timeout(HEALTH_SECONDS):
        return await store.health()


async def _fault_of(store: Store) -> str | None:
    """Return why *store* cannot be used now, or `None`."""
    try:
        health = await _timely_health(store)
    except DatabaseMoved as error:  # the only fault that an operator has to end here
        return error.message
    except Exception:  # a store that fails to report its health, for any reason, is unhealthy
        return "The persistence check failed."
    return None if health.ok else SchemaMismatch.text


async def health_of(store: Store) -> StoreHealth:
    """Return the health of *store*; without a timely response it counts as unreachable."""
    try:
        return await _timely_health(store)
    except Exception:
        return UNREACHABLE


def routes() -> tuple[Route, ...]:
    """Return the routes that are open to all."""
    alive = Operation(
        Method.GET,
        healthz,
        "getHealth",
        "Liveness probe: respond if the process is running.",
        Health,
    )
    ready = Operation(
        Method.GET,
        readyz,
        "getReadiness",
        "Readiness probe: check the service, the store and the dispatcher.",
        Health,
        problems=(503,),
    )
    document = Operation(
        Method.GET,
        openapi,
        "getOpenApi",
        "Return this document, without the routes that are hidden from the client.",
        dict[str, Any],
    )
    return (
        Route("/healthz", "/healthz", Posture.OPEN, "status", (alive,)),
        Route("/readyz", "/readyz", Posture.OPEN, "status", (ready,)),
        Route("/openapi.json", "/openapi.json", Posture.OPEN, "openapi", (document,)),
    )
