import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from wats.errors import StoreUnavailable
from wats.graph.client import GraphClient
from wats.graph.errors import ERROR_NAMES
from wats.outbound.accept import Acceptor
from wats.outbound.transmit import Transmitter
from wats.outbound.window import WindowGuard
from wats.privacy import Secret
from wats.store.sqlite import SQLiteStore
from wats.telemetry import UNMATCHED, Adapter, RouteLabel, Telemetry
from wats.testing import CapturingTelemetrySink, FakeClock

Make = Callable[..., Acceptor]

ACCEPTED = {
    "messaging_product": "whatsapp",
    "contacts": [{"input": "+15551230000", "wa_id": "15551230000"}],
    "messages": [{"id": "wamid.A"}],
}


async def fail(*_: Any, **__: Any) -> None:
    raise StoreUnavailable


class FakeGraph:
    """Sends the configured response to every request, and keeps the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.status = 200
        self.body: Any = ACCEPTED
        self.cuts = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((f"{request.method} {request.path}", await request.read()))
        await self.may_answer.wait()
        if self.cuts and request.transport is not None:
            request.transport.close()
        if isinstance(self.body, str):
            return web.Response(status=self.status, text=self.body, content_type="text/html")
        return web.json_response(self.body, status=self.status)


@pytest.fixture
async def fake_graph() -> FakeGraph:
    return FakeGraph()


@pytest.fixture
async def graph_url(fake_graph: FakeGraph) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake_graph.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    fake_graph.may_answer.set()
    await runner.cleanup()


@pytest.fixture
def sink() -> CapturingTelemetrySink:
    return CapturingTelemetrySink()


@pytest.fixture
def telemetry(sink: CapturingTelemetrySink) -> Telemetry:
    return Telemetry(
        routes=[RouteLabel(UNMATCHED)],
        adapter=Adapter.SQLITE,
        sink=sink,
        error_names=ERROR_NAMES,
    )


@pytest.fixture
async def graph(graph_url: str, telemetry: Telemetry) -> AsyncIterator[GraphClient]:
    client = GraphClient(
        base_url=graph_url, version="v25.0", access_token=Secret("token"), telemetry=telemetry.graph
    )
    await client.start()
    yield client
    await client.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "wats.db"


@pytest.fixture
async def store(database: Path, clock: FakeClock) -> AsyncIterator[SQLiteStore]:
    opened = SQLiteStore(str(database), now=clock)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log() -> list[Mapping[str, object]]:
    return []


@pytest.fixture
def make(
    graph: GraphClient,
    telemetry: Telemetry,
    store: SQLiteStore,
    clock: FakeClock,
    log: list[Mapping[str, object]],
) -> Make:
    def acceptor(guard: WindowGuard | None = None, **changes: Any) -> Acceptor:
        parts = {
            "transmitter": Transmitter(
                graph, telemetry=telemetry, log=log.append, guard=guard, now=clock
            ),
            "store": store,
            "telemetry": telemetry,
            "phone_number_id": "15551234567",
            "log": log.append,
            **changes,
        }
        return Acceptor(**parts)

    return acceptor


@pytest.fixture
async def broken(database: Path, clock: FakeClock) -> AsyncIterator[Callable[[str], Any]]:
    opened: list[SQLiteStore] = []

    async def at(question: str) -> SQLiteStore:
        failing = type("BrokenStore", (SQLiteStore,), {question: fail})(str(database), now=clock)
        await failing.open()
        opened.append(failing)
        return failing

    yield at
    for each in opened:
        await each.close()
