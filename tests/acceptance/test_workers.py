"""Several processes on one port, one database and one registry: under load and during kills."""

import asyncio
import json
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.settings import HOOK, NOBODY, outstanding
from wats.clock import utc_now
from wats.inbound.envelope import parse
from wats.inbound.normalize import normalize
from wats.testing import BEARER_TOKEN, sign

pytestmark = pytest.mark.long

WORKERS = 4
KILLS = 2
CONNECTIONS = 48

HANDLERS = """
import os

FILE = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def note(update):
    os.write(FILE, f"{os.getpid()} {update.key}\\n".encode())
"""

SCRAPE = (
    f"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER_TOKEN}\r\n\r\n".encode()
)
QUESTIONS = {
    "/healthz": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    "/readyz": b"HEAD /readyz HTTP/1.1\r\nhost: x\r\n\r\n",
    "unmatched": b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
}


class Connection:
    """A connection that sends one request after the other and never retries."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of a complete response.

        Raises:
            ConnectionError: The response did not arrive, or not completely.
        """
        self._writer.write(request)
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)", head)
            assert length is not None
            has_body = not request.startswith(b"HEAD")
            body = await self._reader.readexactly(int(length[1]) if has_body else 0)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError from error
        return int(head[9:12]), body


class Service:
    """A running service, as seen by its clients and its operator."""

    def __init__(self, url: str, pid: int) -> None:
        self._address = urlsplit(url)
        self.pid = pid

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()

    async def scrape(self) -> dict[str, float]:
        """Return all samples; retry if the worker that received the request is killed."""
        while True:
            with suppress(ConnectionError):
                async with self.connected() as connection:
                    return samples_of(await connection.ask(SCRAPE))

    def workers(self) -> set[int]:
        """Return the processes that it has."""
        found = set()
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, parent = file.read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.pid and state != "Z":
                    found.add(int(file.parent.name))
        return found

    async def kill_one(self, chance: random.Random) -> None:
        """Kill one worker, and return when there are as many as before."""
        victim = chance.choice(sorted(self.workers()))
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(30):
            while victim in self.workers() or len(self.workers()) < WORKERS:
                await asyncio.sleep(0.01)
            while (await self.scrape())["wats_worker_processes"] < WORKERS:
                await asyncio.sleep(0.01)


def samples_of(answer: tuple[int, bytes]) -> dict[str, float]:
    status, body = answer
    assert status == 200
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def requests_in(samples: Mapping[str, float]) -> Counter[str]:
    """Return how many requests are counted of each route, but for the scrapes themselves."""
    found: Counter[str] = Counter()
    for series, value in samples.items():
        if series.startswith("http_requests_total{") and 'route="/metrics"' not in series:
            found[series.partition('route="')[2].partition('"')[0]] += int(value)
    return +found


