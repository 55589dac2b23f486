import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from wats.config import GraphConfig, NumberConfig
from wats.inspection.meta import PROMISES, check_meta
from wats.inspection.verdicts import Finding, Verdict
from wats.privacy import Secret
from wats.simulator import SimulatedNumber, Simulator, SimulatorSettings
from wats.testing import APP_SECRET, VERIFY_TOKEN, example_profile, example_secrets

PUBLIC = "https://gateway.example"
LIVE = {"token", "number", "subscribed", "callback"}


def settings(**changes: Any) -> SimulatorSettings:
    profile, secrets = example_profile(), example_secrets()
    usual = SimulatorSettings(
        app_secret=Secret(APP_SECRET),
        verify_token=Secret(VERIFY_TOKEN),
        access_token=secrets.access_token,
        waba_id=profile.whatsapp.waba_id,
        phone_number_id=profile.whatsapp.phone_number_id,
        webhook_url=f"{PUBLIC}{profile.webhook.path}",
    )
    return replace(usual, **changes)


def examine(graph_url: str, *, live: bool = True, **service: Any) -> Mapping[str, Finding]:
    """Check a setup with Graph at *graph_url*, without the loop of the test."""
    usual = example_profile().service
    profile = example_profile(
        graph_url=graph_url,
        service=replace(usual, **{"public_url": PUBLIC, **service}),
    )
    judged = check_meta(profile, example_secrets(), live=live)
    assert {each.name: each.promise for each in judged} == PROMISES
    return {each.name: each.finding for each in judged}


async def examined(simulated: SimulatorSettings, **options: Any) -> Mapping[str, Finding]:
    async with Simulator(simulated) as simulator:
        return await asyncio.to_thread(examine, simulator.url, **options)


async def test_a_correct_app_holds() -> None:
    found = await examined(settings())

    assert {each.verdict for each in found.values()} == {Verdict.HOLDS}
    assert "of a system user, and does not expire" in found["token"].note


async def test_without_permission_the_token_is_not_used() -> None:
    async with Simulator(settings()) as simulator:
        found = await asyncio.to_thread(examine, simulator.url, live=False)
        # The request without a token is refused, which is a response.
        assert (simulator.counts.requests, simulator.counts.refusals) == (1, 1)

    assert {name for name, each in found.items() if each.verdict is Verdict.UNKNOWN} == LIVE


@pytest.mark.parametrize(
    ("changes", "failing", "note"),
    [
        ({"access_token": Secret("another-token-of-the-app")}, LIVE, "AccessToken"),
        ({"token_scopes": ("public_profile",)}, {"token"}, "lacks the permission"),
        ({"token_type": "USER", "token_expires_at": 5}, {"token"}, "has expired"),
        ({"token_expires_at": int(time.time()) + 200_000}, {"token"}, "expires in 2.3 days"),
        ({"is_subscribed": False}, {"subscribed"}, "No app is subscribed"),
        ({"number_status": "BANNED"}, {"number"}, "not 'CONNECTED'"),
        ({"phone_number_id": "1999"}, {"number", "callback"}, ""),
        ({"waba_id": "1999"}, {"subscribed"}, ""),
        ({"webhook_url": "https://canary.example/webhooks/whatsapp"}, {"callback"}, "elsewhere"),
    ],
)
async def test_a_fault_at_meta_fails_with_advice(changes, failing, note) -> None:
    found = await examined(settings(**changes))

    assert {name for name, each in found.items() if each.verdict is Verdict.FAILS} == failing
    assert any(note in found[name].note for name in failing)
    assert "canary" not in str(found)


async def test_a_token_that_expires_late_holds_with_its_time() -> None:
    late = int(time.time()) + 59 * 86_400

    found = await examined(settings(token_type="USER", token_expires_at=late))

    assert found["token"] == Finding(
        Verdict.HOLDS, "It is of a user or an app, and expires in 59 days."
    )


async def test_the_callback_of_a_gateway_without_a_public_url_is_compared_by_its_path() -> None:
    same = await examined(settings(), public_url=None)
    other = await examined(settings(webhook_url="https://x.example/other"), public_url=None)
    local = await examined(
        settings(webhook_url="http://127.0.0.1:8787/webhooks/whatsapp"),
        public_url=None,
        port=8787,
    )

    assert [each["callback"].verdict for each in (same, other, local)] == [
        Verdict.UNKNOWN,
        Verdict.FAILS,
        Verdict.HOLDS,
    ]


