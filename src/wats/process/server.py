"""uvicorn with our connections, and with an orderly end."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from math import ceil
from types import FrameType
from typing import Any

import uvicorn
from typing_extensions import override

from wats.errors import ConfigError, ConfigIssue
from wats.process.http.admission import Admission, ConnectionLimits
from wats.process.http.protocol import GatewayProtocol
from wats.process.http.site import Site
from wats.process.shared_listener import Share, SharedListener, shares_of
from wats.web.webhooks import NO_HOOK, Hook

BACKLOG = 2048

GRACE_SECONDS = 15
"""The time limit of requests in progress when the server stops."""

TICK_SECONDS = 0.1


def _ignore_drain() -> None:
    pass


class Server(uvicorn.Server):
    """Serves *app* until SIGINT or SIGTERM, then drains and returns.

    uvicorn has the lifespan, the signals and the drain. Connections and their listener are ours.

    Args:
        ready: Called with the URL once connections are accepted.
        draining: Called when the server begins to stop.
        hook: The webhook route of *app*, to serve its requests on the fast path.
        share: The share of this process in the connections, if others accept from the same socket.
        limits: The bounds of connections, if not the usual ones.
        drain_seconds: How long it accepts connections after SIGTERM, as load balancers need time to
            notice. SIGINT, of a terminal, skips this time.
        grace_seconds: The time limit of requests in progress, after that.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        ready: Callable[[str], None],
        draining: Callable[[], None] = _ignore_drain,
        hook: Hook = NO_HOOK,
        share: Share | None = None,
        limits: ConnectionLimits | None = None,
        drain_seconds: float = 0.0,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=GatewayProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=ceil(grace_seconds),
            )
        )
        self._ready = ready
        self._draining = draining
        self._hook = hook
        self._share = share if share is not None else shares_of(1)[0]
        self._limits = limits or ConnectionLimits()
        self._drain_seconds = drain_seconds
        self._is_interrupted = False
        self._admission = Admission(self.server_state.connections, self._limits)  # type: ignore[arg-type]  # they are ours
        self._listener: SharedListener | None = None
        self._ticking: asyncio.TimerHandle | None = None

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections from the one socket in *sockets*."""
        await super().startup([])
        listener = next(iter(sockets or ()))
        self._site = site = Site(
            app=self.config.loaded_app,
            lifespan_state=self.lifespan.state,
            server=self.server_state,
            limits=self._limits,
            admission=self._admission,
            hook=self._hook,
        )
        self._listener = SharedListener(
            listener,
            self._share,
            connections=self.server_state.connections,
            make_protocol=lambda: GatewayProtocol(site),
            admission=self._admission,
        )
        self._listener.open()
        self._tick()
        self._ready(url_of(listener))

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining()
        self._site.is_draining = True
        await self._drain()
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        try:
            await super().shutdown(sockets)
            if self.force_exit:  # then uvicorn leaves the application to the end of the loop
                await self.lifespan.shutdown()
        finally:
            if self._ticking is not None:
                self._ticking.cancel()

    async def _drain(self) -> None:
        """Serve until load balancers had time to notice the readiness probe.

        Each response ends its connection: one that is still open at the end of the drain is closed,
        perhaps in the moment in which its client sends a request.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_seconds
        # Polled, as a signal handler must not touch an event of the loop.
        while loop.time() < until and not self._is_interrupted:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and not self._is_interrupted:
            # It only ends the drain. For uvicorn, one after SIGTERM ends the requests too.
            self._is_interrupted = self.should_exit = True
        else:
            super().handle_exit(sig, frame)

    def _tick(self) -> None:
        """Enforce deadlines, also during the drain, when uvicorn does not tick any more."""
        loop = asyncio.get_running_loop()
        self._admission.sweep(loop.time())
        if self._listener is not None:
            self._listener.publish()
        self._ticking = loop.call_later(TICK_SECONDS, self._tick)

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal and do not repeat it: uvicorn would die of the signal at the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # a parent may have blocked them
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def url_of(listener: socket.socket) -> str:
    """Return the URL that is served on *listener*."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on *host* and *port*.

    Raises:
        ConfigError: The address is taken, or this process may not listen there.
    """
    # The protocol is named, since asyncio sends small responses without delay only on such a
    # socket.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = "the address cannot be resolved"
        if error.errno and not isinstance(error, socket.gaierror):  # whose numbers are its own
            reason = os.strerror(error.errno)
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        issue = ConfigIssue(
            "address_unavailable", "service.host, service.port", f"{place!r}: {reason}"
        )
        raise ConfigError([issue], "The service cannot listen on the configured address.") from None
    return listener
