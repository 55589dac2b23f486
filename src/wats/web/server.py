"""uvicorn with our limits: a cap on what comes before a body, and an end that is always clean."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wats.errors import ConfigError, ConfigIssue

MAX_HEAD_BYTES = 64 * 1024
"""How long a request line with its headers may be. The parser alone would keep any amount."""

BACKLOG = 2048

GRACE_SECONDS = 15
"""How long requests that are being served may take to end when the server stops."""


class CappedProtocol(HttpToolsProtocol):
    """Hangs up on a connection whose request line and headers pass the cap."""

    _in_head = True
    _head_bytes = 0

    @override
    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head is too large.")

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()


class Server(uvicorn.Server):
    """Serves *app* until SIGINT or SIGTERM, then drains and returns.

    Args:
        ready: Called with the URL once connections are accepted.
    """

    def __init__(self, app: Callable[..., Any], *, ready: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=CappedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._ready = ready

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:
            host, port = sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

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


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on *host* and *port*.

    Raises:
        ConfigError: Nobody can listen there now, or this process may not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the address cannot be resolved"
        issue = ConfigIssue("address_unavailable", "service.host, service.port", reason)
        raise ConfigError([issue], "The service cannot listen where it is configured to.") from None
