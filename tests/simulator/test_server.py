import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from wats.privacy import Secret
from wats.simulator import Simulator, SimulatorSettings


def settings(**changes: Any) -> SimulatorSettings:
    return SimulatorSettings(app_secret=Secret("s"), verify_token=Secret("v"), **changes)


async def test_a_taken_port_is_an_error_and_leaves_no_socket_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        simulator = Simulator(settings(port=taken.getsockname()[1]))

        with pytest.raises(OSError, match="address"):
            await simulator.start()

    await simulator.stop()


async def test_a_simulator_stops_immediately_and_stopping_twice_is_harmless() -> None:
    simulator = Simulator(settings(slow_answer_seconds=60))
    await simulator.start()
    message = {
        "messaging_product": "whatsapp",
        "to": "15550000008",
        "type": "text",
        "text": {"body": "Hi"},
    }
    url = f"{simulator.url}/v25.0/200000000000002/messages"
    headers = {"authorization": "Bearer x"}

    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(session.post(url, json=message, headers=headers).__aenter__())
        while not simulator.counts.sends:  # counts have no event
            await asyncio.sleep(0.005)
        async with asyncio.timeout(30):
            await simulator.stop()
            await simulator.stop()
        with pytest.raises(aiohttp.ClientError):
            await call


async def test_waiting_for_webhooks_has_an_end(started: Any) -> None:
    async with started(webhook_url="http://127.0.0.1:1/", time_factor=1) as meta:
        meta.simulator.inbound("15550002222", "Hi")

        with pytest.raises(TimeoutError):
            await meta.simulator.settle(0.05)


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")]
)
async def test_the_url_of_a_simulator_can_be_called(host: str, shown: str) -> None:
    async with Simulator(settings(host=host)) as simulator, aiohttp.ClientSession() as session:
        async with session.get(f"{simulator.url}/_simulator/state") as response:
            assert response.status == 200

        assert simulator.url.startswith(f"http://{shown}:")


def test_the_secrets_in_the_settings_of_a_simulator_are_redacted() -> None:
    assert "Secret([REDACTED])" in repr(settings())
