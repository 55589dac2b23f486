"""A service that leaks phone numbers is caught, on every surface."""

from itertools import islice
from pathlib import Path

import pytest
import uvloop

from tests.privacy.asking import Ask
from tests.privacy.canaries import Canaries
from tests.privacy.log_lines import faults_of
from tests.privacy.service import TELEMETRY, Setup, read_telemetry, running
from tests.privacy.wire import ask_all

PREFIX, CONFIG, CUSTOMER = "the API's prefix", "the name of the config", "a customer"
LEAKS = {
    **{name + whose: PREFIX for name in TELEMETRY for whose in ("", " (telemetry)")},
    "/openapi.json (anonymous)": PREFIX,
    "sink": PREFIX,
    "processes": CONFIG,
    "stdout": CUSTOMER,
    "stderr": CUSTOMER,
}
"""The leaks: in the name of a route, in an argument, and in a handler that prints."""


async def leak(canaries: Canaries, folder: Path) -> dict[str, str]:
    """Run a service that leaks, and return its surfaces."""
    prefix = f"/{canaries.number(PREFIX)}"
    setup = Setup(
        graph_url="http://127.0.0.1:9",
        has_store=False,
        handler="shout",
        sink="Sink",
        api_prefix=prefix,
        config_name=f"{canaries.number(CONFIG)}.json",
    )
    async with running(canaries, folder, setup) as service:
        webhooks = service.asker(canaries).webhooks()
        messages = islice((ask for ask in webhooks if b'"from"' in ask.body), 20)
        await ask_all(service.url, [*messages, Ask("route", target=f"{prefix}/messages")])
        service.surfaces |= await read_telemetry(service.url, service.secrets)
        service.read_processes()
        await service.stop()
    return service.surfaces


@pytest.mark.long
def test_every_planted_leak_is_found_on_every_surface(tmp_path: Path) -> None:
    canaries = Canaries()

    surfaces = uvloop.run(leak(canaries, tmp_path))

    assert surfaces.keys() == LEAKS.keys()
    for where, place in LEAKS.items():
        found = canaries.found_in(surfaces[where])
        if place is CUSTOMER:
            assert any(".messages[]" in each for each in found), where
        else:
            assert place in found, where
    assert {fault for line in surfaces["stderr"].splitlines() for fault in faults_of(line)}
