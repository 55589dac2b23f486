"""A service whose disk hangs, and recovers."""

import asyncio
from typing import Any

from tests.acceptance.conftest import Answer, Gateway
from tests.stalled_disk import stalled_disk
from wats.store.sqlite import SQLiteStore
from wats.testing import CapturingTelemetrySink

ERRORS = 'persistence_operations_total{adapter="sqlite",outcome="error"}'


def envelope(event: str) -> dict[str, Any]:
    change = {"field": "account_update", "value": {"event": event}}
    entry = {"id": "1", "time": 1_790_000_000, "changes": [change]}
    return {"object": "whatsapp_business_account", "entry": [entry]}


async def readiness_becomes(status: int, gateway: Gateway) -> Answer:
    async with asyncio.timeout(60):
        while (answer := await gateway.ask("GET", "/readyz")).status != status:
            await asyncio.sleep(0.01)
        return answer


async def test_a_disk_that_hangs_is_reported_and_loses_nothing(
    open_gateway, until, tmp_path
) -> None:
    handled: list[str] = []
    sink = CapturingTelemetrySink()

    async def keep(update: Any) -> None:
        handled.append(update.key)

    with stalled_disk() as disk:
        store = SQLiteStore(str(tmp_path / "wats.db"), timeout_seconds=2)
        options = {"telemetry_sink": sink}
        async with open_gateway(store=store, handlers=[keep], app_options=options) as gateway:
            assert (await gateway.webhook(envelope("A"))).status == 200
            disk.hang()
            refused = await asyncio.gather(*(gateway.webhook(envelope(each)) for each in "BC"))
            not_ready = await readiness_becomes(503, gateway)
            samples = await gateway.samples(ERRORS)
            disk.release()
            await readiness_becomes(200, gateway)
            again = [await gateway.webhook(envelope(each)) for each in "ABC"]
            await until(lambda: len(handled) >= 3)

    assert [(each.status, each.code) for each in refused] == [(503, "persistence_unavailable")] * 2
    assert "retry-after" in refused[0].headers
    assert not_ready.code == "not_ready"
    assert samples[ERRORS] >= 2
    assert [each.status for each in again] == [200] * 3
    assert len(handled) == len(set(handled)) == 3
    assert "wats.store.lost" in [event.name for event in sink.events]


async def test_a_service_whose_disk_hangs_stops(open_gateway, tmp_path) -> None:
    with stalled_disk() as disk:
        store = SQLiteStore(str(tmp_path / "wats.db"), timeout_seconds=2)
        async with asyncio.timeout(60), open_gateway(store=store) as gateway:
            disk.hang()
            assert (await gateway.webhook(envelope("A"))).status == 503
