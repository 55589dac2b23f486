"""The application object under other people's roofs."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from wats.service import create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, serving, sign

NOT_FOUND = b'{"error":{"code":"not_found","message":"Route not found."}}'
ENVELOPE = (
    b'{"object":"whatsapp_business_account","entry":[{"id":"1","time":1790000000,'
    b'"changes":[{"field":"account_update","value":{"event":"X"}}]}]}'
)


def in_starlette(app: Any) -> Any:
    """Return a Starlette application that has *app* below `/gateway`, and starts and stops it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await app.start()
        yield
        await app.stop()

    async def home(_: Any) -> PlainTextResponse:
        return PlainTextResponse("home")

    routes = [Route("/", home), Mount("/gateway", app=app)]
    return Starlette(routes=routes, lifespan=lifespan)


def in_fastapi(app: Any) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await app.start()
        yield
        await app.stop()

    host = FastAPI(lifespan=lifespan)

    @host.get("/")
    async def home() -> str:
        return "home"

    host.mount("/gateway", app)
    return host


@asynccontextmanager
async def under_uvicorn(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serve *app* with a uvicorn in its default configuration."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, **options)
        server = uvicorn.Server(config)
        # Its signal handlers belong to a process of its own.
        running = asyncio.create_task(server._serve(sockets=[listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


HOSTS = {
    "starlette": lambda app: serving(in_starlette(app)),
    "fastapi": lambda app: serving(in_fastapi(app)),
    "uvicorn-httptools": lambda app: under_uvicorn(app, http="httptools"),
    "uvicorn-h11": lambda app: under_uvicorn(app, http="h11"),
    "uvicorn-root-path": lambda app: under_uvicorn(app, root_path="/gateway"),
}
PREFIXES = {"starlette": "/gateway", "fastapi": "/gateway"}


@pytest.fixture(params=HOSTS)
async def mounted(request, tmp_path) -> AsyncIterator[tuple[str, str]]:
    """Return where a host is, and where in it our application."""
    store = SQLiteStore(str(tmp_path / "wats.db"))
    app = create_wats_service_app(
        profile=example_profile(), secrets=example_secrets(), persistence=store
    )
    async with HOSTS[request.param](app) as url:
        yield url, url + PREFIXES.get(request.param, "")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(
    http: aiohttp.ClientSession, method: str, url: str, token: str | None = None, **more: Any
) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with http.request(
        method, url, headers={**headers, **more.pop("headers", {})}, **more
    ) as answer:
        return answer.status, await answer.read()


async def test_every_route_is_where_it_was_mounted(mounted, http) -> None:
    _, ours = mounted

    assert await ask(http, "GET", f"{ours}/healthz") == (200, b'{"ok":true,"service":"wats"}')
    assert (await ask(http, "GET", f"{ours}/readyz"))[0] == 200
    assert (await ask(http, "GET", f"{ours}/status", BEARER_TOKEN))[0] == 200
    assert (await ask(http, "GET", f"{ours}/debug/diagnostics", BEARER_TOKEN))[0] == 200
    assert (await ask(http, "GET", f"{ours}/openapi.json"))[0] == 200
    assert (await ask(http, "GET", f"{ours}/api/messages"))[0] == 401
    listed = await ask(http, "GET", f"{ours}/api/messages", BEARER_TOKEN)
    assert listed == (200, b'{"items":[],"nextCursor":null}')
    assert (await ask(http, "GET", f"{ours}/api/messages/wamid.A", BEARER_TOKEN))[0] == 404
    window = f"{ours}/api/conversations/15550001234/window"
    assert (await ask(http, "GET", window, BEARER_TOKEN))[0] == 200
    signed = {"x-hub-signature-256": sign(ENVELOPE)}
    taken = await ask(http, "POST", f"{ours}/webhooks/whatsapp", data=ENVELOPE, headers=signed)
    assert taken == (200, b'{"status":"ok","received":1,"dispatched":1,"skipped":0}')


async def test_hidden_endpoints_stay_hidden_under_a_prefix(mounted, http) -> None:
    _, ours = mounted

    for path in ("/metrics", "/status", "/debug/diagnostics", "/nothing", "/gateway/healthz2"):
        assert await ask(http, "GET", ours + path) == (404, NOT_FOUND)


async def test_metrics_have_the_templates_of_the_routes_and_not_the_mount(mounted, http) -> None:
    _, ours = mounted
    for path in ("/healthz", "/nothing", "/api/messages/wamid.A", "/x/../healthz"):
        await ask(http, "GET", ours + path, BEARER_TOKEN)

    _, exposition = await ask(http, "GET", f"{ours}/metrics", BEARER_TOKEN)

    counted = dict(
        line.rsplit(" ", 1)
        for line in exposition.decode().splitlines()
        if line.startswith("http_requests_total{") and not line.endswith(" 0")
    )
    assert counted == {
        'http_requests_total{method="GET",route="/healthz",status_class="2xx"}': "2",
        'http_requests_total{method="GET",route="/api/messages/:id",status_class="4xx"}': "1",
        'http_requests_total{method="GET",route="unmatched",status_class="4xx"}': "1",
    }
    assert b"gateway" not in exposition


async def test_the_host_keeps_its_own_routes(mounted, http) -> None:
    host, ours = mounted
    status, body = await ask(http, "GET", f"{host}/")

    assert (status, body.strip(b'"')) == ((200, b"home") if host != ours else (404, NOT_FOUND))