class Load:
    """Clients on many connections that count responses and broken connections."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self._service = service
        self._chance = chance
        self._numbers = count()
        self.answered: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.is_over = False

    async def ask_on(self) -> None:
        """Ask until it is over, on a new connection when one breaks."""
        while not self.is_over:
            async with self._service.connected() as connection:
                with suppress(ConnectionError):
                    while not self.is_over:
                        await self._ask(connection)

    async def _ask(self, connection: Connection) -> None:
        route, request, keys = self._something()
        try:
            status, _ = await connection.ask(request)
        except ConnectionError:
            self.broken[route] += 1
            raise
        assert status == {"unmatched": 404}.get(route, 200)
        self.answered[route] += 1
        self.acknowledged |= keys

    def _something(self) -> tuple[str, bytes, set[str]]:
        if self._chance.random() < 0.4:
            route = self._chance.choice(sorted(QUESTIONS))
            return route, QUESTIONS[route], set()
        body = envelope_of(next(self._numbers))
        head = f"POST {HOOK} HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: {sign(body)}\r\n"
        keys = {update.key for update in normalize(parse(body), received_at=utc_now()).updates}
        return "/webhook", f"{head}content-length: {len(body)}\r\n\r\n".encode() + body, keys

    async def reach(self, answers: int) -> None:
        while self.answered.total() < answers:
            await asyncio.sleep(0.001)


def envelope_of(number: int) -> bytes:
    message = {
        "from": f"1555{number % 200:07d}",
        "id": f"wamid.WORKERS{number}",
        "timestamp": str(1_790_000_000 + number),
        "type": "text",
        "text": {"body": f"Message {number}"},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": "15551234567"},
        "messages": [message],
    }
    changes = [{"field": "messages", "value": value}]
    entry = {"id": "123456789012345", "time": 1_790_000_000, "changes": changes}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


async def watch(service: Service, load: Load) -> int:
    """Scrape until the load is over; return how often no counter was less than before."""
    scrapes = 0
    before: dict[str, float] = {}
    while not load.is_over:
        samples = await service.scrape()
        series = re.compile(r"\w+_(total|bucket|count|sum)\b")
        counters = {name: value for name, value in samples.items() if series.match(name)}
        assert before.keys() <= counters.keys()
        assert [name for name, value in before.items() if counters[name] < value] == []
        before = counters
        scrapes += 1
    return scrapes


@asynccontextmanager
async def under_load(service: Service, seed: int) -> AsyncIterator[Load]:
    """Ask the service from all sides, and watch its counters, until the end of the block."""
    load = Load(service, random.Random(seed))
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(load.ask_on())
        watching = group.create_task(watch(service, load))
        yield load
        load.is_over = True
    assert watching.result() > KILLS


OpenService = Callable[..., Any]


@pytest.fixture
def open_service(serve: Any, tmp_path: Path) -> OpenService:
    """Runs a service of several workers with a handler that logs each update it receives."""

    @asynccontextmanager
    async def opened(**sections: Any) -> AsyncIterator[tuple[Service, Any]]:
        (tmp_path / "noting.py").write_text(HANDLERS)
        settings = {
            "environ": {"JOURNAL": str(tmp_path / "journal")},
            "options": ("--workers", str(WORKERS)),
            "persistence": {"url": f"sqlite:///{tmp_path}/wats.db"},
            "handlers": ["noting:note"],
            "telemetry": {"families": "operator"},
            "inbox": {"leaseSeconds": 1, "maxAttempts": 1000},
            **sections,
        }
        async with serve(NOBODY, **settings) as process:
            yield Service(process.url, process.pid), process

    return opened


def journal(folder: Path) -> list[list[str]]:
    """Return the process and the key of every update that was handled."""
    return [line.split() for line in (folder / "journal").read_text().splitlines()]


@pytest.mark.parametrize("seed", [20261122])
async def test_responses_that_clients_received_are_counted_after_any_two_workers_are_killed(
    open_service: OpenService, seed: int
) -> None:
    """The total is at least the responses, and exceeds them at most by the broken requests.

    A request is counted before the first byte of its response is written, in memory that outlives
    the worker. So a response that a client has received is counted: answered <= total. A worker
    that is killed between the two has counted a request whose client sees the connection break:
    total <= answered + broken.
    """
    async with open_service() as (service, process):
        async with under_load(service, seed) as load:
            chance = random.Random(seed)
            for _ in range(KILLS):
                await load.reach(load.answered.total() + chance.randint(100, 1000))
                await asyncio.sleep(chance.uniform(0, 0.02))
                await service.kill_one(chance)
            await load.reach(load.answered.total() + 500)
        async with AsyncExitStack() as stack:
            open_ones = [
                await stack.enter_async_context(service.connected()) for _ in range(CONNECTIONS)
            ]
            scrapes = [samples_of(await connection.ask(SCRAPE)) for connection in open_ones]
        code, _ = await process.terminate()

    totals = requests_in(scrapes[0])
    assert [requests_in(samples) for samples in scrapes] == [totals] * CONNECTIONS
    assert totals.keys() == load.answered.keys()
    for route, total in totals.items():
        assert load.answered[route] <= total <= load.answered[route] + load.broken[route]
    assert code == 0
    assert scrapes[0]["wats_worker_replacements_total"] == KILLS
    replaced = [json.loads(line) for line in process.errors.read_text().splitlines()]
    assert [(line["event"], line["exitCode"]) for line in replaced] == [
        ("wats.worker.replaced", -signal.SIGKILL)
    ] * KILLS


@pytest.mark.parametrize("seed", [20261123])
async def test_nothing_acknowledged_is_lost_when_workers_on_one_database_are_killed(
    open_service: OpenService, tmp_path: Path, until: Any, seed: int
) -> None:
    async with open_service() as (service, process):
        async with under_load(service, seed) as load:
            chance = random.Random(seed)
            for _ in range(KILLS):
                await load.reach(load.answered.total() + chance.randint(100, 1000))
                await service.kill_one(chance)
        await until(lambda: outstanding(tmp_path / "wats.db") == 0, 60)
        assert (await process.terminate())[0] == 0

    handled = journal(tmp_path)
    assert len(load.acknowledged) > 100
    assert load.acknowledged <= {key for _, key in handled}
    assert len({pid for pid, _ in handled}) >= WORKERS


async def test_every_worker_gets_some_of_the_connections(
    open_service: OpenService, tmp_path: Path
) -> None:
    async with open_service(persistence="none") as (service, _), AsyncExitStack() as stack:
        for number in range(64):
            connection = await stack.enter_async_context(service.connected())
            body = envelope_of(number)
            head = f"POST {HOOK} HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: {sign(body)}\r\n"
            request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
            assert (await connection.ask(request))[0] == 200

    handled = Counter(pid for pid, _ in journal(tmp_path))
    assert handled.total() == 64
    assert min(handled.values()) >= 64 // WORKERS // 4
    assert len(handled) == WORKERS


async def test_workers_whose_supervisor_is_killed_finish_their_requests_and_end(
    open_service: OpenService, until: Any
) -> None:
    async with open_service() as (service, process):
        workers = service.workers()
        async with service.connected() as connection:
            await process.kill()
            await until(lambda: not any(map(is_there, workers)))
            # uvloop raises RuntimeError if it has noticed the end of the connection already.
            with pytest.raises((ConnectionError, RuntimeError)):
                await connection.ask(SCRAPE)

    assert len(workers) == WORKERS
    assert process.errors.read_text() == ""


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
