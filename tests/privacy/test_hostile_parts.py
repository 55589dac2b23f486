"""Names of an operator's own code and error texts of a store do not get out either."""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.privacy.asking import Asker
from tests.privacy.canaries import Canaries
from tests.privacy.conftest import refusals, seen_in
from tests.privacy.fake_graph import QUERY_NAMES, TRACE, FakeGraph
from tests.privacy.hostile import named_by
from tests.privacy.log_lines import faults_of
from tests.privacy.planting import hostile
from tests.privacy.service import read_telemetry
from tests.privacy.wire import ask_all
from wats.config import GroupsConfig, InboxConfig, MessagesConfig, TelemetryConfig
from wats.errors import StoreUnavailable
from wats.privacy import Secret
from wats.service import create_wats_service_app
from wats.store import OnReceived
from wats.store.sqlite import SQLiteStore
from wats.telemetry import (
    UNMATCHED,
    FamilySet,
    Outcome,
    RouteLabel,
    Telemetry,
    UpdateKind,
)
from wats.testing import CapturingTelemetrySink, example_profile, example_secrets, serving
from wats.web.table import route_table


class TalkativeStore:
    """A store of which every third operation fails with an error that quotes its arguments."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self._turns: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in {"adapter", "open", "close", "occupy", "on_work", "register"}:
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            if (error := self._error_of(name, repr((arguments, options)))) is not None:
                raise error
            return await found(*arguments, **options)

        return call

    def receive(self, arrivals: Any, on_received: OnReceived, slots: Any) -> None:
        if (error := self._error_of("receive", repr((arrivals, slots)))) is not None:
            on_received(None, error)
        else:
            self._store.receive(arrivals, on_received, slots)

    def _error_of(self, name: str, text: str) -> Exception | None:
        self._turns[name] += 1
        match self._turns[name] % 6:
            case 2:
                error = StoreUnavailable()
                error.__cause__ = OSError(5, text, text)
                return error
            case 4:
                return named_by(text)
            case _:
                return None


class Handler:
    """A handler with any name that it is given."""

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    async def __call__(self, update: Any) -> None:
        pass


def names(canaries: Canaries) -> list[str]:
    """Return names that a handler may have and that no surface may show."""
    word, number = canaries.word("handler"), canaries.number("handler")
    return [
        number,
        f"handle_{number}",
        f"{word} {word}",
        f"{word}'s",
        hostile(word),
        f"{word}\u00e9",
    ]


class Output:
    """The output of a service in this process."""

    def __init__(self, canaries: Canaries) -> None:
        self.canaries = canaries
        self.sink = CapturingTelemetrySink()
        self.log: list[Mapping[str, object]] = []
        self.surfaces: dict[str, str] = {}
        self.handlers: list[Handler] = []


async def exercise(folder: Path) -> Output:
    """Send requests to a service with such a store and such handlers, and return its output."""
    output = Output(Canaries())
    words = ("token", "telemetry_token", "app_secret", "verify_token")
    secrets = {name: output.canaries.word(name) * 2 for name in words}
    async with FakeGraph(output.canaries) as graph:
        profile = example_profile(
            graph_url=graph.url,
            groups=GroupsConfig(enabled=True),
            messages=MessagesConfig(throughput=0),
            inbox=InboxConfig(max_attempts=1),
            telemetry=TelemetryConfig(families="operator"),
        )
        app = create_wats_service_app(
            profile=profile,
            secrets=example_secrets(
                bearer_tokens=(Secret(secrets["token"]),),
                telemetry_tokens=(Secret(secrets["telemetry_token"]),),
                app_secrets=(Secret(secrets["app_secret"]),),
                verify_token=Secret(secrets["verify_token"]),
            ),
            persistence=TalkativeStore(SQLiteStore(str(folder / "wats.db"))),  # type: ignore[arg-type]
            handlers=[Handler(name) for name in names(output.canaries)],
            telemetry_sink=output.sink,
            log=output.log.append,
        )
        table = route_table(profile, groups_enabled=True)
        asker = Asker(output.canaries, table, hook=profile.webhook.path, secrets=secrets)
        async with serving(app) as url:
            asks = [*islice(asker.webhooks(), 219), *asker.messages(), *asker.every_route()]
            asked = await ask_all(url, asks)
            output.surfaces = await read_telemetry(url, secrets)
    output.surfaces["sink"] = repr(output.sink)
    output.surfaces["log"] = "\n".join(json.dumps(line) for line in output.log)
    output.surfaces["answers"] = "\n".join(refusals(asked))
    return output


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return uvloop.run(exercise(tmp_path_factory.mktemp("hostile")))


def test_no_canary_is_seen(output: Output) -> None:
    seen = seen_in(output.surfaces, output.canaries)
    assert seen == {"log": [TRACE], "answers": [*QUERY_NAMES, TRACE]}


def test_the_failure_of_the_store_reached_every_surface(output: Output) -> None:
    events = Counter(str(line["event"]) for line in output.log)

    assert events["wats.request.error"] > 10
    assert events["wats.message.unrecorded"] > 3
    assert "persistence_unavailable" in output.surfaces["answers"]
    assert "internal_error" in output.surfaces["answers"]
    assert '"Error":' in output.surfaces["/debug/diagnostics"]


def test_every_line_of_the_log_is_as_documented(output: Output) -> None:
    assert {fault for line in output.log for fault in faults_of(json.dumps(line))} == set()


def test_the_sink_received_every_failure(output: Output) -> None:
    assert len(output.sink.counters) > 1000
    assert len(output.sink.histograms) > 1000
    assert len(output.sink.spans) > 1000
    assert {event.name for event in output.sink.events} == {"wats.started", "wats.draining"}


def test_a_handler_whose_name_may_be_personal_data_is_named_other() -> None:
    canaries = Canaries()
    sink = CapturingTelemetrySink()
    telemetry = Telemetry(
        routes=[RouteLabel(UNMATCHED)], adapter=None, sink=sink, families=FamilySet.OPERATOR
    )
    targets = [f"shop:{name}" for name in names(canaries)]

    telemetry.use_targets(["shop:reply", *targets])
    for target in range(len(targets) + 1):
        telemetry.webhooks.dispatched(target, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

    exposition = telemetry.render(None, None).body.decode()
    assert canaries.found_in(exposition + repr(sink)) == set()
    assert 'wats_dispatch_total{outcome="success",target="shop:reply"} 1\n' in exposition
    other = f'wats_dispatch_total{{outcome="success",target="other"}} {len(targets)}\n'
    assert other in exposition
