"""Store the updates of concurrent calls in one transaction.

The statements of a transaction, each with arrays for all updates, and their locks:

    identities ─▸ projections ─▸ ids ─▸ heads ─▸ followers ─▸ counters
    unique keys   statuses,             the head of each      one row for
                  windows               ordering key          each connection

All transactions lock in this order, and rows of one kind in the order of their keys, so there are
no deadlocks. The head serializes an ordering key: the unique index permits one head, and a
transaction must lock the head before it adds or removes a delivery of the key.

Order of arrival. A webhook that was acknowledged before another one was received must be first. Ids
are drawn from one sequence before heads are locked, so a later webhook, which draws after the
commit of an earlier one, has higher ids. Overlapping transactions may lock in another order than
they drew, and ids would not increase within a key. The head has the highest id of its key (last_id)
so the transaction that locks second detects that its ids are too low, and draws again while it
holds its locks. Its new ids are the highest of all its keys.

Interleavings of a transaction R that receives updates of a key with another transaction:

* R and R' insert into a free key. The unique index blocks R' until R has committed. R' then finds a
  head, and its delivery becomes a follower. If R is rolled back, R' inserts the head.
* R and a settlement as done. If the settlement locks the head first, R waits until the head is
  deleted, and inserts a head. If R locks first, the settlement waits, reads the new number of
  followers and promotes one in a later statement, whose snapshot includes the followers of R.
* R and a claim. A claim skips a head that R has locked; R announces work after its commit, so the
  claim is repeated. If the claim locks first, R waits, then adds followers to a leased head.
* R and a settlement as dead: as with done. The statement that settles the head deletes it.
* Two promotions. Only the transaction that holds the lock of a head promotes one of its followers,
  and it holds the lock of the new head until it commits.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, TypeAlias

import msgspec

from wats.clock import to_ms
from wats.store.outbox import NewSend, arrival_of
from wats.store.postgres import depths, messages, outbox, requests
from wats.store.postgres.connection import Connection
from wats.store.postgres.depths import DepthChanges
from wats.store.postgres.rows import add_numbers, clean, columns
from wats.store.records import (
    OUTBOX,
    Arrival,
    Consumer,
    Delivery,
    Received,
    Reservation,
    ReservationOutcome,
)

MAX_SIBLINGS: Final = 256
"""The maximum number of deliveries of one update: the step of the sequence of ids."""

_INSERT_IDENTITIES = """
INSERT INTO wats_inbox (phone_number_id, occurred_at, key, kind, received_at)
SELECT number, occurred_at, key, kind, received_at
FROM unnest(
    $1::text::text[], $2::bytea[], $3::text::text[], $4::text::bigint[], $5::text::bigint[]
) AS new (number, key, kind, occurred_at, received_at)
ON CONFLICT DO NOTHING
RETURNING phone_number_id, occurred_at, key
"""

_DRAW_IDS = """
SELECT array(SELECT nextval('wats_update_ids') FROM generate_series(1, $1::int))
"""

_BEGIN = """
SELECT now, array(SELECT nextval('wats_update_ids') FROM generate_series(1, $1::int)), array(
    SELECT name FROM unnest($2::text[]) AS consumer (name)
    WHERE EXISTS (
        SELECT 1 FROM wats_numbers AS of
        WHERE (
            SELECT true FROM wats_deliveries
            WHERE phone_number_id = of.phone_number_id AND consumer = name AND due_at <= now
                AND lease IS NULL
            ORDER BY due_at LIMIT 1
        ) OR (
            SELECT true FROM wats_deliveries
            WHERE phone_number_id = of.phone_number_id AND consumer = name AND due_at <= now
                AND lease IS NOT NULL
            ORDER BY due_at LIMIT 1
        )
    ) OR EXISTS (
        SELECT 1 FROM wats_consumers WHERE wats_consumers.name = consumer.name AND is_paused
    )
)
FROM (SELECT wats_now() AS now OFFSET 0) AS clock
"""
"""The time, new ids, and the consumers whose new deliveries are not leased: older ones are due, of
any number, or the consumer is paused."""

_INSERT_HEADS = """
INSERT INTO wats_deliveries AS head (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, due_at, lease, is_final,
    attempts, followers, last_id, arrived_at, payload
)
SELECT number, id, update_id, siblings, consumer, ordering_key,
    $1::bigint + coalesce(lease_ms, 0), CASE WHEN lease_ms IS NOT NULL THEN $2::bigint END,
    is_final, CASE WHEN lease_ms IS NULL THEN 0 ELSE 1 END, followers, last_id, $1, payload
