"""The input and output of a handler: a request read with a cap, and a response of bytes."""

import asyncio
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from wats.errors import (
    Detail,
    LengthRequired,
    PayloadTooLarge,
    UnsupportedMediaType,
    UploadTimeout,
)
from wats.web.access import Access

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = b"application/json; charset=utf-8"
TEXT_TYPE = b"text/plain; charset=utf-8"
MAX_BODY_BYTES = 1024 * 1024

HELD_EXTENSION = "wats.held"
"""An extension of the ASGI scope: its `add` keeps a piece of a body for the application, within the
memory budget of the process, and its `take` returns all of them joined. The server drops the pieces
when the client is gone; a piece that a task keeps would stay until the task runs again."""

STREAM_EXTENSION = "wats.stream"
"""An extension of the ASGI scope: its `begin` gives each wait for bytes of the body a deadline of
its own, where the body of a usual request has one deadline."""

HANG_UP_EXTENSION = "wats.hang_up"
"""An extension of the ASGI scope: after its `watch`, a client that closes its side has hung up. A
usual request is served to its end in that case: the client may still read the response."""

ADMISSION_EXTENSION = "wats.admission"
"""An extension of the ASGI scope: its `is_crowded` returns whether the requests in progress leave
few connections to others."""

RESPOND_EXTENSION = "wats.respond"
"""An extension of the ASGI scope: its `send` sends a `Response`, for which other servers get two
messages that they check and join."""

STALL_SECONDS = 20.0
"""How long the next bytes of a file may take to arrive: less than the deadlines of connections, so
that the client gets a response."""

STREAM_SECONDS = 600.0
"""How long a file may take to arrive: as long as a transfer, which begins after its first bytes."""

_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})

_HANDLING = re.compile(r'\s*handling\s*=\s*"?(\w+)"?\s*(?:;.*)?', re.IGNORECASE)

