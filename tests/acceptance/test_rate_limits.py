"""Ten times as many messages as Meta permits, against a simulator that enforces its limits."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from wats.config import MessagesConfig
from wats.errors import RateLimited
from wats.service import WatsApp, create_wats_service_app
from wats.simulator import Simulator, SimulatorSettings
from wats.store import Store
from wats.store.sqlite import SQLiteStore
from wats.testing import example_profile, example_secrets

THROUGHPUT = 40
BUSY, RECIPIENT = "15550009999", "1555000{:04}"


@asynccontextmanager
async def gateways(
    path: Path, count: int, throughput: int, limit: int = THROUGHPUT, pair_burst: int = 45
) -> AsyncIterator[tuple[Simulator, list[WatsApp]]]:
    """Run *count* gateways on one database, as worker processes do, and a simulator."""
    secrets = example_secrets()
    settings = SimulatorSettings(
        app_secret=secrets.app_secrets[0],
        verify_token=secrets.verify_token,
        phone_number_id=example_profile().whatsapp.phone_number_id,
        messages_per_second=limit,
        pair_burst=pair_burst,
    )
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(settings))
        profile = example_profile(
            graph_url=simulator.url, messages=MessagesConfig(throughput=throughput)
        )
        apps = []
        for _ in range(count):
            store: Store = SQLiteStore(str(path / "wats.db"))
            store.occupy = lambda: None  # type: ignore[method-assign]  # processes that share it
            app = create_wats_service_app(
                profile=profile, secrets=secrets, persistence=store, log=lambda _: None
            )
            await app.start()
            stack.push_async_callback(app.stop)
            apps.append(app)
        yield simulator, apps


def text(recipient: str, number: int) -> dict[str, object]:
    return {"to": recipient, "type": "text", "text": {"body": str(number)}}


@pytest.mark.long
async def test_the_outbox_exceeds_no_limit_and_delivers_all_messages_in_order(
    tmp_path: Path,
) -> None:
    sent: defaultdict[str, list[str]] = defaultdict(list)
    # Calls that wait while this process is held up arrive together, so there is some room; gateways
    # that each had the whole throughput would exceed it.
    async with gateways(tmp_path, 2, THROUGHPUT, THROUGHPUT * 3 // 2, 46) as (simulator, apps):
        sends = []
        for number in range(9 * THROUGHPUT):
            recipient = RECIPIENT.format(1000 + number % 40)
            sends.append((recipient, number))
        sends += [(BUSY, number) for number in range(47)]
        for number, (recipient, body) in enumerate(sends):
            sent[recipient].append(str(body))
            await apps[number % 2].send(text(recipient, body), later=True)
        async with asyncio.timeout(60):
            while simulator.counts.sends < len(sends):
                await asyncio.sleep(0.1)

        arrived: defaultdict[str, list[str]] = defaultdict(list)
        for message in simulator.accepted:
            arrived[message.recipient].append(message.payload["text"]["body"])
        assert arrived == sent
        assert (simulator.counts.number_limits, simulator.counts.pair_limits) == (0, 0)


async def test_requests_that_exceed_the_limit_are_refused_before_meta_is_called(
    tmp_path: Path,
) -> None:
    async with gateways(tmp_path, 2, THROUGHPUT) as (simulator, apps):
        results = await asyncio.gather(
            *(
                apps[number % 2].send(
                    text(RECIPIENT.format(2000 + number), number), idempotency_key=str(number)
                )
                for number in range(3 * THROUGHPUT)
            ),
            return_exceptions=True,
        )

        kinds = Counter(type(each).__name__ for each in results)
        assert set(kinds) == {"Sent", RateLimited.__name__}
        assert simulator.counts.requests == simulator.counts.sends == kinds["Sent"]
        assert kinds["Sent"] >= THROUGHPUT // 2


@pytest.mark.long
async def test_a_gateway_that_expects_a_higher_limit_slows_down_and_delivers_all(
    tmp_path: Path,
) -> None:
    async with gateways(tmp_path, 1, 1000, limit=4) as (simulator, (app,)):
        await asyncio.gather(
            *(
                app.send(text(RECIPIENT.format(3000 + number), number), later=True)
                for number in range(24)
            )
        )
        async with asyncio.timeout(60):
            while simulator.counts.sends < 24:
                await asyncio.sleep(0.1)

        assert simulator.counts.sends == 24
        assert simulator.counts.number_limits > 0
