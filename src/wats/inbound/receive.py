"""The inbound flow: verify a webhook body, store its updates in one transaction, then respond."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Final, TypeAlias

import msgspec
from typing_extensions import override

from wats.cancellation import resolve
from wats.clock import Now, utc_now
from wats.errors import WebhookRefused
from wats.inbound import envelope, fast_path, projection, updates
from wats.inbound.calls import HandlerCall, HandlerCalls, refuse_reply
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Handlers
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.other_numbers import NumberFilter
from wats.inbound.signature import SignatureCheck
from wats.inbound.update_log import UpdateLog
from wats.inbound.update_metrics import UpdateMetrics
from wats.inbound.updates import Update
from wats.log import Log, write_json_line
from wats.privacy import short_fingerprint
from wats.sends import SendReply
from wats.store import Store
from wats.store.records import Arrival, Received
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import Outcome
from wats.telemetry.spans import SpanContext, current_span


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The result of one webhook.

    Attributes:
        received: The number of updates in the body.
        dispatched: The number of new updates: on disk or, without a store, handled without failure.
        skipped: The number of duplicates, of ignored updates and of parts that are not understood.
    """

    received: int
    dispatched: int
    skipped: int


_SUCCESS: Final = Outcome.SUCCESS  # a look-up of 0.1 us in Python 3.11

OnReceipt: TypeAlias = Callable[[Receipt | None, BaseException | None], None]
"""Called once with the receipt of a webhook, or with its error."""

_Handling: TypeAlias = Generator[tuple[str, Update], BaseException | None, None]
"""The handling of a webhook that is not stored.

It yields the handler and the update of each call, and is sent the exception of the call, or `None`.
"""


class Receiver:
    """Processes webhook bodies. Updates with a receipt are durable if there is a store.

    Args:
        check: Verifies signatures.
        handlers: The handlers of each kind of update.
        store: The inbox. Without a store, handlers are called once, before the receipt, and their
            exceptions are only counted.
        dispatcher: Dispatches stored updates; required with a store.
        handler_timeout_seconds: The time limit of a handler's call without a store.
        log: Receives failures of handlers that are called without a store.
        update_log: Records each update, if an operator asked for it.
        number_filter: Applies the policy for updates of other numbers, if it is not to handle them.
        send: Sends replies of handlers that are called without a store.
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
        update_log: UpdateLog | None = None,
        number_filter: NumberFilter | None = None,
        now: Now = utc_now,
        send: SendReply = refuse_reply,
    ) -> None:
        self._check = check
        self._handlers = handlers
        self._store = store
        self.telemetry = telemetry
        self.update_metrics = UpdateMetrics(telemetry)
        self.update_log = update_log
        self._number_filter = number_filter
        self._dispatcher = dispatcher
        self._calls = HandlerCalls(
            handlers,
            telemetry=telemetry,
            timeout_seconds=handler_timeout_seconds,
            log=log,
            send=send,
        )
        self._encode = _encode_with_span if self._calls.has_spans else updates.encode
        self._now = now

    @property
    def is_dispatching(self) -> bool:
        """Whether stored updates are dispatched; true without a store."""
        return self._dispatcher is None or self._dispatcher.is_alive

    async def receive(self, body: bytes, signature: str | None) -> Receipt:
        """Verify, parse and normalize *body*; store its updates, or handle them without a store.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is not a webhook.
            StoreUnavailable: Nothing was stored, so Meta must send the webhook again.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.take(body, signature, partial(resolve, future))
        return await future

    def take(self, body: bytes, signature: str | None, on_receipt: OnReceipt) -> None:
        """Process *body* as `receive` does, and call *on_receipt*, maybe before returning.

        It takes a callback because a task for each webhook costs as much as reading the body.
        Stored updates are dispatched even if the client has disconnected.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is not a webhook.
            StoreClosed: The store is not open.
        """
        if self._calls.has_spans:
            on_receipt = _in_this_context(on_receipt)
        self._check.verify(body, signature)
        received_at = self._now()
        update = fast_path.read(body, received_at)
        if update is not None:
            found = Normalized([update], [])
        else:
            found = normalize(envelope.parse(body), received_at=received_at)
        if self._number_filter is not None:
            found, refusal = self._number_filter.admit(found)
            if refusal is not None:
                on_receipt = _refusing(on_receipt, refusal, has_updates=bool(found.updates))
        if not found.updates:
            self.finish(found, 0, on_receipt)
        elif self._store is None or self._dispatcher is None:
            origin = _origin() if self._calls.has_spans else None
            self._go_on(self._handle(found, on_receipt), origin, None)
        else:
            arrivals = [self._arrival(update) for update in found.updates]
            storing = _Storing(self, self._dispatcher, found, arrivals, on_receipt)
            self._store.receive(arrivals, storing.end, self._dispatcher)

    def finish(self, found: Normalized, new: int, on_receipt: OnReceipt) -> None:
        """Count skipped parts and pass the receipt to *on_receipt*, with *new* as dispatched.

        Call it after the commit: parts of a webhook that Meta sends again would be counted twice.
        """
        skipped = 0
        for kind, count in found.skipped.items():
            self.telemetry.webhooks.update(kind, Outcome.SKIPPED, count)
            skipped += count
        received = len(found.updates)
        if self._store is not None:
            skipped += received - new
        on_receipt(Receipt(received, new, skipped), None)

    def _arrival(self, update: Update) -> Arrival:
        consumers = self._handlers.consumers(update)
        records = projection.records(update)
        return Arrival(
            key=bytes.fromhex(update.key),
            occurred_at=update.occurred_at,
            received_at=update.received_at,
            kind=update.kind,
            phone_number_id=update.phone_number_id,
            ordering_key=ordering_key_of(update),
            payload=self._encode(update) if consumers else b"",
            consumers=consumers,
            message=records.message,
            status=records.status,
            window=records.window,
            proof=records.proof,
        )

    def _handle(self, found: Normalized, on_receipt: OnReceipt) -> _Handling:
        """Handle updates that are not stored: one handler after the other gets each update."""
        handled = 0
        for update in found.updates:
            if self.telemetry.wants_update_metrics:
                self.update_metrics.report(update, projection.status_record(update))
            failures = 0
            for name in self._handlers.consumers(update):
                failure = yield name, update
                failures += failure is not None
            self.telemetry.webhooks.update(update.kind, Outcome.ERROR if failures else _SUCCESS)
            if self.update_log is not None:
                self.update_log.record(update, "error" if failures else "success")
            handled += not failures
        self.finish(found, handled, on_receipt)

    def _go_on(
        self, handling: _Handling, origin: SpanContext | None, failure: BaseException | None
    ) -> None:
        """Begin the next call of *handling*, after one has ended with *failure* or without."""
        try:
            name, update = handling.send(failure)
        except StopIteration:
            return
        step = _Step(partial(self._go_on, handling, origin))
        self._calls.start(step, name, update, origin)


