"""The store: small Protocols of domain operations. Each operation is one transaction.

There are two implementations (`sqlite`, `postgres`). They are independent of each other, and do not
interpret the content of messages. `wats.store.open.open_store` makes a store from a URL.

All methods can be called concurrently. A method that has returned is durable; a method that has
raised changed nothing, unless it raised `StoreOutcomeUnknown`. A write that has begun is carried
out even if its caller is cancelled; a lease or a reservation is then undone. All methods raise
`StoreUnavailable` if the database is not available, and `StoreClosed` before `open` and after
`close`. Leases, retries and idempotency keys follow the clock of the store, which never goes back;
callers pass durations, never the time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, Protocol, TypeAlias

from typing_extensions import override

from wats.cancellation import resolve
from wats.store.admin import AdminStore
from wats.store.outbox import OutboxStore
from wats.store.pacing import Demand, Pace, PacingStore
from wats.store.records import (
    ALL_MESSAGES,
    Arrival,
    Claimed,
    Consumer,
    Delivery,
    InboxDepth,
    MessageFilter,
    MessagePage,
    MessageRecord,
    Received,
    Reservation,
    Retention,
    Settled,
    Settlement,
    StatusRecord,
    StoreHealth,
)
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

Observe: TypeAlias = Callable[[Adapter, StoreOperation, Outcome, float], None]
"""Called after every operation with the database, the operation, its outcome and duration (s)."""

OnReceived: TypeAlias = Callable[[Sequence[Received | None] | None, Exception | None], None]
"""Called on the event loop with the results of `InboxStore.receive`, or with its error."""


class Slots(Protocol):
    """The free capacity of this process, for deliveries leased on arrival."""

    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        """Reserve slots for *arrivals*, whose transaction is about to begin.

        Returns:
            The maximum number of leases on arrival for each consumer.
        """

    def give_back(self, reserved: Mapping[str, int]) -> None:
        """End the reservation: the transaction has ended, and its leases are offered next."""


class NoSlots(Slots):
    """No slots: deliveries are leased by claims only."""

    @override
    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        return {}

    @override
    def give_back(self, reserved: Mapping[str, int]) -> None:
        pass


NO_SLOTS: Final = NoSlots()


class Lifecycle(Protocol):
    """Open, close and check a store, and coordinate the processes that share a database."""

    @property
    def adapter(self) -> Adapter:
        """The label value of this database in telemetry."""

    def occupy(self) -> None:
        """Keep other services from this database, until `close`, if a database permits one only.

        For a service that does not share its counters. Call it before `open`.

        Raises:
            StoreInUse: Another service uses the database.
        """

    async def open(self, observe: Observe | None = None) -> None:
        """Connect and apply missing migrations. A second call does nothing.

        Args:
            observe: Called after every operation from then on.

        Raises:
            StoreUnavailable: The database cannot be reached.
            MigrationFailed: A migration failed and was rolled back; earlier ones stay applied.
            SchemaMismatch: The database has a schema that this version cannot use.
        """

    async def close(self) -> None:
        """Finish pending operations, then disconnect. A second call does nothing."""

    async def health(self) -> StoreHealth:
        """Read the schema version, on a connection of its own.

        Raises:
            StoreUnavailable: The database cannot be read.
        """

    async def lead(self) -> bool:
        """Return whether this process is the leader, which does the upkeep of the database.

        Exactly one of the processes that call this method regularly is the leader. When it stops
        calling, another process becomes the leader. A call also renews the registration of the
        consumers of this process.
        """

    async def checkpoint(self) -> bool:
        """Remove erased content from the log of the database; return whether that was possible.

        Content is erased from the tables immediately, but the log of the database may still hold a
        copy. Reads and writes go on during the call. `False` means that other connections prevented
        the removal: try again.
        """

    def on_work(self, wake: Callable[[], None]) -> None:
        """Call *wake*, on the event loop, when another process has stored claimable deliveries."""


class InboxStore(Protocol):
    """The inbox: updates and their deliveries.

    A delivery is one update for one consumer. Deliveries of one consumer and ordering key are
    leased in order of arrival, one at a time: only the first outstanding delivery can be leased.
    """

    async def register(self, consumers: Sequence[Consumer]) -> None:
        """Register the consumers of this process. Call it after `open`, before other methods."""

    def receive(
        self,
        arrivals: Sequence[Arrival],
        on_received: OnReceived,
        slots: Slots = NO_SLOTS,
    ) -> None:
        """Store *arrivals*; call *on_received* when they are durable, with a result for each.

        It takes a callback instead of being a coroutine, for speed: there are thousands of calls a
        second, and many calls share one transaction.

        The result of a duplicate is `None`; a duplicate changes nothing. An update with a message
        is identified by `(phone_number_id, wa_message_id, direction)`, any other update by
        `(occurred_at, key)`, also within *arrivals*. A new update gets a delivery for each of its
        consumers, and its projections are written: a message is inserted; a status is added to the
        history and advances its message by rank, even if the message is recorded later; a window
        moves forward only.

        Args:
            arrivals: Updates in order of arrival.
            on_received: Called once, on the loop of the caller.
            slots: Reserved on the loop just before the transaction begins, and given back after its
                end, before *on_received*. A delivery is leased on arrival only if its consumer has
                no claimable deliveries: older deliveries are leased first.
        """

    async def claim(
        self,
        consumer: str,
        limit: int,
        marks: Sequence[bytes] = (),
        pace: Pace | None = None,
    ) -> Claimed:
        """Lease up to *limit* deliveries of *consumer*, of different ordering keys.

        If there are *marks*, only deliveries with one of these in the head of their payload are
        leased, and only the first `SCAN_DELIVERIES` that are due are read.

        The deliveries with the earliest due time are leased first: the time of arrival, of the
        retry, or of lease expiry. A claim counts the attempt, so the caller must call the consumer
        immediately, or release the delivery. A claim of the outbox may be lost in a power failure:
        nothing is sent before `renew` has made its attempt final.

        A consumer with batches also gets the followers of a delivery, in order: at most
        `Consumer.batch` deliveries, and `BATCH_BYTES`. They are not leased, and no other process
        can lease them while the delivery is leased. A delivery has no followers at its second
        or last attempt, and none of them has failed before, so each failure is handled alone.

        With *pace*, only messages of its number are leased that it permits now; a message that its
        recipient has to wait for becomes due when it is permitted.
        """

    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        """Extend the leases of *deliveries*; return the deliveries whose lease was lost.

        With *is_final*, their attempts become the last: a delivery is exhausted if its lease
        expires from now on.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """End the leases of *settlements*. A settlement whose lease was lost changes nothing.

        A delivery that is done is deleted with its payload, and with the followers that were
        handled with it; a dead letter keeps its payload. After a delivery is done or dead, the next
        delivery of its ordering key becomes due. On PostgreSQL, some of *settlements* may have
        ended after an exception. Repeat all of them.
        """

    async def acknowledge(self, settlements: Sequence[Settlement]) -> Settled:
        """Settle deliveries whose leases have not expired; return the others as `Settled.lost`.

        For consumers that hold leases outside of the process. Unlike `settle`, a settlement changes
        nothing once its lease has expired, even if no other lease was given since.
        """

    async def depth(self) -> InboxDepth:
        """Read the depth from counters, at a cost independent of the number of deliveries."""

    async def purge(self, retention: Retention) -> int:
        """Delete expired records, a bounded number of rows at a time.

        Records are identities of updates, dead letters, deliveries of consumers that have not been
        registered for `retention.unseen`, messages, statuses, windows and idempotency keys.

        Returns:
            The number of changed rows; 0 when nothing is left to do.
        """


