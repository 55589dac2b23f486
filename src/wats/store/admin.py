"""The operations of a store for operators: consumers, deliveries, and the data of a person."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec

from wats.store.person import Person
from wats.store.records import OUTBOX, DeliveryState, Depth


class ConsumerState(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer as operators see it.

    Attributes:
        name: Its name.
        is_configured: Whether a handler of this process has the name.
        is_paused: Whether its deliveries are kept without being leased.
        depth: The number of its deliveries in each state.
        oldest_seconds: The age of its oldest outstanding delivery, or 0.
    """

    name: str
    is_configured: bool
    is_paused: bool
    depth: Depth
    oldest_seconds: float = 0.0


HEAD_BYTES: Final = 256
"""The length of the beginning of a payload that is read for each delivery of a list."""


class StoredDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """An outstanding delivery or a dead letter, without its payload.

    Attributes:
        id: As in `Delivery`; a dead letter keeps the id of its delivery.
        update_id: As in `Delivery`.
        attempts: The number of attempts.
        error: The class name of the last error, and the status of a subscriber's response.
        arrived_at: When the update arrived.
        due_at: When the delivery can be leased, or its lease expires; `None` while an earlier
            delivery of its ordering key is outstanding, and for a dead letter.
        died_at: When the delivery became a dead letter, or `None`.
        payload_bytes: The size of the payload.
        head: The first `HEAD_BYTES` of the payload.
    """

    id: int
    update_id: int
    consumer: str
    state: DeliveryState
    attempts: int
    error: str | None = None
    arrived_at: datetime
    due_at: datetime | None = None
    died_at: datetime | None = None
    payload_bytes: int
    head: bytes = b""


class DeliveryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries that an operator wants; `None` admits every value.

    Attributes:
        state: `DEAD` for dead letters; `None` for the outstanding deliveries in every state.
        consumer: The name of the consumer; `None` for all but the outbox.
        error: The class name of the last error, with or without the status.
        mark: Bytes in the head of the payload.
        before: The latest arrival, or the latest death of a dead letter.
    """

    state: DeliveryState | None = None
    consumer: str | None = None
    error: str | None = None
    mark: bytes | None = None
    before: datetime | None = None

    @property
    def is_dead(self) -> bool:
        """Whether dead letters are wanted."""
        return self.state is DeliveryState.DEAD

    def admits(self, delivery: StoredDelivery) -> bool:
        """Return whether *delivery* is wanted."""
        return (
            self.state in {None, delivery.state}
            and self._admits_consumer(delivery.consumer)
            and self._admits_error(delivery.error)
            and (self.mark is None or self.mark in delivery.head)
            and (self.before is None or (delivery.died_at or delivery.arrived_at) <= self.before)
        )

    def _admits_error(self, error: str | None) -> bool:
        names = set() if error is None else {error, error.partition(" ")[0]}
        return self.error is None or self.error in names

    def _admits_consumer(self, name: str) -> bool:
        return name != OUTBOX if self.consumer is None else name == self.consumer


OUTSTANDING: Final = DeliveryFilter()
DEAD_LETTERS: Final = DeliveryFilter(state=DeliveryState.DEAD)


SCAN_DELIVERIES: Final = 2000
"""The limit of deliveries that are read for a page, so that none takes long."""


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries ordered by id, and the id after which the next page begins, if any."""

    items: tuple[StoredDelivery, ...]
    next_after: int | None = None


def deliveries_page(
    read: Iterable[StoredDelivery], limit: int, wanted: DeliveryFilter
) -> DeliveryPage:
    """Return the page that begins with *read*: up to `SCAN_DELIVERIES` deliveries and one more.

    A page of some deliveries can have fewer than *limit*, and even none, and still a next page.
    """
    found: list[StoredDelivery] = []
    last = 0
    for place, delivery in enumerate(read):
        if place == SCAN_DELIVERIES or len(found) == limit:
            return DeliveryPage(items=tuple(found), next_after=last)
        last = delivery.id
        if wanted.admits(delivery):
            found.append(delivery)
    return DeliveryPage(items=tuple(found))


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one step of an erasure: numbers of rows, and the next position, if any.

    Attributes:
        deliveries: Outstanding deliveries.
        dead_letters: Dead letters.
        messages: Messages, with the windows that they opened.
        statuses: Statuses.
        windows: Windows that are not stored with a message.
        responses: Stored responses of idempotency keys.
        traces: Places in the files of the database, outside of the rows above.
        position: Where the next step begins; `None` after the last step.
    """

    deliveries: int = 0
    dead_letters: int = 0
    messages: int = 0
    statuses: int = 0
    windows: int = 0
    responses: int = 0
    traces: int = 0
    position: str | None = None


class AdminStore(Protocol):
    """Operations for operators. Each is bounded, however many rows the store has."""

    async def consumers(self) -> Sequence[ConsumerState]:
        """Return every registered consumer, ordered by name."""

    async def pause(self, consumer: str, *, is_paused: bool) -> bool:
        """Pause or resume *consumer*; return whether it is registered.

        A paused consumer gets no leases, in any process and after any restart, and keeps its
        deliveries. Leases that it has are not affected.
        """

    async def list_deliveries(
        self, wanted: DeliveryFilter, *, limit: int, after: int = 0
    ) -> DeliveryPage:
        """Return up to *limit* of the *wanted* deliveries with an id above *after*."""

    async def dead_letters(self, *, limit: int, after: int = 0) -> Sequence[StoredDelivery]:
        """Return up to *limit* dead letters with an id above *after*, ordered by id."""
        return (await self.list_deliveries(DEAD_LETTERS, limit=limit, after=after)).items

    async def read_delivery(self, delivery_id: int) -> tuple[StoredDelivery, bytes] | None:
        """Return a delivery or dead letter with its payload, or `None`."""

    async def retry_dead(self, ids: Sequence[int]) -> int:
        """Make the dead letters *ids* pending deliveries without attempts; return their number.

        Such a delivery has its old place in the order of its ordering key: before all deliveries
        that arrived later, unless one of these is leased. Dead letters of the outbox are left: see
        `OutboxStore.retry_sends`.
        """

    async def expedite(self, ids: Sequence[int]) -> int:
        """Make the heads *ids* that wait for a retry due now; return their number.

        Their attempts stay counted. Leased deliveries, and followers, are not affected.
        """

    async def replay(self, ids: Sequence[int], consumer: str) -> int | None:
        """Give *consumer* the updates of the deliveries and dead letters *ids* again.

        If it has a dead letter of the update, that is retried. Otherwise it gets a new delivery,
        after all deliveries of the ordering key, unless it has an outstanding one of the update.
        The deliveries *ids* of other consumers stay as they are.

        Returns:
            The number of updates, or `None` if *consumer* is not registered.
        """

    async def discard(self, ids: Sequence[int]) -> int:
        """Delete deliveries and dead letters with their payloads; return their number.

        If a delivery is leased, its lease is lost. The next delivery of an ordering key becomes
        due. Deliveries of the outbox are left.
        """

    async def erase(
        self,
        person: Person,
        numbers: Sequence[str],
        *,
        position: str | None,
        is_trial: bool,
        searches_files: bool = False,
    ) -> Erased:
        """Do one step of an erasure: delete rows with data of *person* from *position* on.

        A completed request stays completed, and its response becomes an empty object.

        Args:
            person: The person.
            numbers: The business numbers of the service.
            position: `None` at first, then that of the previous step.
            is_trial: Whether to count only.
            searches_files: Whether a trial searches the files of a SQLite database too, which are
                read completely.

        Raises:
            ValueError: The position is invalid.
        """
