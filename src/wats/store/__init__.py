"""The store: four small Protocols of domain operations, each of them one transaction.

Two implementations exist (`sqlite`, `postgres`). They do not know each other, and neither knows
the content of a message. `wats.store.open.open_store` makes a store from a URL.

All methods may be called from many tasks at once. A method that returned is durable; one that
raised changed nothing. All raise `StoreUnavailable` when the database cannot do it now, and
`StoreClosed` before `open` and after `close`. Leases, retries and idempotency keys follow the
clock of the store, which never goes back; callers pass durations, never the time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeAlias

from typing_extensions import override

from wats.store.records import (
    ALL_MESSAGES,
    Arrival,
    Claimed,
    Consumer,
    DeadLetter,
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
"""Called after every operation: the store, the operation, its outcome, its duration (s)."""

OnReceived: TypeAlias = Callable[[Sequence[Received | None] | None, Exception | None], None]
"""Called on the event loop with the results of `InboxStore.receive`, or with its error."""


class Slots(Protocol):
    """The room of this process for deliveries that are leased on arrival."""

    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        """Reserve slots for *arrivals*, whose transaction is about to begin.

        Returns:
            How many deliveries of each consumer may be leased on arrival.
        """

    def give_back(self, reserved: Mapping[str, int]) -> None:
        """End the reservation: the transaction has ended, and its leases are passed on next."""


class NoSlots(Slots):
    """Every delivery is left to a claim."""

    @override
    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        return {}

    @override
    def give_back(self, reserved: Mapping[str, int]) -> None:
        pass


NO_SLOTS: Final = NoSlots()


class Lifecycle(Protocol):
    """Opening, closing, health, and the processes that share a database."""

    @property
    def adapter(self) -> Adapter:
        """The database of this store, as telemetry names it."""

    async def open(self, observe: Observe | None = None) -> None:
        """Connect and apply missing migrations. A second call does nothing.

        Args:
            observe: Called after every operation from then on.

        Raises:
            StoreUnavailable: The database cannot be reached.
            MigrationFailed: A migration failed; the database is as it was before that one.
            SchemaMismatch: The database has a schema that this version cannot use.
        """

    async def close(self) -> None:
        """Finish pending operations, then disconnect. May be called twice."""

    async def health(self) -> StoreHealth:
        """Read the schema version, on a connection of its own.

        Raises:
            StoreUnavailable: The database cannot be read.
        """

    async def lead(self) -> bool:
        """Return whether this process is the one that does the upkeep of the database.

        Of all processes that call this regularly, exactly one gets True; another one takes over
        soon after it stops to call. Each call also keeps the consumers of its process registered.
        """

    async def checkpoint(self) -> bool:
        """Remove erased content from the log of the database; return whether that was possible.

        Content is erased from the database at once, but its log may still hold it. Reads and
        writes go on meanwhile. `False` means that other connections are in the way: try again.
        """

    def on_work(self, wake: Callable[[], None]) -> None:
        """Call *wake*, on the event loop, when another process stored work that can be claimed."""


class InboxStore(Protocol):
    """Updates on their way to their consumers.

    A delivery is one update for one consumer. Deliveries of one consumer and ordering key are
    leased one after the other, in order of arrival: only the first outstanding one can be leased.
    """

    async def register(self, consumers: Sequence[Consumer]) -> None:
        """Announce the consumers of this process. To be called after `open`, before the others."""

    def receive(
        self,
        arrivals: Sequence[Arrival],
        on_received: OnReceived,
        slots: Slots = NO_SLOTS,
    ) -> None:
        """Store *arrivals*; call *on_received* when they are durable, with a result for each.

        A callback and not a coroutine, because thousands of calls a second share one transaction.

        The result is `None` for an update that is known: it changes nothing. One with a message is
        known by `(phone_number_id, wa_message_id, direction)`, any other by `(occurred_at, key)`,
        also when it stands earlier in *arrivals*. A new update gets a delivery for each of its
        consumers, and its projections are written: a message is inserted; a status is added to the
        history and advances its message by rank, also a message that is recorded only later; a
        window moves forward only.

        Args:
            arrivals: Updates in the order in which they came.
            on_received: Called once, on the loop of the caller.
            slots: Reserved on the loop when the transaction is about to begin, and given back when
                it has ended, before *on_received*. A delivery is leased on arrival only if nothing
                of its consumer can be claimed: older deliveries go first.
        """

    async def claim(self, consumer: str, limit: int) -> Claimed:
        """Lease up to *limit* deliveries of *consumer*, of different ordering keys.

        Those that have been due longest come first: since their arrival, since the time of their
        retry, or since their lease expired. The attempt is counted now, so the caller must call
        the consumer at once, or release the delivery.
        """

    async def renew(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Extend the leases of *deliveries*; return those whose lease was lost."""

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """End the leases of *settlements*; a lease that was lost changes nothing.

        The payload of a delivery is erased with it, unless it becomes a dead letter. When a
        delivery is done or dead, the next one of its ordering key becomes due.
        """

    async def depth(self) -> InboxDepth:
        """Read the depth from counters; costs the same for any number of deliveries."""

    async def dead_letters(self, *, limit: int, after: int = 0) -> Sequence[DeadLetter]:
        """Return up to *limit* dead letters with ids above *after*, in order of id."""

    async def purge(self, retention: Retention) -> int:
        """Delete expired records, a bounded number of rows at a time.

        These are: identities of updates, dead letters, deliveries of consumers that were not
        registered for `retention.dead`, messages, statuses, windows and idempotency keys.

        Returns:
            How many rows changed; 0 when there is nothing left to do.
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
    ) -> Reservation:
        """Reserve an idempotency key within *scope*, or return why it cannot be reserved.

        Of any number of concurrent calls with one key, one gets `RESERVED`. A key whose request
        failed, or that is older than *keep_seconds*, can be reserved again, by any body. A
        reservation that is not completed within *reserve_seconds* is `UNKNOWN` from then on: its
        process died.
        """

    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        """Keep *response* as the answer to this key, and record *message* as by `record_sent`."""

    async def fail_request(self, *, scope: str, key_hash: bytes) -> None:
        """Give the key back: certainly nothing was sent."""

    async def doubt_request(self, *, scope: str, key_hash: bytes) -> None:
        """Mark the key `UNKNOWN`: something may have been sent."""


class MessageStore(Protocol):
    """Projections of messages: never their content."""

    async def record_sent(self, message: MessageRecord) -> None:
        """Record an outbound message that Meta accepted.

        Statuses that came before this call (webhooks may overtake the response) are applied.
        """

    async def list_messages(
        self, *, limit: int, cursor: str | None, wanted: MessageFilter = ALL_MESSAGES
    ) -> MessagePage:
        """Return up to *limit* of the *wanted* messages, the last recorded first, after *cursor*.

        Every `row_id` is a cursor. A cursor that is none leads to an empty page. A bounded number
        of messages is read, so a page of some messages may be short and not be the last.
        """

    async def get_message(self, wa_message_id: str) -> MessageRecord | None:
        """Return the message with this id, or `None`; of several, the last recorded."""

    async def list_statuses(self, wa_message_id: str) -> Sequence[StatusRecord]:
        """Return every transition of this message, in order of arrival."""

    async def last_inbound_at(self, *, phone_number_id: str, customer: str) -> datetime | None:
        """Return when *customer* last wrote something that opened a window with this number."""


class Store(Lifecycle, InboxStore, RequestStore, MessageStore, Protocol):
    """A database of wats."""


class FixedSlots(NoSlots):
    """A number of slots for each consumer, for callers that have no use for more."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._slots = slots

    @override
    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        return self._slots


async def receive(
    store: InboxStore, arrivals: Sequence[Arrival], slots: Mapping[str, int] | None = None
) -> Sequence[Received | None]:
    """Await `InboxStore.receive`, for callers that make few calls."""
    future: asyncio.Future[Sequence[Received | None]] = asyncio.get_running_loop().create_future()

    def resolve(results: Sequence[Received | None] | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(results or ())

    store.receive(arrivals, resolve, FixedSlots(slots or {}))
    return await future