class RequestStore(Protocol):
    """Idempotency keys of sends. Only digests of keys and bodies are kept."""

    async def reserve_request(
        self,
        *,
        scope: str,
        key_hash: bytes,
        request_hash: bytes,
        reserve_seconds: float,
        keep_seconds: float,
        demand: Demand | None = None,
    ) -> Reservation:
        """Reserve an idempotency key within *scope*, or return the state of the key.

        Exactly one of several concurrent calls with the same key gets `RESERVED`. A key can be
        reserved again, also for another body, after its request has failed and after
        *keep_seconds*. A reservation that is not completed within *reserve_seconds* becomes
        `UNKNOWN`, because its process must have died.

        With *demand*, a key that would be reserved also needs the permission of the rate limits.
        """

    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        """Store *response* as the result of the key, and record *message* as `record_sent` does."""

    async def fail_request(self, *, scope: str, key_hash: bytes) -> None:
        """Delete the key, because the message was certainly not sent."""

    async def doubt_request(self, *, scope: str, key_hash: bytes) -> None:
        """Mark the key `UNKNOWN`, because the message may have been sent."""


class MessageStore(Protocol):
    """Projections of messages, without content."""

    async def record_sent(self, message: MessageRecord) -> None:
        """Record an outbound message that Meta accepted.

        Statuses that were received before this call are applied: webhooks may overtake the response
        of Graph.
        """

    async def list_messages(
        self, *, limit: int, cursor: str | None, wanted: MessageFilter = ALL_MESSAGES
    ) -> MessagePage:
        """Return up to *limit* of the *wanted* messages, the last recorded first, after *cursor*.

        Every `row_id` is a cursor. An invalid cursor leads to an empty page. A bounded number
        of messages is read, so a page of some messages may be short and not be the last.
        """

    async def get_message(
        self, wa_message_id: str, *, phone_number_id: str | None = None
    ) -> MessageRecord | None:
        """Return the last recorded message with this id, of this or any number, or `None`."""

    async def list_statuses(self, wa_message_id: str) -> Sequence[StatusRecord]:
        """Return every transition of this message, in order of arrival."""

    async def last_inbound_at(self, *, phone_number_id: str, customer: str) -> datetime | None:
        """Return when *customer* last opened a window with this number."""


class Store(
    Lifecycle,
    InboxStore,
    RequestStore,
    MessageStore,
    OutboxStore,
    PacingStore,
    AdminStore,
    Protocol,
):
    """All operations of a store."""


class FixedSlots(NoSlots):
    """A constant number of slots for each consumer."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._slots = slots

    @override
    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        return self._slots


async def receive(
    store: InboxStore, arrivals: Sequence[Arrival], slots: Mapping[str, int] | None = None
) -> Sequence[Received | None]:
    """Await the results of `InboxStore.receive`, where its speed does not matter."""
    future: asyncio.Future[Sequence[Received | None]] = asyncio.get_running_loop().create_future()
    store.receive(arrivals, partial(resolve, future), FixedSlots(slots or {}))
    return await future
