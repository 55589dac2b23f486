"""State shared by the connections of one process: application, webhook route, limits."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from wats.process.http.admission import Admission, ConnectionLimits
from wats.web.webhooks import NO_HOOK, Hook


class ServerState(Protocol):
    """The state that connections share with their server, uvicorn's."""

    total_requests: int
    connections: set[Any]
    tasks: set[Any]
    default_headers: list[tuple[bytes, bytes]]


@dataclass(slots=True, kw_only=True)
class Site:
    """All state that the connections of a process share.

    Attributes:
        app: The ASGI application.
        lifespan_state: The state that the application made at its start.
        server: The state of the server.
        hook: The webhook route, for the fast path.
        is_draining: Whether the server is about to stop, so that each response ends its connection.
    """

    app: Any
    server: ServerState
    limits: ConnectionLimits
    admission: Admission
    hook: Hook = NO_HOOK
    lifespan_state: dict[str, Any] = field(default_factory=dict)
    is_draining: bool = False
