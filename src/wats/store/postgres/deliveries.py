"""Leases of deliveries: claim, renew, settle. `receive` documents the order of locks."""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any, TypeVar

import asyncpg
import msgspec

from wats.store.admin import HEAD_BYTES, SCAN_DELIVERIES
from wats.store.pacing import SECOND_US, Pace
from wats.store.postgres import pacing
from wats.store.postgres.connection import Connection, Database
from wats.store.postgres.depths import DepthChanges, slot_of
from wats.store.postgres.rows import array, by_number, clean_or_none, fetch_each
from wats.store.records import (
    BATCH_BYTES,
    Claimed,
    Consumer,
    Delivery,
    DeliveryState,
    Follower,
    Received,
    Settled,
    Settlement,
    first_followers,
    leased_on_arrival,
    may_have_followers,
    unused,
)

T = TypeVar("T")

_DUE = """
SELECT due_at, id, of.phone_number_id
FROM wats_numbers AS of CROSS JOIN LATERAL (
    (SELECT due_at, id FROM wats_deliveries
    WHERE phone_number_id = of.phone_number_id AND consumer = $1
        AND due_at <= (SELECT wats_now()) AND lease IS NULL
    ORDER BY due_at, id LIMIT $2::int)
    UNION ALL
    (SELECT due_at, id FROM wats_deliveries
    WHERE phone_number_id = of.phone_number_id AND consumer = $1
        AND due_at <= (SELECT wats_now()) AND lease IS NOT NULL
    ORDER BY due_at, id LIMIT $2::int)
) AS due
WHERE NOT EXISTS (SELECT 1 FROM wats_consumers WHERE name = $1 AND is_paused)
ORDER BY due_at, id LIMIT $3::int
"""
"""The earliest due heads of all numbers, and of each number at most a limit."""

_HEAD = """
    phone_number_id, id, update_id, siblings, ordering_key, due_at, is_final, attempts, payload,
    arrived_at
"""

# Rows of `due` and `expired` above the limit stay locked until the transaction ends, so concurrent
# claims may skip these rows.
_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT {_HEAD}, false AS is_leased FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NULL
        AND NOT EXISTS (SELECT 1 FROM wats_consumers WHERE name = $2 AND is_paused)
    ORDER BY due_at, id LIMIT $3::int
    FOR UPDATE SKIP LOCKED
), expired AS MATERIALIZED (
    SELECT {_HEAD}, true AS is_leased FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM wats_consumers WHERE name = $2 AND is_paused)
    ORDER BY due_at, id LIMIT $3::int
    FOR UPDATE SKIP LOCKED
)
SELECT *, (SELECT wats_now()) - arrived_at AS age_ms
FROM (SELECT * FROM due UNION ALL SELECT * FROM expired) AS head
ORDER BY due_at, id LIMIT $3::int
"""

_WITH_MARK = f"""
        AND due_at <= (
            SELECT max(due_at) FROM (
                SELECT due_at FROM wats_deliveries
                WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
                    AND lease IS {{state}}
                ORDER BY due_at, id LIMIT {SCAN_DELIVERIES}
            ) AS first
        )
        AND EXISTS (
            SELECT 1 FROM unnest($4::bytea[]) AS mark
            WHERE position(mark IN substring(payload FROM 1 FOR {HEAD_BYTES})) > 0
        )
"""

_CLAIM_WITH_MARK = _CLAIM.replace(
    "AND lease IS NULL\n", "AND lease IS NULL" + _WITH_MARK.format(state="NULL")
).replace("AND lease IS NOT NULL\n", "AND lease IS NOT NULL" + _WITH_MARK.format(state="NOT NULL"))

# The size is that of the payloads up to a row: no more rows are read than a batch can have.
_FOLLOWERS = """
SELECT key, behind.id, update_id, payload, attempts
FROM unnest($3::bigint[], $4::int[]) AS head (key, size) CROSS JOIN LATERAL (
    SELECT id, update_id, payload, attempts, last_id,
        head.size + sum(octet_length(payload)) OVER (ORDER BY last_id) AS size
    FROM (
        SELECT id, update_id, payload, attempts, last_id FROM wats_deliveries
        WHERE phone_number_id = $1 AND consumer = $2 AND ordering_key = key AND due_at IS NULL
        ORDER BY last_id LIMIT $5::int
    ) AS first
) AS behind
WHERE behind.size <= $6::bigint
ORDER BY last_id
"""

_LEASE = """
UPDATE wats_deliveries
SET lease = $4::bigint, due_at = (SELECT wats_now()) + $5::bigint,
    attempts = CASE WHEN is_final THEN attempts ELSE attempts + 1 END,
    is_final = is_final OR attempts + 1 >= $6::int
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

