"""Leases of deliveries: claim, renew, settle. See `receive` for what is locked in which order."""

import secrets
from collections.abc import Mapping, Sequence
from itertools import groupby

import asyncpg

from wats.clock import from_ms
from wats.store.postgres.connection import Connection
from wats.store.postgres.depths import DepthChanges
from wats.store.postgres.rows import by_number, clean_or_none, numbers
from wats.store.records import Consumer, DeadLetter, Delivery, DeliveryState, Settled, Settlement

_PEEK = """
SELECT due_at, id FROM (
    (SELECT due_at, id FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NULL
    ORDER BY due_at, id LIMIT $3::int)
    UNION ALL
    (SELECT due_at, id FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NOT NULL
    ORDER BY due_at, id LIMIT $3::int)
) AS due
ORDER BY due_at, id LIMIT $3::int
"""

_HEAD = """
    id, update_id, siblings, ordering_key, due_at, is_final, attempts, payload
"""

# The rows of `due` and `expired` that are left over stay locked until the transaction ends, so
# another claim at that moment may skip them.
_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT {_HEAD}, false AS is_leased FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NULL
    ORDER BY due_at, id LIMIT $3::int
    FOR UPDATE SKIP LOCKED
), expired AS MATERIALIZED (
    SELECT {_HEAD}, true AS is_leased FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NOT NULL
    ORDER BY due_at, id LIMIT $3::int
    FOR UPDATE SKIP LOCKED
)
SELECT * FROM due UNION ALL SELECT * FROM expired ORDER BY due_at, id LIMIT $3::int
"""

_LEASE = """
UPDATE wats_deliveries
SET lease = $3::bigint, due_at = (SELECT wats_now()) + $4::bigint,
    attempts = CASE WHEN is_final THEN attempts ELSE attempts + 1 END,
    is_final = is_final OR attempts + 1 >= $5::int
WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
"""

# Locks in the order of the arrays. A subquery that locks is never merged into the query around it,
# so each row is looked up by its key.
_LOCKED = """
    SELECT head.* FROM unnest($2::bigint[], $3::bigint[]) AS held (id, lease)
    CROSS JOIN LATERAL (
        SELECT id, lease, update_id, siblings, consumer, followers FROM wats_deliveries
        WHERE phone_number_id = $1 AND id = held.id AND lease = held.lease
        FOR UPDATE
    ) AS head
"""

# A head with followers is not deleted yet: the followers that were committed while this statement
# waited for its lock are not visible to it.
_DONE = f"""
WITH ended AS MATERIALIZED ({_LOCKED}), deleted AS (
    DELETE FROM wats_deliveries
    WHERE phone_number_id = $1 AND id = ANY(array(SELECT id FROM ended WHERE followers = 0))
)
SELECT * FROM ended
"""

_RENEW = f"""
WITH held AS MATERIALIZED ({_LOCKED})
UPDATE wats_deliveries SET due_at = (SELECT wats_now()) + $4::bigint
WHERE phone_number_id = $1 AND id = ANY(array(SELECT id FROM held))
RETURNING id, lease
"""

_RETRY = """
UPDATE wats_deliveries
SET lease = NULL, is_final = false,
    due_at = (SELECT wats_now()) + ($3::bigint[])[array_position($2::bigint[], id)],
    error = ($4::text[])[array_position($2::bigint[], id)]
WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
"""

_RELEASE = """
UPDATE wats_deliveries
SET lease = NULL, due_at = arrived_at, is_final = id = ANY($3::bigint[]),
    attempts = CASE WHEN id = ANY($3::bigint[]) THEN attempts ELSE attempts - 1 END
WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
"""

_BURY = """
INSERT INTO wats_dead_deliveries (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts, error, arrived_at,
    died_at, payload
)
SELECT phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts,
    ($3::text[])[array_position($2::bigint[], id)], arrived_at, (SELECT wats_now()), payload
