"""Files on their way to and from Graph: bounded in time, memory and number.

A file passes in pieces, and each side is read only as fast as the other side takes it. Nothing of a
file is kept.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp

from wats.errors import GraphError, GraphUnreachable, MediaUnusable, Overloaded
from wats.graph.causes import caused

TRANSFER_SECONDS: Final = 600.0
"""The time limit of a file, both connections included."""

CHUNK_BYTES: Final = 64 * 1024
MAX_DOWNLOAD_BYTES: Final = 100 * 1024 * 1024

MEDIA_HOSTS: Final = frozenset({"lookaside.fbsbx.com"})
"""The hosts from which Meta serves media, over https."""

_TRANSFER_SHARE: Final = 4


@dataclass(frozen=True, slots=True)
class UploadBody:
    """A body of a known length, read as it is sent.

    Attributes:
        chunks: The body; its exceptions end the upload, and the caller of the upload gets them.
    """

    content_type: str
    length: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """The time limits of a transfer, in addition to those of its connection.

    Attributes:
        stall_seconds: How long Graph may take to accept a piece of a body.
        response_seconds: How long the head of a response may take after that, and the body of a
            refusal.
    """

    stall_seconds: float
    response_seconds: float


class UploadProgress:
    """The body of an upload in the view of the client of Graph.

    It limits how long Graph may take to accept a piece, and to begin its response after the last
    one; the time that *body* takes to provide a piece is limited by its own source.

    Attributes:
        failure: The exception of the source, if it failed.
        is_whole: Whether all pieces were passed on, so that Graph can carry the request out.
    """

    def __init__(self, body: UploadBody, clock: asyncio.Timeout, limits: TransferLimits) -> None:
        self._body = body
        self._clock = clock
        self._limits = limits
        self.failure: Exception | None = None
        self.is_whole = body.length == 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        left = self._body.length
        while left > 0:
            self._limit(None)
            piece = await self._next()
            left -= len(piece)
            self.is_whole = left <= 0
            self._limit(self._limits.stall_seconds)
            yield piece
        self._limit(self._limits.response_seconds)

    async def _next(self) -> bytes:
        try:
            return await anext(self._body.chunks)
        except Exception as error:
            self.failure = error
            raise

    def _limit(self, seconds: float | None) -> None:
        if not self._clock.expired():
            now = asyncio.get_running_loop().time()
            self._clock.reschedule(None if seconds is None else now + seconds)


class TransferSlots:
    """Limits concurrent transfers to a share of the connections, so that messages have the rest."""

    def __init__(self, connections: int) -> None:
        self._free = max(1, connections // _TRANSFER_SHARE)

    def take(self) -> None:
        """Take a slot.

        Raises:
            Overloaded: All are taken.
        """
        if self._free <= 0:
            raise Overloaded("Too many files are being transferred.")
        self._free -= 1

    def release(self) -> None:
        """Give a slot back."""
        self._free += 1

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a slot for a block of code.

        Raises:
            Overloaded: All are taken.
        """
        self.take()
        try:
            yield
        finally:
            self.release()


class Ended(Protocol):
    """Records the end of a download."""

    def __call__(self, error: GraphError | None, /) -> None:
        """Record it; *error* is the reason if it was not complete."""


class Download:
    """A file that Graph is sending. Close it, also if it was read to its end.

    Attributes:
        length: The number of bytes that follow, `None` if Graph did not state it.
        rewrite: Replaces texts in the response.
    """

    def __init__(self, response: aiohttp.ClientResponse, ended: Ended, length: int | None) -> None:
        self._response = response
        self._ended: Ended | None = ended
        self.length = length
        self.rewrite: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]] | None = None

    @property
    def content_type(self) -> str:
        """The media type that Graph states, in lower case and without parameters."""
        return self._response.content_type.lower()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file, up to a call of `close`.

        Raises:
            GraphUnreachable: The file was cut off, or Graph was silent for too long.
            MediaUnusable: The file is larger than any that WhatsApp has, or than its length.
        """
        try:
            checked = self._checked()
            async for chunk in self.rewrite(checked) if self.rewrite is not None else checked:
                yield chunk
        except (GraphError, aiohttp.ClientError, TimeoutError) as exc:
            if self._ended is None:
                return
            failure = exc if isinstance(exc, GraphError) else caused(GraphUnreachable(), exc)
            self._end(failure)
            raise failure from None
        self._end(None)

    async def _checked(self) -> AsyncIterator[bytes]:
        size = 0
        limit = MAX_DOWNLOAD_BYTES if self.length is None else self.length
        async for chunk in self._response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise MediaUnusable("The file is too large.")
            yield chunk
        if self.length is not None and size < self.length:
            raise GraphUnreachable

    def close(self) -> None:
        """Give the connection up, or back if the file was read to its end. May be called twice."""
        self._end(None)
        self._response.release()

    def _end(self, error: GraphError | None) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(error)


def may_have_token(url: str, graph_root: str) -> bool:
    """Return whether the access token may be sent to *url*, which a response of Graph named.

    It may be sent to the host of Graph itself, by the configured scheme and port, and to the hosts
    from which Meta serves media.
    """
    try:
        found, root = urlsplit(url), urlsplit(graph_root)
        port = found.port
    except ValueError:
        return False
    if "@" in found.netloc or not url.isascii() or not url.isprintable() or "\\" in url:
        return False
    if (found.scheme, found.netloc) == (root.scheme, root.netloc):
        return True
    return found.scheme == "https" and found.hostname in MEDIA_HOSTS and port in {None, 443}