# Locks in the order of the arrays. PostgreSQL never merges a subquery that locks into the enclosing
# query, so each row is looked up by its key.
_LOCKED = """
    SELECT head.* FROM unnest($3::text::bigint[], $4::text::bigint[]) AS held (id, lease)
    CROSS JOIN LATERAL (
        SELECT phone_number_id, consumer, id, lease, update_id, siblings, followers, due_at
        FROM wats_deliveries
        WHERE phone_number_id = $1 AND consumer = $2 AND id = held.id AND lease = held.lease
        FOR UPDATE
    ) AS head
"""

# A head with followers is deleted by a later statement: followers that were committed while this
# statement waited for the lock are not visible to it.
_DONE = f"""
WITH ended AS MATERIALIZED ({_LOCKED}), deleted AS (
    DELETE FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2
        AND id = ANY(array(SELECT id FROM ended WHERE followers = 0))
)
SELECT * FROM ended
"""

# As above, for deliveries that nothing depends on: without followers and siblings, so this is the
# whole transaction. The comparison permits NULL, so that the index of heads does not serve it.
_DONE_ALONE = f"""
WITH ended AS MATERIALIZED ({_LOCKED} WHERE coalesce(followers, 1) = 0), deleted AS (
    DELETE FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY(array(SELECT id FROM ended))
), counted AS (
    INSERT INTO wats_depths (phone_number_id, consumer, slot, pending, leased, retry, dead)
    SELECT $1, $2, $5::int, 0, -count(*), 0, 0 FROM ended HAVING count(*) > 0
    ON CONFLICT (phone_number_id, consumer, slot) DO UPDATE
    SET leased = wats_depths.leased + excluded.leased
)
SELECT update_id FROM ended
"""

_UNEXPIRED = f"""
WITH held AS MATERIALIZED ({_LOCKED})
SELECT phone_number_id, id, lease FROM held WHERE due_at > (SELECT wats_now())
"""

_RENEW = f"""
WITH held AS MATERIALIZED ({_LOCKED})
UPDATE wats_deliveries
SET due_at = (SELECT wats_now()) + $5::bigint, is_final = is_final OR $6
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY(array(SELECT id FROM held))
RETURNING phone_number_id, id, lease
"""

_RETRY = """
UPDATE wats_deliveries
SET lease = NULL, is_final = false,
    due_at = (SELECT wats_now()) + ($4::bigint[])[array_position($3::bigint[], id)],
    error = ($5::text[])[array_position($3::bigint[], id)]
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_RELEASE = """
UPDATE wats_deliveries
SET lease = NULL, is_final = id = ANY($4::bigint[]),
    due_at = coalesce(
        (SELECT wats_now()) + ($5::bigint[])[array_position($3::bigint[], id)], arrived_at
    ),
    attempts = CASE WHEN id = ANY($4::bigint[]) THEN attempts ELSE attempts - 1 END
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_DELETE_FOLLOWERS = """
DELETE FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[]) AND followers IS NULL
RETURNING update_id, siblings
"""

_SHORTEN = """
UPDATE wats_deliveries SET followers = followers - $4::int
WHERE phone_number_id = $1 AND consumer = $2 AND id = $3
"""

