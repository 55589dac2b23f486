"""The transaction of the inbound flow: a webhook body becomes stored updates, then we answer."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from wats.clock import Now, utc_now
from wats.inbound import envelope, projection, updates
from wats.inbound.handlers import Handlers
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.signature import SignatureCheck
from wats.inbound.updates import Update
from wats.store import Store
from wats.store.records import Arrival
from wats.telemetry import Telemetry
from wats.telemetry.vocabulary import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one webhook.

    Attributes:
        received: How many updates were understood.
        dispatched: How many of them are new: on disk, or without a store handled without failure.
        skipped: How many parts were duplicates or could not be understood.
    """

    received: int
    dispatched: int
    skipped: int


class Receiver:
    """Takes webhook bodies. Whatever it returns a receipt for is safe.

    Args:
        check: Tells Meta's bodies from others.
        handlers: Who will get the updates.
        store: Where they are kept. Without one the handlers run before the receipt is made, once,
            and what they raise is counted and forgotten.
        stored: Called after something was stored, so that it is dispatched at once.
        handler_timeout_seconds: How long a handler may take where there is no store.
    """

    def __init__(
        self,
        check: SignatureCheck,
        handlers: Handlers,
        store: Store | None,
        *,
        telemetry: Telemetry,
        stored: Callable[[], None],
        handler_timeout_seconds: float,
        now: Now = utc_now,
    ) -> None:
        self._check = check
        self._handlers = handlers
        self._store = store
        self._telemetry = telemetry
        self._stored = stored
        self._handler_timeout_seconds = handler_timeout_seconds
        self._now = now

    async def receive(self, body: bytes, signature: str | None) -> Receipt:
        """Verify, parse and normalize *body*, and keep or handle what is new in it.

        Raises:
            WebhookRefused: The signature is not Meta's, or the body is no webhook.
            StoreUnavailable: Nothing was kept, so Meta must send it again.
        """
        self._check.verify(body, signature)
        received_at = self._now()
        found = normalize(envelope.parse(body), received_at=received_at)
        for skip in found.skips:
            self._telemetry.webhook_update(skip.kind, Outcome.SKIPPED)
        if self._store is None:
            dispatched = await self._handle_now(found.updates)
            return Receipt(
                received=len(found.updates), dispatched=dispatched, skipped=len(found.skips)
            )
        new = await self._keep(self._store, found, received_at)
        return Receipt(
            received=len(found.updates),
            dispatched=new,
            skipped=len(found.updates) - new + len(found.skips),
        )

    async def _keep(self, store: Store, found: Normalized, received_at: datetime) -> int:
        if not found.updates:
            return 0
        arrivals = [self._arrival(update, received_at) for update in found.updates]
        are_new = await store.receive(arrivals)
        new = 0
        for update, arrival, is_new in zip(found.updates, arrivals, are_new, strict=True):
            if not is_new:
                self._telemetry.webhook_update(update.kind, Outcome.DEDUPED)
                continue
            new += 1
            if not arrival.targets:
                self._telemetry.webhook_update(update.kind, Outcome.SUCCESS)
        if new:
            self._stored()
        return new

    def _arrival(self, update: Update, received_at: datetime) -> Arrival:
        targets = self._handlers.targets(update.kind)
        return Arrival(
            key=bytes.fromhex(update.key),
            occurred_at=update.occurred_at,
            received_at=received_at,
            kind=update.kind.value,
            phone_number_id=update.phone_number_id,
            lane=lane_of(update),
            payload=updates.encode(update) if targets else b"",
            targets=targets,
            message=projection.message_record(update),
            status=projection.status_record(update),
            window=projection.window_record(update),
        )

    async def _handle_now(self, found: Sequence[Update]) -> int:
        handled = 0
        for update in found:
            failures = 0
            for target in self._handlers.targets(update.kind):
                try:
                    async with asyncio.timeout(self._handler_timeout_seconds):
                        await self._handlers[target](update)
                except Exception as error:
                    failures += 1
                    self._telemetry.errors.record(error)
            handled += not failures
            outcome = Outcome.ERROR if failures else Outcome.SUCCESS
            self._telemetry.webhook_update(update.kind, outcome)
        return handled


def lane_of(update: Update) -> int:
    """Return the number that all updates of one conversation share, and hardly any other.

    Updates that belong to no conversation keep their order within their WABA and field.
    """
    identity = update.conversation or f"{update.waba_id}|{update.field}"
    digest = hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
