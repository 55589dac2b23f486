"""The store: one Protocol of domain questions, each of them one transaction.

Two implementations answer them (`sqlite`, `postgres`); neither knows the other, and neither knows
what a message is. `wats.store.open.open_store` makes one from a URL.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from wats.store.records import (
    Arrival,
    Delivery,
    InboxDepth,
    Kept,
    MessagePage,
    MessageRecord,
    Reservation,
    Settled,
    Settlement,
    StatusRecord,
    StoreHealth,
)
from wats.telemetry.vocabulary import Adapter, Outcome, StoreOperation

Observe: TypeAlias = Callable[[Adapter, StoreOperation, Outcome, float], None]
"""Told of every question: the store, the question, how it ended, and how long it took (s)."""


class Store(Protocol):
    """What wats asks of a database.

    Every method is one transaction: it happened whole when it returns, and not at all when it
    raises. Methods may be called from many tasks at once. All raise `StoreUnavailable` when the
    database cannot do it now, and `StoreClosed` before `open` and after `close`.
    """

    @property
    def adapter(self) -> Adapter:
        """Which database this is, as telemetry names it."""

    async def open(self, observe: Observe | None = None) -> None:
        """Connect, apply missing migrations, and be ready. A second call does nothing.

        *observe* is told of every question from then on.

        Raises:
            StoreUnavailable: The database cannot be reached.
            MigrationFailed: A migration failed; the database is as it was before that one.
            SchemaMismatch: The database has migrations that this wats does not, or other ones.
        """

    async def close(self) -> None:
        """Finish what was asked, then let go of the database. May be called twice."""

    async def health(self) -> StoreHealth:
        """Read the schema version; `ok` tells whether it is the one this wats needs.

        Raises:
            StoreUnavailable: The database cannot be read.
        """

    def receive(self, arrivals: Sequence[Arrival]) -> asyncio.Future[Sequence[Kept | None]]:
        """Keep *arrivals* and tell for each, in order, what became of it.

        A future rather than a coroutine, so that whoever keeps a thousand things in a second needs
        no task to wait for each.

        `None` stands for one that is known. For one that is new there are those of its deliveries
        that are leased to the caller: if it wants them, all that nothing is before, in the sense of
        `claim_deliveries`. They need no claim; in every other way they are as if claimed.

        An arrival that is known, or stands earlier in *arrivals*, changes nothing. One that brings
        a message is known by the `(phone_number_id, wa_message_id, direction)` of that, any other
        by its `(occurred_at, key)`. A new one is queued for each of its targets and its projections
        are written: a message is inserted; a status is added to the history and moves its message
        on by rank, also a message that is recorded only later; a window moves forward only.
        The arrivals are on disk when the future is done.
        """

    async def claim_deliveries(
        self, *, targets: Sequence[str], limit: int, lease_seconds: float, now: datetime
    ) -> Sequence[Delivery]:
        """Lease up to *limit* due deliveries of *targets*, and return them as they arrived.

        Those that have been due longest come first: since their arrival, the time set for their
        next attempt, or the end of a lease that ran out. A delivery is given only when nothing of
        its target and lane that arrived before it is still outstanding or it is leased together
        with all of that; so one claim may hold several deliveries of a lane, in order, and they
        must be handled in that order. A leased one is given to nobody else until it is settled or
        its lease runs out. A dead one blocks nothing.
        """

    async def renew_deliveries(
        self, deliveries: Sequence[Delivery], *, lease_seconds: float, now: datetime
    ) -> None:
        """Extend the leases of *deliveries*; those that are no longer ours are passed over."""

    async def settle_deliveries(
        self, settlements: Sequence[Settlement], *, now: datetime
    ) -> Settled:
        """End the leases of *settlements*; a lease that is no longer ours changes nothing.

        When the last target of an update is done, its payload is erased; key, kind, times and
        outcome remain. The payload of a dead delivery stays, so that it can be looked at and run
        again.
        """

    async def inbox_depth(self) -> InboxDepth:
        """Count the outstanding and the dead deliveries."""

    async def reserve_request(
        self,
        *,
        scope: str,
        key_hash: bytes,
        request_hash: bytes,
        now: datetime,
        reserved_until: datetime,
        expires_at: datetime,
    ) -> Reservation:
        """Reserve an idempotency key within *scope*, or tell why it cannot be.

        Of any number of concurrent calls with one key, one gets `RESERVED`. A key whose request
        failed, or that has expired, can be reserved again, by any body. A reservation that was
        not completed by its `reserved_until` is `UNKNOWN` from then on: its process died.
        """

    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        """Keep *response* as the answer to this key, and record *message* as by `record_sent`."""

    async def fail_request(self, *, scope: str, key_hash: bytes) -> None:
        """Give the key back: it is certain that nothing was sent."""

    async def doubt_request(self, *, scope: str, key_hash: bytes) -> None:
        """Mark the key `UNKNOWN`: something may have been sent."""

    async def record_sent(self, message: MessageRecord) -> None:
        """Record an outbound message that Meta accepted, and what is known of it already.

        Statuses that came before this call (webhooks may overtake the answer) are applied to it.
        """

    async def list_messages(self, *, limit: int, cursor: str | None) -> MessagePage:
        """Return up to *limit* messages, the last recorded first, from after *cursor* on.

        Every `row_id` is a cursor. What cannot be one leads to an empty page.
        """

    async def get_message(self, wa_message_id: str) -> MessageRecord | None:
        """Return the message with this id, or `None`; of several, the last recorded."""

    async def list_statuses(self, wa_message_id: str) -> Sequence[StatusRecord]:
        """Return every transition of this message, in the order in which they arrived."""

    async def last_inbound_at(self, *, phone_number_id: str, customer: str) -> datetime | None:
        """Tell when *customer* last wrote something that opened a window with this number."""

    async def purge(
        self,
        *,
        now: datetime,
        inbox_before: datetime,
        dead_before: datetime,
        messages_before: datetime,
    ) -> int:
        """Delete what is kept no longer, a bounded number of rows at a time.

        That is: updates that are done and came before *inbox_before*, deliveries that died before
        *dead_before* (their update is done then, unless another target still waits for it),
        messages, statuses and windows not touched since *messages_before* (but messages not before
        *inbox_before*, by which they would be known), and idempotency keys that expired before
        *now*.

        Returns:
            How many rows changed; 0 when there is nothing left to do.
        """