_BURY = """
INSERT INTO wats_dead_deliveries (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts, error, arrived_at,
    died_at, payload
)
SELECT phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts,
    ($4::text[])[array_position($3::bigint[], id)], arrived_at, (SELECT wats_now()), payload
FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

# The old heads are deleted before the new ones are written, because `next` reads `deleted`.
PROMOTE = """
WITH deleted AS (
    DELETE FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
    RETURNING ordering_key, followers, last_id
), next AS MATERIALIZED (
    SELECT first.id, deleted.followers - 1 AS followers, deleted.last_id
    FROM deleted CROSS JOIN LATERAL (
        SELECT id FROM wats_deliveries
        WHERE phone_number_id = $1 AND consumer = $2
            AND ordering_key = deleted.ordering_key AND due_at IS NULL
        ORDER BY last_id LIMIT 1
    ) AS first
), new AS MATERIALIZED (
    SELECT array_agg(id) AS ids, array_agg(followers) AS followers, array_agg(last_id) AS last_ids
    FROM next
)
UPDATE wats_deliveries
SET due_at = arrived_at,
    followers = (SELECT new.followers[array_position(new.ids, wats_deliveries.id)] FROM new),
    last_id = (SELECT new.last_ids[array_position(new.ids, wats_deliveries.id)] FROM new)
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY(array(SELECT id FROM next))
RETURNING id
"""

_LOCK_UPDATES = "SELECT pg_advisory_xact_lock(update_id) FROM unnest($1::bigint[]) AS u (update_id)"

_FINISHED = """
SELECT update_id FROM unnest($2::bigint[], $3::int[]) AS ended (update_id, siblings)
WHERE (
    SELECT true FROM wats_deliveries AS other
    WHERE phone_number_id = $1 AND other.siblings > 1
        AND other.update_id >= ended.update_id AND other.update_id <= ended.update_id
    ORDER BY other.update_id LIMIT 1
) IS NULL AND (
    SELECT true FROM wats_dead_deliveries
    WHERE phone_number_id = $1 AND id >= ended.update_id AND id < ended.update_id + ended.siblings
    ORDER BY id LIMIT 1
) IS NULL
"""

DELETE = """
DELETE FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_ENDS = frozenset({DeliveryState.DONE, DeliveryState.DEAD})


async def claim_unflushed(
    connection: Connection, claim: Callable[[Connection], Awaitable[Claimed]]
) -> Claimed:
    """Run *claim*, whose commit does not wait for the disk, so that a crash may undo it."""
    await connection.execute("SET LOCAL synchronous_commit TO off")
    return await claim(connection)


async def claim(
    connection: Connection, consumer: Consumer, limit: int, marks: Sequence[bytes] = ()
) -> Claimed:
    """Lease due heads of *consumer*, with one of *marks* if there are any, earliest first."""
    name = consumer.name
    if marks:
        first = await connection.fetch(_DUE, name, 1, None)
        shares = dict.fromkeys(sorted({number for *_, number in first}), limit + 1)
        found = await _find(connection, _CLAIM_WITH_MARK, name, shares, marks)
        leased = await _lease(connection, consumer, found[:limit])
        return Claimed(leased, len(found) > limit)
    found = await _find(connection, _CLAIM, name, await _shares(connection, name, limit))
    leased = await _lease(connection, consumer, found)
    more = len(found) == limit and bool(await _shares(connection, name, 1))
    return Claimed(leased, more)


async def claim_paced(
    connection: Connection, consumer: Consumer, limit: int, pace: Pace
) -> Claimed:
    """Lease due heads of *consumer* and the number of *pace* that it permits, earliest first."""
    shares = {pace.phone_number_id: limit}
    found = await _find(connection, _CLAIM, consumer.name, shares)
    turn = await pacing.take_turns(connection, consumer.name, pace, found)
    leased = await _lease(connection, consumer, [row for row in found if row["id"] in turn.ids])
    return Claimed(leased, len(found) == limit and not turn.wait_us, turn.wait_us / SECOND_US)


async def _find(
    connection: Connection,
    statement: str,
    consumer: str,
    shares: Mapping[str, int],
    *marks: Sequence[bytes],
) -> Sequence[asyncpg.Record]:
    """Lock due heads, the earliest first; return at most the share of each business number."""
    values = [(number, consumer, share, *marks) for number, share in shares.items()]
    rows = await fetch_each(connection, statement, values)
    return sorted(rows, key=lambda row: (row["due_at"], row["id"]))


async def _lease(
    connection: Connection, consumer: Consumer, found: Sequence[asyncpg.Record]
) -> Sequence[Delivery]:
    lease, changes = secrets.randbits(62), DepthChanges()
    rest = lease, round(consumer.lease_seconds * 1000), consumer.max_attempts
    groups = by_number(found, lambda row: str(row["phone_number_id"]))
    followers: dict[int, tuple[Follower, ...]] = {}
    for number, group in groups.items():
        followers |= await _followers(connection, consumer, number, group)
        fresh = [row for row in group if not row["is_leased"]]
        retries = sum(row["attempts"] > 0 for row in fresh)
        pending = len(fresh) - retries
        changes.add(number, consumer.name, pending=-pending, retry=-retries, leased=len(fresh))
    ids = {number: [row["id"] for row in group] for number, group in groups.items()}
    if ids:
        values = [(number, consumer.name, each, *rest) for number, each in ids.items()]
        await connection.executemany(_LEASE, values)
    await changes.write(connection)
    return [_delivery(row, consumer.name, lease, followers.get(row["id"], ())) for row in found]


