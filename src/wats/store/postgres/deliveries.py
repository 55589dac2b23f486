"""Leases of deliveries: claim, renew, settle. See `receive` for what is locked in which order."""

import secrets
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import asyncpg

from wats.clock import from_ms
from wats.store.postgres.connection import Connection
from wats.store.postgres.depths import DepthChanges
from wats.store.postgres.rows import by_number, clean, clean_or_none, numbers
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

# The rows of `due` and `expired` that are not chosen stay locked until the transaction ends, so
# another claim at that moment may skip them.
_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT id, due_at, is_final FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NULL
    ORDER BY due_at, id LIMIT $3::int
    FOR UPDATE SKIP LOCKED
), expired AS MATERIALIZED (
    SELECT id, due_at, is_final FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND due_at <= (SELECT wats_now())
        AND lease IS NOT NULL
    ORDER BY due_at, id LIMIT $3::int
    FOR UPDATE SKIP LOCKED
), chosen AS (
    SELECT id, due_at, is_final, false AS was_leased FROM due
    UNION ALL
    SELECT id, due_at, is_final, true FROM expired
    ORDER BY due_at, id LIMIT $3::int
)
UPDATE wats_deliveries AS head
SET lease = $4::bigint, due_at = (SELECT wats_now()) + $5::bigint,
    attempts = CASE WHEN chosen.is_final THEN head.attempts ELSE head.attempts + 1 END,
    is_final = chosen.is_final OR head.attempts + 1 >= $6::int
FROM chosen
WHERE head.phone_number_id = $1 AND head.id = chosen.id
RETURNING chosen.due_at, head.id, head.update_id, head.siblings, head.ordering_key, head.attempts,
    chosen.is_final AS is_exhausted, chosen.was_leased, head.error IS NOT NULL AS was_retry,
    head.payload
"""

_RENEW = """
UPDATE wats_deliveries AS head SET due_at = (SELECT wats_now()) + held.lease_ms
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS held (id, lease, lease_ms)
WHERE head.phone_number_id = $1 AND head.id = held.id AND head.lease = held.lease
RETURNING head.id, head.lease
"""

_LOCK = """
SELECT head.id FROM unnest($2::bigint[], $3::bigint[]) AS held (id, lease)
JOIN wats_deliveries AS head
ON head.phone_number_id = $1 AND head.id = held.id AND head.lease = held.lease
FOR UPDATE OF head
"""

_RETRY = """
UPDATE wats_deliveries AS head
SET lease = NULL, is_final = false, due_at = (SELECT wats_now()) + held.retry_ms, error = held.error
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
    AS held (id, lease, retry_ms, error)
WHERE head.phone_number_id = $1 AND head.id = held.id AND head.lease = held.lease
RETURNING head.consumer, held.retry_ms
"""

_RELEASE = """
UPDATE wats_deliveries AS head
SET lease = NULL, is_final = held.is_exhausted, due_at = arrived_at, error = NULL,
    attempts = CASE WHEN held.is_exhausted THEN attempts ELSE attempts - 1 END
FROM unnest($2::bigint[], $3::bigint[], $4::boolean[]) AS held (id, lease, is_exhausted)
WHERE head.phone_number_id = $1 AND head.id = held.id AND head.lease = held.lease
RETURNING head.consumer
"""

_BURY = """
INSERT INTO wats_dead_deliveries (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, attempts, error, arrived_at,
    died_at, payload
)
SELECT $1::text, head.id, update_id, siblings, consumer, ordering_key, attempts, held.error,
    arrived_at, (SELECT wats_now()), payload
