"""State shared by the connections of one process: application, webhook route, limits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from wats.web.admission import Admission, Limits
from wats.web.exchange import Response


class Asker(Protocol):
    """The recipient of the response to a webhook."""

    @property
    def is_there(self) -> bool:
        """Whether a response could still reach the client."""

    def answer(self, response: Response) -> None:
        """Send them *response*."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook route, for requests that need no routing.

    Attributes:
        path: The request target that it serves, as bytes on the wire.
        max_body_bytes: Longer bodies take the slow path, which refuses them.
        take: Responds to the body and signature of a POST through its asker, once, now or later.
        refused: Counts a request that was refused with a status because it is not valid HTTP.
    """

    path: bytes
    max_body_bytes: int
    take: Callable[[bytes, str | None, Asker], None]
    refused: Callable[[int], None]


def _take_nothing(_body: bytes, _signature: str | None, _asker: Asker) -> None:
    raise NotImplementedError


def _count_nothing(_status: int) -> None:
    pass


NO_HOOK = Hook(path=b"", max_body_bytes=0, take=_take_nothing, refused=_count_nothing)
"""Of an application without a fast path: no request target is empty."""


class ServerState(Protocol):
    """The state that connections share with their server, uvicorn's."""

    total_requests: int
    connections: set[Any]
    tasks: set[Any]
    default_headers: list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything that the connections of a process share.

    Attributes:
        app: The ASGI application.
        lifespan_state: The state that the application has made at its start.
        server: The state of the server.
        hook: The webhook route, for the fast path.
    """

    app: Any
    server: ServerState
    limits: Limits
    admission: Admission
    hook: Hook = NO_HOOK
    lifespan_state: dict[str, Any] = field(default_factory=dict)
