"""The inbox in SQL: updates that came in, and their deliveries to targets.

Each function runs inside a transaction that its caller opened.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from sqlite3 import Connection
from typing import TypeAlias

from wats.clock import from_ms, to_ms
from wats.store.records import (
    Arrival,
    Delivery,
    DeliveryState,
    InboxDepth,
    Settled,
    Settlement,
)
from wats.store.sqlite import messages

RUN_LENGTH = 16
"""The most deliveries of one lane in one claim: enough that a busy conversation is not one round
trip per update, few enough that what a slow handler holds can be handled within its lease."""

_LAST_ID = "SELECT coalesce(max(id), 0) FROM wats_inbox"

_INSERT_UPDATE = """
INSERT INTO wats_inbox (id, occurred_at, key, kind, phone_number_id, received_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (occurred_at, key) DO NOTHING
"""

_INSERTED_SINCE = "SELECT id FROM wats_inbox WHERE id > ?"

_INSERT_PAYLOAD = "INSERT INTO wats_payloads (update_id, payload) VALUES (?, ?)"

_OF_LANE = "SELECT 1 FROM wats_deliveries WHERE target = ? AND lane = ? LIMIT 1"

_INSERT_DELIVERY = """
INSERT INTO wats_deliveries (
    update_id, target, lane, state, is_head, due_at, attempts, lease_id
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

_DUE_HEADS = """
SELECT d.due_at, d.update_id, d.target, d.lane, d.attempts, p.payload, EXISTS (
    SELECT 1 FROM wats_deliveries AS f
    WHERE f.target = d.target AND f.lane = d.lane AND f.update_id > d.update_id
)
FROM wats_deliveries AS d CROSS JOIN wats_payloads AS p ON p.update_id = d.update_id
WHERE d.target = ? AND d.is_head AND d.due_at <= ?
ORDER BY d.due_at, d.update_id
LIMIT ?
"""

_FOLLOWERS = """
SELECT d.due_at, d.update_id, d.target, d.lane, d.attempts, p.payload
FROM wats_deliveries AS d CROSS JOIN wats_payloads AS p ON p.update_id = d.update_id
WHERE d.target = ? AND d.lane = ? AND d.update_id > ?
ORDER BY d.update_id
LIMIT ?
"""

_LEASE = """
UPDATE wats_deliveries SET state = 'leased', attempts = attempts + 1, lease_id = ?, due_at = ?
WHERE update_id = ? AND target = ?
"""

_RENEW = """
UPDATE wats_deliveries SET due_at = ?
WHERE update_id = ? AND target = ? AND lease_id = ?
"""

_RETRY = """
UPDATE wats_deliveries SET state = 'retry', lease_id = NULL, due_at = ?, error = ?
WHERE update_id = ? AND target = ? AND lease_id = ?
"""

_GIVE_BACK = """
UPDATE wats_deliveries SET state = 'pending', lease_id = NULL, attempts = attempts - 1,
    due_at = (SELECT received_at FROM wats_inbox WHERE id = update_id)
WHERE update_id = ? AND target = ? AND lease_id = ?
"""

_BURY = """
INSERT INTO wats_dead_deliveries (update_id, target, lane, attempts, error, died_at)
SELECT update_id, target, lane, attempts, ?, ? FROM wats_deliveries
WHERE update_id = ? AND target = ? AND lease_id = ?
"""

_DELETE_DELIVERY = """
DELETE FROM wats_deliveries WHERE update_id = ? AND target = ? AND lease_id = ?
RETURNING target, lane, is_head
"""

_PROMOTE_FIRST = """
UPDATE wats_deliveries SET is_head = 1
WHERE (update_id, target) = (
    SELECT update_id, target FROM wats_deliveries
    WHERE target = ? AND lane = ?
    ORDER BY update_id
    LIMIT 1
)
"""

_ERASE = """
DELETE FROM wats_payloads
WHERE update_id = ?1
    AND NOT EXISTS (SELECT 1 FROM wats_deliveries WHERE update_id = ?1)
    AND NOT EXISTS (SELECT 1 FROM wats_dead_deliveries WHERE update_id = ?1)
"""

_DEPTH = "SELECT state, count(*), min(update_id) FROM wats_deliveries GROUP BY state"

_DEAD = "SELECT count(*) FROM wats_dead_deliveries"

_RECEIVED_AT = "SELECT received_at FROM wats_inbox WHERE id = ?"

_OLD_DEAD = """
SELECT update_id, target FROM wats_dead_deliveries WHERE died_at < ? ORDER BY died_at LIMIT ?
"""

_DELETE_DEAD = "DELETE FROM wats_dead_deliveries WHERE update_id = ? AND target = ?"

OLD_UPDATES = """
SELECT id, received_at < ?1, received_at < ?1
    AND NOT EXISTS (SELECT 1 FROM wats_payloads WHERE update_id = wats_inbox.id)
FROM wats_inbox
WHERE id > ?2
ORDER BY id
LIMIT ?3
"""
"""For a `Walk`. What has a payload is not done yet."""

_PURGE = "DELETE FROM wats_inbox WHERE id = ? AND received_at < ?"


def receive(
    connection: Connection, arrivals: Sequence[Arrival]
) -> Sequence[Sequence[Delivery] | None]:
    """Insert what is new of *arrivals*, with its deliveries and projections."""
    (last_id,) = connection.execute(_LAST_ID).fetchone()
    rows = [
        _update_row(update_id, arrival) for update_id, arrival in enumerate(arrivals, last_id + 1)
    ]
    inserted = connection.executemany(_INSERT_UPDATE, rows).rowcount
    numbered = list(enumerate(arrivals, last_id + 1))
    if inserted < len(rows):
        ids = {update_id for (update_id,) in connection.execute(_INSERTED_SINCE, (last_id,))}
        numbered = [(update_id, arrival) for update_id, arrival in numbered if update_id in ids]
    messages.project(connection, [arrival for _, arrival in numbered])
    leased = _deliver(connection, numbered)
    new = {update_id for update_id, _ in numbered}
    return [leased.get(row[0], ()) if row[0] in new else None for row in rows]


def _deliver(
    connection: Connection, numbered: Sequence[tuple[int, Arrival]]
) -> Mapping[int, Sequence[Delivery]]:
    """Insert the deliveries of new updates; return those that are leased to who brought them."""
    awaited = [(update_id, arrival) for update_id, arrival in numbered if arrival.targets]
    connection.executemany(_INSERT_PAYLOAD, [(id_, arrival.payload) for id_, arrival in awaited])
    rows: list[tuple[object, ...]] = []
    lease_id = secrets.randbits(62)
    leased: dict[int, list[Delivery]] = {}
    busy: set[tuple[str, int]] = set()
    for update_id, arrival in awaited:
        due_at = to_ms(arrival.received_at)
        lane = arrival.lane
        for target in arrival.targets:
            line = target, lane
            is_head = line not in busy and connection.execute(_OF_LANE, line).fetchone() is None
            busy.add(line)
            if not is_head or not arrival.lease_seconds:
                rows.append((update_id, target, lane, "pending", is_head, due_at, 0, None))
                continue
            leased_until = due_at + round(arrival.lease_seconds * 1000)
            rows.append((update_id, target, lane, "leased", True, leased_until, 1, lease_id))
            delivery = Delivery(
                update_id=update_id,
                target=target,
                lane=lane,
                attempt=1,
                lease_id=lease_id,
                payload=arrival.payload,
            )
            leased.setdefault(update_id, []).append(delivery)
    connection.executemany(_INSERT_DELIVERY, rows)
    return leased


def _update_row(update_id: int, arrival: Arrival) -> tuple[object, ...]:
    return (
        update_id,
        to_ms(arrival.occurred_at),
        arrival.key,
        arrival.kind,
        arrival.phone_number_id,
        to_ms(arrival.received_at),
    )


_Due: TypeAlias = tuple[int, int, str, int, int, bytes]
"""A delivery that can be leased: due_at, update_id, target, lane, attempts, payload."""


def claim(
    connection: Connection, targets: Sequence[str], limit: int, lease_seconds: float, now: datetime
) -> Sequence[Delivery]:
    """Lease heads that are due, and as far as *limit* allows what waits right behind them."""
    due_by = to_ms(now)
    heads = sorted(
        head
        for target in targets
        for head in connection.execute(_DUE_HEADS, (target, due_by, limit))
    )[:limit]
    taken: list[_Due] = [head[:6] for head in heads]
    for head in heads:
        room = limit - len(taken)
        if room == 0:
            break
        if head[6]:
            taken += _run_behind(connection, head[:6], min(room, RUN_LENGTH - 1), due_by)
    taken.sort(key=_arrival_order)
    lease_id = secrets.randbits(62)
    leased_until = to_ms(now + timedelta(seconds=lease_seconds))
    connection.executemany(_LEASE, [(lease_id, leased_until, row[1], row[2]) for row in taken])
    return [
        Delivery(
            update_id=update_id,
            target=target,
            lane=lane,
            attempt=attempts + 1,
            lease_id=lease_id,
            payload=payload,
        )
        for _, update_id, target, lane, attempts, payload in taken
    ]


def _run_behind(connection: Connection, head: _Due, room: int, due_by: int) -> Sequence[_Due]:
    _, update_id, target, lane, _, _ = head
    followers = connection.execute(_FOLLOWERS, (target, lane, update_id, room))
    # One that is not due, because its own lease still runs or it failed before, ends the run.
    return list(takewhile(lambda row: row[0] <= due_by, followers))


def _arrival_order(row: _Due) -> tuple[int, str]:
    return row[1], row[2]


def renew(
    connection: Connection, deliveries: Sequence[Delivery], lease_seconds: float, now: datetime
) -> None:
    """Move the ends of the leases that are still held."""
    leased_until = to_ms(now + timedelta(seconds=lease_seconds))
    connection.executemany(
        _RENEW, [(leased_until, d.update_id, d.target, d.lease_id) for d in deliveries]
    )


def settle(connection: Connection, settlements: Sequence[Settlement], now: datetime) -> Settled:
    """Write how leased deliveries ended, let the next of their lanes follow, erase what is done."""
    ended: dict[int, None] = {}
    headless: set[tuple[str, int]] = set()
    for settlement in settlements:
        lease = settlement.update_id, settlement.target, settlement.lease_id
        if settlement.state not in _ENDS:
            _release(connection, settlement, lease, now)
            continue
        if settlement.state is DeliveryState.DEAD:
            connection.execute(_BURY, (settlement.error, to_ms(now), *lease))
        for target, lane, is_head in connection.execute(_DELETE_DELIVERY, lease):
            ended[settlement.update_id] = None
            if is_head:
                headless.add((target, lane))
    promoted = connection.executemany(_PROMOTE_FIRST, headless).rowcount
    done = [id_ for id_ in ended if connection.execute(_ERASE, (id_,)).rowcount]
    return Settled(done=tuple(done), more=promoted > 0)


_ENDS = frozenset({DeliveryState.DONE, DeliveryState.DEAD})


_Lease: TypeAlias = tuple[int, str, int]
"""What a settlement is about: update_id, target, lease_id."""


def _release(connection: Connection, settlement: Settlement, lease: _Lease, now: datetime) -> None:
    if settlement.state is DeliveryState.RETRY:
        due_at = to_ms(settlement.due_at or now)
        connection.execute(_RETRY, (due_at, settlement.error, *lease))
    else:
        connection.execute(_GIVE_BACK, lease)


def depth(connection: Connection) -> InboxDepth:
    """Count deliveries by state."""
    counts = {"pending": 0, "leased": 0, "retry": 0}
    oldest_ids = []
    for state, count, oldest_id in connection.execute(_DEPTH):
        counts[state] = count
        oldest_ids.append(oldest_id)
    oldest_at = None
    if oldest_ids:
        (received_at,) = connection.execute(_RECEIVED_AT, (min(oldest_ids),)).fetchone()
        oldest_at = from_ms(received_at)
    (dead,) = connection.execute(_DEAD).fetchone()
    return InboxDepth(**counts, dead=dead, oldest_at=oldest_at)


def purge(connection: Connection, update_ids: Sequence[int], before: datetime) -> int:
    """Delete *update_ids*, which were found to be done and received before *before*."""
    before_ms = to_ms(before)
    return connection.executemany(_PURGE, [(id_, before_ms) for id_ in update_ids]).rowcount


def purge_dead(connection: Connection, before: datetime, limit: int) -> int:
    """Delete deliveries that died before *before*, and erase what nobody waits for any more."""
    old = connection.execute(_OLD_DEAD, (to_ms(before), limit)).fetchall()
    connection.executemany(_DELETE_DEAD, old)
    connection.executemany(_ERASE, [(update_id,) for update_id, _ in old])
    return len(old)
