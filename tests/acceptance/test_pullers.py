"""Pullers of a running service, over sockets: hang-ups, stops, kills, several processes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from tests.acceptance.conftest import OpenGateway, Serve, Until
from tests.acceptance.test_delivery import Sender
from tests.acceptance.test_subscribers import CUSTOMERS, ROUNDS, by_customer, send_interleaved
from tests.settings import NOBODY
from tests.store.postgres.server import Server
from tests.subscribers.conftest import SECRET, serving_endpoint
from wats.config import PullerConfig
from wats.errors import ConfigError
from wats.service import create_wats_service_app
from wats.testing import BEARER_TOKEN, example_profile, example_secrets

BEARER = {"authorization": f"Bearer {BEARER_TOKEN}"}
UPDATES = "/api/updates"
POLLS = 2
BATCH = 4
KILLS = 3
LEASE_SECONDS = 3
PULLERS = (PullerConfig(name="batch"),)


async def pull(session: aiohttp.ClientSession, url: str, **query: Any) -> list[dict[str, Any]]:
    asked = {"consumer": "batch", **query}
    async with session.get(url + UPDATES, params=asked, headers=BEARER) as response:
        assert response.status == 200, await response.text()
        found: list[dict[str, Any]] = (await response.json())["updates"]
        return found


async def ack(session: aiohttp.ClientSession, url: str, *receipts: str) -> list[str]:
    body = {"updates": [{"receipt": each} for each in receipts]}
    async with session.post(f"{url}{UPDATES}/ack", json=body, headers=BEARER) as response:
        assert response.status == 200, await response.text()
        return [each["result"] for each in (await response.json())["updates"]]


def number_of(pulled: dict[str, Any]) -> int:
    return int(pulled["update"]["raw"]["id"].removeprefix("wamid."))


def test_pullers_without_a_database_are_refused() -> None:
    with pytest.raises(ConfigError, match="database"):
        create_wats_service_app(profile=example_profile(pullers=PULLERS), secrets=example_secrets())


async def test_a_client_that_closes_its_connection_during_a_poll_gets_no_lease(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with open_gateway(pullers=PULLERS) as gateway, aiohttp.ClientSession() as session:
        polling = asyncio.create_task(pull(session, gateway.url, wait=30))
        await asyncio.sleep(0.2)
        polling.cancel()
        await asyncio.sleep(0.2)
        await Sender(session, gateway.url).send(1)

        (pulled,) = await pull(session, gateway.url, wait=5)
        results = await ack(session, gateway.url, pulled["receipt"])

        assert pulled["attempt"] == 1
        assert results == ["done"]
        assert gateway.rows()["wats_outstanding"] == 0


@pytest.mark.long
async def test_a_stop_answers_the_waiting_polls(serve: Serve, tmp_path: Path) -> None:
    sections = {
        "persistence": {"url": f"sqlite:///{tmp_path}/wats.db"},
        "pullers": [{"name": "batch"}],
    }
    async with serve(NOBODY, **sections) as process, aiohttp.ClientSession() as session:
        polling = asyncio.create_task(pull(session, process.url, wait=60))
        await asyncio.sleep(1)

        code, _ = await process.terminate()

        assert code == 0
        assert await polling == []


class Application:
    """Polls a service, handles updates and acknowledges them, also while the service restarts.

    Attributes:
        url: The URL of the service now.
        may_poll: Set once there is a backlog.
        seen: The updates in the order of their responses.
        in_flight: The numbers that were returned, and whose acknowledgement was not answered.
        interrupted: The numbers that were in flight when a service was killed, or for so long that
            their lease may have expired.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.url = NOBODY
        self.may_poll = asyncio.Event()
        self.seen: list[dict[str, Any]] = []
        self.in_flight: Counter[int] = Counter()
        self.interrupted: set[int] = set()

    def note_kill(self) -> None:
        self.interrupted |= {number for number, count in self.in_flight.items() if count}

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._run()) for _ in range(POLLS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        await self.may_poll.wait()
        while True:
            try:
                pulled = await pull(self._session, self.url, limit=BATCH, wait=5)
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
                continue
            numbers, since = [number_of(each) for each in pulled], monotonic()
            self.seen += [each["update"] for each in pulled]
            self.in_flight.update(numbers)
            await asyncio.sleep(0.2)
            if pulled:
                await self._acknowledge([each["receipt"] for each in pulled])
            self.in_flight.subtract(numbers)
            if monotonic() - since > LEASE_SECONDS / 2:  # on a machine that is too busy
                self.interrupted.update(numbers)

    async def _acknowledge(self, receipts: list[str]) -> None:
        while True:
            try:
                await ack(self._session, self.url, *receipts)
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/wats.db"
        return
    server: Server = request.getfixturevalue("server")
    name = server.make_database(server.make_template())
    yield server.url(name)
    server.drop_database(name)


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
async def test_each_update_reaches_a_subscriber_and_a_puller_despite_kills(
    serve: Serve, until: Until, database_url: str
) -> None:
    concurrency, workers = 2, 2
    environ = {"WATS_CRM_SECRET": SECRET}
    async with serving_endpoint() as endpoint, aiohttp.ClientSession() as session:
        endpoint.respond_after(0.25)
        sections = {
            "persistence": {"url": database_url},
            "inbox": {"leaseSeconds": 2, "handlerTimeoutSeconds": 5},
            "pullers": [{"name": "batch", "leaseSeconds": LEASE_SECONDS}],
            "subscribers": [
                {
                    "name": "crm",
                    "url": endpoint.url,
                    "secret": {"env": "WATS_CRM_SECRET"},
                    "timeoutSeconds": 2,
                    "concurrency": concurrency,
                    "allowPrivateNetwork": True,
                }
            ],
        }
        running = ("--workers", str(workers))
        application = Application(session)
        expected: dict[str, list[int]] = {}
        async with application.polling():
            for _ in range(KILLS):
                async with serve(NOBODY, environ, running, **sections) as process:
                    application.url = process.url
                    expected = expected or await send_interleaved(session, process.url)
                    application.may_poll.set()
                    pulled, posted = len(application.seen) + 8, len(endpoint.requests) + 4
                    await until(
                        lambda pulled=pulled, posted=posted: (
                            len(application.seen) > pulled and len(endpoint.requests) > posted
                        )
                    )
                    application.note_kill()
                    await process.kill()
                    application.note_kill()
            async with serve(NOBODY, environ, running, **sections) as process:
                application.url = process.url
                await until(lambda: by_customer(endpoint.documents) == expected, 60)
                await until(lambda: by_customer(application.seen) == expected, 60)

    repeated = Counter(number_of({"update": each}) for each in application.seen)
    assert {number for number, count in repeated.items() if count > 1} <= application.interrupted
    # A kill repeats the calls in progress, and those that have ended but are not settled on disk.
    assert len(endpoint.requests) <= CUSTOMERS * ROUNDS + KILLS * 2 * concurrency * workers