async def _followers(
    connection: Connection, consumer: Consumer, number: str, heads: Sequence[asyncpg.Record]
) -> Mapping[int, tuple[Follower, ...]]:
    """Return the followers to handle with *heads*, which are locked, by the ids of these."""
    leading = [row for row in heads if may_have_followers(consumer, row["attempts"])]
    if not leading:
        return {}
    keys = [row["ordering_key"] for row in leading]
    sizes = [len(row["payload"]) for row in leading]
    limits = consumer.batch - 1, BATCH_BYTES
    rows = await connection.fetch(_FOLLOWERS, number, consumer.name, keys, sizes, *limits)
    behind: dict[int, list[Sequence[Any]]] = {}
    for key, *values in rows:
        behind.setdefault(key, []).append(values)
    return {
        row["id"]: first_followers(behind.get(row["ordering_key"], ()), len(row["payload"]))
        for row in leading
    }


async def _shares(connection: Connection, consumer: str, limit: int) -> Mapping[str, int]:
    """Return the number of deliveries to claim for each business number, *limit* in total."""
    due = await connection.fetch(_DUE, consumer, limit, limit)
    return {number: len(group) for number, group in by_number(due, lambda row: row[2]).items()}


def _delivery(
    row: asyncpg.Record, consumer: str, lease: int, followers: tuple[Follower, ...]
) -> Delivery:
    return Delivery(
        id=row["id"],
        update_id=row["update_id"],
        siblings=row["siblings"],
        phone_number_id=row["phone_number_id"],
        consumer=consumer,
        ordering_key=row["ordering_key"],
        attempt=row["attempts"] if row["is_final"] else row["attempts"] + 1,
        is_exhausted=row["is_final"],
        lease=lease,
        payload=row["payload"],
        followers=followers,
        age_seconds=row["age_ms"] / 1000,
    )


async def renew(
    connection: Connection,
    deliveries: Sequence[Delivery],
    consumers: Mapping[str, Consumer],
    *,
    is_final: bool = False,
) -> Sequence[Delivery]:
    """Extend the leases of *deliveries*; return the deliveries whose lease was lost."""
    values = []
    for (number, name), group in _by_consumer(deliveries, lambda each: each).items():
        consumer = consumers.get(name) or Consumer(name=name)
        lease_ms = round(consumer.lease_seconds * 1000)
        ids, leases = array([each.id for each in group]), array([each.lease for each in group])
        values.append((number, name, ids, leases, lease_ms, is_final))
    held = set(map(tuple, await fetch_each(connection, _RENEW, values)))
    return [each for each in deliveries if _lease_of(each) not in held]


def _by_consumer(
    items: Iterable[T], delivery_of: Callable[[T], Delivery]
) -> Mapping[tuple[str, str], Sequence[T]]:
    """Group *items* by business number and consumer, sorted in the order of locks."""
    groups: dict[tuple[str, str], list[T]] = {}
    for item in items:
        delivery = delivery_of(item)
        groups.setdefault((delivery.phone_number_id, delivery.consumer), []).append(item)
    for group in groups.values():
        group.sort(key=lambda item: delivery_of(item).ordering_key)
    return dict(sorted(groups.items()))


async def undo_claim(connection: Connection, claimed: Claimed) -> None:
    """Release the deliveries of a claim that no caller gets."""
    await release(connection, unused(claimed.deliveries))


async def undo_receive(
    connection: Connection, results: Sequence[Sequence[Received | None]]
) -> None:
    """Release deliveries that were leased on arrival by a webhook that was refused."""
    await release(connection, leased_on_arrival(results))


