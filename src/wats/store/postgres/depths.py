"""Counters of deliveries by state, changed in the transaction that changes the deliveries."""

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from wats.store.postgres.connection import Connection
from wats.store.records import OUTBOX, Depth, InboxDepth

SLOTS: Final = 32
"""The number of rows over which the counters of one consumer are spread. Two connections with the
same slot wait for each other at the end of their transactions; the sum is correct nevertheless."""

_CHANGE = """
INSERT INTO wats_depths (phone_number_id, consumer, slot, pending, leased, retry, dead)
SELECT number, consumer, $1::int, pending, leased, retry, dead
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS change (number, consumer, pending, leased, retry, dead)
ON CONFLICT (phone_number_id, consumer, slot) DO UPDATE
SET pending = wats_depths.pending + excluded.pending,
    leased = wats_depths.leased + excluded.leased,
    retry = wats_depths.retry + excluded.retry,
    dead = wats_depths.dead + excluded.dead
"""

_READ = """
SELECT consumer, sum(pending)::bigint, sum(leased)::bigint, sum(retry)::bigint, sum(dead)::bigint
FROM (
    SELECT consumer, pending, leased, retry, dead FROM wats_depths
    UNION ALL
    SELECT name, 0, 0, 0, 0 FROM wats_consumers
) AS depth
GROUP BY consumer
"""

_WAITING = """
SELECT coalesce(sum(depth.waiting), 0)::bigint
FROM wats_numbers AS of CROSS JOIN LATERAL (
    SELECT sum(pending + retry) AS waiting FROM wats_depths
    WHERE phone_number_id = of.phone_number_id AND consumer = $1
) AS depth
WHERE of.phone_number_id <> ALL($2::text[])
"""

_OUTSTANDING_NUMBERS = """
SELECT phone_number_id FROM wats_depths WHERE consumer = $1
GROUP BY phone_number_id HAVING sum(pending + leased + retry) > 0
"""

_OLDEST_AGE = """
SELECT (SELECT wats_now()) - min(oldest.arrived_at)
FROM wats_numbers AS of CROSS JOIN unnest($1::text[]) AS consumer (name) CROSS JOIN LATERAL (
    SELECT arrived_at FROM wats_deliveries
    WHERE phone_number_id = of.phone_number_id AND consumer = name ORDER BY id LIMIT 1
) AS oldest
"""


class DepthChanges:
    """Changes of counters, gathered by a transaction and written at its end."""

    def __init__(self) -> None:
        self._changes: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])

    def add(
        self,
        number: str,
        consumer: str,
        *,
        pending: int = 0,
        leased: int = 0,
        retry: int = 0,
        dead: int = 0,
    ) -> None:
        """Count deliveries that entered a state (positive) or left a state (negative)."""
        change = self._changes[number, consumer]
        change[0] += pending
        change[1] += leased
        change[2] += retry
        change[3] += dead

    async def write(self, connection: Connection) -> None:
        """Write all changes. Rows are locked in the order of their keys."""
        rows = sorted((*key, *change) for key, change in self._changes.items() if any(change))
        if rows:
            await connection.execute(_CHANGE, slot_of(connection), *zip(*rows, strict=True))


def slot_of(connection: Connection) -> int:
    """Return the row in which *connection* counts."""
    return connection.get_server_pid() % SLOTS


async def read(connection: Connection, configured: Collection[str]) -> InboxDepth:
    """Read the depth of every consumer, and the age of the oldest delivery of a configured one."""
    consumers = {
        name: Depth(pending=pending, leased=leased, retry=retry, dead=dead)
        for name, pending, leased, retry, dead in await connection.fetch(_READ)
    }
    return InboxDepth(
        consumers=consumers,
        configured=frozenset(configured),
        oldest_seconds=await oldest_seconds(connection, {*configured} - {OUTBOX}),
        outbox_seconds=await oldest_seconds(connection, {*configured} & {OUTBOX}),
    )


async def waiting(
    connection: Connection, consumer: str, others: Collection[str] = frozenset()
) -> int:
    """Read the number of unleased deliveries of *consumer*, of all numbers but *others*."""
    count: int = await connection.fetchval(_WAITING, consumer, sorted(others))
    return count


async def outstanding_numbers(connection: Connection, consumer: str) -> Collection[str]:
    """Read the business numbers with outstanding deliveries of *consumer*."""
    return {row[0] for row in await connection.fetch(_OUTSTANDING_NUMBERS, consumer)}


async def oldest_seconds(connection: Connection, consumers: Collection[str]) -> float:
    """Read the age of the oldest delivery of *consumers*, or 0."""
    age: int | None = await connection.fetchval(_OLDEST_AGE, sorted(consumers))
    return max(0, age or 0) / 1000
