"""Deliveries in SQL: one row for each update and consumer, from arrival until done or dead.

The first outstanding delivery of a consumer and ordering key is the *head*. Only a head has a
`due_at`, so only heads are claimed, and a unique index permits one head for each ordering key. The
other deliveries are *followers*. When the head ends, the first follower becomes the head.

    arrival ─▸ head ── leased ──▸ done: the row is deleted
       │         ▲         │
       │         └─ retry ─┴─▸ dead: the row is moved to the dead letters
       └──▸ follower ─▸ head, when the previous head is done or dead

Each function runs inside a transaction that its caller opened, and changes the counters of
`Writer` together with the rows.
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, TypeAlias

import msgspec

from wats.store.admin import HEAD_BYTES, SCAN_DELIVERIES
from wats.store.records import (
    Arrival,
    Claimed,
    Consumer,
    Delivery,
    DeliveryState,
    Follower,
    Settled,
    Settlement,
    first_followers,
    may_have_followers,
    unused,
)
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.message_index import numbers

_REGISTER = """
INSERT INTO wats_consumers (name, seen_at) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at
"""

TAKE_IDS = "UPDATE wats_queue SET last_id = last_id + ? WHERE id = 1 RETURNING last_id"

_INSERT = """
INSERT INTO wats_deliveries (
    id, update_id, siblings, consumer, ordering_key, arrived_at, payload,
    due_at, lease, attempts, is_final
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (ordering_key, consumer) WHERE due_at IS NOT NULL DO NOTHING
"""

_INSERTED = "SELECT id FROM wats_deliveries WHERE id BETWEEN ? AND ?"

_ADD_FOLLOWER = """
UPDATE wats_deliveries SET followers = followers + 1
WHERE ordering_key = ? AND consumer = ? AND due_at IS NOT NULL
"""

_CANNOT_LEASE = """
SELECT EXISTS (SELECT 1 FROM wats_deliveries WHERE consumer = ?1 AND due_at <= ?2)
    OR EXISTS (SELECT 1 FROM wats_consumers WHERE name = ?1 AND is_paused)
"""
"""Whether no new delivery may be leased on arrival: older ones are due, or leases are paused."""

DUE_IF = """
SELECT id, update_id, siblings, ordering_key, attempts, lease IS NOT NULL, is_final, payload,
    arrived_at
FROM wats_deliveries
WHERE consumer = ?1 AND due_at <= ?2
    AND NOT EXISTS (SELECT 1 FROM wats_consumers WHERE name = ?1 AND is_paused)
    AND {}
ORDER BY due_at, id
LIMIT ?3
"""
"""The heads to claim, with a further condition."""

_DUE = DUE_IF.format("true")

_DUE_WITH_MARK = DUE_IF.format("""due_at <= (
    SELECT max(due_at) FROM (
        SELECT due_at FROM wats_deliveries
        WHERE consumer = ?1 AND due_at <= ?2 ORDER BY due_at, id LIMIT ?5
    )
)
AND EXISTS (SELECT 1 FROM json_each(?6) WHERE instr(substr(payload, 1, ?4), CAST(value AS BLOB)))
""")

_FOLLOWERS = """
SELECT id, update_id, payload, attempts FROM wats_deliveries
WHERE ordering_key = ? AND consumer = ? AND due_at IS NULL
ORDER BY id LIMIT ?
"""

_LEASE = """
UPDATE wats_deliveries SET lease = ?, due_at = ?, attempts = ?, is_final = ? WHERE id = ?
"""

_RENEW = """
UPDATE wats_deliveries SET due_at = ?, is_final = is_final OR ? WHERE id = ? AND lease = ?
"""

_IS_HELD = """
SELECT EXISTS (SELECT 1 FROM wats_deliveries WHERE id = ? AND lease = ? AND due_at > ?)
"""

_DELETE_HELD = """
DELETE FROM wats_deliveries WHERE id IN carray(?) AND lease = ? RETURNING id, followers
"""

_DELETE_FOLLOWERS = """
DELETE FROM wats_deliveries
WHERE id IN carray(?) AND ordering_key = ? AND consumer = ? AND due_at IS NULL
RETURNING update_id, siblings
"""

_SHORTEN = "UPDATE wats_deliveries SET followers = followers - ? WHERE id = ?"

_BURY = """
INSERT INTO wats_dead_deliveries (
    id, update_id, siblings, consumer, ordering_key, attempts, error, arrived_at, died_at, payload
)
SELECT id, update_id, siblings, consumer, ordering_key, attempts, ?, arrived_at, ?, payload
FROM wats_deliveries WHERE id = ? AND lease = ?
"""

_PROMOTE = """
UPDATE wats_deliveries SET due_at = arrived_at, followers = ?
WHERE id = (
    SELECT min(id) FROM wats_deliveries
    WHERE ordering_key = ? AND consumer = ? AND due_at IS NULL
)
"""

_RETRY = """
UPDATE wats_deliveries SET lease = NULL, due_at = ?, error = ? WHERE id = ? AND lease = ?
"""

_RELEASE = """
UPDATE wats_deliveries SET lease = NULL, due_at = coalesce(?, arrived_at), attempts = attempts - 1
WHERE id = ? AND lease = ?
"""

_FINISHED = """
SELECT value FROM carray(?1)
WHERE NOT EXISTS (SELECT 1 FROM wats_deliveries WHERE id BETWEEN value AND value + ?2 - 1)
    AND NOT EXISTS (SELECT 1 FROM wats_dead_deliveries WHERE id BETWEEN value AND value + ?2 - 1)
"""

_Row: TypeAlias = tuple[Any, ...]

_LEASE_OF = 8
"""The position of the lease in a row to insert."""


def register(writer: Writer, consumers: Sequence[Consumer]) -> None:
    """Set the consumers of this process, and register them."""
    writer.consumers = {consumer.name: consumer for consumer in consumers}
    keep_registered(writer)


def keep_registered(writer: Writer) -> None:
    """Renew the registration of the consumers of this process."""
    now = writer.clock()
    writer.executemany(_REGISTER, [(name, now) for name in writer.consumers])


def insert(
    writer: Writer, arrivals: Sequence[Arrival], slots: Mapping[str, int]
) -> tuple[Sequence[Sequence[Delivery]], Sequence[int]]:
    """Insert the deliveries of *arrivals*; lease at most *slots* deliveries of each consumer.

    Returns:
        For each arrival, its deliveries leased on arrival, and the number of its other deliveries.
    """
    leased: list[list[Delivery]] = [[] for _ in arrivals]
    waiting = [len(each.consumers) for each in arrivals]
    count = sum(waiting)
    if not count:
        return leased, waiting
    rows, positions = _rows_of(writer, arrivals, count, slots)
    rows = _insert_heads(writer, rows)
    for row, position in zip(rows, positions, strict=True):
        if row[_LEASE_OF] is not None:
            leased[position].append(_leased_on_arrival(row))
            waiting[position] -= 1
    names = [row[3] for row in rows if row[_LEASE_OF] is None]
    _count(writer, DeliveryState.PENDING, names)
    _count(writer, DeliveryState.LEASED, [row[3] for row in rows if row[_LEASE_OF] is not None])
    writer.leaves_work = writer.leaves_work or bool(names)
    return leased, waiting


def _count(writer: Writer, state: DeliveryState, consumers: Sequence[str], sign: int = 1) -> None:
    """Add one delivery in *state* for each of *consumers*; subtract with *sign* -1."""
    for name, count in Counter(consumers).items():
        writer.count(name, state, sign * count)


def _rows_of(
    writer: Writer, arrivals: Sequence[Arrival], count: int, slots: Mapping[str, int]
) -> tuple[Sequence[_Row], Sequence[int]]:
    """Return the *count* rows of *arrivals*, and the position of the arrival of each row."""
    now = writer.clock()
    last_id: int = writer.execute(TAKE_IDS, (count,)).get
    leases: dict[str, Iterator[_Row]] = {}
    rows: list[_Row] = []
    positions: list[int] = []
    id_ = last_id - count + 1
    for position, each in enumerate(arrivals):
        names, key, update_id = each.consumers, each.ordering_key, id_
        size = len(names)
        for name in names:
            ends = leases.get(name) or leases.setdefault(name, _leases(writer, name, now, slots))
            due_at, lease, attempts, final = next(ends)
            row = id_, update_id, size, name, key, now, each.payload, due_at, lease, attempts, final
            rows.append(row)
            positions.append(position)
            id_ += 1
    return rows, positions


def _leases(writer: Writer, name: str, now: int, slots: Mapping[str, int]) -> Iterator[_Row]:
    """Yield due_at, lease, attempts and is_final for new deliveries of *name*, without end."""
    free = slots.get(name, 0)
    if free > 0 and not writer.execute(_CANNOT_LEASE, (name, now)).get:
        consumer = writer.consumers[name]
        due_at = now + round(consumer.lease_seconds * 1000)
        yield from repeat((due_at, new_lease(), 1, consumer.max_attempts <= 1), free)
    # Deliveries after one without a lease are not leased either: older ones go first.
    yield from repeat((now, None, 0, False))


def _insert_heads(writer: Writer, rows: Sequence[_Row]) -> Sequence[_Row]:
    """Insert *rows* as heads, or as followers of an existing head; return the inserted rows."""
    if change(writer, _INSERT, rows) == len(rows):
        return rows
    inserted = {id_ for (id_,) in writer.execute(_INSERTED, (rows[0][0], rows[-1][0]))}
    rows = [row if row[0] in inserted else (*row[:7], None, None, 0, False) for row in rows]
    followers = [row for row in rows if row[0] not in inserted]
    writer.executemany(_INSERT, followers)
    writer.executemany(_ADD_FOLLOWER, [(row[4], row[3]) for row in followers])
    return rows


def _leased_on_arrival(row: _Row) -> Delivery:
    id_, update_id, siblings, consumer, ordering_key, _, payload, _, lease, _, _ = row
    return Delivery(
        id=id_,
        update_id=update_id,
        siblings=siblings,
        consumer=consumer,
        ordering_key=ordering_key,
        attempt=1,
        lease=lease,
        payload=payload,
    )


def new_lease() -> int:
    """Return a random number that identifies a lease."""
    return secrets.randbits(62)


def claim(writer: Writer, name: str, limit: int, marks: Sequence[bytes] = ()) -> Claimed:
    """Lease heads of the consumer *name*, with one of *marks* if there are any, earliest first."""
    values: _Row = (name, writer.clock(), limit + 1)
    if marks:
        values += HEAD_BYTES, SCAN_DELIVERIES, json.dumps([mark.decode() for mark in marks])
    rows: list[Any] = writer.execute(_DUE_WITH_MARK if marks else _DUE, values).fetchall()
    return Claimed(lease(writer, name, rows[:limit]), len(rows) > limit)


def lease(writer: Writer, name: str, found: Sequence[_Row]) -> Sequence[Delivery]:
    """Lease the rows *found* by `DUE_IF`."""
    consumer, number = writer.consumers[name], new_lease()
    due_at = writer.time_after(consumer.lease_seconds)
    deliveries = [_claimed(writer, consumer, row, number) for row in found]
    last = consumer.max_attempts
    rows = [
        (number, due_at, each.attempt, each.is_exhausted or each.attempt >= last, each.id)
        for each in deliveries
    ]
    writer.executemany(_LEASE, rows)
    for row in found:
        if not row[5]:  # it was not leased before
            writer.count(name, unleased(row[4]), -1)
            writer.count(name, DeliveryState.LEASED, 1)
    return deliveries


def _claimed(writer: Writer, consumer: Consumer, row: _Row, lease: int) -> Delivery:
    id_, update_id, siblings, ordering_key, attempts, is_leased, is_final, payload, arrived = row
    is_exhausted = bool(is_leased and is_final)
    return Delivery(
        id=id_,
        update_id=update_id,
        siblings=siblings,
        consumer=consumer.name,
        ordering_key=ordering_key,
        attempt=attempts if is_exhausted else attempts + 1,
        is_exhausted=is_exhausted,
        lease=lease,
        payload=payload,
        followers=_followers(writer, consumer, row),
        age_seconds=(writer.clock() - arrived) / 1000,
    )


def _followers(writer: Writer, consumer: Consumer, row: _Row) -> tuple[Follower, ...]:
    _, _, _, ordering_key, attempts, _, _, payload, _ = row
    if not may_have_followers(consumer, attempts):
        return ()
    rows: Any = writer.execute(_FOLLOWERS, (ordering_key, consumer.name, consumer.batch - 1))
    return first_followers(rows, len(payload))


def unleased(attempts: int) -> DeliveryState:
    """Return the state of a delivery without a lease, after *attempts*."""
    return DeliveryState.RETRY if attempts else DeliveryState.PENDING


def undo_claim(writer: Writer, results: Sequence[Claimed]) -> None:
    """Release deliveries that were claimed too late."""
    release(writer, unused([each for claimed in results for each in claimed.deliveries]))


def release(writer: Writer, deliveries: Sequence[Delivery]) -> None:
    """Give back the leases of *deliveries*, which no consumer got."""
    settle(writer, [Settlement(each, DeliveryState.PENDING) for each in deliveries])


def renew(
    writer: Writer, deliveries: Sequence[Delivery], *, is_final: bool = False
) -> Sequence[Delivery]:
    """Extend the leases of *deliveries*; return the deliveries whose lease was lost."""
    now = writer.clock()
    rows = [
        (
            now + round(writer.consumers[each.consumer].lease_seconds * 1000),
            is_final,
            each.id,
            each.lease,
        )
        for each in deliveries
    ]
    if change(writer, _RENEW, rows) == len(rows):
        return ()
    return [each for each in deliveries if not is_held(writer, each)]


def is_held(writer: Writer, delivery: Delivery, at: int = 0) -> bool:
    """Return whether the lease of *delivery* is that of its row, and has not expired *at*."""
    return bool(writer.execute(_IS_HELD, (delivery.id, delivery.lease, at)).get)


def settle(writer: Writer, settlements: Sequence[Settlement]) -> Settled:
    """Delete deliveries that are done, with their payloads; write the state of the others."""
    is_done = DeliveryState.DONE
    followers = [
        ended for each in settlements if each.also for ended in _delete_followers(writer, each)
    ]
    done, due = _delete_held(
        writer, [each.delivery for each in settlements if each.state is is_done]
    )
    if len(done) < len(settlements):
        for settlement in settlements:
            due |= _settle_other(writer, settlement)
    writer.leaves_work = writer.leaves_work or bool(due)
    ended = [(each.update_id, each.siblings) for each in done]
    return Settled(done=_finished(writer, ended + followers), due=frozenset(due))


def _delete_followers(writer: Writer, settlement: Settlement) -> Sequence[tuple[int, int]]:
    """Delete the followers that were handled with a delivery, if its lease is valid.

    Returns:
        The update of each follower, and the number of deliveries that it had.
    """
    head = settlement.delivery
    if settlement.state is not DeliveryState.DONE or not is_held(writer, head):
        return ()
    ids = numbers([each.id for each in settlement.also])
    values = ids, head.ordering_key, head.consumer
    ended: list[Any] = writer.execute(_DELETE_FOLLOWERS, values).fetchall()
    writer.execute(_SHORTEN, (len(ended), head.id))
    writer.count(head.consumer, DeliveryState.PENDING, -len(ended))
    return ended


def acknowledge(writer: Writer, settlements: Sequence[Settlement]) -> Settled:
    """Settle deliveries whose leases have not expired; the others are lost."""
    now = writer.clock()
    lost = [each.delivery for each in settlements if not is_held(writer, each.delivery, now)]
    settled = settle(writer, [each for each in settlements if each.delivery not in lost])
    return msgspec.structs.replace(settled, lost=lost)


def _settle_other(writer: Writer, settlement: Settlement) -> set[str]:
    """Settle a delivery that is not done; return its consumer if a delivery became due."""
    delivery = settlement.delivery
    match settlement.state:
        case DeliveryState.DEAD:
            values = settlement.error, writer.clock(), delivery.id, delivery.lease
            if change(writer, _BURY, [values]):
                return _delete_held(writer, [delivery])[1]
        case DeliveryState.RETRY:
            retry = writer.time_after(settlement.retry_seconds), settlement.error
            if _put_back(writer, _RETRY, delivery, *retry):
                writer.count(delivery.consumer, DeliveryState.RETRY, 1)
        case DeliveryState.PENDING:
            pause = settlement.retry_seconds
            due_at = writer.time_after(pause) if pause else None
            if _put_back(writer, _RELEASE, delivery, due_at):
                writer.count(delivery.consumer, unleased(delivery.attempt - 1), 1)
                return {delivery.consumer} if due_at is None else set()
        case _:
            pass
    return set()


def _delete_held(
    writer: Writer, deliveries: Sequence[Delivery]
) -> tuple[Sequence[Delivery], set[str]]:
    """Delete the *deliveries* with a valid lease; return them, and consumers with a new head."""
    by_lease: dict[int, dict[int, Delivery]] = {}
    for each in deliveries:
        by_lease.setdefault(each.lease, {})[each.id] = each
    held: list[Delivery] = []
    due: set[str] = set()
    for lease, theirs in by_lease.items():
        ended: list[Any] = writer.execute(_DELETE_HELD, (numbers(theirs), lease)).fetchall()
        for id_, followers in ended:
            delivery = theirs[id_]
            held.append(delivery)
            if followers:
                promote(writer, delivery.consumer, delivery.ordering_key, followers)
                due.add(delivery.consumer)
    _count(writer, DeliveryState.LEASED, [each.consumer for each in held], -1)
    return held, due


def promote(writer: Writer, consumer: str, ordering_key: int, followers: int) -> None:
    """Make the first of *followers* followers the head."""
    writer.execute(_PROMOTE, (followers - 1, ordering_key, consumer))


def _put_back(writer: Writer, statement: str, delivery: Delivery, *values: object) -> bool:
    if not change(writer, statement, [(*values, delivery.id, delivery.lease)]):
        return False
    writer.count(delivery.consumer, DeliveryState.LEASED, -1)
    return True


def _finished(writer: Writer, ended: Sequence[tuple[int, int]]) -> Sequence[int]:
    """Return the updates without remaining deliveries and dead letters.

    Args:
        writer: The writer.
        ended: The update of each delivery that is done, and the number of deliveries that it had.
    """
    finished = [update_id for update_id, siblings in ended if siblings == 1]
    if len(finished) < len(ended):
        several: dict[int, dict[int, None]] = {}
        for update_id, siblings in ended:
            if siblings > 1:
                several.setdefault(siblings, {})[update_id] = None
        for siblings, updates in several.items():
            rows = writer.execute(_FINISHED, (numbers(updates), siblings))
            finished += [update_id for (update_id,) in rows]
    return finished
