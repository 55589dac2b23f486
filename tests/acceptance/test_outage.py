"""Responses while the database is gone, or where there is none."""

import json
from contextlib import closing
from typing import Any

from apsw import Connection, FullError

from wats.errors import DatabaseMoved, StoreUnavailable
from wats.store import OnReceived
from wats.store.sqlite import SQLiteStore

GOOD_PHONE = "15550001234"
MINE = "whatsapp_business_account"


def error(code: str, message: str, **more: Any) -> bytes:
    document = {"error": {"code": code, "message": message, **more}}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


async def test_without_a_store_routes_that_need_one_report_it(open_gateway) -> None:
    async with open_gateway(has_store=False) as gateway:
        for path, message in {
            "/api/messages": "Message projections require a persistence store.",
            "/api/messages/x": "Message projections require a persistence store.",
            "/api/conversations/1/window": (
                "Conversation window state requires a persistence store."
            ),
        }.items():
            answer = await gateway.ask("GET", path)
            expected = error("persistence_not_configured", message)
            assert (answer.status, answer.body) == (503, expected)
            assert "retry-after" not in answer.headers
        assert (await gateway.ask("GET", "/readyz")).status == 200


class Unavailable(SQLiteStore):
    """A store that can be disconnected."""

    is_gone = False

    def __getattribute__(self, name: str) -> Any:
        if name not in {"open", "close", "adapter", "is_gone"} and name[0] != "_" and self.is_gone:
            return _refuse if name == "receive" else _gone
        return super().__getattribute__(name)


async def _gone(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable


def _refuse(_: Any, on_received: OnReceived, __: Any) -> None:
    on_received(None, StoreUnavailable())


UPDATE = {
    "object": MINE,
    "entry": [
        {
            "id": "1",
            "time": 1_790_000_000,
            "changes": [{"field": "account_update", "value": {"event": "X"}}],
        }
    ],
}
UNAVAILABLE = error("persistence_unavailable", "The store could not be reached.")
NO_PROJECTION = error("persistence_unavailable", "Message projection store could not be reached.")
NO_WINDOW = error(
    "conversation_window_unavailable", "Conversation window state could not be computed."
)
NOT_READY = error("not_ready", "The persistence check failed.")


async def test_every_caller_learns_of_a_lost_store_and_no_update_is_lost(
    open_gateway, tmp_path
) -> None:
    store = Unavailable(str(tmp_path / "wats.db"))
    async with open_gateway(store=store) as gateway:
        store.is_gone = True

        refused = await gateway.webhook(UPDATE)
        assert (refused.status, refused.body) == (503, UNAVAILABLE)
        assert int(refused.headers["retry-after"]) > 0
        sent = await gateway.send_text(GOOD_PHONE, key="k")
        assert (sent.status, sent.body) == (503, UNAVAILABLE)
        assert int(sent.headers["retry-after"]) > 0
        for path, expected in {
            "/api/messages": NO_PROJECTION,
            "/api/messages/x": NO_PROJECTION,
            "/api/conversations/1/window": NO_WINDOW,
            "/readyz": NOT_READY,
        }.items():
            answer = await gateway.ask("GET", path)
            assert (answer.status, answer.body) == (503, expected)
        assert (await gateway.ask("GET", "/healthz")).status == 200
        status = await gateway.ask("GET", "/status")
        assert (status.status, status.json["persistence"]["ok"]) == (200, False)
        assert await gateway.normalized() == {}
        assert gateway.simulator.counts.requests == 0

        store.is_gone = False
        taken = await gateway.webhook(UPDATE)
        assert taken.json == {"status": "ok", "received": 1, "dispatched": 1, "skipped": 0}
        assert (await gateway.ask("GET", "/readyz")).status == 200
        assert sum((await gateway.normalized()).values()) == 1


async def test_readiness_states_that_the_database_was_replaced(open_gateway, tmp_path) -> None:
    path = tmp_path / "wats.db"
    async with open_gateway(store=SQLiteStore(str(path))) as gateway:
        moved = path.rename(tmp_path / "moved.db")

        refused, ready = await gateway.webhook(UPDATE), await gateway.ask("GET", "/readyz")
        moved.rename(path)
        again = await gateway.ask("GET", "/readyz")

    assert refused.status == 503
    assert (ready.status, ready.body) == (503, error("not_ready", DatabaseMoved.text))
    assert again.status == 200


class Full(SQLiteStore):
    """A store that cannot be written."""

    def __getattribute__(self, name: str) -> Any:
        return _refuse_for_space if name == "receive" else super().__getattribute__(name)


def _refuse_for_space(_: Any, on_received: OnReceived, __: Any) -> None:
    unavailable = StoreUnavailable()
    unavailable.__cause__ = FullError("wats.db")
    on_received(None, unavailable)


async def test_a_full_disk_is_logged_once_with_the_class_of_the_error(
    open_gateway, tmp_path
) -> None:
    async with open_gateway(store=Full(str(tmp_path / "wats.db"))) as gateway:
        for _ in range(3):
            assert (await gateway.webhook(UPDATE)).status == 503

        lines = [line for line in gateway.log if line["event"] == "wats.store.error"]

    assert [(line["method"], line["errorName"]) for line in lines] == [("request", "FullError")]


class FullForKeys(SQLiteStore):
    """A store that cannot reserve idempotency keys."""

    def __getattribute__(self, name: str) -> Any:
        return _refuse_keys if name == "reserve_request" else super().__getattribute__(name)


async def _refuse_keys(**_: Any) -> None:
    raise StoreUnavailable from FullError("wats.db")


async def test_a_full_disk_is_logged_with_the_class_of_the_error_of_a_send(
    open_gateway, tmp_path
) -> None:
    async with open_gateway(store=FullForKeys(str(tmp_path / "wats.db"))) as gateway:
        refused = await gateway.send_text("15550001234", key="k")

        lines = [line for line in gateway.log if line["event"] == "wats.store.error"]

    assert refused.status == 503
    assert [(line["method"], line["errorName"]) for line in lines] == [("request", "FullError")]


async def test_a_message_that_meta_took_is_no_failure_when_it_cannot_be_recorded(
    open_gateway, tmp_path
) -> None:
    store = Unavailable(str(tmp_path / "wats.db"))
    async with open_gateway(store=store) as gateway:
        store.is_gone = True

        answer = await gateway.send_text(GOOD_PHONE)

        assert answer.status == 200
        assert gateway.simulator.counts.sends == 1
        events = [line["event"] for line in gateway.log]
        in_the_background = {"wats.store.error", "wats.upkeep.error"}
        assert [each for each in events if each not in in_the_background] == [
            "wats.message.unrecorded"
        ]


async def test_a_locked_database_is_unavailable(open_gateway, tmp_path) -> None:
    store = SQLiteStore(str(tmp_path / "wats.db"), busy_seconds=0.1)
    async with open_gateway(store=store) as gateway:
        with closing(Connection(str(gateway.database))) as other:
            other.set_busy_timeout(5000)  # for the queries at the start of the gateway
            other.execute("BEGIN EXCLUSIVE")
            refused = await gateway.webhook(UPDATE)
            other.execute("ROLLBACK")

        assert (refused.status, refused.body) == (503, UNAVAILABLE)
        assert await gateway.normalized() == {}
        assert (await gateway.webhook(UPDATE)).json["dispatched"] == 1
