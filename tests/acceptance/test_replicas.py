"""Several services on one PostgreSQL: killed, cut off, and raced against each other."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.acceptance.replicas import (
    CUSTOMERS,
    PATIENCE_SECONDS,
    Replica,
    SlowNetwork,
    envelope_of,
    post,
    readiness,
    stop,
    until_ready,
    writing,
)
from tests.settings import NOBODY, NUMBER_ID, WABA_ID
from tests.store.postgres.server import Server
from wats.inbound import updates
from wats.privacy import Secret
from wats.simulator import Simulator, SimulatorSettings
from wats.testing import APP_SECRET, BEARER_TOKEN, VERIFY_TOKEN

pytestmark = pytest.mark.long

STORM_SECONDS = float(os.environ.get("WATS_STORM_SECONDS", "6"))
"""How long replicas are killed; longer for a thorough run."""

KILL_EVERY_SECONDS = 0.7


@pytest.fixture(scope="module")
def template(server: Server) -> str:
    return server.make_template()


@pytest.fixture
def database(server: Server, template: str) -> Iterator[str]:
    """Return the name of a new database."""
    name = server.make_database(template)
    yield name
    server.drop_database(name)


@pytest.fixture
async def replicas(serve, server, database, journal) -> AsyncIterator[Callable[..., Any]]:
    """Start replicas, each with so many worker processes."""
    running: list[Replica] = []

    async def start(
        *workers: int, lease_seconds: float, url: str | None = None, graph_url: str = NOBODY
    ) -> list[Replica]:
        for number in workers:
            settings = {
                "graph_url": graph_url,
                "environ": {"JOURNAL": str(journal.path)},
                "options": ["--workers", str(number)],
                "persistence": {"url": url or server.url(database)},
                "handlers": ["replica_handlers:careful"],
                "inbox": {"leaseSeconds": lease_seconds, "maxAttempts": 1000},
            }
            running.append(Replica(serve, settings))
            await running[-1].start()
        return running

    yield start
    for each in running:
        await each.leave()


async def settled_in(url: str) -> set[str]:
    """Return the ids of the messages whose delivery is settled, from one snapshot."""
    connection = await asyncpg.connect(url)
    async with connection.transaction(isolation="repeatable_read"):
        recorded = await connection.fetch("SELECT wa_message_id FROM wats_messages")
        left = await connection.fetch("SELECT payload FROM wats_deliveries")
    await connection.close()
    outstanding = {updates.decode(payload).raw["id"] for (payload,) in left}
    return {wa_message_id for (wa_message_id,) in recorded} - outstanding


async def until_settled(url: str) -> None:
    """Wait until nothing is outstanding; check that the counters agree."""
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await connection.fetchval("SELECT count(*) FROM wats_deliveries"):
            await asyncio.sleep(0.05)
    counted = "SELECT sum(pending), sum(leased), sum(retry), sum(dead) FROM wats_depths"
    assert list(await connection.fetchrow(counted)) == [0, 0, 0, 0]
    await connection.close()


async def test_replicas_that_are_killed_lose_and_reorder_nothing(
    replicas, server, database, journal, session
) -> None:
    url = server.url(database)
    running = await replicas(1, 1, 2, lease_seconds=3)
    kills = 0

    async with writing(session, running, 20261126) as load, asyncio.TaskGroup() as starting:
        async with asyncio.timeout(STORM_SECONDS + PATIENCE_SECONDS):
            for _ in range(round(STORM_SECONDS / KILL_EVERY_SECONDS)):
                await asyncio.sleep(KILL_EVERY_SECONDS)
                serving = [each for each in running if each.urls]
                if serving:
                    victim = load.chance.choice(serving)
                    await victim.kill(journal)
                    kills += 1
                    journal.note_settled(await settled_in(url))
                    starting.create_task(victim.start())
    await until_settled(url)
    await stop(running)

    assert kills > 2
    assert len(load.acknowledged) > CUSTOMERS
    assert load.acknowledged <= journal.completed()
    journal.check()


async def test_a_crash_of_the_server_loses_and_reorders_nothing(
    replicas, server, database, journal, session
) -> None:
    running = await replicas(1, 2, lease_seconds=8)

    async with writing(session, running, 20261127) as load:
        for how in (signal.SIGQUIT, signal.SIGKILL):
            await asyncio.sleep(1.0)
            load.statuses.clear()
            server.crash(how)
            while 503 not in load.statuses:
                await asyncio.sleep(0.05)
            assert {await readiness(session, each.process.url) for each in running} == {503}
            server.start()
            await until_ready(session, running)
            before = len(load.acknowledged)
            while len(load.acknowledged) < before + CUSTOMERS:
                await asyncio.sleep(0.05)
    await until_settled(server.url(database))
    await stop(running)

    assert load.statuses <= {200, 503}
    assert load.acknowledged <= journal.completed()
    assert journal.check() == 0


async def test_a_conversation_that_alternates_between_replicas_is_handled_in_order(
    replicas, server, database, journal, session
) -> None:
    one, other = await replicas(1, 2, lease_seconds=30)

    for number in range(300):
        url = (one, other)[number % 2].process.url
        assert await post(session, url, envelope_of(0, number)) == 200
    await until_settled(server.url(database))
    await stop([one, other])

    assert len(journal.completed()) == 300
    assert journal.check() == 0


async def test_while_the_server_is_stopped_replicas_refuse_webhooks_and_recover(
    replicas, server, database, journal, session
) -> None:
    running = await replicas(1, 1, lease_seconds=30)
    urls = [each.process.url for each in running]
    assert await post(session, urls[0], envelope_of(0, 0)) == 200

    server.stop()
    for _ in range(3):
        assert {await post(session, url, envelope_of(0, 1)) for url in urls} == {503}
        assert {await readiness(session, url) for url in urls} == {503}
        await asyncio.sleep(1.0)
    server.start()
    await until_ready(session, running)

    for number, url in enumerate(urls, 1):
        assert await post(session, url, envelope_of(0, number)) == 200
    await until_settled(server.url(database))
    await stop(running)
    assert len(journal.completed()) == 3
    assert journal.check() == 0


@pytest.fixture
async def network(server: Server) -> AsyncIterator[SlowNetwork]:
    network = SlowNetwork(server.socket)
    await network.start()
    yield network
    await network.stop()


async def test_a_server_that_responds_slowly_is_refused_within_the_deadline(
    network, replicas, server, database, journal, session
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{network.port}/{database}"
    (replica,) = await replicas(1, lease_seconds=30, url=url)
    assert await post(session, replica.process.url, envelope_of(0, 0)) == 200

    network.delay_seconds = 2.0
    posting = [
        asyncio.create_task(post(session, replica.process.url, envelope_of(customer, 0)))
        for customer in range(1, 4)
    ]
    assert await readiness(session, replica.process.url) == 503
    assert {await each for each in posting} == {503}
    network.delay_seconds = 0.0
    await until_ready(session, [replica])

    for customer in range(1, 4):
        assert await post(session, replica.process.url, envelope_of(customer, 0)) == 200
    await until_settled(server.url(database))
    await stop([replica])
    assert len(journal.completed()) == 4
    assert journal.check() == 0


async def test_one_idempotency_key_at_two_replicas_is_one_send(
    replicas, server, database, session
) -> None:
    settings = SimulatorSettings(
        app_secret=Secret(APP_SECRET),
        verify_token=Secret(VERIFY_TOKEN),
        waba_id=WABA_ID,
        phone_number_id=NUMBER_ID,
        answer_delay_seconds=0.2,
    )
    async with Simulator(settings) as simulator:
        running = await replicas(1, 2, lease_seconds=30, graph_url=simulator.url)
        for key in map(str, range(8)):
            sending = [send(session, each.process.url, key) for each in running * 2]
            responses = await asyncio.gather(*sending)
            last = {await send(session, each.process.url, key) for each in running}

            assert {status for status, _ in responses} <= {200, 409}
            assert last == {each for each in responses if each[0] == 200}
        assert simulator.counts.sends == 8
        await stop(running)


async def send(session: aiohttp.ClientSession, url: str, key: str) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {BEARER_TOKEN}", "idempotency-key": key}
    body = {"to": "15550001234", "text": "Hello"}
    async with session.post(f"{url}/api/messages/text", json=body, headers=headers) as response:
        return response.status, await response.read()
