"""The application under a server that does not start it, or made it before a fork."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from wats.errors import ForkedApplication, StoreInUse
from wats.process.server import bind, url_of
from wats.service import WatsApp, create_wats_service_app
from wats.store.open import open_store
from wats.telemetry import Board
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, sign

AUTHORIZED = {"authorization": f"Bearer {BEARER_TOKEN}"}


def make_app(
    log: list[Mapping[str, object]], url: str = "sqlite:///:memory:", **shared: Any
) -> WatsApp:
    return create_wats_service_app(
        profile=example_profile(),
        secrets=example_secrets(),
        persistence=open_store(url),
        log=log.append,
        **shared,
    )


@asynccontextmanager
async def served_without_lifespan(app: WatsApp) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve *app* as `uvicorn --lifespan off` does."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    async with aiohttp.ClientSession(url_of(listener)) as session:
        while not server.started:
            await asyncio.sleep(0.01)
        yield session
    server.should_exit = True
    await running


async def code_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


async def test_an_application_that_is_not_started_is_not_ready_and_says_so_once() -> None:
    log: list[Mapping[str, object]] = []
    body = b'{"object":"whatsapp_business_account","entry":[]}'
    async with served_without_lifespan(make_app(log)) as client:
        answers = [
            await code_of(await client.get("/readyz")),
            await code_of(
                await client.post(
                    "/webhooks/whatsapp", data=body, headers={"x-hub-signature-256": sign(body)}
                )
            ),
            await code_of(
                await client.post(
                    "/api/messages/text", json={"to": "15550001234"}, headers=AUTHORIZED
                )
            ),
        ]
        alive = (await client.get("/healthz")).status
        unauthenticated = await code_of(await client.get("/api/messages"))

    assert answers == [(503, "not_started")] * 3
    assert (alive, unauthenticated) == (200, (401, "unauthorized"))
    (line,) = log
    assert line["event"] == "wats.application.unstarted"
    assert "app.start()" in str(line["hint"])


async def test_the_document_has_each_status_of_an_application_that_is_not_started() -> None:
    async with served_without_lifespan(make_app([])) as client:
        document = await (await client.get("/openapi.json", headers=AUTHORIZED)).json()
        unexpected = [
            (method, path, answer.status)
            for path, item in document["paths"].items()
            for method in item.keys() - {"parameters"}
            for answer in [
                await client.request(method, re.sub("{.*?}", "1", path), headers=AUTHORIZED)
            ]
            if str(answer.status) not in item[method]["responses"]
        ]

    assert unexpected == []


async def test_an_application_that_was_started_by_hand_is_ready() -> None:
    app = make_app([])
    await app.start()
    async with served_without_lifespan(app) as client:
        status = (await client.get("/readyz")).status
    await app.stop()

    assert status == 200


def test_an_application_that_was_made_before_a_fork_refuses_to_start() -> None:
    app = make_app([])
    if (child := os.fork()) == 0:
        try:
            asyncio.run(app.start())
        except ForkedApplication:
            os._exit(7)
        os._exit(0)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.parametrize("name", ["wats.db", "link.db"])
async def test_a_second_service_on_one_sqlite_database_refuses_to_start(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "link.db").symlink_to("wats.db")
    first, second = (make_app([], f"sqlite:///{tmp_path}/{each}") for each in ("wats.db", name))
    await first.start()
    with pytest.raises(StoreInUse, match=r"wats serve --workers.*PostgreSQL"):
        await second.start()
    await first.stop()

    await second.start()
    await second.stop()


async def test_services_that_share_their_counters_may_use_one_database(tmp_path: Path) -> None:
    url, board = f"sqlite:///{tmp_path}/wats.db", Board(2)
    apps = [make_app([], url, board=board, row=row) for row in range(2)]

    for app in apps:
        await app.start()
    for app in apps:
        await app.stop()


@pytest.mark.parametrize("starts", [1, 2])
async def test_an_application_can_be_stopped_and_started_again(starts: int) -> None:
    app = make_app([])

    for _ in range(starts):
        await app.start()
        await app.stop()
