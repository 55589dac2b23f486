import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wats.process.http.admission import Admission, ConnectionLimits
from wats.process.server import bind
from wats.process.shared_listener import SLACK, Share, SharedListener, shares_of


class Conversation(asyncio.Protocol):
    """A connection that responds with the number of its process."""

    def __init__(self, process: int, open_ones: set[object]) -> None:
        self._process = process
        self._open = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._open.add(self)
        transport.write(bytes([self._process]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)


class Listener(socket.socket):
    """A listening socket of one process, which can fail and which records each accept."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(
            listener.family, listener.type, listener.proto, fileno=os.dup(listener.fileno())
        )
        self.failures: list[int] = []
        self.asked = asyncio.Event()

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked.set()
        if self.failures:
            raise OSError(self.failures.pop(), "")
        return super().accept()


class Process:
    """Represents one of the processes; here all run in one process."""

    def __init__(self, number: int, share: Share, listener: socket.socket, **pauses: float) -> None:
        self.connections: set[object] = set()
        self.share = share
        self.listener = Listener(listener)
        self.shared = SharedListener(
            self.listener,
            share,
            connections=self.connections,
            make_protocol=lambda: Conversation(number, self.connections),
            admission=Admission((), ConnectionLimits()),
            **pauses,
        )


class Clients:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> int:
        """Connect, and return the number of the process that accepted."""
        reader, writer = await asyncio.open_connection(*self._address)
        self._writers.append(writer)
        return (await reader.readexactly(1))[0]

    async def leave(self) -> None:
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0) as listening:
        yield listening


@pytest.fixture
async def clients(listener: socket.socket) -> AsyncIterator[Clients]:
    some = Clients(listener.getsockname())
    yield some
    await some.leave()


@asynccontextmanager
async def processes(
    listener: socket.socket, count: int, **pauses: float
) -> AsyncIterator[Sequence[Process]]:
    all_of_them = [
        Process(number, share, listener, **pauses) for number, share in enumerate(shares_of(count))
    ]
    for process in all_of_them:
        process.shared.open()
    yield all_of_them
    for process in all_of_them:
        await process.shared.close()
        process.listener.close()


@pytest.mark.parametrize("at_once", [1, 64])
async def test_each_process_gets_its_share(
    listener: socket.socket, clients: Clients, at_once: int
) -> None:
    async with processes(listener, 4) as all_of_them:
        for _ in range(64 // at_once):
            await asyncio.gather(*(clients.connect() for _ in range(at_once)))
        held = [len(process.connections) for process in all_of_them]

    assert sum(held) == 64
    assert max(held) - min(held) <= SLACK


async def test_a_process_that_does_not_accept_delays_others_briefly(
    listener: socket.socket, clients: Clients
) -> None:
    async with processes(listener, 2) as (busy, _), asyncio.timeout(60):
        await busy.shared.close()
        busy.share.publish(0)  # it reports no connections, and does not look

        assert {await clients.connect() for _ in range(50)} == {1}


async def test_a_process_that_has_left_is_not_waited_for(
    listener: socket.socket, clients: Clients
) -> None:
    async with processes(listener, 2) as (leaving, staying):
        for _ in range(10):
            await clients.connect()
        await leaving.shared.close()

        assert staying.share.least() == len(staying.connections)
        assert await clients.connect() == 1


async def test_connections_accepted_before_the_end_are_counted(
    listener: socket.socket, clients: Clients
) -> None:
    async with processes(listener, 1) as (only,):
        connecting = asyncio.create_task(clients.connect())
        await only.listener.asked.wait()
        await only.shared.close()

        assert len(only.connections) == 1
        assert await connecting == 0


async def test_a_process_that_was_waiting_at_the_end_takes_no_more(
    listener: socket.socket, clients: Clients
) -> None:
    async with processes(listener, 2, moment_seconds=1) as (busy, idle):
        await idle.shared.close()
        idle.share.publish(-SLACK)
        connecting = asyncio.create_task(clients.connect())
        await asyncio.sleep(0.05)
        await busy.shared.close()
        was_asked = busy.listener.asked.is_set()  # on a machine that was slower than the moment
        await asyncio.sleep(1.1)

        assert busy.listener.asked.is_set() == was_asked
        idle.shared.open()
        assert await connecting == (0 if was_asked else 1)


@pytest.mark.parametrize("failure", [errno.EMFILE, errno.ECONNABORTED])
async def test_a_listener_that_fails_is_tried_again(
    listener: socket.socket, clients: Clients, failure: int
) -> None:
    async with processes(listener, 1, retry_seconds=0.05) as (only,), asyncio.timeout(60):
        only.listener.failures = [failure]

        assert await clients.connect() == 0
        assert only.listener.failures == []


async def test_a_client_that_leaves_before_it_is_served_is_forgotten(
    listener: socket.socket, clients: Clients
) -> None:
    async with processes(listener, 1) as (only,):
        address = listener.getsockname()
        with socket.create_connection(address) as leaving:
            # No linger: it is reset, and not only closed.
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await only.listener.asked.wait()
        while only.connections:
            await asyncio.sleep(0.01)

        assert await clients.connect() == 0
