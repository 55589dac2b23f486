import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest

from wats.config import InboxConfig
from wats.errors import StoreClosed, StoreUnavailable, WebhookRefused
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Handlers
from wats.inbound.receive import Receipt, Receiver, ordering_key_of
from wats.inbound.signature import SignatureCheck
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.store import OnReceived, Store
from wats.store.open import open_store
from wats.store.records import Arrival, Consumer, DeliveryState, Depth, Settlement
from wats.telemetry import Adapter, RouteLabel, Telemetry
from wats.testing import APP_SECRET, sign


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = open_store("sqlite:///:memory:")
    await store.open()
    yield store
    await store.close()


class Inlet:
    def __init__(
        self,
        store: Store | None,
        handlers: Handlers | None = None,
        inbox: InboxConfig = InboxConfig(),  # noqa: B008  # it is frozen
    ) -> None:
        self.telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE)
        self.handlers = handlers = handlers or Handlers()
        # It is not started, so updates stay in the store.
        self.dispatcher = store and Dispatcher(
            store, handlers, inbox, telemetry=self.telemetry, log=lambda _: None
        )
        self.receiver = Receiver(
            SignatureCheck([Secret(APP_SECRET)]),
            handlers,
            store,
            telemetry=self.telemetry,
            dispatcher=self.dispatcher,
            handler_timeout_seconds=60,
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


async def test_new_updates_are_stored_and_duplicates_are_not_stored_again(store: Store) -> None:
    inlet = Inlet(store)

    first = await inlet.take("a", "b")
    second = await inlet.take("b", "c", "c", junk=2)

    assert first == Receipt(received=2, dispatched=2, skipped=0)
    assert second == Receipt(received=2, dispatched=1, skipped=4)
    assert inlet.counted() == {"success": 3, "deduped": 1, "skipped": 3}


async def test_an_update_with_a_handler_is_not_a_success_before_it_is_handled(store: Store) -> None:
    async def handle(update: Update) -> None: ...

    handlers = Handlers()
    handlers.add(handle)
    inlet = Inlet(store, handlers)
    await store.register([Consumer(name=name) for name in handlers.names])

    await inlet.take("a")

    assert inlet.counted() == {}
    assert (await store.depth()).total.pending == 1


async def test_a_body_with_an_invalid_signature_is_not_read(store: Store) -> None:
    inlet = Inlet(store)

    with pytest.raises(WebhookRefused, match="does not match"):
        await inlet.receiver.receive(webhook("a"), sign(webhook("b")))

    assert await store.get_message("a") is None
    assert inlet.counted() == {}


async def test_a_webhook_without_updates_does_not_use_the_store() -> None:
    closed = open_store("sqlite:///:memory:")

    assert await Inlet(closed).take() == Receipt(received=0, dispatched=0, skipped=0)


async def test_an_unavailable_store_is_the_error_of_its_webhook() -> None:
    class Broken:
        def receive(self, arrivals: object, on_received: OnReceived, slots: object) -> None:
            on_received(None, StoreUnavailable())

    inlet = Inlet(Broken())  # type: ignore[arg-type]

    with pytest.raises(StoreUnavailable):
        await inlet.take("a", junk=1)
    assert inlet.counted() == {}


async def test_without_a_store_the_handlers_have_run_before_the_receipt() -> None:
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


class Gated:
    """A store whose receiving ends when the test permits it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.held: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def receive(self, arrivals: Any, on_received: OnReceived, slots: Any) -> None:
        self._store.receive(
            arrivals,
            lambda *results: self.held.append(partial(on_received, *results)),
            slots,
        )


async def test_an_update_is_dispatched_although_its_caller_was_cancelled_while_it_was_stored(
    store: Store,
) -> None:
    handled: list[str] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["id"])

    handlers = Handlers()
    handlers.add(handle)
    gated = Gated(store)
    inlet = Inlet(gated, handlers)  # type: ignore[arg-type]
    assert inlet.dispatcher is not None
    await inlet.dispatcher.start()
    receiving = asyncio.create_task(inlet.take("a"))
    while not gated.held:
        await asyncio.sleep(0.001)
    assert (await store.depth()).total == Depth(leased=1)

    receiving.cancel()
    await asyncio.wait([receiving])
    for finish in gated.held:
        finish()

    while (await store.depth()).total != Depth():
        await asyncio.sleep(0.001)
    assert handled == ["a"]
    await inlet.dispatcher.stop(60)


async def test_a_lease_on_arrival_that_expired_before_its_process_noticed_is_not_used(
    store: Store,
) -> None:
    handled: list[str] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["id"])

    handlers = Handlers()
    handlers.add(handle)
    (name,) = handlers.names
    gated = Gated(store)
    inlet = Inlet(gated, handlers, InboxConfig(lease_seconds=0.2))  # type: ignore[arg-type]
    assert inlet.dispatcher is not None
    await inlet.dispatcher.start()
    receiving = asyncio.create_task(inlet.take("a"))
    while not gated.held:
        await asyncio.sleep(0.001)

    await asyncio.sleep(0.3)  # as long as the loop of the process is blocked
    while not (found := (await store.claim(name, 1)).deliveries):  # by another process
        await asyncio.sleep(0.01)
    for finish in gated.held:
        finish()
    await receiving
    await asyncio.sleep(0.05)

    assert handled == []
    await store.settle([Settlement(each, DeliveryState.DONE) for each in found])
    assert (await store.depth()).total == Depth()
    await inlet.dispatcher.stop(60)


async def test_the_slots_of_a_webhook_are_given_back_however_it_ends(store: Store) -> None:
    handled: list[str] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["id"])

    handlers = Handlers()
    handlers.add(handle)
    inlet = Inlet(store, handlers)
    assert inlet.dispatcher is not None
    await inlet.dispatcher.start()

    for _ in range(2 * InboxConfig().concurrency):
        await inlet.take("known")
    await store.close()
    for _ in range(2 * InboxConfig().concurrency):
        with pytest.raises(StoreClosed):
            await inlet.take("new")
    arrivals = [arrival_of("new", inlet) for _ in range(2 * InboxConfig().concurrency)]

    reserved = inlet.dispatcher.reserve(arrivals)

    assert list(reserved.values()) == [InboxConfig().concurrency]
    inlet.dispatcher.give_back(reserved)
    assert handled == ["known"]
    await store.open()
    await inlet.dispatcher.stop(60)


def arrival_of(name: str, inlet: Inlet) -> Arrival:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    return Arrival(
        key=name.encode(),
        occurred_at=now,
        received_at=now,
        kind="message",
        phone_number_id=None,
        ordering_key=0,
        payload=b"",
        consumers=inlet.handlers.names,
    )


def test_each_conversation_has_an_ordering_key_of_its_own() -> None:
    made = {"waba_id": "1", "field": "messages", "key": "0" * 32, "kind": "message", "raw": {}}
    times = {"occurred_at": "2026-01-01T00:00:00Z", "received_at": "2026-01-01T00:00:00Z"}

    def key(**changes: str | None) -> int:
        return ordering_key_of(msgspec.convert(made | times | changes, Update))

    assert key(conversation="2|a") == key(conversation="2|a", field="calls")
    assert key(conversation="2|a") != key(conversation="2|b")
    assert key(conversation=None) == key(conversation=None)
    assert key(conversation=None) != key(conversation=None, field="calls")
    assert -(2**63) <= key() < 2**63