FROM wats_deliveries
WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
"""

# The old heads are deleted before the new ones are written, because `next` reads `deleted`.
_PROMOTE = """
WITH deleted AS (
    DELETE FROM wats_deliveries
    WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
    RETURNING consumer, ordering_key, followers, last_id
), next AS MATERIALIZED (
    SELECT first.id, deleted.followers - 1 AS followers, deleted.last_id
    FROM deleted CROSS JOIN LATERAL (
        SELECT id FROM wats_deliveries
        WHERE phone_number_id = $1 AND consumer = deleted.consumer
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
WHERE phone_number_id = $1 AND id = ANY(array(SELECT id FROM next))
RETURNING consumer
"""

_LOCK_UPDATES = "SELECT pg_advisory_xact_lock(update_id) FROM unnest($1::bigint[]) AS u (update_id)"

_FINISHED = """
SELECT update_id FROM unnest($2::bigint[], $3::int[]) AS ended (update_id, siblings)
WHERE (
    SELECT true FROM wats_deliveries
    WHERE phone_number_id = $1 AND id >= ended.update_id AND id < ended.update_id + ended.siblings
    LIMIT 1
) IS NULL AND (
    SELECT true FROM wats_dead_deliveries
    WHERE phone_number_id = $1 AND id >= ended.update_id AND id < ended.update_id + ended.siblings
    LIMIT 1
) IS NULL
"""

_DEAD_LETTERS = """
SELECT id, update_id, consumer, attempts, error, died_at FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND id > $2 ORDER BY id LIMIT $3
"""

_DELETE = "DELETE FROM wats_deliveries WHERE phone_number_id = $1 AND id = ANY($2::bigint[])"

_ENDS = frozenset({DeliveryState.DONE, DeliveryState.DEAD})


async def claim(connection: Connection, consumer: Consumer, limit: int) -> Sequence[Delivery]:
    """Lease heads of *consumer* that are due, those that have been due longest first."""
    shares = await _shares(connection, consumer.name, limit)
    lease, changes = secrets.randbits(62), DepthChanges()
    lease_ms = round(consumer.lease_seconds * 1000)
    found: list[tuple[int, Delivery]] = []
    for number, share in shares.items():
        rows = await connection.fetch(_CLAIM, number, consumer.name, share)
        if rows:
            ids = [row["id"] for row in rows]
            await connection.execute(_LEASE, number, ids, lease, lease_ms, consumer.max_attempts)
        found += [(row["due_at"], _delivery(row, number, consumer.name, lease)) for row in rows]
        fresh = sum(not row["is_leased"] for row in rows)
        retries = sum(row["attempts"] > 0 and not row["is_leased"] for row in rows)
        changes.add(number, consumer.name, pending=retries - fresh, retry=-retries, leased=fresh)
    await changes.write(connection)
    found.sort(key=lambda each: (each[0], each[1].id))
    return [delivery for _, delivery in found]


async def _shares(connection: Connection, consumer: str, limit: int) -> Mapping[str, int]:
    """Return how many deliveries of each business number to claim."""
    of_numbers = await numbers(connection)
    if len(of_numbers) == 1:
        return {of_numbers[0]: limit}
    due: list[tuple[int, int, str]] = []
    for number in of_numbers:
        rows = await connection.fetch(_PEEK, number, consumer, limit)
        due += [(row[0], row[1], number) for row in rows]
    return {
        number: len(group)
        for number, group in by_number(sorted(due)[:limit], lambda each: each[2]).items()
    }


def _delivery(row: asyncpg.Record, number: str, consumer: str, lease: int) -> Delivery:
    return Delivery(
        id=row["id"],
        update_id=row["update_id"],
        siblings=row["siblings"],
        phone_number_id=number,
        consumer=consumer,
        ordering_key=row["ordering_key"],
        attempt=row["attempts"] if row["is_final"] else row["attempts"] + 1,
        is_exhausted=row["is_final"],
        lease=lease,
        payload=row["payload"],
    )


async def renew(
    connection: Connection, deliveries: Sequence[Delivery], consumers: Mapping[str, Consumer]
) -> Sequence[Delivery]:
    """Extend leases; return the deliveries whose lease was lost."""
    held: set[tuple[str, int, int]] = set()
    for number, group in by_number(deliveries, lambda each: each.phone_number_id).items():
        for name, theirs in groupby(sorted(group, key=_lock_order), lambda each: each.consumer):
            ids, keys = zip(*((each.id, each.lease) for each in theirs), strict=True)
            consumer = consumers.get(name) or Consumer(name=name)
            lease_ms = round(consumer.lease_seconds * 1000)
            rows = await connection.fetch(_RENEW, number, ids, keys, lease_ms)
            held |= {(number, id_, lease) for id_, lease in rows}
    return [each for each in deliveries if (each.phone_number_id, each.id, each.lease) not in held]


def _lock_order(delivery: Delivery) -> tuple[str, int]:
    return delivery.consumer, delivery.ordering_key


async def settle(connection: Connection, settlements: Sequence[Settlement]) -> Settled:
    """End leases; promote what waited behind those that are done or dead."""
    unique = {(each.delivery.id, each.delivery.lease): each for each in reversed(settlements)}
    in_order = sorted(unique.values(), key=lambda each: _lock_order(each.delivery))
    settling = _Settling(connection)
    groups = by_number(in_order, lambda each: each.delivery.phone_number_id)
    for number, group in groups.items():
        await settling.settle(number, group)
    for number in groups:
        await settling.finish(number)
    await settling.changes.write(connection)
    return Settled(done=tuple(settling.done), due=frozenset(settling.due))


class _Settling:
    """The settlements of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ended: dict[str, Sequence[asyncpg.Record]] = {}
        self._has_dead = False
        self.changes = DepthChanges()
        self.done: list[int] = []
        self.due: set[str] = set()

    async def settle(self, number: str, group: Sequence[Settlement]) -> None:
        """Settle the deliveries of one business number, in the order of their locks."""
        leases = [each.delivery.id for each in group], [each.delivery.lease for each in group]
        if all(each.state is DeliveryState.DONE for each in group):
            await self._end(number, await self._connection.fetch(_DONE, number, *leases))
            return
        locked = await self._connection.fetch(_LOCKED, number, *leases)
        by_lease = {(each.delivery.id, each.delivery.lease): each for each in group}
        held = [by_lease[row["id"], row["lease"]] for row in locked]
        await self._bury(number, _in_state(held, DeliveryState.DEAD))
        await self._retry(number, _in_state(held, DeliveryState.RETRY))
        await self._release(number, _in_state(held, DeliveryState.PENDING))
        ended = [row for row, each in zip(locked, held, strict=True) if each.state in _ENDS]
        alone = [row["id"] for row in ended if not row["followers"]]
        await self._connection.execute(_DELETE, number, alone)
        await self._end(number, ended)

    async def _bury(self, number: str, group: Sequence[Settlement]) -> None:
        if group:
            errors = [clean_or_none(each.error) for each in group]
            await self._connection.execute(_BURY, number, _ids(group), errors)
            self._has_dead = True
        for each in group:
            self.changes.add(number, each.delivery.consumer, dead=1)

    async def _retry(self, number: str, group: Sequence[Settlement]) -> None:
        if group:
            pauses = [max(0, round(each.retry_seconds * 1000)) for each in group]
            errors = [clean_or_none(each.error) for each in group]
            await self._connection.execute(_RETRY, number, _ids(group), pauses, errors)
        for each in group:
            self.changes.add(number, each.delivery.consumer, leased=-1, retry=1)
            if each.retry_seconds <= 0:
                self.due.add(each.delivery.consumer)

    async def _release(self, number: str, group: Sequence[Settlement]) -> None:
        if group:
            exhausted = _ids([each for each in group if each.delivery.is_exhausted])
            await self._connection.execute(_RELEASE, number, _ids(group), exhausted)
        for each in group:
            was_tried = each.delivery.attempt > 1 or each.delivery.is_exhausted
            state = "retry" if was_tried else "pending"
            self.changes.add(number, each.delivery.consumer, leased=-1, **{state: 1})
            self.due.add(each.delivery.consumer)

    async def _end(self, number: str, ended: Sequence[asyncpg.Record]) -> None:
        """Let the next delivery of each ended one follow; those without one are deleted."""
        self._ended[number] = ended
        for row in ended:
            self.changes.add(number, row["consumer"], leased=-1)
        followed = [row["id"] for row in ended if row["followers"]]
        if followed:
            promoted = await self._connection.fetch(_PROMOTE, number, followed)
            self.due.update(row[0] for row in promoted)

    async def finish(self, number: str) -> None:
        """Find the updates that have neither a delivery nor a dead letter left."""
        left = {row["update_id"]: row["siblings"] for row in self._ended.get(number, ())}
        several = [update_id for update_id, siblings in left.items() if siblings > 1]
        if several:
            # Two transactions that end the last two deliveries of an update do not see each
            # other, so the second one waits for the first.
            await self._connection.execute(_LOCK_UPDATES, sorted(several))
        if several or self._has_dead:
            rows = await self._connection.fetch(_FINISHED, number, [*left], [*left.values()])
            self.done += [row[0] for row in rows]
        else:
            self.done += left


def _ids(group: Sequence[Settlement]) -> list[int]:
    return [each.delivery.id for each in group]


def _in_state(group: Sequence[Settlement], state: DeliveryState) -> Sequence[Settlement]:
    return [each for each in group if each.state is state]


async def dead_letters(connection: Connection, limit: int, after: int) -> Sequence[DeadLetter]:
    """Read dead letters in order of id."""
    rows: list[asyncpg.Record] = []
    for number in await numbers(connection):
        rows += await connection.fetch(_DEAD_LETTERS, number, after, limit)
    return [
        DeadLetter(
            id=row["id"],
            update_id=row["update_id"],
            consumer=row["consumer"],
            attempts=row["attempts"],
            error=row["error"],
            died_at=from_ms(row["died_at"]),
        )
        for row in sorted(rows, key=lambda row: row["id"])[:limit]
    ]
