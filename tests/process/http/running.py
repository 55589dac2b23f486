import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from wats.process.server import Server, bind
from wats.service import create_wats_service_app
from wats.testing import CapturingTelemetrySink, example_profile, example_secrets


class Running:
    """A server with real sockets, for our own application or for another one."""

    def __init__(self, app: Any = None, **options: Any) -> None:
        self.sink = CapturingTelemetrySink()
        self.app = app
        if app is None:
            self.app = create_wats_service_app(
                profile=example_profile(), secrets=example_secrets(), telemetry_sink=self.sink
            )
            options["hook"] = self.app.hook
        self.options = options
        self.url = ""

    @classmethod
    def of(cls, url: str) -> "Running":
        """Return a client for the server that is running at *url*."""
        some = cls()
        some.url = url
        return some

    async def __aenter__(self) -> "Running":
        ready = asyncio.get_running_loop().create_future()
        self.server = Server(self.app, ready=ready.set_result, **self.options)
        listener = bind("127.0.0.1", 0)
        self.task = asyncio.create_task(self.server.serve(sockets=[listener]))
        self.url = await ready
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.should_exit = True
        await self.task

    @asynccontextmanager
    async def connection(
        self, sent: bytes
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(sent)
        await writer.drain()
        try:
            yield reader, writer
        finally:
            writer.close()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():
                await asyncio.sleep(0.01)

    def counted(self) -> list[tuple[object, object]]:
        return [
            (each.attributes["http.route"], each.attributes["http.response.status.class"])
            for each in self.sink.counters
            if each.name == "http_requests_total"
        ]

    async def exchange(self, *pieces: bytes, ends: bool = False) -> bytes:
        """Send *pieces* as segments, and return all bytes received; *ends* closes one direction."""
        async with self.connection(b"") as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if ends:
                writer.write_eof()
            async with asyncio.timeout(60):
                return await reader.read()

    async def served(self, sent: bytes) -> bytes:
        """Return the status line of the response to *sent*, on a connection of its own."""
        async with self.connection(sent) as (reader, _), asyncio.timeout(60):
            return await reader.readline()

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)