_ASYNC = re.compile(r"\s*respond-async\s*(?:;.*)?", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_encode = msgspec.json.Encoder().encode


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of the header *name* (lower case), one for each line, in order.

    White space around a value is not part of the value (RFC 9110, 5.5), with any server.
    """
    return [value.strip(b" \t") for key, value in headers if key == name]


def joined_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Return all headers by name (lower case), the lines of each joined as one list."""
    joined: dict[bytes, str] = {}
    for name, value in headers:
        text = value.decode("latin-1").strip(" \t")
        joined[name] = f"{joined[name]}, {text}" if name in joined else text
    return joined


def _ignore(*_: object) -> None:
    pass


class ClientGone(Exception):
    """The client hung up before its request was read. A response cannot be delivered."""


class Request:
    """One HTTP request. Its body is read only on request of a handler, and never past a cap."""

    __slots__ = ("_headers", "_query", "_receive", "_scope", "access", "number", "parameters")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        parameters: dict[str, str],
        *,
        access: Access,
        number: str | None = None,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._headers: dict[bytes, str] = {}
        self._query: dict[str, str] | None = None
        self.parameters = parameters
        """The variable parts of the path, still percent-encoded."""
        self.access = access
        """The operations that the token permits; most routes are checked before their handler."""
        self.number = number
        """The phone number id that the request is limited to, by its path or its token; `None` for
        all numbers in reads of messages, and the default number otherwise."""

    def header(self, name: bytes) -> str | None:
        """Return the header *name* (lower case), its lines joined as one list, or `None`."""
        if not self._headers:
            self._headers = joined_headers(self._scope["headers"])
        return self._headers.get(name)

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of a repeated one the first is used."""
        if self._query is None:
            self._query = {}
            for name, value in self.query_pairs:
                self._query.setdefault(name, value)
        return self._query

    @property
    def query_pairs(self) -> list[tuple[str, str]]:
        """All query parameters in their order."""
        text = self._scope.get("query_string", b"").decode("latin-1")
        return parse_qsl(text, keep_blank_values=True)

    @property
    def mount_path(self) -> str:
        """The path at which an application of another author has mounted this one; may be empty."""
        path: str = self._scope.get("root_path", "")
        return path

    @property
    def origin(self) -> str | None:
        """Scheme and host as the client has addressed them, or `None` without a valid host."""
        host = self.header(b"host") or ""
        return f"{self._scope.get('scheme', 'http')}://{host}" if _HOST.fullmatch(host) else None

    @property
    def is_strict(self) -> bool:
        """Whether the client prefers `handling=strict` (RFC 7240); the first of several counts."""
        preferences = self.header(b"prefer")
        for each in preferences.split(",") if preferences is not None else ():
            if (match := _HANDLING.fullmatch(each)) is not None:
                return match[1].lower() == "strict"
        return False

    @property
    def is_async(self) -> bool:
        """Whether the client prefers `respond-async` (RFC 7240)."""
        prefer = self.header(b"prefer")
        return prefer is not None and any(_ASYNC.fullmatch(each) for each in prefer.split(","))

    async def json_body(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """Read the body without its byte order mark, which is not part of JSON (RFC 8259, 8.1).

        Raises:
            UnsupportedMediaType: The body is compressed.
            PayloadTooLarge: The body is larger than *max_bytes*.
            ClientGone: The client hung up.
        """
        # Some clients send the name of a charset in this header, which means no compression.
        coding = self.header(b"content-encoding")
        if coding and not _COMPRESSIONS.isdisjoint(map(str.strip, coding.lower().split(","))):
            raise UnsupportedMediaType([Detail("content-encoding", "must be absent or identity")])
        return (await self.body(max_bytes)).removeprefix(BOM_UTF8)

    @property
    def length(self) -> int:
        """The length of the body.

        Raises:
            LengthRequired: The client did not state it.
        """
        declared = self.header(b"content-length")
        if declared is None or not declared.isdecimal():
            raise LengthRequired
        return int(declared[:20])

    async def stream(
        self, stall_seconds: float = STALL_SECONDS, total_seconds: float = STREAM_SECONDS
    ) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they arrive. The caller limits their number.

        Raises:
            UploadTimeout: The next piece, or the last one, did not arrive in time.
            ClientGone: The client hung up.
        """
        self._extension(STREAM_EXTENSION, "begin")()
        loop, has_more = asyncio.get_running_loop(), True
        end = loop.time() + total_seconds
        while has_more:
            try:
                async with asyncio.timeout_at(min(loop.time() + stall_seconds, end)):
                    message = await self._receive()
            except TimeoutError:
                raise UploadTimeout from None
            if chunk := _chunk_of(message):
                yield chunk
            has_more = message.get("more_body", False)

    def watch_hang_up(self) -> None:
        """Let `disconnected` return when the client closes its side, even if it can still read."""
        self._extension(HANG_UP_EXTENSION, "watch")()

    async def disconnected(self) -> None:
        """Return when the client has hung up. The rest of its body is dropped."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @property
    def is_crowded(self) -> bool:
        """Whether the requests in progress leave few connections to webhooks and probes."""
        is_crowded: bool = self._extension(ADMISSION_EXTENSION, "is_crowded", bool)()
        return is_crowded

    @property
    def responder(self) -> "Callable[[Response], Awaitable[None]] | None":
        """Sends a whole response, if the server is ours."""
        found: Callable[[Response], Awaitable[None]] | None = self._extension(
            RESPOND_EXTENSION, "send", None
        )
        return found

    def _extension(self, name: str, method: str, default: Any = _ignore) -> Any:
        extensions = self._scope.get("extensions") or {}
        return extensions.get(name, {}).get(method, default)

    async def body(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """Read the body, and stop as soon as it is larger than *max_bytes*.

        Raises:
            PayloadTooLarge: The body is too large, or its `Content-Length` is.
            ClientGone: The client hung up.
        """
        declared = self.header(b"content-length")
        if declared is not None and declared.isdecimal() and int(declared[:20]) > max_bytes:
            raise _too_large(max_bytes)
        message = await self._receive()
        chunk: bytes = _chunk_of(message)
        if not message.get("more_body", False):
            if len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            return chunk
        pieces: list[bytes] = []  # for other servers
        add = self._extension(HELD_EXTENSION, "add", pieces.append)
        take = self._extension(HELD_EXTENSION, "take", partial(b"".join, pieces))
        size, has_more = len(chunk), True
        add(chunk)
        while has_more:
            del message, chunk  # a reference would outlive the dropped pieces
            message = await self._receive()
            chunk = _chunk_of(message)
            add(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            has_more = message.get("more_body", False)
        body: bytes = take()
        return body


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {max_bytes} bytes.")


def _chunk_of(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone
    chunk: bytes = message.get("body", b"")
    return chunk


class Response(msgspec.Struct, frozen=True):
    """A status, a body, and headers beyond those that every response has."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON_TYPE
    headers: Headers = ()


class BodySource(Protocol):
    """The body of a streamed response."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; `ResponseBroken` ends it before its end."""

    def close(self) -> None:
        """Release everything that it holds, also during `chunks`. May be called twice."""


class ResponseBroken(Exception):
    """The body of a response cannot be completed. Its connection is closed, so the client sees it.

    The reason is reported where it is known.
    """


class StreamedResponse(Response, frozen=True, kw_only=True):
    """A response whose body is passed on while it arrives; *length* is `None` if unknown."""

    source: BodySource
    length: int | None


def json_response(value: object, status: int = 200, headers: Headers = ()) -> Response:
    """Return *value* as compact JSON, with its keys in their order."""
    return Response(status, _encode(value), JSON_TYPE, headers)


def headers_of(response: Response) -> list[tuple[bytes, bytes]]:
    """Return all headers of *response*, in the order in which they are sent."""
    length = response.length if isinstance(response, StreamedResponse) else len(response.body)
    return [
        (b"content-type", response.content_type),
        *([(b"content-length", b"%d" % length)] if length is not None else ()),
        (b"cache-control", b"no-store"),
        *response.headers,
    ]


async def send_response(
    request: Request, send: Send, response: Response, *, with_body: bool
) -> None:
    """Send *response*; for HEAD without its body, but with the length of the body."""
    if with_body and (respond := request.responder) is not None:
        await respond(response)
        return
    headers = headers_of(response)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})


async def send_stream(
    request: Request, send: Send, response: StreamedResponse, *, with_body: bool
) -> None:
    """Send *response* as its body arrives, and stop when the client is gone.

    Raises:
        ResponseBroken: The body ended before its end.
    """
    source = response.source
    gone = asyncio.create_task(request.disconnected())
    gone.add_done_callback(lambda _: source.close())
    try:
        start = {"status": response.status, "headers": headers_of(response)}
        await send({"type": "http.response.start", **start})
        if with_body:
            async for chunk in source.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not gone.done():
            await send({"type": "http.response.body", "body": b""})
    finally:
        source.close()
        gone.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await gone