FROM unnest(
    $3::text::text[], $4::text::text[], $5::bytea[], $6::text::bigint[], $7::text::bigint[],
    $8::text::int[], $9::text::bigint[], $10::text::bigint[], $11::text::bool[], $12::text::int[],
    $13::text::bigint[]
) AS new (
    number, consumer, payload, id, update_id, siblings, ordering_key, lease_ms, is_final, followers,
    last_id
)
ON CONFLICT (phone_number_id, consumer, ordering_key) WHERE followers IS NOT NULL
DO UPDATE SET followers = head.followers + excluded.followers + 1,
    last_id = greatest(head.last_id, excluded.last_id)
RETURNING phone_number_id, consumer, ordering_key, id, last_id
"""

_RENUMBER_HEADS = """
UPDATE wats_deliveries
SET id = ($4::bigint[])[array_position($3::bigint[], id)],
    update_id = coalesce(($5::bigint[])[array_position($3::bigint[], id)], update_id),
    last_id = ($6::bigint[])[array_position($3::bigint[], id)]
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_INSERT_FOLLOWERS = """
INSERT INTO wats_deliveries (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, last_id, arrived_at, payload
)
SELECT number, id, update_id, siblings, consumer, ordering_key, id, $1::bigint, payload
FROM unnest(
    $2::text::text[], $3::text::text[], $4::bytea[], $5::text::bigint[], $6::text::bigint[],
    $7::text::int[], $8::text::bigint[]
) AS new (number, consumer, payload, id, update_id, siblings, ordering_key)
"""


_HeadKey: TypeAlias = tuple[str, str, int]
"""The number, consumer and ordering key of a head; heads are locked in the order of their keys."""


class _New(msgspec.Struct):
    """A new update that is being stored.

    Attributes:
        call: The index of its call.
        index: Its index among the arrivals of its call.
        number: Its business number, as PostgreSQL can store it.
        id: The id of its first delivery, which is the id of the update.
    """

    call: int
    index: int
    arrival: Arrival
    number: str
    id: int = 0


class _Outgoing(msgspec.Struct):
    """A new delivery. *lease_ms* is the duration of its lease on arrival, if it gets one."""

    update: _New
    offset: int
    consumer: str
    lease_ms: int | None = None
    is_final: bool = False
    is_leased: bool = False

    @property
    def id(self) -> int:
        """The id of the delivery."""
        return self.update.id + self.offset

    @property
    def ordering_key(self) -> int:
        """The ordering key of the update."""
        return self.update.arrival.ordering_key

    @property
    def head_key(self) -> _HeadKey:
        """The key of the head before this delivery, or of itself."""
        return self.update.number, self.consumer, self.update.arrival.ordering_key


class ArrivalWriter:
    """Stores the updates that a process receives.

    Args:
        consumers: The consumers of the process by name. The caller may change the mapping.
    """

    def __init__(self, consumers: Mapping[str, Consumer]) -> None:
        self._consumers = consumers
        self._known_numbers: set[str] = set()

    async def receive(
        self,
        connection: Connection,
        calls: Sequence[Sequence[Arrival]],
        slots: Mapping[str, int],
    ) -> Sequence[Sequence[Received | None]]:
        """Store the new updates of *calls*; return the results of each call."""
        updates = [
            _New(number, index, arrival, clean(arrival.phone_number_id or ""))
            for number, call in enumerate(calls)
            for index, arrival in enumerate(call)
        ]
        if unknown := _numbers(calls) - self._known_numbers:
            await add_numbers(connection, {clean(each) for each in unknown})
        new = await _new_updates(connection, updates)
        windows = [update.arrival.window for update in new]
        await messages.move_windows(connection, [each for each in windows if each is not None])
        sent = await messages.sent_times(connection, [update.arrival.status for update in new])
        await outbox.prove(connection, [each.arrival for each in new if each.arrival.proof])
        batch = _Batch(new, dict(slots), self._consumers)
        await self._deliver(connection, batch)
        results: list[list[Received | None]] = [[None] * len(call) for call in calls]
        for update, sent_at in zip(new, sent, strict=True):
            leased, waiting = batch.result(update)
            received = Received(leased=leased, waiting=waiting, sent_at=sent_at)
            results[update.call][update.index] = received
        return results

    async def enqueue(
        self, connection: Connection, send: NewSend, max_waiting: int | None
    ) -> Reservation:
        """Reserve the key of *send* and store its delivery; or return why not."""
        reservation = await outbox.reserve(connection, send)
        if reservation.outcome is not ReservationOutcome.RESERVED:
            return reservation
        if max_waiting is not None and await depths.waiting(connection, OUTBOX) >= max_waiting:
            await requests.fail(connection, send.scope, send.key_hash)
            return Reservation(outcome=ReservationOutcome.FULL)
        arrival = arrival_of(send)
        new = _New(0, 0, arrival, clean(send.phone_number_id))
        if send.phone_number_id not in self._known_numbers:
            await add_numbers(connection, [new.number])
        await self._deliver(connection, _Batch([new], {}, self._consumers))
        await outbox.insert(connection, new.number, new.id, send)
        return Reservation(outcome=reservation.outcome, outbox_id=new.id)

    async def _deliver(self, connection: Connection, batch: "_Batch") -> None:
        if not batch.deliveries:
            return
        updates = [each.update for each in batch.deliveries if each.offset == 0]
        ((now, ids, blocked),) = await connection.fetch(_BEGIN, len(updates), batch.wanted)
        _number_updates(updates, ids)
        batch.assign_leases(blocked)
        await batch.insert(connection, now)
        await batch.depths.write(connection)

    def remember(self, calls: Sequence[Sequence[Arrival]]) -> None:
        """Note that the numbers of *calls* are stored. To be called after the commit."""
        self._known_numbers |= _numbers(calls)


