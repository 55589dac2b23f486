"""Webhooks of numbers that are not configured, with each policy and both stores."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.web.conftest import Answer, call
from wats.config import NumberConfig, OtherNumbers
from wats.inbound.updates import Update
from wats.service import create_wats_service_app
from wats.store import Store
from wats.testing import BEARER_TOKEN, FakeClock, example_profile, example_secrets, sign

OWN, BERLIN, OTHER = "15551234567", "300001", "300009"
NUMBERS = (NumberConfig(name="berlin", phone_number_id=BERLIN, waba_id="1"),)
PATIENCE_SECONDS = 30.0
OPERATOR = {"authorization": f"Bearer {BEARER_TOKEN}"}


def webhook(*numbers: str, name: str) -> bytes:
    """Return a webhook with a message to each of *numbers*, and news of the account."""
    changes: list[Mapping[str, Any]] = [
        {
            "field": "messages",
            "value": {
                "metadata": {"phone_number_id": number},
                "messages": [
                    {
                        "id": f"{name}.{number}",
                        "from": "15550002222",
                        "timestamp": "1750000000",
                        "type": "text",
                    }
                ],
            },
        }
        for number in numbers
    ]
    entry = {"id": "1", "changes": changes}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


class Gateway:
    """A service without a server, with one policy for other numbers."""

    def __init__(self, policy: OtherNumbers | None, store: Store | None, clock: FakeClock) -> None:
        self.handled: list[str] = []
        self.log: list[Mapping[str, object]] = []

        async def handle(update: Update) -> None:
            self.handled.append(update.raw["id"])

        self.app = create_wats_service_app(
            profile=example_profile(numbers=NUMBERS, other_numbers=policy),
            secrets=example_secrets(),
            persistence=store,
            handlers=[handle],
            log=self.log.append,
            now=clock,
        )

    async def take(self, body: bytes) -> Answer:
        headers = {"x-hub-signature-256": sign(body)}
        return await call(self.app, "POST", "/webhooks/whatsapp", headers, body)

    async def listed(self) -> list[str]:
        answer = await call(self.app, "GET", "/api/messages", OPERATOR, None)
        return [each["waMessageId"] for each in answer.json["items"]]

    def counted(self) -> dict[str, int]:
        start = 'webhook_normalization_total{outcome="'
        lines = self.app.telemetry.render().body.decode().splitlines()
        pairs = [line.removeprefix(start).split('",') for line in lines if line.startswith(start)]
        found = {name: int(rest.split()[1]) for name, rest in pairs if 'kind="message"' in rest}
        return {name: count for name, count in found.items() if count}


RESULTS: dict[OtherNumbers, tuple[int, set[str], set[str]]] = {
    "handle": (200, {OWN, BERLIN, OTHER}, {OWN, BERLIN, OTHER}),
    "store": (200, {OWN, BERLIN}, {OWN, BERLIN, OTHER}),
    "ignore": (200, {OWN, BERLIN}, {OWN, BERLIN}),
    "refuse": (403, {OWN, BERLIN}, {OWN, BERLIN}),
}
"""The status of a webhook, and the numbers whose messages are handled and listed, by policy."""


@pytest.mark.parametrize("kind", ["sqlite-file", "postgres"])
async def test_updates_of_other_numbers_follow_the_policy(
    closed_store: Store, clock: FakeClock, subtests: pytest.Subtests
) -> None:
    for policy, (status, handled, listed) in RESULTS.items():
        gateway = Gateway(policy, closed_store, clock)
        await gateway.app.start()
        first = await gateway.take(webhook(OWN, BERLIN, OTHER, name=policy))
        again = await gateway.take(webhook(OWN, BERLIN, OTHER, name=policy))
        alone = await gateway.take(webhook(OTHER, name=f"{policy}.alone"))
        found = {each for each in await gateway.listed() if each.startswith(policy)}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(gateway.handled) < len(handled) + (OTHER in handled):
                await asyncio.sleep(0.01)
        await gateway.app.stop()

        with subtests.test(policy):
            assert [each.status for each in (first, again, alone)] == [status] * 3
            if status == 403:
                assert (first.code, alone.code) == ("unknown_number", "unknown_number")
            alone_too = [f"{policy}.alone.{OTHER}"]
            wanted = [f"{policy}.{number}" for number in handled]
            assert sorted(gateway.handled) == sorted(
                wanted + (alone_too if OTHER in handled else [])
            )
            wanted = [f"{policy}.{number}" for number in listed]
            assert sorted(found) == sorted(wanted + (alone_too if OTHER in listed else []))
            events = [each for each in gateway.log if "number" in str(each["event"])]
            assert [(each["policy"], each["suppressed"]) for each in events] == (
                [] if policy == "handle" else [(policy, 0)]
            )


async def test_without_a_store_the_policy_is_the_same(subtests: pytest.Subtests) -> None:
    for policy, (status, handled, _) in RESULTS.items():
        gateway = Gateway(policy, None, FakeClock())
        await gateway.app.start()
        answer = await gateway.take(webhook(OWN, OTHER, name=policy))
        await gateway.app.stop()

        with subtests.test(policy):
            assert answer.status == status
            assert gateway.handled == [
                f"{policy}.{each}" for each in (OWN, OTHER) if each in handled
            ]
            counted = {"handle": {"success": 2}, "ignore": {"success": 1, "skipped": 1}}
            others = {"success": 2} if policy == "store" else {"success": 1}
            assert gateway.counted() == counted.get(policy, others)


async def test_other_numbers_are_stored_by_default_if_there_are_numbers() -> None:
    gateway = Gateway(None, None, FakeClock())
    await gateway.app.start()
    answer = await gateway.take(webhook(OWN, BERLIN, OTHER, name="a"))
    await gateway.app.stop()

    assert answer.status == 200
    assert gateway.handled == [f"a.{OWN}", f"a.{BERLIN}"]
