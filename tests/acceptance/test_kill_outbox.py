"""A process that dies by SIGKILL at each step of a send from the outbox, and its successor."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
from aiohttp import web

pytestmark = pytest.mark.long  # it starts many processes

PROGRAM = """
import asyncio
import json
import os
import signal
import sys

from wats.service import create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import example_profile, example_secrets

DATABASE, GRAPH, STEP = sys.argv[1:]
MESSAGE = {"to": "15550001234", "type": "text", "text": {"body": "Hello"}}


class Mortal(SQLiteStore):
    async def enqueue(self, send, **options):
        found = await super().enqueue(send, **options)
        die_at("stored")
        return found

    async def claim(self, consumer, limit, **options):
        claimed = await super().claim(consumer, limit, **options)
        if claimed.deliveries:
            die_at("claimed")
        return claimed

    async def renew(self, deliveries, **options):
        lost = await super().renew(deliveries, **options)
        die_at("begun")
        return lost

    async def settle_sends(self, results):
        die_at("answered")
        settled = await super().settle_sends(results)
        die_at("settled")
        return settled


def die_at(step):
    if step == STEP:
        os.kill(os.getpid(), signal.SIGKILL)


async def main():
    store = Mortal(DATABASE)
    app = create_wats_service_app(
        profile=example_profile(graph_url=GRAPH),
        secrets=example_secrets(),
        persistence=store,
        log=lambda _: None,
    )
    await app.start()
    await store.pause("outbox", is_paused=STEP == "stored")  # so that it is certainly not claimed
    sent = await app.send(MESSAGE, idempotency_key="key", later=True)
    while True:
        view = await store.get_send(int(sent.outbox_id))
        if view.state in {"sent", "failed", "unknown"}:
            break
        await asyncio.sleep(0.01)
    print(json.dumps({"state": view.state, "id": sent.outbox_id, "again": sent.is_replayed}))
    await app.stop()


asyncio.run(main())
"""


class Meta(NamedTuple):
    """A fake Graph that counts messages, and can kill the process that sends."""

    url: str
    sent: list[Any]
    victim: list[int]


@pytest.fixture
async def meta() -> AsyncIterator[Meta]:
    sent: list[Any] = []
    victim: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append(await request.json())
        for process in victim:
            os.kill(process, signal.SIGKILL)
        return web.json_response({"messages": [{"id": f"wamid.{len(sent)}"}]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Meta(f"http://127.0.0.1:{runner.addresses[0][1]}", sent, victim)
    await runner.cleanup()


async def run(folder: Path, meta: Meta, step: str) -> tuple[int, Any]:
    """Run the program, which dies at *step*; return its exit status and its output."""
    (folder / "program.py").write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "program.py", str(folder / "wats.db"), meta.url, step),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    if step == "asked":
        meta.victim.append(process.pid)
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        meta.victim.clear()
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, json.loads(out) if out else None


def end_leases(folder: Path) -> None:
    """Let so much time pass that all leases have expired."""
    with apsw.Connection(str(folder / "wats.db")) as connection:
        connection.execute("UPDATE wats_deliveries SET due_at = 0 WHERE lease IS NOT NULL")


@pytest.mark.parametrize(
    ("step", "state", "messages"),
    [
        ("stored", "sent", 1),
        ("claimed", "sent", 1),
        ("begun", "unknown", 0),
        ("asked", "unknown", 1),
        ("answered", "unknown", 1),
        ("settled", "sent", 1),
    ],
)
async def test_a_message_is_sent_at_most_once_whenever_its_process_dies(
    tmp_path: Path, meta: Meta, step: str, state: str, messages: int
) -> None:
    status, _ = await run(tmp_path, meta, step)
    assert status == -signal.SIGKILL
    end_leases(tmp_path)

    status, seen = await run(tmp_path, meta, "never")

    assert (status, seen["state"], seen["again"]) == (0, state, True)
    assert len(meta.sent) == messages
    # The next process does not send it either.
    assert (await run(tmp_path, meta, "never"))[1] == seen
    assert len(meta.sent) == messages