def _numbers(calls: Sequence[Sequence[Arrival]]) -> set[str]:
    """Return the business numbers of *calls* as they came."""
    arrivals = [arrival for call in calls for arrival in call]
    found = {arrival.phone_number_id or "" for arrival in arrivals}
    found.update([each.message.phone_number_id for each in arrivals if each.message])
    found.update([each.status.phone_number_id for each in arrivals if each.status])
    found.update([each.window.phone_number_id for each in arrivals if each.window])
    return found


async def _new_updates(connection: Connection, updates: Sequence[_New]) -> Sequence[_New]:
    """Insert the identities of *updates*; return the new updates."""
    with_message = [update for update in updates if update.arrival.message is not None]
    recorded = await messages.insert(
        connection, [update.arrival.message for update in with_message if update.arrival.message]
    )
    new = {id(u) for u, is_new in zip(with_message, recorded, strict=True) if is_new}
    others: dict[tuple[str, int, bytes], _New] = {}
    for update in updates:
        arrival = update.arrival
        if arrival.message is None:
            key = update.number, to_ms(arrival.occurred_at), arrival.key
            others.setdefault(key, update)
    if others:
        rows = [_identity_row(key, others[key].arrival) for key in sorted(others)]
        found = await connection.fetch(_INSERT_IDENTITIES, *columns(rows))
        new |= {id(others[number, occurred_at, key]) for number, occurred_at, key in found}
    return await _record_statuses(connection, [update for update in updates if id(update) in new])


async def _record_statuses(connection: Connection, updates: Sequence[_New]) -> Sequence[_New]:
    """Record the statuses of *updates*; return *updates* without statuses that were recorded.

    Such a status was copied from SQLite, whose statuses have no identity but their record. Here
    their identities are locked first, because they are sorted, and records are in order of arrival.
    """
    with_status = [(u, status) for u in updates if (status := u.arrival.status) is not None]
    are_new = await messages.insert_statuses(connection, [status for _, status in with_status])
    known = {id(u) for (u, _), is_new in zip(with_status, are_new, strict=True) if not is_new}
    return [update for update in updates if id(update) not in known]


def _identity_row(key: tuple[str, int, bytes], arrival: Arrival) -> tuple[Any, ...]:
    number, occurred_at, update_key = key
    return number, update_key, clean(arrival.kind), occurred_at, to_ms(arrival.received_at)


