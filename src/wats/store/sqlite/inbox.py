"""The inbox in SQL: updates that came in, and their deliveries to targets.

Each function runs inside a transaction that its caller opened.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, takewhile
from typing import Any, TypeAlias

from apsw import Connection

from wats.clock import from_ms, to_ms
from wats.store.records import (
    Arrival,
    Delivery,
    DeliveryState,
    InboxDepth,
    Kept,
    Settled,
    Settlement,
)
from wats.store.sqlite import first_leases, messages
from wats.store.sqlite.connection import change, delete_found
from wats.store.sqlite.first_leases import LEASE_IDS, FirstLease, Line

RUN_LENGTH = 16
"""The most deliveries of one lane in one claim: enough that a busy conversation is not one round
trip per update, few enough that what a slow handler holds can be handled within its lease."""

_LAST_ID = "SELECT coalesce(max(id), 0) FROM wats_inbox"

_INSERT_UPDATE = """
INSERT INTO wats_inbox (id, occurred_at, key, kind, phone_number_id, received_at, is_message)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (occurred_at, key) WHERE NOT is_message DO NOTHING
"""

_INSERTED_SINCE = "SELECT id FROM wats_inbox WHERE id > ?"

_INSERT_PAYLOAD = "INSERT INTO wats_payloads (update_id, waiting, payload) VALUES (?, ?, ?)"

_ANY_QUEUED = "SELECT EXISTS (SELECT 1 FROM wats_deliveries)"

_IS_QUEUED = "SELECT EXISTS (SELECT 1 FROM wats_deliveries WHERE target = ? AND lane = ?)"

_INSERT_DELIVERY = """
INSERT INTO wats_deliveries (
    target, lane, update_id, state, is_head, due_at, attempts, lease_id
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
WHERE target = ? AND lane = ? AND update_id = ?
"""

_RENEW = """
UPDATE wats_deliveries SET due_at = ?
WHERE target = ? AND lane = ? AND update_id = ? AND lease_id = ?
"""

_RETRY = """
UPDATE wats_deliveries SET state = 'retry', lease_id = NULL, due_at = ?, error = ?
WHERE target = ? AND lane = ? AND update_id = ? AND lease_id = ?
"""

_GIVE_BACK = """
UPDATE wats_deliveries SET state = 'pending', lease_id = NULL, attempts = attempts - 1,
    due_at = (SELECT received_at FROM wats_inbox WHERE id = update_id)
WHERE target = ? AND lane = ? AND update_id = ? AND lease_id = ?
"""

_BURY = """
INSERT INTO wats_dead_deliveries (update_id, target, lane, attempts, error, died_at)
SELECT update_id, target, lane, attempts, ?, ? FROM wats_deliveries
WHERE target = ? AND lane = ? AND update_id = ? AND lease_id = ?
"""

_IS_HELD = """
SELECT EXISTS (
    SELECT 1 FROM wats_deliveries
    WHERE target = ? AND lane = ? AND update_id = ? AND lease_id = ?
)
"""

_DELETE_DELIVERY = """
DELETE FROM wats_deliveries WHERE target = ? AND lane = ? AND update_id = ? AND lease_id = ?
"""

_PROMOTE_FIRST = """
UPDATE wats_deliveries SET is_head = 1
WHERE target = ?1 AND lane = ?2 AND update_id = (
    SELECT min(update_id) FROM wats_deliveries WHERE target = ?1 AND lane = ?2
)
"""

_ERASE_LAST = "DELETE FROM wats_payloads WHERE update_id = ? AND waiting = 1"

_IS_LEFT = "SELECT EXISTS (SELECT 1 FROM wats_payloads WHERE update_id = ?)"

_COUNT_DOWN = "UPDATE wats_payloads SET waiting = waiting - 1 WHERE update_id = ?"

_DEPTH = "SELECT state, count(*), min(update_id) FROM wats_outstanding GROUP BY state"

_DEAD = "SELECT count(*) FROM wats_dead_deliveries"

_RECEIVED_AT = "SELECT received_at FROM wats_inbox WHERE id = ?"

_OLD_DEAD = """
SELECT update_id, target FROM wats_dead_deliveries WHERE died_at < ? ORDER BY died_at LIMIT ?
"""

_DELETE_DEAD = "DELETE FROM wats_dead_deliveries WHERE update_id = ? AND target = ?"

OLD_UPDATES = """
SELECT id, received_at < ?1, received_at < ?1
    AND NOT EXISTS (SELECT 1 FROM wats_payloads WHERE update_id = wats_inbox.id)
    AND NOT EXISTS (SELECT 1 FROM wats_first_leases WHERE update_id = wats_inbox.id)
FROM wats_inbox
WHERE id > ?2
ORDER BY id
LIMIT ?3
"""
"""For a `Walk`. What has a payload is not done yet."""

_PURGE = "DELETE FROM wats_inbox WHERE id = ? AND received_at < ?"


def receive(connection: Connection, arrivals: Sequence[Arrival]) -> Sequence[Kept | None]:
    """Insert what is new of *arrivals*, with its deliveries and projections."""
    last_id: int = connection.execute(_LAST_ID).get
    all_ids = range(last_id + 1, last_id + 1 + len(arrivals))
    numbered = messages.unknown(connection, list(zip(all_ids, arrivals, strict=True)))
    rows = [_update_row(update_id, arrival) for update_id, arrival in numbered]
    if change(connection, _INSERT_UPDATE, rows) < len(rows):
        ids = {update_id for (update_id,) in connection.execute(_INSERTED_SINCE, (last_id,))}
        numbered = [(update_id, arrival) for update_id, arrival in numbered if update_id in ids]
    sent_at = messages.project(connection, [arrival for _, arrival in numbered])
    leased = _deliver(connection, numbered)
    kept: list[Kept | None] = [None] * len(arrivals)
    for (update_id, _), at in zip(numbered, sent_at, strict=True):
        kept[update_id - all_ids.start] = Kept(leased.get(update_id, ()), at)
    return kept


def _deliver(
    connection: Connection, numbered: Sequence[tuple[int, Arrival]]
) -> Mapping[int, Sequence[Delivery]]:
    """Insert the deliveries of new updates; return those that are leased to who brought them."""
    busy = first_leases.lines(connection)
    room = first_leases.MOST - len(busy)
    busy |= _queued(
        connection,
        ((target, arrival.lane) for _, arrival in numbered for target in arrival.targets),
    )
    firsts: list[first_leases.Row] = []
    payloads: list[tuple[int, int, bytes]] = []
    rows: list[tuple[object, ...]] = []
    leased: dict[int, list[Delivery]] = {}
    lease_id, first_lease_id = _new_lease_id(), first_leases.new_lease_id()
    for update_id, arrival in numbered:
        targets, lane = arrival.targets, arrival.lane
        if not targets:
            continue
        due_at = to_ms(arrival.received_at)
        leased_until = due_at + round(arrival.lease_seconds * 1000)
        lines = [(target, lane) for target in targets]
        if (
            len(lines) == 1
            and lines[0] not in busy
            and arrival.lease_seconds
            and len(firsts) < room
        ):
            payload = arrival.payload
            firsts.append((update_id, first_lease_id, targets[0], lane, leased_until, payload))
            leased[update_id] = [_delivery(update_id, arrival, targets[0], first_lease_id)]
            busy.add(lines[0])
            continue
        payloads.append((update_id, len(targets), arrival.payload))
        for target, line in zip(targets, lines, strict=True):
            is_head = line not in busy
            busy.add(line)
            if is_head and arrival.lease_seconds:
                rows.append((*line, update_id, "leased", True, leased_until, 1, lease_id))
                delivery = _delivery(update_id, arrival, target, lease_id)
                leased.setdefault(update_id, []).append(delivery)
            else:
                rows.append((*line, update_id, "pending", is_head, due_at, 0, None))
    first_leases.insert(connection, firsts)
    connection.executemany(_INSERT_PAYLOAD, payloads)
    connection.executemany(_INSERT_DELIVERY, rows)
    return leased


def _new_lease_id() -> int:
    return secrets.randbits(62)


def _delivery(update_id: int, arrival: Arrival, target: str, lease_id: int) -> Delivery:
    return Delivery(
        update_id=update_id,
        target=target,
        lane=arrival.lane,
        attempt=1,
        lease_id=lease_id,
        payload=arrival.payload,
    )


def _queued(connection: Connection, lines: Iterable[Line]) -> set[Line]:
    """Return those of *lines* that have deliveries other than first leases."""
    if not connection.execute(_ANY_QUEUED).get:  # as long as every update is handled at once
        return set()
    asked = set(lines)
    found = connection.executemany(_IS_QUEUED, asked)
    return {line for line, (is_queued,) in zip(asked, found, strict=True) if is_queued}


def _update_row(update_id: int, arrival: Arrival) -> tuple[object, ...]:
    return (
        update_id,
        to_ms(arrival.occurred_at),
        arrival.key,
        arrival.kind,
        arrival.phone_number_id,
        to_ms(arrival.received_at),
        arrival.message is not None,
    )


_Due: TypeAlias = tuple[int, int, str, int, int, bytes]
"""A delivery that can be leased: due_at, update_id, target, lane, attempts, payload."""


def claim(
    connection: Connection, targets: Sequence[str], limit: int, lease_seconds: float, now: datetime
) -> Sequence[Delivery]:
    """Lease heads that are due, and as far as *limit* allows what waits right behind them."""
    due_by = to_ms(now)
    first_leases.move_expired(connection, due_by)
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
    lease_id = _new_lease_id()
    leased_until = to_ms(now + timedelta(seconds=lease_seconds))
    connection.executemany(
        _LEASE,
        [
            (lease_id, leased_until, target, lane, update_id)
            for _, update_id, target, lane, _, _ in taken
        ],
    )
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
    connection.executemany(_RENEW, [(leased_until, *_lease_of(d)) for d in deliveries])
    first_leases.renew(connection, _firsts(deliveries), leased_until)


def _firsts(deliveries: Iterable[Delivery]) -> list[FirstLease]:
    return [(d.update_id, d.lease_id) for d in deliveries if d.lease_id in LEASE_IDS]


def settle(connection: Connection, settlements: Sequence[Settlement], now: datetime) -> Settled:
    """Write how leased deliveries ended, let the next of their lanes follow, erase what is done."""
    handled = [each.delivery for each in settlements if each.state is DeliveryState.DONE]
    lines = {
        (d.update_id, d.lease_id): (d.target, d.lane) for d in handled if d.lease_id in LEASE_IDS
    }
    at_once = first_leases.end(connection, lines)
    others = [each for each in settlements if each.delivery.update_id not in at_once]
    done, other_lines = _settle_others(connection, others, now)
    # Asked first, as hardly any line has more, and to look for the first of none costs more.
    headless = _queued(connection, chain(at_once.values(), other_lines))
    connection.executemany(_PROMOTE_FIRST, headless)
    return Settled(done=(*at_once, *done), more=bool(headless))


def _settle_others(
    connection: Connection, settlements: Sequence[Settlement], now: datetime
) -> tuple[Sequence[int], Collection[Line]]:
    """Settle what was not done at once; return the updates that now are, and lines that go on."""
    if not settlements:
        return (), ()
    first_leases.move(connection, _firsts(each.delivery for each in settlements))
    ended: dict[_Lease, None] = {}
    buried: set[_Lease] = set()
    for settlement in settlements:
        lease = _lease_of(settlement.delivery)
        match settlement.state:
            case DeliveryState.DONE:
                ended[lease] = None
            case DeliveryState.DEAD:
                burial = settlement.error, to_ms(now), *lease
                if lease not in ended and change(connection, _BURY, [burial]):
                    buried.add(lease)
                ended[lease] = None
            case DeliveryState.RETRY:
                due_at = to_ms(settlement.due_at or now)
                connection.execute(_RETRY, (due_at, settlement.error, *lease))
            case _:
                connection.execute(_GIVE_BACK, lease)
    held = delete_found(connection, _DELETE_DELIVERY, _IS_HELD, list(ended))
    done = _erase(connection, [lease[2] for lease in held if lease not in buried])
    return done, [lease[:2] for lease in held]


_Lease: TypeAlias = tuple[str, int, int, int]
"""What a settlement is about: target, lane, update_id, lease_id."""


def _lease_of(delivery: Delivery) -> _Lease:
    return delivery.target, delivery.lane, delivery.update_id, delivery.lease_id


def _erase(connection: Connection, update_ids: Sequence[int]) -> tuple[int, ...]:
    """Count a delivery of each of these updates as ended; erase and return those without another.

    An update stands among them once for each of its deliveries.
    """
    done: list[int] = []
    for ids in _each_once(update_ids):
        rows = [(id_,) for id_ in ids]
        if change(connection, _ERASE_LAST, rows) == len(rows):
            done += ids
            continue
        connection.executemany(_COUNT_DOWN, rows)
        answers = connection.executemany(_IS_LEFT, rows)
        done += [id_ for id_, (is_left,) in zip(ids, answers, strict=True) if not is_left]
    return tuple(done)


def _each_once(update_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split *update_ids* into rounds in which none stands twice."""
    left = Counter(update_ids)
    while left:
        yield list(left)
        left -= Counter(left.keys())


def depth(connection: Connection) -> InboxDepth:
    """Count deliveries by state."""
    counts = {"pending": 0, "leased": 0, "retry": 0}
    oldest_ids = []
    for state, count, oldest_id in connection.execute(_DEPTH):
        counts[state] = count
        oldest_ids.append(oldest_id)
    oldest_at = None
    if oldest_ids:
        oldest_at = from_ms(connection.execute(_RECEIVED_AT, (min(oldest_ids),)).get)
    dead: int = connection.execute(_DEAD).get
    return InboxDepth(**counts, dead=dead, oldest_at=oldest_at)


def purge(connection: Connection, update_ids: Sequence[int], before: datetime) -> int:
    """Delete *update_ids*, which were found to be done and received before *before*."""
    before_ms = to_ms(before)
    return change(connection, _PURGE, [(id_, before_ms) for id_ in update_ids])


def purge_dead(connection: Connection, before: datetime, limit: int) -> int:
    """Delete deliveries that died before *before*, and erase what nobody waits for any more."""
    old: list[Any] = connection.execute(_OLD_DEAD, (to_ms(before), limit)).fetchall()
    connection.executemany(_DELETE_DEAD, old)
    _erase(connection, [update_id for update_id, _ in old])
    return len(old)
