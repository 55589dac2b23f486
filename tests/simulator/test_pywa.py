"""A client by other authors finds its expectations of Graph met by the simulator."""

import httpx
import pytest
from pywa_async import WhatsApp
from pywa_async.errors import MessageUndeliverable, ReEngagementMessage

from wats.privacy import Secret
from wats.simulator import Simulator, SimulatorSettings

SETTINGS = SimulatorSettings(app_secret=Secret("app"), verify_token=Secret("verify"))


class ToSimulator(httpx.AsyncHTTPTransport):
    """Sends requests for Meta to the simulator."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = httpx.URL(url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(
            scheme=self._url.scheme, host=self._url.host, port=self._url.port
        )
        return await super().handle_async_request(request)


async def test_pywa_sends_a_message_and_gets_its_id() -> None:
    async with (
        Simulator(SETTINGS) as simulator,
        httpx.AsyncClient(transport=ToSimulator(simulator.url)) as session,
    ):
        client = WhatsApp(SETTINGS.phone_number_id, "token", session=session)

        sent = await client.send_message(to="15550001234", text="Hello")

        assert [message.wamid for message in simulator.accepted] == [sent.id]


async def test_pywa_recognizes_the_errors_of_the_simulator() -> None:
    async with (
        Simulator(SETTINGS) as simulator,
        httpx.AsyncClient(transport=ToSimulator(simulator.url)) as session,
    ):
        client = WhatsApp(SETTINGS.phone_number_id, "token", session=session)

        with pytest.raises(ReEngagementMessage):
            await client.send_message(to="19990131047", text="Hello")
        with pytest.raises(MessageUndeliverable):
            await client.send_message(to="19990131026", text="Hello")

        assert simulator.counts.sends == 0