class _Batch:
    """The deliveries of one transaction.

    Args:
        updates: The new updates in order of arrival.
        slots: How many deliveries of each consumer may be leased. Used up.
        consumers: The consumers of the process by name.
    """

    def __init__(
        self,
        updates: Sequence[_New],
        slots: dict[str, int],
        consumers: Mapping[str, Consumer],
    ) -> None:
        if any(len(update.arrival.consumers) > MAX_SIBLINGS for update in updates):
            msg = f"an update can have up to {MAX_SIBLINGS} consumers"
            raise ValueError(msg)
        self._slots = slots
        self._consumers = consumers
        self._updates = [update for update in updates if update.arrival.consumers]
        self._by_update = {
            id(update): [
                _Outgoing(update, offset, consumer)
                for offset, consumer in enumerate(update.arrival.consumers)
            ]
            for update in self._updates
        }
        self.deliveries = [each for group in self._by_update.values() for each in group]
        self.depths = DepthChanges()
        self._lease = secrets.randbits(62)

    @property
    def wanted(self) -> Sequence[str]:
        """The consumers of which deliveries may be leased."""
        return sorted(name for name, room in self._slots.items() if room > 0)

    def assign_leases(self, blocked: Iterable[str]) -> None:
        """Decide which deliveries are leased if they become heads: those with nothing before.

        Deliveries of the consumers *blocked* are not leased.
        """
        blocked = set(blocked)
        heads: set[_HeadKey] = set()
        for each in self.deliveries:
            if each.consumer in blocked or self._slots.get(each.consumer, 0) <= 0:
                blocked.add(each.consumer)  # what arrived after this one must wait for it
                continue
            self._slots[each.consumer] -= 1
            key = each.head_key
            if key in heads:
                continue
            heads.add(key)
            consumer = self._consumers.get(each.consumer) or Consumer(name=each.consumer)
            each.lease_ms = round(consumer.lease_seconds * 1000)
            each.is_final = consumer.max_attempts <= 1

    async def insert(self, connection: Connection, now: int) -> None:
        """Insert the deliveries."""
        queues: dict[_HeadKey, list[_Outgoing]] = {}
        for each in self.deliveries:
            queues.setdefault(each.head_key, []).append(each)
        keys = sorted(queues)
        rows = [_head_row(queues[key]) for key in keys]
        found = await connection.fetch(_INSERT_HEADS, now, self._lease, *columns(rows))
        heads = {(number, name, key): id_ for number, name, key, id_, _ in found}
        inserted = {key for key, id_ in heads.items() if id_ == queues[key][0].id}
        if any(last > queues[number, name, key][-1].id for number, name, key, _, last in found):
            await _draw_ids(connection, self._updates)
            for (number, consumer), theirs in groupby(keys, lambda key: key[:2]):
                rows = [_renumbered(heads[key], queues[key], key in inserted) for key in theirs]
                values = zip(*rows, strict=True)
                await connection.execute(_RENUMBER_HEADS, number, consumer, *values)
        followers = []
        for key in keys:
            first, *others = queues[key]
            if key in inserted:
                first.is_leased = first.lease_ms is not None
                followers += others
            else:
                followers += queues[key]
        if followers:
            rows = [_follower_row(each) for each in followers]
            await connection.execute(_INSERT_FOLLOWERS, now, *columns(rows))
        for each in self.deliveries:
            state = "leased" if each.is_leased else "pending"
            self.depths.add(each.update.number, each.consumer, **{state: 1})

    def result(self, update: _New) -> tuple[Sequence[Delivery], int]:
        """Return the leased deliveries of *update*, and the number of its other deliveries."""
        group = self._by_update.get(id(update), ())
        leased = [
            Delivery(
                id=each.id,
                update_id=update.id,
                siblings=len(group),
                phone_number_id=update.number,
                consumer=each.consumer,
                ordering_key=each.ordering_key,
                attempt=1,
                lease=self._lease,
                payload=update.arrival.payload,
            )
            for each in group
            if each.is_leased
        ]
        return leased, len(group) - len(leased)


def _number_updates(updates: Sequence[_New], ids: Sequence[int]) -> None:
    for update, update_id in zip(updates, ids, strict=True):
        update.id = update_id


async def _draw_ids(connection: Connection, updates: Sequence[_New]) -> None:
    """Give *updates* ids that are higher than all existing ids."""
    _number_updates(updates, await connection.fetchval(_DRAW_IDS, len(updates)))


def _head_row(queue: Sequence[_Outgoing]) -> tuple[Any, ...]:
    first, update = queue[0], queue[0].update
    return (
        update.number,
        first.consumer,
        update.arrival.payload,
        first.id,
        update.id,
        len(update.arrival.consumers),
        first.ordering_key,
        first.lease_ms,
        first.is_final,
        len(queue) - 1,
        queue[-1].id,
    )


def _renumbered(head: int, queue: Sequence[_Outgoing], is_ours: bool) -> tuple[Any, ...]:
    first = queue[0]
    ids = (first.id, first.update.id) if is_ours else (head, None)
    return head, *ids, queue[-1].id


def _follower_row(each: _Outgoing) -> tuple[Any, ...]:
    update = each.update
    return (
        update.number,
        each.consumer,
        update.arrival.payload,
        each.id,
        update.id,
        len(update.arrival.consumers),
        each.ordering_key,
    )
