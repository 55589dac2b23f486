"""docs/handlers.md: the example that passes a trace on, and the command of a foreign server.

The tests of the other examples are in `tests/test_docs.py`.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from tests.pages import PAGES, WEBHOOK, lay_out, load, spans
from tests.walk import GATEWAY, Reader, request
from wats import create_wats_service_app
from wats.testing import (
    CapturingTelemetrySink,
    example_profile,
    example_secrets,
    serving,
    sign,
)

Received = asyncio.Queue[tuple[str, str | None]]


@pytest.fixture
async def received(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Received]:
    """The key and the traceparent of each request to the service that the example calls."""
    received: Received = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        document = await request.json()
        received.put_nowait((document["key"], request.headers.get("traceparent")))
        return web.Response()

    application = web.Application()
    application.add_routes([web.post("/orders", take)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("ORDERS_URL", f"http://127.0.0.1:{runner.addresses[0][1]}/orders")
    yield received
    await runner.cleanup()


@pytest.mark.parametrize("sink", [None, CapturingTelemetrySink()], ids=["no sink", "traces"])
async def test_a_handler_passes_its_trace_on_as_it_is_shown(
    tmp_path: Path, received: Received, sink: CapturingTelemetrySink | None
) -> None:
    lay_out(tmp_path)
    app = create_wats_service_app(
        profile=example_profile(),
        secrets=example_secrets(),
        telemetry_sink=sink,
        handlers=[load(tmp_path / "tracing.py").notify],
    )

    async with serving(app) as url, ClientSession(url) as session:
        headers = {"x-hub-signature-256": sign(WEBHOOK)}
        async with session.post("/webhooks/whatsapp", data=WEBHOOK, headers=headers) as answer:
            assert answer.status == 200
        async with asyncio.timeout(60):
            key, traceparent = await received.get()

    assert len(key) == 32
    spans = [] if sink is None else [each.span for each in sink.spans]
    passed_on = {each.context.traceparent for each in spans if each is not None}
    assert traceparent in (passed_on or {None})


@pytest.mark.long
@pytest.mark.parametrize("page", ["README.md", "docs/handlers.md"])
def test_the_application_runs_under_the_server_that_is_named(tmp_path: Path, page: str) -> None:
    (command,) = (each for each in spans(PAGES[page]) if "uvicorn gateway:app" in each)
    program = command.removeprefix(".venv/bin/")
    with Reader(tmp_path) as reader:
        lay_out(reader.folder)
        if "--port" not in program:
            program += f" --port {GATEWAY}"

        reader.start(f".venv/bin/{program}")

        assert request(f"{reader.url}/readyz")[0] == 200


@pytest.mark.long
def test_the_tests_that_are_shown_need_pytest_only(tmp_path: Path) -> None:
    lay_out(tmp_path)
    files = ("test_shop.py", "test_round_trip.py")

    for command in (
        ["mypy", "--strict", "--cache-dir", "cache", *files],
        ["pytest", "-q", "-p", "no:anyio", "-p", "no:xdist", "-p", "no:randomly", *files],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
