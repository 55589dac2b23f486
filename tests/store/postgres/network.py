"""A network between a store and its server that loses what it should pass on."""

import asyncio
from contextlib import suppress
from enum import Enum

from typing_extensions import override

from tests.store.postgres.server import Server


class Network:
    """Passes bytes on to the server until it is cut, and then swallows them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(self._server.socket)
        for pair in ((reader, ours), (theirs, writer)):
            task = asyncio.create_task(self._pass_on(*pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        self._flows.clear()

    def mend(self) -> None:
        self._flows.set()

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Loss(Enum):
    """The message that is lost when a connection ends at a commit."""

    REQUEST = b"COMMIT;\0"
    """The server rolls back."""
    REPORT = b"COMMIT\0"
    """The server has committed, and the client never learns that."""


class LosesCommits(Network):
    """Ends a connection instead of passing on the next message of a commit, if there is a loss."""

    loss: Loss | None = None
    is_down = False
    """New connections end immediately."""

    @override
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            writer.close()
        else:
            await super()._accept(reader, writer)

    @override
    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.loss is not None and self.loss.value in data:
                    self.loss = None
                    break
                writer.write(data)
        writer.close()


def through(port: int, url: str) -> str:
    """Return the *url* of a database, through the network that listens on *port*."""
    name = url.partition("?")[0].rpartition("/")[2]
    return f"postgresql://postgres@127.0.0.1:{port}/{name}?sslmode=disable"
