"""Erased data is in no file of the database, while the service runs."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import aiohttp
import pytest
from apsw import Connection

from tests.settings import HOOK, NUMBER_ID, SECRETS, WABA_ID, config_of
from wats.config import InboxConfig
from wats.inbound.updates import Update
from wats.service import create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import example_profile, example_secrets, serving, sign

MARK = b"ERASE-ME"
NAME = b"Erasable Person"
DISCARD = """
PRAGMA secure_delete = ON;
BEGIN IMMEDIATE;
DELETE FROM wats_dead_deliveries;
COMMIT
"""
_numbers = count(1)


def webhook(text: str) -> bytes:
    number = next(_numbers)
    sender = str(15550000000 + number)
    message = {
        "from": sender,
        "id": f"wamid.{number}",
        "timestamp": "1790000000",
        "type": "text",
        "text": {"body": f"{text} {number} {'q' * (number % 5000)}"},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"phone_number_id": NUMBER_ID},
        "contacts": [{"profile": {"name": NAME.decode()}, "wa_id": sender}],
        "messages": [message],
    }
    entry = {"id": WABA_ID, "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def found_in(database: Path) -> dict[str, int]:
    """Return how often the texts and the name are in each file of *database*."""
    files = sorted(database.parent.glob(f"{database.name}*"))
    return {
        path.name: copies
        for path in files
        if (copies := path.read_bytes().count(MARK) + path.read_bytes().count(NAME))
    }


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    signed = {"x-hub-signature-256": sign(body)}
    async with session.post(url + HOOK, data=body, headers=signed) as answer:
        assert answer.status == 200


async def eventually(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.05)


def app_on(
    database: Path,
    handler: Callable[[Update], Awaitable[None]],
):
    return create_wats_service_app(
        profile=example_profile(inbox=InboxConfig(max_attempts=1)),
        secrets=example_secrets(),
        persistence=SQLiteStore(str(database)),
        handlers=[handler],
        log=lambda _: None,
        checkpoint_seconds=0.2,
    )


async def handle(update: Update) -> None:
    pass


async def fail(update: Update) -> None:
    raise ValueError


async def test_content_of_handled_updates_is_erased_from_every_file_of_a_running_service(
    tmp_path: Path,
) -> None:
    database = tmp_path / "wats.db"
    app = app_on(database, handle)

    async with serving(app) as url, aiohttp.ClientSession() as session:
        for _ in range(300):
            await post(session, url, webhook(MARK.decode()))
        await eventually(lambda: found_in(database) == {})


async def test_content_is_erased_while_other_updates_keep_arriving(tmp_path: Path) -> None:
    database = tmp_path / "wats.db"
    app = app_on(database, handle)

    async with serving(app) as url, aiohttp.ClientSession() as session:
        for _ in range(100):
            await post(session, url, webhook(MARK.decode()))

        async def keep_arriving() -> None:
            while True:
                await post(session, url, webhook("another").replace(NAME, b"Other"))

        arriving = [asyncio.create_task(keep_arriving()) for _ in range(4)]
        await eventually(lambda: found_in(database) == {})
        assert not any(task.done() for task in arriving)
        for task in arriving:
            task.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)


async def test_a_discarded_dead_letter_is_erased_from_every_file(tmp_path: Path) -> None:
    database = tmp_path / "wats.db"
    app = app_on(database, fail)

    async with serving(app) as url, aiohttp.ClientSession() as session:
        for _ in range(20):
            await post(session, url, webhook(MARK.decode()))
        connection = Connection(str(database))
        connection.set_busy_timeout(5000)
        dead = "SELECT count(*) FROM wats_dead_deliveries"
        await eventually(lambda: connection.execute(dead).get == 20)
        assert found_in(database)
        connection.execute(DISCARD).fetchall()
        await eventually(lambda: found_in(database) == {})
        connection.close()


async def test_content_is_erased_once_a_reader_that_blocks_the_truncation_ends(
    tmp_path: Path,
) -> None:
    database = tmp_path / "wats.db"
    app = app_on(database, handle)

    async with serving(app) as url, aiohttp.ClientSession() as session:
        reader = Connection(str(database))
        await post(session, url, webhook(MARK.decode()))
        reader.execute("BEGIN; SELECT count(*) FROM wats_inbox")
        await post(session, url, webhook(MARK.decode()))
        await asyncio.sleep(1)
        await post(session, url, webhook(MARK.decode()))
        assert found_in(database)

        reader.close()

        await eventually(lambda: found_in(database) == {})


@asynccontextmanager
async def served(folder: Path, workers: int) -> AsyncIterator[str]:
    """Run `wats serve` with a handler that returns immediately."""
    (folder / "erasing.py").write_text("async def handle(update):\n    pass\n")
    persistence = {"url": f"sqlite:///{folder}/wats.db"}
    document = config_of(persistence=persistence, handlers=["erasing:handle"])
    (folder / "wats.config.json").write_text(json.dumps(document))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "wats", "serve", "--config", "wats.config.json", "--port", "0"),
        *("--workers", str(workers)),
        cwd=folder,
        env={**os.environ, **SECRETS},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
async def test_wats_serve_erases_content_within_a_minute(tmp_path: Path, workers: int) -> None:
    database = tmp_path / "wats.db"

    async with served(tmp_path, workers) as url, aiohttp.ClientSession() as session:
        for _ in range(50):
            await post(session, url, webhook(MARK.decode()))
        await eventually(lambda: found_in(database) == {}, 60)
