"""The effects of a power cut, simulated on a real process again and again."""

import asyncio
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.settings import HOOK, NOBODY, outstanding
from wats.clock import utc_now
from wats.inbound import updates
from wats.inbound.envelope import parse
from wats.inbound.normalize import normalize
from wats.testing import sign

pytestmark = pytest.mark.long

KILLS = 14
CONNECTIONS = 8
QUICK, STUBBORN = "journal_handlers:quick", "journal_handlers:stubborn"
PATIENT, CAREFUL = "journal_handlers:patient", "journal_handlers:careful"

HANDLERS = """
import asyncio
import os
import pathlib

FOLDER = pathlib.Path(os.environ["JOURNAL"])
FILE = os.open(FOLDER / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(handler, step, update):
    os.write(FILE, f"journal_handlers:{handler} {step} {update.key}\\n".encode())


async def quick(update):
    note("quick", "started", update)
    note("quick", "completed", update)


async def stubborn(update):
    note("stubborn", "started", update)
    if update.key[0] == "0" and not (FOLDER / update.key).exists():
        (FOLDER / update.key).touch()
        raise RuntimeError
    await asyncio.sleep(0)
    note("stubborn", "completed", update)


async def patient(update):
    note("patient", "started", update)
    while not (FOLDER / "go").exists():
        await asyncio.sleep(0.005)
    note("patient", "completed", update)


async def careful(update):
    note("careful", "started", update)
    await asyncio.sleep(0.001)
    note("careful", "completed", update)
"""


class Step(NamedTuple):
    """One line of the journal."""

    handler: str
    step: str
    key: str


@dataclass
class Journal:
    """The lines that the handlers of all processes wrote, in order."""

    path: Path

    def steps(self, start: int = 0) -> list[Step]:
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()[start:]
        return [Step(*line.split(" ")) for line in lines]

    def completed(self, handler: str) -> Counter[str]:
        return Counter(
            step.key
            for step in self.steps()
            if step.handler == handler and step.step == "completed"
        )


@dataclass
class Load:
    """Customers that write through many connections, to one process after the other."""

    session: aiohttp.ClientSession
    chance: random.Random
    numbers: Iterator[int] = field(default_factory=count)
    acknowledged: set[str] = field(default_factory=set)
    unanswered: list[bytes] = field(default_factory=list)
    posts: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, url: str) -> None:
        """Deliver webhooks until the process is gone; unacknowledged ones are sent again later."""
        while True:
            body = self.unanswered.pop() if self.unanswered else some_of(self.numbers, self.chance)
            headers = {"x-hub-signature-256": sign(body)}
            try:
                async with self.session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
            except aiohttp.ClientError:
                self.unanswered.append(body)
                return
            assert answer.status == 200
            self.acknowledged |= keys_of(body)
            self.posts += 1
            self.news.set()

    async def reach(self, posts: int) -> None:
        while self.posts < posts:
            self.news.clear()
            await self.news.wait()


def some_of(numbers: Iterator[int], chance: random.Random) -> bytes:
    """Return a few new messages, and now and then one that was sent before."""
    some = [next(numbers) for _ in range(chance.randint(1, 4))]
    if chance.random() < 0.2:
        some.append(chance.randint(0, some[0]))
    return envelope_of(some)


def envelope_of(numbers: Iterable[int]) -> bytes:
    messages = []
    for number in numbers:
        customer = f"1555{number % 200:07d}"
        messages.append(
            {
                "from": customer,
                "id": f"wamid.KILL{number}",
                "timestamp": str(1_790_000_000 + number),
                "type": "text",
                "text": {"body": f"Message {number}"},
            }
        )
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": "15551234567"},
        "messages": messages,
    }
    entry = {
        "id": "123456789012345",
        "time": 1_790_000_000,
        "changes": [{"field": "messages", "value": value}],
    }
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def keys_of(body: bytes) -> set[str]:
    return {update.key for update in normalize(parse(body), received_at=utc_now()).updates}


@cache
def key_of(wa_message_id: str) -> str:
    (key,) = keys_of(envelope_of([int(wa_message_id.removeprefix("wamid.KILL"))]))
    return key


def fails_once(key: str) -> bool:
    """Return whether the stubborn handler fails on its first attempt at *key*."""
    return key.startswith("0")


