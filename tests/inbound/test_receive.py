import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from wats.config import InboxConfig
from wats.errors import StoreUnavailable, WebhookRefused
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Handlers
from wats.inbound.receive import Receipt, Receiver, lane_of
from wats.inbound.signature import SignatureCheck
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.store import Store
from wats.store.open import open_store
from wats.telemetry import Adapter, RouteLabel, Telemetry
from wats.testing import APP_SECRET, sign


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = open_store("sqlite:///:memory:")
    await store.open()
    yield store
    await store.close()


class Inlet:
    def __init__(self, store: Store | None, handlers: Handlers | None = None) -> None:
        self.telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE)
        handlers = handlers or Handlers()
        # It is not started, so what is stored stays where it is.
        dispatcher = store and Dispatcher(
            store, handlers, InboxConfig(), telemetry=self.telemetry, log=lambda _: None
        )
        self.receiver = Receiver(
            SignatureCheck([Secret(APP_SECRET)]),
            handlers,
            store,
            telemetry=self.telemetry,
            dispatcher=dispatcher,
            handler_timeout_seconds=5,
        )

    async def take(self, *ids: str, junk: int = 0) -> Receipt:
        body = webhook(*ids, junk=junk)
        return await self.receiver.receive(body, sign(body))

    def counted(self) -> dict[str, int]:
        start, end = 'webhook_normalization_total{outcome="', '",update_kind="message"} '
        lines = [line for line in self.telemetry.render().body.decode().splitlines() if end in line]
        pairs = [line.removeprefix(start).split(end) for line in lines]
        return {outcome: int(count) for outcome, count in pairs if count != "0"}


def webhook(*ids: str, junk: int = 0) -> bytes:
    good = [
        {"id": id_, "from": "15550002222", "timestamp": "1750000000", "type": "text"} for id_ in ids
    ]
    value = {"metadata": {"phone_number_id": "2"}, "messages": [*good, *[None] * junk]}
    change = {"field": "messages", "value": value}
    return msgspec.json.encode(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
    )


async def test_what_is_new_is_kept_and_what_is_known_is_not_kept_again(store: Store) -> None:
    inlet = Inlet(store)

    first = await inlet.take("a", "b")
    second = await inlet.take("b", "c", "c", junk=2)

    assert first == Receipt(received=2, dispatched=2, skipped=0)
    assert second == Receipt(received=2, dispatched=1, skipped=4)
    assert inlet.counted() == {"success": 3, "deduped": 1, "skipped": 3}


async def test_success_is_counted_where_nobody_has_to_handle_it(store: Store) -> None:
    async def handle(update: Update) -> None: ...

    handlers = Handlers()
    handlers.add(handle)
    inlet = Inlet(store, handlers)

    await inlet.take("a")

    assert inlet.counted() == {}
    assert (await store.inbox_depth()).leased == 1


async def test_a_body_that_metas_key_did_not_sign_is_not_looked_at(store: Store) -> None:
    inlet = Inlet(store)

    with pytest.raises(WebhookRefused, match="does not match"):
        await inlet.receiver.receive(webhook("a"), sign(webhook("b")))

    assert await store.get_message("a") is None
    assert inlet.counted() == {}


async def test_a_webhook_without_updates_asks_the_store_nothing() -> None:
    closed = open_store("sqlite:///:memory:")

    assert await Inlet(closed).take() == Receipt(received=0, dispatched=0, skipped=0)


async def test_a_store_that_cannot_keep_it_is_told_to_meta() -> None:
    class Broken:
        def receive(self, arrivals: object) -> "asyncio.Future[object]":
            future = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable())
            return future

    inlet = Inlet(Broken())  # type: ignore[arg-type]

    with pytest.raises(StoreUnavailable):
        await inlet.take("a", junk=1)
    assert inlet.counted() == {}


async def test_without_a_store_the_handlers_have_run_when_it_is_answered() -> None:
    handled: list[str] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["id"])

    handlers = Handlers()
    handlers.add(handle)
    inlet = Inlet(None, handlers)

    receipt = await inlet.take("a", "b", junk=1)

    assert handled == ["a", "b"]
    assert receipt == Receipt(received=2, dispatched=2, skipped=1)
    assert inlet.counted() == {"success": 2, "skipped": 1}


async def test_without_a_store_a_failing_handler_is_counted_and_forgotten() -> None:
    handled: list[str] = []

    async def fail(update: Update) -> None:
        raise ValueError

    async def handle(update: Update) -> None:
        handled.append(update.raw["id"])

    handlers = Handlers()
    handlers.add(fail)
    handlers.add(handle)
    inlet = Inlet(None, handlers)

    receipt = await inlet.take("a", "b")

    assert handled == ["a", "b"]
    assert receipt == Receipt(received=2, dispatched=0, skipped=0)
    assert inlet.counted() == {"error": 2}
    assert inlet.telemetry.errors.snapshot() == {"ValueError": 2}


async def test_without_a_store_a_cancelled_handler_is_counted_and_forgotten_too() -> None:
    async def cancelled(update: Update) -> None:
        raise asyncio.CancelledError

    handlers = Handlers()
    handlers.add(cancelled)
    inlet = Inlet(None, handlers)

    assert (await inlet.take("a")).dispatched == 0
    assert inlet.counted() == {"error": 1}


def test_one_conversation_has_one_lane_and_another_has_another() -> None:
    made = {"waba_id": "1", "field": "messages", "key": "0" * 32, "kind": "message", "raw": {}}
    times = {"occurred_at": "2026-01-01T00:00:00Z", "received_at": "2026-01-01T00:00:00Z"}

    def lane(**changes: str | None) -> int:
        return lane_of(msgspec.convert(made | times | changes, Update))

    assert lane(conversation="2|a") == lane(conversation="2|a", field="calls")
    assert lane(conversation="2|a") != lane(conversation="2|b")
    assert lane(conversation=None) == lane(conversation=None)
    assert lane(conversation=None) != lane(conversation=None, field="calls")
    assert -(2**63) <= lane() < 2**63
