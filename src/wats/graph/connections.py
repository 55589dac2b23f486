"""Connections to Graph and subscribers: a response begins in time, and after its request."""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from aiohttp.tracing import Trace
from typing_extensions import override

from wats.errors import GraphUnreachable
from wats.graph.causes import NEVER_WRITTEN
from wats.graph.resolver import ThreadPerNameResolver

MAX_INTERIM_RESPONSES: Final = 20
"""The limit of 1xx responses before a final one; servers send one or two."""

MAX_HEADER_BYTES: Final = 64 * 1024
"""The longest header of a response of Graph: its header of usage lists business accounts."""


class _Protocol(ResponseHandler):
    """Limits interim responses, and ends a kept connection on which data arrives.

    aiohttp skips interim responses until the call's deadline, and takes the data as the response to
    the next request, which a server or proxy has not read yet; see RFC 9112, 9.2.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._interim = 0
        self._has_response = False

    @override
    def set_response_params(self, **options: Any) -> None:
        self._has_response = False
        super().set_response_params(**options)

    @override
    def data_received(self, data: bytes) -> None:
        is_complete = self._has_response and (self._payload is None or self._payload.is_eof())
        if not data or not is_complete:  # aiohttp passes no data when it reads on
            super().data_received(data)
            self._end_broken_body()
        elif self.transport is not None:
            self.transport.abort()

    def _end_broken_body(self) -> None:
        """Fail a body with an invalid chunk, for whose end aiohttp waits without a read timeout."""
        payload = self._payload
        if self.exception() is not None and payload is not None and not payload.is_eof():
            payload.set_exception(aiohttp.ClientPayloadError())

    @override
    def feed_data(self, data: Any, size: int = 0) -> None:
        message, _ = data
        self._interim = self._interim + 1 if _is_interim(message.code) else 0
        self._has_response = not self._interim
        if self._interim <= MAX_INTERIM_RESPONSES:
            super().feed_data(data, size)
        elif self._interim == MAX_INTERIM_RESPONSES + 1:
            self.set_exception(HttpProcessingError(message="Too many interim responses"))
            if self.transport is not None:
                self.transport.abort()


class _BoundedProtocol(_Protocol):
    """Counts the bytes of a response, too: aiohttp skips extensions of chunks without limit."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_response_bytes: int) -> None:
        super().__init__(loop)
        self._received = 0
        self._max_response_bytes = max_response_bytes

    @override
    def set_response_params(self, **options: Any) -> None:
        self._received = 0
        super().set_response_params(**options)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= self._max_response_bytes:
            super().data_received(data)
        elif self.transport is not None:
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """Reports a tunnel that a proxy does not open as a connection that failed, however it ends."""

    @override
    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except NEVER_WRITTEN:
            raise
        except aiohttp.ClientError as exc:  # of the request to the proxy, as if it had been ours
            raise aiohttp.ClientProxyConnectionError(req.connection_key, OSError()) from exc


def connector(
    *,
    limit: int,
    keep_alive_seconds: float,
    socket_factory: aiohttp.SocketFactoryType | None = None,
    max_response_bytes: int | None = None,
) -> aiohttp.TCPConnector:
    """Return a pool of at most *limit* connections, each kept idle for *keep_alive_seconds*.

    *socket_factory* makes the socket for an address, or raises an `OSError` to refuse the address.
    A response of more than *max_response_bytes* on the wire, if given, ends its connection.
    """
    pool = _Connector(
        limit=limit,
        keepalive_timeout=keep_alive_seconds,
        socket_factory=socket_factory,
        resolver=ThreadPerNameResolver(),
    )
    # aiohttp has no public setting for the protocol; the test of a flood fails if this changes.
    pool._factory = partial(_protocol, asyncio.get_running_loop(), max_response_bytes)
    return pool


class SharedSession:
    """The session of the clients of one Graph: made at the start, or given and then not closed."""

    def __init__(
        self, given: aiohttp.ClientSession | None, *, limit: int, keep_alive_seconds: float
    ) -> None:
        self._session = given
        self._is_ours = given is None
        self._limit = limit
        self._keep_alive_seconds = keep_alive_seconds

    def get(self) -> aiohttp.ClientSession:
        """Return the open session.

        Raises:
            GraphUnreachable: It is not open.
        """
        if self._session is None or self._session.closed:
            raise GraphUnreachable
        return self._session

    async def start(self) -> None:
        """Make the session, unless one was given. Is idempotent."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(limit=self._limit, keep_alive_seconds=self._keep_alive_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                max_field_size=MAX_HEADER_BYTES,
            )

    async def close(self) -> None:
        """Close the session if it is ours. May be called twice."""
        if self._is_ours and self._session is not None:
            await self._session.close()
            self._session = None


def _protocol(loop: asyncio.AbstractEventLoop, max_response_bytes: int | None) -> ResponseHandler:
    if max_response_bytes is None:
        return _Protocol(loop)
    return _BoundedProtocol(loop, max_response_bytes)


def _is_interim(status: int) -> bool:
    return 100 <= status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS
