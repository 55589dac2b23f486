"""The transaction of the inbound flow: a webhook body becomes stored updates, then we answer."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from wats.clock import Now, utc_now
from wats.inbound import envelope, projection, updates
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import HandlerCalls, Handlers
from wats.inbound.news import News
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.signature import SignatureCheck
from wats.inbound.updates import Update
from wats.privacy import short_fingerprint
from wats.store import Store
from wats.store.records import Arrival, Kept
from wats.telemetry import Telemetry
from wats.telemetry.vocabulary import Outcome


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


class Webhook(msgspec.Struct, frozen=True):
    """A webhook that is Meta's, until what it says is safe.

    Attributes:
        safe: Done when that is so: with what `Store.receive` says of each arrival or, where there
            is no store, with whether each update was handled without failure.
    """

    found: Normalized
    arrivals: Sequence[Arrival]
    safe: asyncio.Future[Any]


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

    @property
    def is_dispatching(self) -> bool:
        """Whether stored updates reach their handlers; true where there is no store."""
        return self._dispatcher is None or self._dispatcher.is_alive

    async def receive(self, body: bytes, signature: str | None) -> Receipt:
        """Verify, parse and normalize *body*, and keep or handle what is new in it.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is no webhook.
            StoreUnavailable: Nothing was kept, so Meta must send it again.
        """
        webhook = self.begin(body, signature)
        await webhook.safe
        return self.finish(webhook)

    def begin(self, body: bytes, signature: str | None) -> Webhook:
        """Do of `receive` what is done at once; `finish` does the rest when `safe` is done.

        In two steps, so that who waits for many webhooks needs no task for each.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is no webhook.
            StoreClosed: The store is not open.
        """
        self._check.verify(body, signature)
        received_at = self._now()
        found = normalize(envelope.parse(body), received_at=received_at)
        if not found.updates:
            return Webhook(found, (), _nothing())
        if self._store is None or self._dispatcher is None:
            return Webhook(found, (), asyncio.ensure_future(self._handle_now(found.updates)))
        lease_seconds = self._dispatcher.lease_seconds
        arrivals = [self._arrival(update, received_at, lease_seconds) for update in found.updates]
        return Webhook(found, arrivals, self._store.receive(arrivals))

    def finish(self, webhook: Webhook) -> Receipt:
        """Return the receipt of *webhook*, which is safe now, and dispatch what was kept.

        Raises:
            StoreUnavailable: Nothing was kept, so Meta must send it again.
        """
        found = webhook.found
        received, skipped = len(found.updates), sum(found.skipped.values())
        if self._dispatcher is None:
            dispatched = sum(webhook.safe.result())
        else:
            dispatched = self._dispatch(self._dispatcher, webhook)
            skipped += received - dispatched
        # Not before it is kept: what Meta has to send again would be counted again.
        for kind, count in found.skipped.items():
            self._telemetry.webhook_update(kind, Outcome.SKIPPED, count)
        return Receipt(received=received, dispatched=dispatched, skipped=skipped)

    def _dispatch(self, dispatcher: Dispatcher, webhook: Webhook) -> int:
        arrivals = webhook.arrivals
        kept: Sequence[Kept | None] = webhook.safe.result()
        new = 0
        for update, arrival, fate in zip(webhook.found.updates, arrivals, kept, strict=True):
            if fate is None:
                self._telemetry.webhook_update(update.kind, Outcome.DEDUPED)
                continue
            new += 1
            dispatcher.take(update, fate.leased)
            self._news.tell(update, arrival.status, fate.sent_at)
            if not arrival.targets:
                self._telemetry.webhook_update(update.kind, Outcome.SUCCESS)
        if new and not arrivals[0].lease_seconds:
            dispatcher.wake()
        return new

    def _arrival(self, update: Update, received_at: datetime, lease_seconds: float) -> Arrival:
        targets = self._handlers.targets(update.kind)
        records = projection.records(update)
        return Arrival(
            key=bytes.fromhex(update.key),
            occurred_at=update.occurred_at,
            received_at=received_at,
            kind=update.kind,
            phone_number_id=update.phone_number_id,
            lane=lane_of(update),
            payload=updates.encode(update) if targets else b"",
            targets=targets,
            lease_seconds=lease_seconds,
            wants_sent_at=self._telemetry.wants_news,
            message=records.message,
            status=records.status,
            window=records.window,
        )

    async def _handle_now(self, found: Sequence[Update]) -> Sequence[bool]:
        handled = []
        for update in found:
            self._news.tell(update, projection.status_record(update))
            failures = 0
            for target in self._handlers.targets(update.kind):
                failures += await self._calls.call(target, update) is not None
            handled.append(not failures)
            outcome = Outcome.ERROR if failures else Outcome.SUCCESS
            self._telemetry.webhook_update(update.kind, outcome)
        return handled


def _nothing() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(())
    return future


def lane_of(update: Update) -> int:
    """Return the number that all updates of one conversation share, and hardly any other.

    Updates that belong to no conversation keep their order within their WABA and field.
    """
    name = update.conversation or f"{update.waba_id}|{update.field}"
    # With a thousand conversations held up, one in two million others shares a lane with one.
    return short_fingerprint(name)