async def release(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Give back the leases of *deliveries*, which no consumer got."""
    await settle(connection, [Settlement(each, DeliveryState.PENDING) for each in deliveries])


async def settle_in(database: Database, settlements: Sequence[Settlement]) -> Settled:
    """End leases; those of deliveries without followers and siblings by a single statement."""
    groups = _groups(settlements)
    may_be_alone = all(_is_done(each) and each.delivery.siblings == 1 for each in settlements)
    if len(groups) != 1 or not may_be_alone:
        return await database.write(partial(settle, settlements=settlements))
    ((key, group),) = groups.items()
    ended = await database.read(partial(settle_alone, key=key, group=group))
    if len(ended) == len(settlements):
        return Settled(done=_in_order(settlements, ended))
    settled = await database.write(partial(settle, settlements=settlements))
    done = _in_order(settlements, ended | {*settled.done})
    return Settled(done=done, due=settled.due)


async def settle_alone(
    connection: Connection, key: tuple[str, str], group: Sequence[Settlement]
) -> Set[int]:
    """Delete deliveries without followers; return their updates, which are done."""
    values = *key, *_leases(group), slot_of(connection)
    return {row[0] for row in await connection.fetch(_DONE_ALONE, *values)}


def _in_order(settlements: Sequence[Settlement], finished: Set[int]) -> Sequence[int]:
    """Return the updates *finished* in the order of *settlements*."""
    updates = dict.fromkeys(
        update_id
        for each in settlements
        for update_id in (each.delivery.update_id, *(other.update_id for other in each.also))
    )
    return [id_ for id_ in updates if id_ in finished]


async def settle(connection: Connection, settlements: Sequence[Settlement]) -> Settled:
    """End leases; promote the next followers of deliveries that are done or dead."""
    groups = _groups(settlements)
    changes = DepthChanges()
    settlings = {key: _Settling(connection, key, changes) for key in groups}
    if all(map(_is_done, settlements)):
        values = [(*key, *_leases(group)) for key, group in groups.items()]
        ended: dict[tuple[str, str], list[asyncpg.Record]] = {}
        for row in await fetch_each(connection, _DONE, values):
            ended.setdefault((row["phone_number_id"], row["consumer"]), []).append(row)
        for key, rows in ended.items():
            await settlings[key].end(rows)
    else:
        for key, settling in settlings.items():
            await settling.settle(groups[key])
    done: dict[str, dict[int, int]] = {}
    for (number, _), settling in settlings.items():
        done.setdefault(number, {}).update(settling.done)
    due = {consumer for (_, consumer), settling in settlings.items() if settling.is_due}
    finished: set[int] = set()
    for number, updates in done.items():
        finished.update(await _finished(connection, number, updates))
    await changes.write(connection)
    return Settled(done=_in_order(settlements, finished), due=frozenset(due))


async def acknowledge(connection: Connection, settlements: Sequence[Settlement]) -> Settled:
    """Settle deliveries whose leases have not expired; the others are lost."""
    values = [(*key, *_leases(group)) for key, group in _groups(settlements).items()]
    held = set(map(tuple, await fetch_each(connection, _UNEXPIRED, values)))
    unexpired = [each for each in settlements if _lease_of(each.delivery) in held]
    settled = await settle(connection, unexpired)
    lost = [each.delivery for each in settlements if _lease_of(each.delivery) not in held]
    return msgspec.structs.replace(settled, lost=lost)


def _lease_of(delivery: Delivery) -> tuple[str, int, int]:
    return delivery.phone_number_id, delivery.id, delivery.lease


async def _finished(
    connection: Connection, number: str, updates: Mapping[int, int]
) -> Sequence[int]:
    """Return the updates without remaining deliveries and dead letters."""
    several = {id_: siblings for id_, siblings in updates.items() if siblings > 1}
    alone = [id_ for id_ in updates if id_ not in several]
    if not several:
        return alone
    # Concurrent transactions that end the last two deliveries of an update do not see each other's
    # changes, so the second transaction waits for the first.
    await connection.execute(_LOCK_UPDATES, sorted(several))
    rows = await connection.fetch(_FINISHED, number, [*several], [*several.values()])
    return [*alone, *(row[0] for row in rows)]


class _Settling:
    """The settlements of one business number and consumer.

    Attributes:
        done: The updates with a delivery that is done, and the number of their deliveries.
        is_due: Whether a delivery became claimable.
    """

    def __init__(self, connection: Connection, key: tuple[str, str], changes: DepthChanges) -> None:
        self._connection = connection
        self._key = key
        self._changes = changes
        self.done: dict[int, int] = {}
        self.is_due = False

    async def end(self, ended: Sequence[asyncpg.Record]) -> None:
        """Count deliveries that are done, and promote the followers of those that have some."""
        self.done = {row["update_id"]: row["siblings"] for row in ended}
        await self._end({row["id"]: row["followers"] for row in ended})

    async def settle(self, group: Sequence[Settlement]) -> None:
        """Settle *group*, which must be in the order of locks."""
        locked = await self._connection.fetch(_LOCKED, *self._key, *_leases(group))
        by_lease = {(each.delivery.id, each.delivery.lease): each for each in group}
        held = [by_lease[row["id"], row["lease"]] for row in locked]
        await self._bury(_in_state(held, DeliveryState.DEAD))
        await self._retry(_in_state(held, DeliveryState.RETRY))
        await self._release(_in_state(held, DeliveryState.PENDING))
        followers = {row["id"]: row["followers"] for row in locked}
        for each in _in_state(held, DeliveryState.DONE):
            followers[each.delivery.id] -= await self._delete_followers(each)
        states = [each.state for each in held]
        ended = [row for row, state in zip(locked, states, strict=True) if state in _ENDS]
        self.done |= {
            row["update_id"]: row["siblings"]
            for row, state in zip(locked, states, strict=True)
            if state is DeliveryState.DONE
        }
        alone = [row["id"] for row in ended if not followers[row["id"]]]
        await self._connection.execute(DELETE, *self._key, alone)
        await self._end({row["id"]: followers[row["id"]] for row in ended})

    async def _delete_followers(self, settlement: Settlement) -> int:
        """Delete the followers that were handled with a delivery; return their number."""
        if not settlement.also:
            return 0
        ids = [each.id for each in settlement.also]
        deleted = await self._connection.fetch(_DELETE_FOLLOWERS, *self._key, ids)
        self.done |= {row["update_id"]: row["siblings"] for row in deleted}
        await self._connection.execute(_SHORTEN, *self._key, settlement.delivery.id, len(deleted))
        self._changes.add(*self._key, pending=-len(deleted))
        return len(deleted)

    async def _bury(self, group: Sequence[Settlement]) -> None:
        if group:
            errors = [clean_or_none(each.error) for each in group]
            await self._connection.execute(_BURY, *self._key, _ids(group), errors)
            self._changes.add(*self._key, dead=len(group))

    async def _retry(self, group: Sequence[Settlement]) -> None:
        if group:
            pauses = [_pause_of(each) for each in group]
            errors = [clean_or_none(each.error) for each in group]
            await self._connection.execute(_RETRY, *self._key, _ids(group), pauses, errors)
            self._changes.add(*self._key, leased=-len(group), retry=len(group))
            self.is_due |= 0 in pauses

    async def _release(self, group: Sequence[Settlement]) -> None:
        if group:
            exhausted = _ids([each for each in group if each.delivery.is_exhausted])
            pauses = [_pause_of(each) or None for each in group]
            await self._connection.execute(_RELEASE, *self._key, _ids(group), exhausted, pauses)
            new = sum(
                each.delivery.attempt == 1 and not each.delivery.is_exhausted for each in group
            )
            self._changes.add(*self._key, leased=-len(group), pending=new, retry=len(group) - new)
            self.is_due |= None in pauses

    async def _end(self, ended: Mapping[int, int]) -> None:
        """Delete the *ended* heads with followers, and promote the first follower of each."""
        self._changes.add(*self._key, leased=-len(ended))
        followed = [id_ for id_, followers in ended.items() if followers]
        if followed:
            await self._connection.execute(PROMOTE, *self._key, followed)
            self.is_due = True


def _pause_of(settlement: Settlement) -> int:
    return max(0, round(settlement.retry_seconds * 1000))


def _groups(
    settlements: Sequence[Settlement],
) -> Mapping[tuple[str, str], Sequence[Settlement]]:
    """Group *settlements* as `_by_consumer` does, and each lease once."""
    unique: dict[tuple[int, int], Settlement] = {}
    for each in settlements:
        unique.setdefault((each.delivery.id, each.delivery.lease), each)
    return _by_consumer(unique.values(), lambda each: each.delivery)


def _is_done(settlement: Settlement) -> bool:
    """Return whether a delivery is done, and nothing else was handled with it."""
    return settlement.state is DeliveryState.DONE and not settlement.also


def _leases(group: Sequence[Settlement]) -> tuple[str, str]:
    return array(_ids(group)), array([each.delivery.lease for each in group])


def _ids(group: Sequence[Settlement]) -> list[int]:
    return [each.delivery.id for each in group]


def _in_state(group: Sequence[Settlement], state: DeliveryState) -> Sequence[Settlement]:
    return [each for each in group if each.state is state]
