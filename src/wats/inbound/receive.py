"""The transaction of the inbound flow: a webhook body becomes stored updates, then we answer."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import msgspec
from typing_extensions import override

from wats.clock import Now, utc_now
from wats.inbound import envelope, projection, updates, usual
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import HandlerCall, HandlerCalls, Handlers
from wats.inbound.news import News
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.signature import SignatureCheck
from wats.inbound.updates import Update
from wats.privacy import short_fingerprint
from wats.store import Store
from wats.store.records import Arrival, Received
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import Outcome
from wats.telemetry.sinks.isolation import Log, write_json_line


class Receipt(msgspec.Struct, frozen=True):
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
        log: Receives failures of handlers where there is no store.
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
        log: Log = write_json_line,
        now: Now = utc_now,
    ) -> None:
        self._check = check
        self._handlers = handlers
        self._store = store
        self.telemetry = telemetry
        self.news = News(telemetry)
        self._dispatcher = dispatcher
        self._calls = HandlerCalls(
            handlers,
            telemetry=telemetry,
            timeout_seconds=handler_timeout_seconds,
            log=log,
        )
        self._now = now

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
            self.finish(found, 0, on_receipt)
        elif self._store is None or self._dispatcher is None:
            _Handling(self, self._calls, found, on_receipt).begin()
        else:
            arrivals = [self._arrival(update) for update in found.updates]
            storing = _Storing(self, self._dispatcher, found, arrivals, on_receipt)
            self._store.receive(arrivals, storing.end, self._dispatcher)

    def finish(self, found: Normalized, new: int, on_receipt: OnReceipt) -> None:
        """Count what was not understood, and pass the receipt on; *new* updates are dispatched.

        Call it when the updates are stored: what Meta has to send again would be counted again.
        """
        skipped = 0
        for kind, count in found.skipped.items():
            self.telemetry.webhook_update(kind, Outcome.SKIPPED, count)
            skipped += count
        received = len(found.updates)
        if self._store is not None:
            skipped += received - new
        on_receipt(Receipt(received, new, skipped), None)

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

    def begin(self, update: Update) -> tuple[str, ...]:
        """Report *update*, which is not stored, as new; return the names of its handlers."""
        if self.telemetry.wants_news:
            self.news.tell(update, projection.status_record(update))
        return self._handlers.consumers(update.kind)


class _Storing:
    """A webhook on its way to the store."""

    __slots__ = ("_arrivals", "_dispatcher", "_found", "_on_receipt", "_receiver")

    def __init__(
        self,
        receiver: Receiver,
        dispatcher: Dispatcher,
        found: Normalized,
        arrivals: Sequence[Arrival],
        on_receipt: OnReceipt,
    ) -> None:
        self._receiver = receiver
        self._dispatcher = dispatcher
        self._found = found
        self._arrivals = arrivals
        self._on_receipt = on_receipt

    def end(self, results: Sequence[Received | None] | None, error: Exception | None) -> None:
        """Respond, then dispatch: a handler may block, and Meta must not wait for it."""
        if results is None:
            self._on_receipt(None, error)
            return
        updates = self._found.updates
        new = 0
        for update, arrival, received in zip(updates, self._arrivals, results, strict=True):
            new += self._is_new(update, arrival, received)
        self._receiver.finish(self._found, new, self._on_receipt)
        for update, arrival, received in zip(updates, self._arrivals, results, strict=True):
            if received is not None:
                self._dispatcher.take(update, received, arrival.consumers)

    def _is_new(self, update: Update, arrival: Arrival, received: Received | None) -> bool:
        telemetry = self._receiver.telemetry
        if received is None:
            telemetry.webhook_update(update.kind, Outcome.DEDUPED)
            return False
        if telemetry.wants_news:
            self._receiver.news.tell(update, arrival.status, received.sent_at)
        if not arrival.consumers:
            telemetry.webhook_update(update.kind, Outcome.SUCCESS)
        return True


class _Handling:
    """The calls of the handlers of a webhook that is not stored, one after the other."""

    __slots__ = (
        "_calls",
        "_failures",
        "_found",
        "_handled",
        "_names",
        "_on_receipt",
        "_receiver",
        "_update",
        "_updates",
    )

    _update: Update

    def __init__(
        self, receiver: Receiver, calls: HandlerCalls, found: Normalized, on_receipt: OnReceipt
    ) -> None:
        self._receiver = receiver
        self._calls = calls
        self._found = found
        self._on_receipt = on_receipt
        self._updates = iter(found.updates)
        self._names: Iterator[str] = iter(())
        self._failures = 0
        self._handled = 0

    def begin(self) -> None:
        """Call the first handler of the next update; finish the webhook if there is none left."""
        for update in self._updates:
            self._update, self._failures = update, 0
            self._names = iter(self._receiver.begin(update))
            if self._call_next():
                return
        self._receiver.finish(self._found, self._handled, self._on_receipt)

    def _call_next(self) -> bool:
        for name in self._names:
            self._calls.start(_Step(self), name, self._update)
            return True
        outcome = Outcome.ERROR if self._failures else Outcome.SUCCESS
        self._receiver.telemetry.webhook_update(self._update.kind, outcome)
        self._handled += not self._failures
        return False

    def go_on(self, failure: BaseException | None) -> None:
        """Call the next handler: one has ended."""
        self._failures += failure is not None
        if not self._call_next():
            self.begin()


class _Step(HandlerCall):
    """One of the calls of a `_Handling`."""

    __slots__ = ("_handling",)

    def __init__(self, handling: _Handling) -> None:
        super().__init__()
        self._handling = handling

    @override
    def handled(self, failure: BaseException | None) -> None:
        self._handling.go_on(failure)


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
