import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from wats.config import TelemetryConfig
from wats.content import AccountAlert, AccountUpdate, Text
from wats.errors import ConfigError, StoreClosed, StoreUnavailable
from wats.service import create_wats_service_app
from wats.store.records import Consumer
from wats.store.sqlite import SQLiteStore
from wats.telemetry.contract.values import UpdateKind
from wats.telemetry.metrics.shared_memory import Board
from wats.testing import (
    CapturingTelemetrySink,
    FakeClock,
    example_profile,
    example_secrets,
    sign,
)
from wats.version import __version__

UPDATE = {
    "object": "whatsapp_business_account",
    "entry": [
        {
            "id": "1",
            "time": 1_790_000_000,
            "changes": [{"field": "account_update", "value": {"event": "X"}}],
        }
    ],
}


def make(**options: Any) -> Any:
    return create_wats_service_app(
        **{"profile": example_profile(), "secrets": example_secrets(), **options}
    )


async def ask(
    app: Any, method: str = "GET", path: str = "/healthz", body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """Ask *app* as an ASGI server would."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
        ],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


async def webhook(app: Any) -> tuple[int, Any]:
    body = json.dumps(UPDATE).encode()
    signature = sign(body)
    return await ask(app, "POST", "/webhooks/whatsapp", body, **{"x-hub-signature-256": signature})


class Lifespan:
    """The server's side of the lifespan protocol."""

    def __init__(self, app: Any) -> None:
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self._running = asyncio.create_task(
            app({"type": "lifespan"}, self._to_app.get, self._from_app.put)
        )

    async def send(self, event: str) -> dict[str, Any]:
        await self._to_app.put({"type": f"lifespan.{event}"})
        answer: dict[str, Any] = await self._from_app.get()
        return answer

    async def end(self) -> None:
        await self._running


class Broken(SQLiteStore):
    """A store that cannot be opened."""

    async def open(self, observe: Any = None) -> None:
        raise StoreUnavailable


async def test_a_server_with_lifespan_starts_and_stops_an_application(tmp_path) -> None:
    app = make(persistence=SQLiteStore(str(tmp_path / "wats.db")))
    server = Lifespan(app)

    assert await server.send("startup") == {"type": "lifespan.startup.complete"}
    assert (await ask(app, path="/readyz"))[0] == 200
    assert await server.send("shutdown") == {"type": "lifespan.shutdown.complete"}
    await server.end()
    assert (await ask(app, path="/readyz"))[0] == 503


async def test_a_failed_start_is_reported_to_the_server_in_our_words(tmp_path) -> None:
    server = Lifespan(make(persistence=Broken(str(tmp_path / "wats.db"))))

    answer = await server.send("startup")

    await server.end()
    assert answer == {
        "type": "lifespan.startup.failed",
        "message": "The store could not be reached.",
    }


async def test_to_start_or_stop_twice_is_to_do_it_once(tmp_path) -> None:
    before = asyncio.all_tasks()
    app = make(persistence=SQLiteStore(str(tmp_path / "wats.db")))

    await app.stop()
    await app.start()
    await app.start()
    assert (await ask(app, path="/readyz"))[0] == 200
    await app.stop()
    await app.stop()

    assert asyncio.all_tasks() == before


async def test_an_update_is_handled_by_the_handlers_of_its_kind(tmp_path) -> None:
    app = make(persistence=SQLiteStore(str(tmp_path / "wats.db")))
    handled: asyncio.Queue[str] = asyncio.Queue()

    @app.on("account")
    async def of_accounts(update: Any) -> None:
        await handled.put(f"account {update.kind}")

    @app.on(UpdateKind.MESSAGE, "status")
    async def of_messages(update: Any) -> None:
        await handled.put("message")

    @app.on()
    async def of_all(update: Any) -> None:
        await handled.put("all")

    await app.start()
    assert await webhook(app) == (
        200,
        {"status": "ok", "received": 1, "dispatched": 1, "skipped": 0},
    )

    assert {await handled.get(), await handled.get()} == {"account account", "all"}
    await app.stop()
    assert handled.empty()


async def test_an_update_is_handled_by_the_handlers_of_its_content() -> None:
    app = make()
    seen: list[str] = []

    @app.on("account", content=AccountAlert)
    async def of_alerts(update: Any) -> None:
        seen.append("alert")

    @app.on(content=(AccountUpdate, Text), where=lambda update: update.waba_id != "")
    async def of_accounts(update: Any) -> None:
        seen.append(type(update.content).__name__)

    await app.start()
    await webhook(app)
    await app.stop()

    assert seen == ["AccountUpdate"]


def test_a_typo_in_a_filter_is_refused_when_the_handler_is_added() -> None:
    async def handler(update: Any) -> None: ...

    with pytest.raises(ConfigError, match="Text is the content of no update"):
        make().on("status", content=Text)(handler)


async def test_without_a_store_handlers_run_before_the_response() -> None:
    seen: list[str] = []

    async def handler(update: Any) -> None:
        seen.append(update.kind)

    app = make(handlers=[handler])
    await app.start()

    answer = await webhook(app)

    assert (answer[0], seen) == (200, ["account"])
    await app.stop()


def test_there_are_no_kinds_but_ours() -> None:
    with pytest.raises(ValueError, match="weather"):
        make().on("weather")


async def test_handlers_cannot_be_added_to_a_running_application() -> None:
    app = make()
    await app.start()

    with pytest.raises(ConfigError):

        @app.on()
        async def late(update: Any) -> None: ...

    await app.stop()


def test_two_handlers_cannot_have_one_name() -> None:
    async def handler(update: Any) -> None: ...

    with pytest.raises(ConfigError):
        make(handlers=[handler, handler])


def test_handlers_are_found_by_the_names_in_the_profile() -> None:
    with pytest.raises(ConfigError) as refused:
        make(profile=example_profile(handlers=("wats.nowhere:handler",)))

    assert [issue.code for issue in refused.value.issues] == ["invalid_handler"]


async def test_web_sockets_are_closed() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await make()({"type": "websocket", "path": "/"}, receive, send)

    assert sent == [{"type": "websocket.close"}]


async def test_an_unsupported_protocol_is_an_error() -> None:
    with pytest.raises(ValueError, match="serves http and lifespan"):
        await make()({"type": "carrier-pigeon"}, None, None)


async def test_a_log_that_cannot_be_written_fails_no_request() -> None:
    def log(event: Mapping[str, object]) -> None:
        raise BrokenPipeError

    async def handler(update: Any) -> None:
        raise RuntimeError

    app = make(handlers=[handler], log=log)
    await app.start()

    assert (await webhook(app))[0] == 200
    await app.stop()


async def test_groups_can_be_enabled_in_addition_to_the_profile() -> None:
    assert (await ask(make(), path="/api/groups"))[0] == 404
    assert (await ask(make(enable_group_routes=True), path="/api/groups"))[0] == 401


async def test_expired_records_are_deleted_at_the_start(tmp_path) -> None:
    clock = FakeClock()
    store = SQLiteStore(str(tmp_path / "wats.db"), now=clock)
    app = make(persistence=store, now=clock)
    await app.start()
    assert (await webhook(app))[1]["dispatched"] == 1
    assert (await webhook(app))[1]["dispatched"] == 0
    await app.stop()

    clock.moment += timedelta(days=3650)
    later = make(persistence=SQLiteStore(str(tmp_path / "wats.db"), now=clock), now=clock)
    await later.start()
    # Its identity has expired, so the update is new again.
    async with asyncio.timeout(60):
        while (await webhook(later))[1]["dispatched"] == 0:
            await asyncio.sleep(0.01)
    await later.stop()


async def test_a_sink_is_called_when_the_service_starts_and_when_it_begins_to_stop() -> None:
    sink = CapturingTelemetrySink()
    app = make(telemetry_sink=sink)

    app.drain()  # there is nothing to stop yet
    await app.start()
    await app.start()
    assert [event.name for event in sink.events] == ["wats.started"]
    app.drain()
    app.drain()
    assert [event.name for event in sink.events] == ["wats.started", "wats.draining"]
    await app.stop()
    await app.start()
    await app.stop()
    await app.stop()

    assert [event.name for event in sink.events] == ["wats.started", "wats.draining"] * 2


async def test_a_service_that_cannot_start_has_not_started(tmp_path) -> None:
    sink = CapturingTelemetrySink()
    app = make(persistence=Broken(str(tmp_path / "wats.db")), telemetry_sink=sink)

    with pytest.raises(StoreUnavailable):
        await app.start()
    await app.stop()

    assert sink.events == []


class CannotRegister(SQLiteStore):
    """A store that is lost after it was opened, for as long as `is_lost`."""

    is_lost = True

    async def register(self, consumers: Sequence[Consumer]) -> None:
        if self.is_lost:
            raise StoreUnavailable
        await super().register(consumers)


async def test_a_start_that_fails_half_way_closes_what_it_opened(tmp_path) -> None:
    before = set(threading.enumerate())
    store = CannotRegister(str(tmp_path / "wats.db"))
    app = make(persistence=store)

    with pytest.raises(StoreUnavailable):
        await app.start()

    assert set(threading.enumerate()) <= before  # the thread of an earlier log may end meanwhile
    with pytest.raises(StoreClosed):
        await store.list_messages(limit=1, cursor=None)
    store.is_lost = False
    await app.start()
    assert (await ask(app, path="/readyz"))[0] == 200
    await app.stop()


async def test_services_that_share_memory_count_together() -> None:
    board = Board(2)
    services = [make(board=board, row=row) for row in range(2)]

    for service in services:
        assert (await ask(service))[0] == 200

    for service in services:
        exposition = service.telemetry.render().body.decode()
        assert (
            'http_requests_total{method="GET",route="/healthz",status_class="2xx"} 2' in exposition
        )


def test_the_versions_of_wats_and_of_the_graph_api_are_exposed() -> None:
    profile = example_profile(telemetry=TelemetryConfig(families="operator"))

    exposition = make(profile=profile).telemetry.render().body.decode()

    versions = f'graph_api_version="{profile.graph.api_version}",version="{__version__}"'
    assert f"wats_build_info{{{versions}}} 1\n" in exposition
