"""One long interview of a real service, which the tests here then look at."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.privacy.asking import Asker
from tests.privacy.canaries import Canaries
from tests.privacy.fake_graph import FakeGraph
from tests.privacy.service import Service, Setup, read_telemetry, running
from tests.privacy.wire import Asked, ask_all


@dataclass(frozen=True, kw_only=True, repr=False)
class Output:
    """The requests to a service, and everything that it wrote.

    Attributes:
        variant: One of `VARIANTS`.
        served: How often the fake Graph sent each of its responses.
        surfaces: All output that operators can read, by surface.
        samples: The samples of `/metrics`, at the end.
    """

    canaries: Canaries
    asked: list[Asked]
    served: Mapping[str, int]
    variant: str
    surfaces: Mapping[str, str]
    samples: Mapping[str, float]


LOGS_UPDATES = {"WATS_LOG_WEBHOOK_EVENTS": "1"}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "store": {"sink": "Sink", "environ": LOGS_UPDATES},
    "no-store": {"sink": "AsyncSink", "has_store": False, "environ": LOGS_UPDATES},
    "workers": {"sink": "TracedSink", "workers": 2},
}


@pytest.fixture(scope="session")
def outputs() -> dict[str, Output]:
    """Keep the output of services: a run takes seconds, and many tests read its output."""
    return {}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.long) for name in VARIANTS])
def output(
    request: pytest.FixtureRequest,
    outputs: dict[str, Output],
    tmp_path_factory: pytest.TempPathFactory,
) -> Output:
    """Return the output of a service: one with a store, one without, and one in two processes."""
    name: str = request.param
    if name not in outputs:
        outputs[name] = uvloop.run(request_everything(name, tmp_path_factory.mktemp("privacy")))
    return outputs[name]


async def request_everything(variant: str, folder: Path) -> Output:
    """Run a service in *folder* until it has received every request, and return its output."""
    canaries = Canaries()
    async with FakeGraph(canaries) as graph:
        setup = Setup(graph_url=graph.url, handler="fail", **VARIANTS[variant])
        async with running(canaries, folder, setup) as service:
            asked = await interview(service, service.asker(canaries))
            if service.workers():
                await service.lose_a_worker()
            await graph.stop()
            unsent = service.asker(canaries).text("message without a Graph")
            asked += await ask_all(service.url, [unsent])
            await service.wait_for_handlers()
            service.surfaces |= await read_telemetry(service.url, service.secrets)
            service.read_processes()
            await service.stop()
    return Output(
        canaries=canaries,
        asked=asked,
        served=graph.served,
        variant=variant,
        surfaces={**service.surfaces, "answers": "\n".join(sorted(refusals(asked)))},
        samples=samples_of(service.surfaces["/metrics"]),
    )


async def interview(service: Service, asker: Asker) -> list[Asked]:
    """Ask *service* everything."""
    asked = await ask_all(service.url, asker.everything())
    if service.database is not None:
        (listed,) = await ask_all(service.url, [asker.listing()])
        messages = json.loads(listed.answer.body)["items"]
        sent = next(message for message in messages if message["direction"] == "outbound")
        asks = asker.of_message(sent["waMessageId"], service.phone_number_id)
        asked += await ask_all(service.url, asks)
        asked += await pull_everything(service, asker)
    return asked


async def pull_everything(service: Service, asker: Asker) -> list[Asked]:
    """Poll for updates, and acknowledge them, until there are none."""
    asked: list[Asked] = []
    while True:
        polled = await ask_all(service.url, [asker.poll()])
        receipts = [each["receipt"] for each in json.loads(polled[0].answer.body)["updates"]]
        asked += polled + await ask_all(service.url, asker.acknowledgements(receipts))
        if not receipts:
            return asked


def seen_in(surfaces: Mapping[str, str], canaries: Canaries) -> dict[str, list[str]]:
    """Return by surface some of the places whose canaries are seen on it; none without any."""
    found = {where: sorted(canaries.found_in(text))[:5] for where, text in surfaces.items()}
    return {where: places for where, places in found.items() if places}


def refusals(asked: list[Asked]) -> set[str]:
    """Return the heads of all responses, and the bodies of refusals."""
    return {
        (answer.head + (answer.body if answer.status >= 400 else b"")).decode("latin-1")
        for _, answer in asked
    }


def samples_of(exposition: str) -> dict[str, float]:
    """Return the samples of *exposition*, which follows the head of its response."""
    lines = exposition.partition("\r\n\r\n")[2].splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}
