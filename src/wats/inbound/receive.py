"""The transaction of the inbound flow: a webhook body becomes stored updates, then we answer."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from wats.clock import Now, utc_now
from wats.inbound import envelope, projection, updates, usual
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import HandlerCalls, Handlers
from wats.inbound.news import News
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.signature import SignatureCheck
from wats.inbound.updates import Update
from wats.privacy import short_fingerprint
from wats.store import Store
from wats.store.records import Arrival, Received
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import Outcome


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one webhook.

    Attributes:
        received: How many updates were understood.
        dispatched: How many of them are new: on disk, or without a store handled without failure.
        skipped: How many parts were duplicates or could not be understood.
    """

    received: int
    dispatched: int
    skipped: int


OnReceipt: TypeAlias = Callable[[Receipt | None, BaseException | None], None]
"""Called once with the receipt of a webhook, or with the error that it ended with."""


class Receiver:
    """Takes webhook bodies. Whatever it returns a receipt for is safe.

    Args:
        check: Tells Meta's bodies from others.
        handlers: Who will get the updates.
        store: Where they are kept. Without one the handlers run before the receipt is made, once,
            and what they raise is counted and forgotten.
        dispatcher: Who hands over what is kept; there is one if there is a store.
        handler_timeout_seconds: How long a handler may take where there is no store.
    """

    def __init__(
        self,
        check: SignatureCheck,
        handlers: Handlers,
        store: Store | None,
        *,
        telemetry: Telemetry,
        dispatcher: Dispatcher | None,
        handler_timeout_seconds: float,
        now: Now = utc_now,
    ) -> None:
        self._check = check
        self._handlers = handlers
        self._store = store
        self._telemetry = telemetry
        self._news = News(telemetry)
        self._dispatcher = dispatcher
        self._calls = HandlerCalls(
            handlers, telemetry=telemetry, timeout_seconds=handler_timeout_seconds
        )
        self._now = now
        self._handling: set[asyncio.Task[None]] = set()

    @property
    def is_dispatching(self) -> bool:
        """Whether stored updates reach their handlers; true where there is no store."""
        return self._dispatcher is None or self._dispatcher.is_alive

    async def receive(self, body: bytes, signature: str | None) -> Receipt:
        """Verify, parse and normalize *body*, and store or handle what is new in it.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is not a webhook.
            StoreUnavailable: Nothing was stored, so Meta must send it again.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.take(body, signature, partial(_resolve, future))
        return await future

    def take(self, body: bytes, signature: str | None, on_receipt: OnReceipt) -> None:
        """Do what `receive` does, and call *on_receipt* when it is done; maybe at once.

        With a callback, because a task for each of thousands of webhooks costs as much as reading
        them. What is stored is dispatched even if its caller is gone by then.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is not a webhook.
            StoreClosed: The store is not open.
        """
        self._check.verify(body, signature)
        received_at = self._now()
        update = usual.read(body, received_at)
        if update is not None:
            found = Normalized([update], [])
        else:
            found = normalize(envelope.parse(body), received_at=received_at)
        if not found.updates:
            self._finish(found, 0, on_receipt)
        elif self._store is None or self._dispatcher is None:
            self._start(self._handle_now(found, on_receipt))
        else:
            self._receive(self._store, self._dispatcher, found, on_receipt)

    def _receive(
        self, store: Store, dispatcher: Dispatcher, found: Normalized, on_receipt: OnReceipt
    ) -> None:
        arrivals = [self._arrival(update) for update in found.updates]
        slots: dict[str, int] = {}

        def reserve() -> Mapping[str, int]:
            slots.update(dispatcher.reserve(arrivals))
            return slots

        def on_received(results: Sequence[Received | None] | None, error: Exception | None) -> None:
            try:
                if results is None or error is not None:
                    on_receipt(None, error)
                    return
                self._finish(found, self._count(found, arrivals, results), on_receipt)
                # After the response: a handler may block, and Meta must not wait for it.
                self._dispatch(dispatcher, found, arrivals, results, slots)
            finally:
                dispatcher.give_back(slots)

        store.receive(arrivals, on_received, reserve)

    def _count(
        self, found: Normalized, arrivals: Sequence[Arrival], results: Sequence[Received | None]
    ) -> int:
        """Report what was stored; return how many updates are new."""
        new = 0
        for update, arrival, received in zip(found.updates, arrivals, results, strict=True):
            if received is None:
                self._telemetry.webhook_update(update.kind, Outcome.DEDUPED)
                continue
            new += 1
            self._news.tell(update, arrival.status, received.sent_at)
            if not arrival.consumers:
                self._telemetry.webhook_update(update.kind, Outcome.SUCCESS)
        return new

    def _dispatch(
        self,
        dispatcher: Dispatcher,
        found: Normalized,
        arrivals: Sequence[Arrival],
        results: Sequence[Received | None],
        slots: dict[str, int],
    ) -> None:
        """Dispatch what was leased on arrival, and note what was not."""
        for update, arrival, received in zip(found.updates, arrivals, results, strict=True):
            if received is not None:
                dispatcher.take(update, received, slots)
                if received.waiting:
                    dispatcher.note_work(arrival.consumers)

    def _finish(self, found: Normalized, new: int, on_receipt: OnReceipt) -> None:
        # Not before the updates are stored: what Meta has to send again would be counted again.
        for kind, count in found.skipped.items():
            self._telemetry.webhook_update(kind, Outcome.SKIPPED, count)
        received, skipped = len(found.updates), sum(found.skipped.values())
        if self._store is not None:
            skipped += received - new
        on_receipt(Receipt(received=received, dispatched=new, skipped=skipped), None)

    def _arrival(self, update: Update) -> Arrival:
        consumers = self._handlers.consumers(update.kind)
        records = projection.records(update)
        return Arrival(
            key=bytes.fromhex(update.key),
            occurred_at=update.occurred_at,
            received_at=update.received_at,
            kind=update.kind,
            phone_number_id=update.phone_number_id,
            ordering_key=ordering_key_of(update),
            payload=updates.encode(update) if consumers else b"",
            consumers=consumers,
            message=records.message,
            status=records.status,
            window=records.window,
        )

    def _start(self, handling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(handling)
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _handle_now(self, found: Normalized, on_receipt: OnReceipt) -> None:
        """Call the handlers of updates that are not stored."""
        handled = 0
        try:
            for update in found.updates:
                handled += await self._handle_one(update)
        except BaseException as error:
            on_receipt(None, error)
            raise
        self._finish(found, handled, on_receipt)

    async def _handle_one(self, update: Update) -> bool:
        self._news.tell(update, projection.status_record(update))
        failures = 0
        for name in self._handlers.consumers(update.kind):
            failures += await self._calls.call(name, update) is not None
        outcome = Outcome.ERROR if failures else Outcome.SUCCESS
        self._telemetry.webhook_update(update.kind, outcome)
        return not failures


def _resolve(
    future: "asyncio.Future[Receipt]", receipt: Receipt | None, error: BaseException | None
) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    elif receipt is not None:
        future.set_result(receipt)


def ordering_key_of(update: Update) -> int:
    """Return the number that all updates of one conversation share, and hardly any other.

    Updates that belong to no conversation keep their order within their WABA and field.
    """
    name = update.conversation or f"{update.waba_id}|{update.field}"
    # With a thousand conversations held up, one in two million others waits with one of them.
    return short_fingerprint(name)
