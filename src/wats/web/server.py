"""uvicorn with our connections, and with an end that is always clean."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from typing_extensions import override

from wats.errors import ConfigError, ConfigIssue
from wats.web.protocol import GatewayProtocol, Hook
from wats.web.sharing import Share, SharedListener

BACKLOG = 2048

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than load balancers keep theirs to us."""

GRACE_SECONDS = 15
"""How long requests that are being served may take to end when the server stops."""


def _nobody_is_told() -> None:
    pass


class Server(uvicorn.Server):
    """Serves *app* until SIGINT or SIGTERM, then drains and returns.

    Args:
        ready: Called with the URL once connections are accepted.
        draining: Called when no more are accepted, and those that are open begin to end.
        hook: The webhook route of *app*, to answer its requests the short way.
        share: The share of this process in the connections, if others accept from the same socket.
        request_seconds: How long a request may take to arrive as a whole.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        ready: Callable[[str], None],
        draining: Callable[[], None] = _nobody_is_told,
        hook: Hook | None = None,
        share: Share | None = None,
        request_seconds: float = 30.0,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=cast(
                    type[asyncio.Protocol],
                    partial(GatewayProtocol, hook=hook, request_seconds=request_seconds),
                ),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._ready = ready
        self._draining = draining
        self._share = share
        self._shared: SharedListener | None = None

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._share is None or not sockets:
            await super().startup(sockets)
        else:
            await super().startup([])
            self._shared = SharedListener(
                sockets[0],
                self._share,
                connections=self.server_state.connections,
                make_protocol=self._make_protocol,
            )
            self._shared.open()
        if sockets:
            self._ready(url_of(sockets[0]))

    def _make_protocol(self) -> asyncio.Protocol:
        make = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining()
        if self._shared is not None:
            await self._shared.close()
        await super().shutdown(sockets)

    @override
    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, GatewayProtocol) and connection.is_overdue(now):
                connection.hang_up()
        if self._shared is not None:
            self._shared.tell()
        return await super().on_tick(counter)

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and leave it at that: uvicorn would die of the signal at the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def url_of(listener: socket.socket) -> str:
    """Return the URL of what is served on *listener*."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on *host* and *port*.

    Raises:
        ConfigError: Nobody can listen there now, or this process may not.
    """
    # The protocol is named, since asyncio sends small answers without delay only on such a socket.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else "the address cannot be resolved"
        issue = ConfigIssue("address_unavailable", "service.host, service.port", reason)
        raise ConfigError([issue], "The service cannot listen where it is configured to.") from None
    return listener