async def test_a_callback_that_meta_does_not_report_is_unknown() -> None:
    found = await examined(settings(webhook_url=None))

    assert found["callback"].verdict is Verdict.UNKNOWN


def test_a_graph_that_is_not_reachable_fails_with_the_cause() -> None:
    found = examine("http://127.0.0.1:9")

    assert found["graph"].verdict is Verdict.FAILS
    assert found["graph"].note.startswith("The connection was refused. Start the fake Meta ")
    assert {found[name].verdict for name in LIVE} == {Verdict.UNKNOWN}


def test_a_proxy_is_named_if_graph_does_not_respond_through_it() -> None:
    profile = example_profile(
        graph=GraphConfig(
            api_version="v25.0", base_url="http://127.0.0.1:9", proxy="http://127.0.0.1:9"
        )
    )

    judged = check_meta(profile, example_secrets(), live=True)

    (graph,) = (each.finding for each in judged if each.name == "graph")
    assert graph.verdict is Verdict.FAILS
    assert "graph.proxy" in graph.note


def test_without_a_config_everything_is_unknown() -> None:
    verdicts = {each.finding.verdict for each in check_meta(None, None, live=True)}

    assert verdicts == {Verdict.UNKNOWN}


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"\xff",
    b"[" * 100_000,
    b'{"data":' * 600,
    b'{"data":null,"id":null}',
    b'{"data":[1]}',
    b'{"data":{"is_valid":"yes"}}',
    b'{"data":{"is_valid":true,"scopes":7}}',
    b'{"data":{"is_valid":true,"scopes":["whatsapp_business_messaging"],"expires_at":"canary"}}',
    b'{"data":[{"whatsapp_business_api_data":7}],"id":"canary"}',
    b'{"id":"15551234567","status":"canary","webhook_configuration":"canary"}',
    b'{"error":{"message":"canary","type":"canary","code":190}}',
]


@pytest.mark.parametrize("body", HOSTILE)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_no_response_breaks_the_checks_or_shows_in_them(counterfeit, status, body) -> None:
    counterfeit.everywhere = (status, {"Date": "canary"}, body)

    found = examine(counterfeit.url)

    assert "canary" not in str(found)
    assert found["time"].verdict is not Verdict.FAILS
    assert found["token"].verdict is not Verdict.HOLDS or b"whatsapp_business" in body


def test_a_clock_that_is_wrong_fails(counterfeit) -> None:
    counterfeit.everywhere = (400, {"Date": "Mon, 02 Nov 2020 10:00:00 GMT"}, b"{}")

    found = examine(counterfeit.url, live=False)

    assert found["time"].verdict is Verdict.FAILS
    assert "NTP" in found["time"].note


async def test_each_number_is_checked_with_its_own_token(subtests: pytest.Subtests) -> None:
    own = Secret("an-access-token-of-paris")
    usual = settings()
    berlin = SimulatedNumber(phone_number_id="300001", waba_id=usual.waba_id)
    paris = SimulatedNumber(phone_number_id="300002", waba_id="2", access_token=own)
    numbers = tuple(
        NumberConfig(name=name, phone_number_id=each.phone_number_id, waba_id=each.waba_id)
        for name, each in (("berlin", berlin), ("paris", paris))
    )
    right = example_secrets(access_tokens={"paris": own})
    for known, secrets, failing in (
        ((berlin, paris), right, None),
        ((berlin, paris), example_secrets(), "paris"),
        ((paris,), right, "berlin"),
        ((), right, "berlin"),
    ):
        async with Simulator(settings(numbers=known)) as simulator:
            profile = example_profile(graph_url=simulator.url, numbers=numbers)
            judged = await asyncio.to_thread(check_meta, profile, secrets, live=True)
        found = {each.name: each.finding for each in judged}
        with subtests.test(numbers=len(known), failing=failing):
            verdict = Verdict.HOLDS if failing is None else Verdict.FAILS
            assert found["number"].verdict is verdict
            assert failing is None or f"The number '{failing}'" in found["number"].note
            assert not any("30000" in each.note for each in found.values())