def settled_in(database: Path, folder: Path, handlers: Sequence[str]) -> dict[str, set[str]]:
    """Return the keys of the updates that each handler has settled, by the file of a dead process.

    Reads a copy: opening the file itself would recover it before the next process does.
    """
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            shutil.copy(f"{database}{suffix}", f"{folder / 'copy.db'}{suffix}")
    with closing(sqlite3.connect(folder / "copy.db")) as connection:
        settled = {
            handler: {
                key_of(wa_message_id)
                for (wa_message_id,) in connection.execute(
                    "SELECT wa_message_id FROM wats_messages"
                )
            }
            - {
                updates.decode(payload).key
                for (payload,) in connection.execute(
                    "SELECT payload FROM wats_deliveries WHERE consumer = ?", (handler,)
                )
            }
            for handler in handlers
        }
    for copy in folder.glob("copy.db*"):
        copy.unlink()
    return settled


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    (tmp_path / "journal_handlers.py").write_text(HANDLERS)
    (tmp_path / "handled").mkdir()
    return Journal(tmp_path / "handled" / "journal")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Return the config of a service with the handlers of the journal."""
    return {
        "environ": {"JOURNAL": str(tmp_path / "handled")},
        "persistence": {"url": f"sqlite:///{tmp_path}/wats.db"},
        "handlers": [QUICK, STUBBORN],
        # Shorter than in production, since the leases of a dead process last until they expire.
        "inbox": {"leaseSeconds": 1, "maxAttempts": 1000},
    }


@pytest.mark.parametrize(
    ("handlers", "seed"), [((QUICK, STUBBORN), 20261122), ((STUBBORN,), 20261123)]
)
async def test_a_kill_loses_no_acknowledged_update_and_repeats_no_settled_one(
    serve, journal, settings, tmp_path, until, handlers, seed
) -> None:
    settings["handlers"] = list(handlers)
    database = tmp_path / "wats.db"
    kills: list[tuple[int, dict[str, set[str]]]] = []

    async with aiohttp.ClientSession() as session:
        load = Load(session, random.Random(seed))
        for _ in range(KILLS):
            async with serve(NOBODY, **settings) as process:
                url = f"{process.url}/webhooks/whatsapp"
                posting = [asyncio.create_task(load.post(url)) for _ in range(CONNECTIONS)]
                await load.reach(load.posts + load.chance.randint(0, 80))
                await asyncio.sleep(load.chance.uniform(0, 0.02))
                await process.kill()
                await asyncio.gather(*posting)
            kills.append((len(journal.steps()), settled_in(database, tmp_path, handlers)))
    async with serve(NOBODY, **settings) as process:
        await until(lambda: outstanding(database) == 0, 60)
        assert (await process.terminate())[0] == 0

    assert len(load.acknowledged) > KILLS
    for handler in handlers:
        assert load.acknowledged <= set(journal.completed(handler))
    for position, settled in kills:
        later = journal.steps(position)
        for handler in handlers:
            assert not {step.key for step in later if step.handler == handler} & settled[handler]
    assert len(kills[-1][1][STUBBORN]) > 0


async def test_a_settlement_is_written_while_another_handler_of_the_update_still_runs(
    serve, journal, settings, tmp_path, until
) -> None:
    settings["handlers"] = [QUICK, PATIENT]
    body = envelope_of(range(5))
    keys = keys_of(body)
    database = tmp_path / "wats.db"
    async with serve(NOBODY, **settings) as process, aiohttp.ClientSession() as session:
        await post(session, process.url, body)
        await until(lambda: set(journal.completed(QUICK)) == keys)
        await until(lambda: outstanding(database) == len(keys))
        await process.kill()

    (tmp_path / "handled" / "go").touch()
    async with serve(NOBODY, **settings) as process:
        await until(lambda: set(journal.completed(PATIENT)) == keys)
        await process.terminate()

    started = Counter(step.key for step in journal.steps() if step[:2] == (QUICK, "started"))
    assert started == dict.fromkeys(keys, 1)


async def test_two_workers_on_one_file_handle_a_conversation_in_order_one_by_one(
    serve, journal, settings, tmp_path, until
) -> None:
    settings |= {"handlers": [CAREFUL], "inbox": {"leaseSeconds": 30}}
    bodies = [envelope_of([200 * number]) for number in range(150)]  # of one customer
    order = [key for body in bodies for key in keys_of(body)]

    async with (
        serve(NOBODY, options=("--workers", "2"), **settings) as process,
        aiohttp.ClientSession() as one,
        aiohttp.ClientSession() as other,  # its connection is accepted by the other worker
    ):
        for number, body in enumerate(bodies):
            await post((one, other)[number % 2], process.url, body)
        await until(lambda: outstanding(tmp_path / "wats.db") == 0, 60)
        assert (await process.terminate())[0] == 0

    assert [step[1:] for step in journal.steps()] == [
        (step, key) for key in order for step in ("started", "completed")
    ]


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    headers = {"x-hub-signature-256": sign(body)}
    async with session.post(url + HOOK, data=body, headers=headers) as response:
        assert response.status == 200


async def test_a_handler_that_is_done_is_not_called_again_while_another_one_retries(
    serve, journal, settings, tmp_path, until
) -> None:
    body = envelope_of(range(64))
    keys = keys_of(body)
    assert any(map(fails_once, keys))
    async with serve(NOBODY, **settings) as process, aiohttp.ClientSession() as session:
        url = f"{process.url}/webhooks/whatsapp"
        async with session.post(url, data=body, headers={"x-hub-signature-256": sign(body)}) as a:
            assert a.status == 200
        await until(lambda: set(journal.completed(STUBBORN)) == keys)
        await process.terminate()

    started = Counter((step.handler, step.key) for step in journal.steps() if step.step[0] == "s")
    assert {key: started[QUICK, key] for key in keys} == dict.fromkeys(keys, 1)
    assert {key: started[STUBBORN, key] for key in keys} == {
        key: 2 if fails_once(key) else 1 for key in keys
    }


@pytest.mark.parametrize("has_store", [True, False], ids=["store", "no-store"])
async def test_sigterm_lets_running_handlers_finish(
    serve, journal, settings, tmp_path, until, has_store
) -> None:
    settings["handlers"] = ["journal_handlers:patient"]
    if not has_store:
        settings["persistence"] = "none"
    body = envelope_of([1])

    async with serve(NOBODY, **settings) as process, aiohttp.ClientSession() as session:
        url = f"{process.url}/webhooks/whatsapp"
        headers = {"x-hub-signature-256": sign(body)}
        asked = asyncio.create_task(session.post(url, data=body, headers=headers))
        await until(journal.steps)
        ending = asyncio.create_task(process.terminate())
        await until_refused(process.url)
        # Without a store the request itself waits for the handler.
        assert asked.done() is has_store
        (tmp_path / "handled" / "go").touch()
        async with await asked as answer:
            assert answer.status == 200
        code, _ = await ending

    assert code == 0
    assert set(journal.completed("journal_handlers:patient")) == keys_of(body)
    assert process.errors.read_text() == ""


async def until_refused(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.01)
