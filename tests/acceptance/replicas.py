"""Services that share a database, the customers that write to them, and the verdicts."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.settings import HOOK, NUMBER_ID, WABA_ID
from wats.testing import sign

CUSTOMERS = 16
PATIENCE_SECONDS = 60.0

DEADLINE_SECONDS = 15.0
"""An operation of the store may take 10 seconds, so a response without it is due before this."""

HANDLERS = """
import asyncio
import os

FILE = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(step, update):
    os.write(FILE, f"{step} {os.getpgrp()} {update.raw['id']}\\n".encode())


async def careful(update):
    note("started", update)
    await asyncio.sleep(0.002)
    note("completed", update)
"""


class Step(NamedTuple):
    """One line of the journal: of a handler, or of the test after it killed a replica."""

    step: str
    replica: int
    wa_message_id: str

    @property
    def place(self) -> tuple[int, int]:
        """The customer, and the number of the message among the messages of that customer."""
        _, customer, number = self.wa_message_id.split(".")
        return int(customer), int(number)


@dataclass
class Journal:
    """Records the calls of all handlers and the kills, in their order."""

    path: Path
    settled: list[tuple[int, set[str]]] = field(default_factory=list)

    def steps(self) -> list[Step]:
        lines = self.path.read_text().splitlines()
        return [Step(step, int(pid), id_) for step, pid, id_ in map(str.split, lines)]

    def note_kill(self, replica: int) -> None:
        with self.path.open("a") as file:
            file.write(f"killed {replica} -\n")

    def note_settled(self, wa_message_ids: set[str]) -> None:
        """Note messages that were settled before the next step."""
        self.settled.append((len(self.steps()), wa_message_ids))

    def completed(self) -> set[str]:
        return {each.wa_message_id for each in self.steps() if each.step == "completed"}

    def check(self) -> int:
        """Check the order in each conversation; return how many calls were repeated.

        At any time one update of a conversation is handled, in order of arrival. The last call is
        repeated only if its replica was killed, and if it was not settled before.
        """
        last: dict[int, Step] = {}
        running: set[int] = set()
        killed: set[int] = set()
        repeated = 0
        for each in self.steps():
            if each.step == "killed":
                killed.add(each.replica)
                continue
            customer, number = each.place
            if each.step == "completed":
                running.remove(customer)
                continue
            before = last.get(customer)
            assert customer not in running or (before and before.replica in killed)
            if before is not None and number == before.place[1]:
                assert before.replica in killed
                repeated += 1
            else:
                assert number == (0 if before is None else before.place[1] + 1)
            last[customer] = each
            running.add(customer)
        for position, settled in self.settled:
            later = {step.wa_message_id for step in self.steps()[position:] if step[0] == "started"}
            assert not later & settled
        return repeated


class SlowNetwork:
    """Passes bytes on between replicas and the server, each after some time."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(self._socket)
        for pair in ((reader, ours), (theirs, writer)):
            task = asyncio.create_task(self._pass_on(*pair))
            self._tasks.add(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_seconds)
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Load:
    """Customers that write to any replica; each waits until a message is acknowledged."""

    session: aiohttp.ClientSession
    targets: Callable[[], Sequence[str]]
    chance: random.Random
    pause_seconds: float = 0.02
    acknowledged: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)
    is_over: bool = False

    async def write(self, customer: int) -> None:
        for number in count():
            body = envelope_of(customer, number)
            while not self.is_over:
                status = await self._post(body)
                if status == 200:
                    self.acknowledged.add(f"wamid.{customer}.{number}")
                    break
                await asyncio.sleep(0.05)
            if self.is_over:
                return
            await asyncio.sleep(self.pause_seconds)

    async def _post(self, body: bytes) -> int | None:
        """Deliver *body* to a replica; return the status, if there was a response."""
        urls = self.targets()
        if not urls:
            return None
        with suppress(aiohttp.ClientError):
            status = await post(self.session, self.chance.choice(urls), body)
            self.statuses.add(status)
            return status
        return None


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    headers = {"x-hub-signature-256": sign(body)}
    async with session.post(url + HOOK, data=body, headers=headers) as response:
        await response.read()
        return response.status


async def readiness(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(f"{url}/readyz") as response:
        return response.status


def envelope_of(customer: int, number: int) -> bytes:
    message = {
        "from": f"1555{customer:07d}",
        "id": f"wamid.{customer}.{number}",
        "timestamp": str(1_790_000_000 + number),
        "type": "text",
        "text": {"body": f"Message {number}"},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": NUMBER_ID},
        "messages": [message],
    }
    changes = [{"field": "messages", "value": value}]
    entry = {"id": WABA_ID, "time": 1_790_000_000, "changes": changes}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


class NotStarted(Exception):
    """A service ended before it was ready; the message is what it printed on stderr."""


class Replica:
    """A service that can be killed and started again."""

    def __init__(self, serve: Callable[..., Any], settings: dict[str, Any]) -> None:
        self._serve = serve
        self._settings = settings
        self._running = AsyncExitStack()
        self.process: Any = None

    @property
    def urls(self) -> Sequence[str]:
        return [] if self.process is None else [self.process.url]

    async def start(self) -> None:
        self.process = await self._running.enter_async_context(self._serve(**self._settings))

    async def kill(self, journal: Journal) -> None:
        process, self.process = self.process, None
        await process.kill()
        journal.note_kill(process.pid)

    async def stop(self) -> None:
        """End in an orderly way, as a rolling restart does."""
        process, self.process = self.process, None
        if process is not None:
            assert (await process.terminate())[0] == 0

    async def leave(self) -> None:
        await self._running.aclose()


@asynccontextmanager
async def writing(
    session: aiohttp.ClientSession, replicas: Sequence[Replica], seed: int
) -> AsyncIterator[Load]:
    """Run customers until the end of the block."""
    load = Load(
        session, lambda: [url for each in replicas for url in each.urls], random.Random(seed)
    )
    tasks = [asyncio.create_task(load.write(customer)) for customer in range(CUSTOMERS)]
    try:
        yield load
    finally:
        load.is_over = True
        await asyncio.gather(*tasks)


async def until_ready(session: aiohttp.ClientSession, replicas: Sequence[Replica]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        for url in [url for each in replicas for url in each.urls]:
            while await readiness(session, url) != 200:
                await asyncio.sleep(0.05)


async def stop(replicas: Sequence[Replica]) -> None:
    await asyncio.gather(*(each.stop() for each in replicas))