FROM unnest($2::bigint[], $3::bigint[], $4::text[]) AS held (id, lease, error)
JOIN wats_deliveries AS head
ON head.phone_number_id = $1 AND head.id = held.id AND head.lease = held.lease
RETURNING consumer
"""

# Locks in the order of the arrays. A head with followers is not deleted yet, because those that
# were committed while this statement waited for its lock are not visible to it.
_END = """
WITH ended AS MATERIALIZED (
    SELECT head.id, update_id, siblings, consumer, ordering_key, followers, last_id
    FROM unnest($2::bigint[], $3::bigint[]) AS held (id, lease)
    JOIN wats_deliveries AS head
    ON head.phone_number_id = $1 AND head.id = held.id AND head.lease = held.lease
    FOR UPDATE OF head
), deleted AS (
    DELETE FROM wats_deliveries AS head USING ended
    WHERE head.phone_number_id = $1 AND head.id = ended.id AND ended.followers = 0
)
SELECT id, update_id, siblings, consumer, ordering_key, followers, last_id FROM ended
"""

# The old head is deleted before the new one is written, because `next` reads from `deleted`.
_PROMOTE = """
WITH deleted AS (
    DELETE FROM wats_deliveries AS head
    USING unnest($2::bigint[]) AS ended (id)
    WHERE head.phone_number_id = $1 AND head.id = ended.id
    RETURNING consumer, ordering_key, followers, last_id
), next AS MATERIALIZED (
    SELECT first.id, deleted.followers - 1 AS followers, deleted.last_id
    FROM deleted CROSS JOIN LATERAL (
        SELECT id FROM wats_deliveries AS follower
        WHERE follower.phone_number_id = $1 AND follower.consumer = deleted.consumer
            AND follower.ordering_key = deleted.ordering_key AND follower.due_at IS NULL
        ORDER BY id LIMIT 1
    ) AS first
)
UPDATE wats_deliveries AS head
SET due_at = arrived_at, followers = next.followers, last_id = next.last_id
FROM next
WHERE head.phone_number_id = $1 AND head.id = next.id
RETURNING head.consumer
"""

_LOCK_UPDATES = "SELECT pg_advisory_xact_lock(update_id) FROM unnest($1::bigint[]) AS u (update_id)"

_FINISHED = """
SELECT update_id FROM unnest($2::bigint[], $3::int[]) AS ended (update_id, siblings)
WHERE NOT EXISTS (
    SELECT 1 FROM wats_deliveries
    WHERE phone_number_id = $1 AND id >= ended.update_id AND id < ended.update_id + siblings
) AND NOT EXISTS (
    SELECT 1 FROM wats_dead_deliveries
    WHERE phone_number_id = $1 AND id >= ended.update_id AND id < ended.update_id + siblings
)
"""

_DEAD_LETTERS = """
SELECT id, update_id, consumer, attempts, error, died_at FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND id > $2 ORDER BY id LIMIT $3
"""

_Held: TypeAlias = Sequence[Settlement]


async def claim(connection: Connection, consumer: Consumer, limit: int) -> Sequence[Delivery]:
    """Lease heads of *consumer* that are due, those that have been due longest first."""
    shares = await _shares(connection, consumer.name, limit)
    lease, changes = secrets.randbits(62), DepthChanges()
    found: list[tuple[int, Delivery]] = []
    for number, share in shares.items():
        lease_ms = round(consumer.lease_seconds * 1000)
        rows = await connection.fetch(
            _CLAIM, number, consumer.name, share, lease, lease_ms, consumer.max_attempts
        )
        found += [(row[0], _delivery(row, number, consumer.name, lease)) for row in rows]
        fresh = [row for row in rows if not row["was_leased"]]
        retries = sum(row["was_retry"] for row in fresh)
        pending = len(fresh) - retries
        changes.add(number, consumer.name, pending=-pending, retry=-retries, leased=len(fresh))
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
        attempt=row["attempts"],
        is_exhausted=row["is_exhausted"],
        lease=lease,
        payload=row["payload"],
    )


async def renew(
    connection: Connection, deliveries: Sequence[Delivery], consumers: Mapping[str, Consumer]
) -> Sequence[Delivery]:
    """Extend leases; return the deliveries whose lease was lost."""
    held: set[tuple[str, int, int]] = set()
    for number, group in by_number(deliveries, lambda each: each.phone_number_id).items():
        rows = [
            (each.id, each.lease, round(_consumer(consumers, each).lease_seconds * 1000))
            for each in sorted(group, key=_lock_order)
        ]
        renewed = await connection.fetch(_RENEW, number, *zip(*rows, strict=True))
        held |= {(number, id_, lease) for id_, lease in renewed}
    return [each for each in deliveries if (each.phone_number_id, each.id, each.lease) not in held]


def _consumer(consumers: Mapping[str, Consumer], delivery: Delivery) -> Consumer:
    return consumers.get(delivery.consumer) or Consumer(name=delivery.consumer)


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
        self._ended: dict[str, list[asyncpg.Record]] = {}
        self._buried = False
        self.changes = DepthChanges()
        self.done: list[int] = []
        self.due: set[str] = set()

    async def settle(self, number: str, group: _Held) -> None:
        """Settle the deliveries of one business number, in the order of their locks."""
        ending = {DeliveryState.DONE, DeliveryState.DEAD}
        if any(each.state is not DeliveryState.DONE for each in group):
            await self._connection.execute(_LOCK, number, *_leases(group))
            await self._bury(number, _in_state(group, DeliveryState.DEAD))
            await self._retry(number, _in_state(group, DeliveryState.RETRY))
            await self._release(number, _in_state(group, DeliveryState.PENDING))
        await self._end(number, [each for each in group if each.state in ending])

    async def _bury(self, number: str, group: _Held) -> None:
        if not group:
            return
        self._buried = True
        errors = [clean_or_none(each.error) for each in group]
        for (consumer,) in await self._connection.fetch(_BURY, number, *_leases(group), errors):
            self.changes.add(number, consumer, dead=1)

    async def _retry(self, number: str, group: _Held) -> None:
        if not group:
            return
        pauses = [max(0, round(each.retry_seconds * 1000)) for each in group]
        errors = [clean(each.error or "") for each in group]
        rows = await self._connection.fetch(_RETRY, number, *_leases(group), pauses, errors)
        for consumer, pause in rows:
            self.changes.add(number, consumer, leased=-1, retry=1)
            if pause == 0:
                self.due.add(consumer)

    async def _release(self, number: str, group: _Held) -> None:
        if not group:
            return
        exhausted = [each.delivery.is_exhausted for each in group]
        for (consumer,) in await self._connection.fetch(
            _RELEASE, number, *_leases(group), exhausted
        ):
            self.changes.add(number, consumer, leased=-1, pending=1)
            self.due.add(consumer)

    async def _end(self, number: str, group: _Held) -> None:
        if not group:
            return
        ended = await self._connection.fetch(_END, number, *_leases(group))
        self._ended[number] = ended
        for row in ended:
            self.changes.add(number, row["consumer"], leased=-1)
        followed = [row["id"] for row in ended if row["followers"]]
        if followed:
            promoted = await self._connection.fetch(_PROMOTE, number, followed)
            self.due.update(row[0] for row in promoted)

    async def finish(self, number: str) -> None:
        """Find the updates that have neither a delivery nor a dead letter left."""
        ended = self._ended.get(number, ())
        several = {row["update_id"]: row["siblings"] for row in ended if row["siblings"] > 1}
        # Alone in its update, and dead or done.
        ids = {row["update_id"]: 1 for row in ended if row["siblings"] == 1}
        if several:
            # Two transactions that end the last two deliveries of an update do not see each
            # other; so the second one waits for the first.
            await self._connection.execute(_LOCK_UPDATES, sorted(several))
        left = {**ids, **several}
        if several or self._buried:
            rows = await self._connection.fetch(_FINISHED, number, list(left), list(left.values()))
            self.done += [row[0] for row in rows]
        else:
            self.done += left


def _leases(group: _Held) -> tuple[Sequence[int], Sequence[int]]:
    return [each.delivery.id for each in group], [each.delivery.lease for each in group]


def _in_state(group: _Held, state: DeliveryState) -> _Held:
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
