"""No data of a customer or Meta, and no secret, is in the output of commands for operators."""

import json
from pathlib import Path

import pytest
import uvloop

from tests.privacy.asking import HANDLER
from tests.privacy.canaries import Canaries
from tests.privacy.conftest import pull_everything, seen_in
from tests.privacy.fake_graph import TRACE, FakeGraph
from tests.privacy.service import HOOK, Service, Setup, running
from tests.privacy.wire import ask_all

ROUNDS = 12
"""The rounds of the doctor, each with three calls of Graph, whose responses all differ."""

CONFIG = ("--config", "wats.config.json")
WEBHOOKS = 300


async def run_commands(service: Service, canaries: Canaries) -> dict[str, str]:
    """Return the output of every command that reads the setup or the service."""
    asker = service.asker(canaries)
    await ask_all(
        service.url,
        [ask for place, ask in enumerate(asker.webhooks()) if place < WEBHOOKS],
    )
    await ask_all(service.url, [*asker.webhooks_that_are_refused(), *asker.messages()])
    await pull_everything(service, asker)
    await service.wait_for_handlers()
    words = {
        "doctor of a service": ("doctor", "--url", service.url, "--token-env", "TELEMETRY_TOKEN"),
        "doctor": ("doctor", *CONFIG),
        "validate": ("config", "validate", "--json", *CONFIG),
        "init": ("init",),
        **{f"doctor {place}": ("doctor", "--live", "--json", *CONFIG) for place in range(ROUNDS)},
    }
    user = canaries.number("erased user")
    words |= {
        " ".join(each).replace(user, "USER"): (*each, "--url", service.url, *CONFIG)
        for each in (
            ("consumers", "list"),
            ("inbox", "list", "--json"),
            ("dead-letters", "list", "--limit", "10000"),
            ("dead-letters", "list", "--json"),
            ("dead-letters", "retry", "--all", "--dry-run"),
            ("replay", "--to", HANDLER, "--all", "--dry-run", "--json"),
            ("erase", "--user", user, "--dry-run"),
        )
    }
    return {name: await service.command(*each) for name, each in words.items()}


async def use_everything(folder: Path) -> tuple[Service, Canaries, dict[str, str]]:
    canaries = Canaries()
    async with FakeGraph(canaries) as graph:
        options = ("--log-format", "console")
        setup = Setup(graph_url=graph.url, handler="fail", options=options)
        async with running(canaries, folder, setup) as service:
            shown = await run_commands(service, canaries)
            await service.stop()
    return service, canaries, shown


@pytest.mark.long
def test_no_canary_is_seen_in_the_console_or_in_a_command(tmp_path: Path) -> None:
    service, canaries, shown = uvloop.run(use_everything(tmp_path))

    log = service.surfaces["stderr"]
    # The operator's own URL and path are part of the config that is shown.
    own = {"validate": ["base path", HOOK]}
    listed = shown["dead-letters list --json"]
    rest = {name: output for name, output in shown.items() if output is not listed}
    assert seen_in({"stderr": log, **rest}, canaries) == {"stderr": [TRACE], **own}
    # The numbers of businesses, also of those that are not in the config.
    seen = {place.rpartition(".value.")[2] for place in canaries.found_in(listed)}
    assert seen == {"metadata.phone_number_id"}
    for event in ("wats.handler.failed", "wats.webhook.rejected", "wats.graph.failure"):
        assert f" {event} " in log
    assert all(shown.values())
    assert len(shown["dead-letters list --limit 10000"].splitlines()) > WEBHOOKS / 2
    found = [json.loads(shown[f"doctor {place}"]) for place in range(ROUNDS)]
    verdicts = {each["verdict"] for one in found for each in one["items"]}
    assert verdicts == {"holds", "fails", "unknown"}
    for secret in service.secrets.values():
        assert secret not in "".join(shown.values())
