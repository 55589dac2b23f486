"""The objects that route handlers use: the parts of a service, built by `wats.service.build`."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from wats.clock import Now
from wats.config import Profile
from wats.graph.numbers import BusinessNumbers
from wats.inbound.pullers import Pullers
from wats.inbound.receipts import ReceiptBook
from wats.inbound.receive import Receiver
from wats.log import Log
from wats.outbound.accept import Acceptor
from wats.privacy import Secret
from wats.store import Store
from wats.telemetry import Telemetry

HOOK_LABEL = "/webhook"
"""The label of the webhook route: its real path is often meant to be hard to guess."""


class Phase(Enum):
    """The phase in the life of a service."""

    STOPPED = "not started yet, or stopped"
    RUNNING = "started"
    DRAINING = "still serving, about to stop"


@dataclass(slots=True)
class Life:
    """The phase of a service; its application changes it."""

    phase: Phase = Phase.STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one service.

    Attributes:
        life: The phase of the service.
        store: `None` where persistence is switched off.
        route_labels: The labels of the routes, each once, in the order of the table.
        uptime_seconds: Returns for how long the service has been up.
        anonymous_document: The OpenAPI document for unauthenticated clients.
        complete_document: The OpenAPI document for clients with a token of the service.
        telemetry_document: The same without admin routes, for clients with a telemetry token.
        record_key: The key of digests in the records of erasures.
        pullers: The consumers whose updates applications poll for.
        receipts: Issues and reads the receipts of these updates.
    """

    profile: Profile
    life: Life
    groups_enabled: bool
    telemetry: Telemetry
    store: Store | None
    numbers: BusinessNumbers
    receiver: Receiver
    pullers: Pullers
    receipts: ReceiptBook
    verify_token: Secret
    record_key: Secret
    acceptor: Acceptor
    route_labels: tuple[str, ...]
    uptime_seconds: Callable[[], float]
    anonymous_document: bytes
    complete_document: bytes
    telemetry_document: bytes
    log: Log
    now: Now


def server_url(profile: Profile) -> str:
    """Return the address of the service in *profile*, without a slash at its end."""
    service = profile.service
    if service.public_url is not None:
        return service.public_url
    host = f"[{service.host}]" if ":" in service.host else service.host
    return f"http://{host}" if service.port == 80 else f"http://{host}:{service.port}"
