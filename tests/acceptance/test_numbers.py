"""One service with several numbers, with a fake Meta that has them too."""

from typing import Any

import pytest

from tests.acceptance.conftest import OpenGateway, Until
from tests.settings import NUMBER_ID, WABA_ID
from tests.subscribers.conftest import SECRET, serving_endpoint
from wats.config import NumberConfig, SubscriberConfig
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.simulator import SimulatedNumber
from wats.testing import example_secrets

BERLIN, PARIS, ROME = "300001", "300002", "300009"
OWN_TOKEN = Secret("an-access-token-of-paris")
CUSTOMER = "15550002222"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
NUMBERS = (
    NumberConfig(name="berlin", phone_number_id=BERLIN, waba_id=WABA_ID),
    NumberConfig(name="paris", phone_number_id=PARIS, waba_id="2"),
)
SEVERAL: dict[str, Any] = {
    "numbers": NUMBERS,
    "simulated": {
        "access_token": example_secrets().access_token,
        "numbers": (
            SimulatedNumber(phone_number_id=BERLIN, waba_id=WABA_ID),
            SimulatedNumber(phone_number_id=PARIS, waba_id="2", access_token=OWN_TOKEN),
        ),
    },
}
SECRETS = example_secrets(access_tokens={"paris": OWN_TOKEN})
TEXT = {"to": CUSTOMER, "type": "text", "text": {"body": "Hello"}}


async def reply(update: Update) -> None:
    if update.message is not None:
        await update.reply("Hello")


async def test_a_handler_replies_from_the_number_that_received_the_message(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with open_gateway(
        **SEVERAL, handlers=[reply], app_options={"secrets": SECRETS}
    ) as gateway:
        for number in ("", BERLIN, PARIS, ROME):
            gateway.simulator.inbound(CUSTOMER, "Hi", number=number)
        await until(lambda: len(gateway.simulator.accepted) == 3)
        await gateway.simulator.settle()

        senders = sorted(each.number for each in gateway.simulator.accepted)
        assert senders == sorted([NUMBER_ID, BERLIN, PARIS])
        items = (await gateway.ask("GET", "/api/messages")).json["items"]
        inbound = [each for each in items if each["direction"] == "inbound"]
        outbound = [each for each in items if each["direction"] == "outbound"]
        assert {each["phoneNumberId"] for each in inbound} == {NUMBER_ID, BERLIN, PARIS, ROME}
        assert {each["status"] for each in outbound} == {"read"}
        windows = {
            number: (
                await gateway.ask("GET", f"/api/numbers/{number}/conversations/{customer}/window")
            ).json["open"]
            for number, customer in ((BERLIN, CUSTOMER), (PARIS, CUSTOMER), (NUMBER_ID, "1555"))
        }
        assert windows == {BERLIN: True, PARIS: True, NUMBER_ID: False}


async def test_the_application_sends_from_the_number_that_it_names(
    open_gateway: OpenGateway,
) -> None:
    async with open_gateway(**SEVERAL, app_options={"secrets": SECRETS}) as gateway:
        send = gateway.app.send
        for number in (None, "default", "berlin", PARIS):
            await send(TEXT, idempotency_key="same", number=number)
        with pytest.raises(ValueError, match="not configured"):
            await send(TEXT, number=ROME)

        senders = [each.number for each in gateway.simulator.accepted]
        assert senders == [NUMBER_ID, BERLIN, PARIS]


async def test_a_file_of_one_number_is_not_found_by_another(open_gateway: OpenGateway) -> None:
    form = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n'
        b"content-type: image/png\r\n\r\n" + PNG + b"\r\n--b--\r\n"
    )
    async with open_gateway(**SEVERAL, app_options={"secrets": SECRETS}) as gateway:
        uploaded = await gateway.ask(
            "POST",
            f"/api/numbers/{PARIS}/media",
            form,
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        media_id = uploaded.json["id"]
        found = {
            number: (await gateway.ask("GET", f"/api/numbers/{number}/media/{media_id}")).status
            for number in (PARIS, BERLIN)
        }

        assert found == {PARIS: 200, BERLIN: 502}


async def test_a_subscriber_of_a_number_gets_the_updates_of_that_number(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with serving_endpoint() as endpoint:
        config = SubscriberConfig(
            name="crm",
            url=endpoint.url,
            secrets=(),
            allow_private_network=True,
            timeout_seconds=5.0,
            numbers=("berlin",),
        )
        secrets = example_secrets(
            access_tokens={"paris": OWN_TOKEN}, subscribers={"crm": (Secret(SECRET),)}
        )
        async with open_gateway(
            **SEVERAL, subscribers=(config,), app_options={"secrets": secrets}
        ) as gateway:
            for number in (PARIS, BERLIN, "", ROME, BERLIN):
                gateway.simulator.inbound(CUSTOMER, "Hi", number=number)
            await gateway.simulator.settle()
            await until(lambda: len(endpoint.requests) == 2)

            numbers = [each["phoneNumberId"] for each in endpoint.documents]
            assert numbers == [BERLIN, BERLIN]