class _Storing:
    """A webhook whose updates are being stored."""

    __slots__ = ("_arrivals", "_began", "_dispatcher", "_found", "_on_receipt", "_receiver")

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
        self._began = monotonic()

    def end(self, results: Sequence[Received | None] | None, error: Exception | None) -> None:
        """Respond, then dispatch: a handler may block, and Meta must not wait for a handler."""
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
                self._dispatcher.take(update, received, arrival.consumers, self._began)

    def _is_new(self, update: Update, arrival: Arrival, received: Received | None) -> bool:
        telemetry = self._receiver.telemetry
        if (update_log := self._receiver.update_log) is not None:
            update_log.record(update, "deduped" if received is None else "accepted")
        if received is None:
            telemetry.webhooks.update(update.kind, Outcome.DEDUPED)
            return False
        if telemetry.wants_update_metrics:
            self._receiver.update_metrics.report(update, arrival.status, received.sent_at)
        if not arrival.consumers:
            telemetry.webhooks.update(update.kind, Outcome.SUCCESS)
        return True


class _Step(HandlerCall):
    """One call of a `_Handling`."""

    __slots__ = ("_go_on",)

    def __init__(self, go_on: Callable[[BaseException | None], None]) -> None:
        self._go_on = go_on

    @override
    def handled(self, failure: BaseException | None) -> None:
        self._go_on(failure)


def _refusing(on_receipt: OnReceipt, refusal: WebhookRefused, *, has_updates: bool) -> OnReceipt:
    """Return a callback that passes *refusal* on, after the updates of the webhook are stored.

    Raises:
        WebhookRefused: The webhook has no other updates.
    """
    if not has_updates:
        raise refusal
    return lambda receipt, error: on_receipt(None, error if receipt is None else refusal)


def _in_this_context(on_receipt: OnReceipt) -> OnReceipt:
    """Return *on_receipt* for a caller that may run in the context of another webhook."""
    run = copy_context().run
    return lambda receipt, error: run(on_receipt, receipt, error)


def _origin() -> SpanContext | None:
    """Return the span of the webhook request, if it is sampled: the link of its handlers."""
    span = current_span()
    return span.context if span is not None and span.context.is_sampled else None


def _encode_with_span(update: Update) -> bytes:
    origin = _origin()
    return updates.encode(update, origin.traceparent if origin is not None else "")


def ordering_key_of(update: Update) -> int:
    """Return the ordering key of *update*: a hash of its conversation.

    Updates without a conversation share the key of their WABA and field.
    """
    name = update.conversation or f"{update.waba_id}|{update.field}"
    # Collisions are rare: if 1,000 conversations are blocked, so is one in two million others.
    return short_fingerprint(name)
