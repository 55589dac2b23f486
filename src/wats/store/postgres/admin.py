"""Consumers and deliveries for operators. `receive` documents the order of locks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg

from wats.clock import from_ms
from wats.store.admin import (
    HEAD_BYTES,
    SCAN_DELIVERIES,
    ConsumerState,
    DeliveryFilter,
    DeliveryPage,
    StoredDelivery,
    deliveries_page,
)
from wats.store.postgres import deliveries, depths
from wats.store.postgres.connection import Connection
from wats.store.postgres.depths import DepthChanges
from wats.store.postgres.rows import numbers
from wats.store.records import OUTBOX, DeliveryState, Depth

_CONSUMERS = "SELECT name, is_paused FROM wats_consumers ORDER BY name"

_PAUSE = "UPDATE wats_consumers SET is_paused = $2 WHERE name = $1 RETURNING name"

_COLUMNS: Final = f"""
    octet_length(payload) AS payload_bytes, substring(payload FOR {HEAD_BYTES}) AS head
"""

_OUTSTANDING = f"""
SELECT id, update_id, consumer, attempts, error, arrived_at, due_at,
    lease IS NOT NULL AS is_leased, NULL::bigint AS died_at, {_COLUMNS}
FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2
"""

_DEAD = f"""
SELECT id, update_id, consumer, attempts, error, arrived_at, NULL::bigint AS due_at,
    false AS is_leased, died_at, {_COLUMNS}
FROM wats_dead_deliveries
WHERE phone_number_id = $1
"""

_OUTSTANDING_PAGE = f"{_OUTSTANDING} AND id > $3 ORDER BY id LIMIT $4"
_DEAD_PAGE = f"{_DEAD} AND id > $2 ORDER BY id LIMIT $3"

_PAYLOAD = """
SELECT payload FROM wats_deliveries WHERE phone_number_id = $1 AND consumer = $2 AND id = $3
UNION ALL
SELECT payload FROM wats_dead_deliveries WHERE phone_number_id = $1 AND id = $3
"""

_TAKE_DEAD = """
DELETE FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND id = ANY($2::bigint[]) AND consumer = ANY($3::text[])
RETURNING id, update_id, siblings, consumer, ordering_key, arrived_at, payload
"""

_LETTER = "id", "update_id", "siblings", "consumer", "ordering_key", "arrived_at", "payload"

_INSERT_HEAD = """
INSERT INTO wats_deliveries AS head (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, arrived_at, payload, due_at,
    followers, last_id
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7, $9::int, $10::bigint)
ON CONFLICT (phone_number_id, consumer, ordering_key) WHERE followers IS NOT NULL
DO UPDATE SET followers = head.followers + 1, last_id = greatest(head.last_id, excluded.last_id)
RETURNING id, lease IS NOT NULL AS is_leased, followers, last_id
"""

_INSERT_FOLLOWER = """
INSERT INTO wats_deliveries (
    phone_number_id, id, update_id, siblings, consumer, ordering_key, arrived_at, payload, last_id
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $2)
"""

_DEMOTE = """
UPDATE wats_deliveries SET due_at = NULL, followers = NULL, last_id = id
WHERE phone_number_id = $1 AND consumer = $2 AND id = $3
"""

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('wats admin'), hashtext(current_schema()))"
"""Permits one change by an operator at a time. Before a replay, no row may exist to be locked."""

_IS_KNOWN = "SELECT EXISTS (SELECT 1 FROM wats_consumers WHERE name = $1)"

_DRAW_IDS = """
SELECT wats_now(), array(SELECT nextval('wats_update_ids') FROM generate_series(1, $1::int))
"""

_OUTSTANDING_UPDATES = """
SELECT id, ordering_key, payload FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_DEAD_UPDATES = """
SELECT id, ordering_key, payload FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND id = ANY($2::bigint[]) AND consumer = ANY($3::text[])
"""

# A row for each of the two partial indexes.
_IS_OUTSTANDING = """
SELECT EXISTS (
    SELECT 1 FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND ordering_key = $3 AND followers IS NOT NULL
        AND payload = $4
) OR EXISTS (
    SELECT 1 FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND ordering_key = $3 AND due_at IS NULL
        AND payload = $4
)
"""

_DEAD_OF = """
SELECT id FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND ordering_key = $3 AND payload = $4
ORDER BY id LIMIT 1
"""

_EXPEDITE = """
UPDATE wats_deliveries SET due_at = arrived_at
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
    AND lease IS NULL AND due_at > wats_now()
RETURNING id
"""

_DELETE_DEAD = """
DELETE FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND id = ANY($2::bigint[]) AND consumer = ANY($3::text[])
RETURNING consumer
"""

_KEYS_OF = """
SELECT DISTINCT ordering_key FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

# Locks in the order of the keys. Looked up by the index of heads, whatever the statistics are.
_LOCK_HEADS = """
SELECT head.* FROM unnest($3::bigint[]) AS wanted (key) CROSS JOIN LATERAL (
    SELECT id, ordering_key, followers, lease IS NOT NULL AS is_leased, attempts
    FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND followers IS NOT NULL
        AND ordering_key >= wanted.key AND ordering_key <= wanted.key
    ORDER BY ordering_key LIMIT 1
    FOR UPDATE
) AS head
"""

_DELETE_FOLLOWERS = """
DELETE FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
    AND ordering_key = ANY($4::bigint[]) AND followers IS NULL
RETURNING ordering_key, attempts
"""

_SHORTEN = """
UPDATE wats_deliveries SET followers = followers - 1
WHERE phone_number_id = $1 AND consumer = $2 AND ordering_key = $3 AND followers IS NOT NULL
"""


async def consumers(
    connection: Connection, configured: Mapping[str, object]
) -> Sequence[ConsumerState]:
    """Read all consumers, with the age of the oldest delivery of each."""
    found = (await depths.read(connection, ())).consumers
    states = []
    for name, is_paused in await connection.fetch(_CONSUMERS):
        states.append(
            ConsumerState(
                name=name,
                is_configured=name in configured,
                is_paused=is_paused,
                depth=found.get(name, Depth()),
                oldest_seconds=await depths.oldest_seconds(connection, [name]),
            )
        )
    return states


async def names_of_consumers(connection: Connection) -> Sequence[str]:
    """Read the names of all consumers in order."""
    return [row["name"] for row in await connection.fetch(_CONSUMERS)]


async def names_of_handlers(connection: Connection) -> Sequence[str]:
    """Read the names of all consumers but the outbox, which has operations of its own."""
    return [name for name in await names_of_consumers(connection) if name != OUTBOX]


async def pause(connection: Connection, consumer: str, *, is_paused: bool) -> bool:
    """Pause or resume *consumer*."""
    return await connection.fetchval(_PAUSE, consumer, is_paused) is not None


async def page(
    connection: Connection, wanted: DeliveryFilter, limit: int, after: int
) -> DeliveryPage:
    """Read the *wanted* deliveries after *after*."""
    rows: list[asyncpg.Record] = []
    count = SCAN_DELIVERIES + 1
    names = await _names(connection, wanted)
    for number in await numbers(connection):
        if wanted.is_dead:
            rows += await connection.fetch(_DEAD_PAGE, number, after, count)
            continue
        for name in names:
            rows += await connection.fetch(_OUTSTANDING_PAGE, number, name, after, count)
    rows.sort(key=lambda row: row["id"])
    return deliveries_page(map(_stored, rows[:count]), limit, wanted)


async def _names(connection: Connection, wanted: DeliveryFilter) -> Sequence[str]:
    if wanted.consumer is not None:
        return [wanted.consumer]
    return await names_of_consumers(connection)


def _stored(row: asyncpg.Record) -> StoredDelivery:
    return StoredDelivery(
        id=row["id"],
        update_id=row["update_id"],
        consumer=row["consumer"],
        state=_state(row) if row["died_at"] is None else DeliveryState.DEAD,
        attempts=row["attempts"],
        error=row["error"],
        arrived_at=from_ms(row["arrived_at"]),
        due_at=None if row["due_at"] is None else from_ms(row["due_at"]),
        died_at=None if row["died_at"] is None else from_ms(row["died_at"]),
        payload_bytes=row["payload_bytes"],
        head=row["head"],
    )


def _state(row: asyncpg.Record) -> DeliveryState:
    if row["is_leased"]:
        return DeliveryState.LEASED
    return DeliveryState.RETRY if row["attempts"] else DeliveryState.PENDING


async def read(connection: Connection, delivery_id: int) -> tuple[StoredDelivery, bytes] | None:
    """Read one delivery or dead letter, with its payload."""
    names = await names_of_consumers(connection)
    for number in await numbers(connection):
        found = await connection.fetch(f"{_DEAD} AND id = $2", number, delivery_id)
        for name in names:
            of_name = f"{_OUTSTANDING} AND id = $3"
            found += await connection.fetch(of_name, number, name, delivery_id)
        for row in found:
            payload = await connection.fetchval(_PAYLOAD, number, row["consumer"], delivery_id)
            if payload is not None:
                return _stored(row), payload
    return None


async def lock(connection: Connection) -> None:
    """Wait until no other operator changes deliveries, and exclude others until the commit."""
    await connection.execute(_LOCK)


async def retry_dead(connection: Connection, ids: Sequence[int], names: Sequence[str]) -> int:
    """Insert the dead letters *ids* of the consumers *names*, each in its place by id."""
    changes, count = DepthChanges(), 0
    for number in await numbers(connection):
        letters = await connection.fetch(_TAKE_DEAD, number, ids, names)
        letters.sort(key=lambda row: (row["consumer"], row["ordering_key"], row["id"]))
        for letter in letters:
            await _insert_in_order(connection, number, letter)
            changes.add(number, letter["consumer"], dead=-1, pending=1)
        count += len(letters)
    await changes.write(connection)
    return count


async def _insert_in_order(
    connection: Connection, number: str, letter: Mapping[str, Any] | asyncpg.Record
) -> None:
    id_, consumer = letter["id"], letter["consumer"]
    values = number, *(letter[name] for name in _LETTER)
    head: Any = await connection.fetchrow(_INSERT_HEAD, *values, 0, id_)
    if head["id"] == id_:
        return
    if head["is_leased"] or head["id"] < id_:
        await connection.execute(_INSERT_FOLLOWER, *values)
        return
    await connection.execute(_DEMOTE, number, consumer, head["id"])
    rest = head["followers"], head["last_id"]
    await connection.execute(_INSERT_HEAD, *values, *rest)


async def expedite(connection: Connection, ids: Sequence[int]) -> int:
    """Make the heads *ids* that wait for a retry due."""
    count = 0
    names = await names_of_handlers(connection)
    for number in await numbers(connection):
        for name in names:
            keys = sorted(_keys(await connection.fetch(_KEYS_OF, number, name, ids)))
            if keys:
                locked = await connection.fetch(_LOCK_HEADS, number, name, keys)
                heads = [row["id"] for row in locked if row["id"] in ids]
                count += len(await connection.fetch(_EXPEDITE, number, name, heads))
    return count


async def replay(connection: Connection, ids: Sequence[int], consumer: str) -> int | None:
    """Give *consumer* the updates of the deliveries and dead letters *ids* again."""
    if consumer == OUTBOX or not await connection.fetchval(_IS_KNOWN, consumer):
        return None
    changes, count = DepthChanges(), 0
    names = await names_of_handlers(connection)
    for number in await numbers(connection):
        updates = await connection.fetch(_DEAD_UPDATES, number, ids, names)
        for name in names:
            updates += await connection.fetch(_OUTSTANDING_UPDATES, number, name, ids)
        updates.sort(key=lambda row: row["id"])
        drawn = await connection.fetch(_DRAW_IDS, len(updates))
        now, new_ids = drawn[0]
        copies = [
            (row["ordering_key"], new_id, now, row["payload"])
            for row, new_id in zip(updates, new_ids, strict=True)
        ]
        for copy in sorted(copies, key=lambda copy: copy[:2]):
            count += await _replay_one(connection, number, consumer, copy, changes)
    await changes.write(connection)
    return count


async def _replay_one(
    connection: Connection,
    number: str,
    consumer: str,
    copy: tuple[int, int, int, bytes],
    changes: DepthChanges,
) -> int:
    ordering_key, id_, now, payload = copy
    of_update = number, consumer, ordering_key, payload
    if await connection.fetchval(_IS_OUTSTANDING, *of_update):
        return 0
    dead = await connection.fetchval(_DEAD_OF, *of_update)
    if dead is not None:
        letter = await connection.fetchrow(_TAKE_DEAD, number, [dead], [consumer])
        if letter is None:  # it has just expired
            return 0
        await _insert_in_order(connection, number, letter)
        changes.add(number, consumer, dead=-1, pending=1)
        return 1
    values = id_, id_, 1, consumer, ordering_key, now, payload
    await _insert_in_order(connection, number, dict(zip(_LETTER, values, strict=True)))
    changes.add(number, consumer, pending=1)
    return 1


async def discard(connection: Connection, ids: Sequence[int], names: Sequence[str]) -> int:
    """Delete deliveries and dead letters *ids* of the consumers *names*; return their number."""
    changes, count = DepthChanges(), 0
    for number in await numbers(connection):
        for name in names:
            count += await _discard_of(connection, number, name, ids, changes)
        deleted = await connection.fetch(_DELETE_DEAD, number, ids, names)
        for (name,) in deleted:
            changes.add(number, name, dead=-1)
        count += len(deleted)
    await changes.write(connection)
    return count


async def _discard_of(
    connection: Connection, number: str, consumer: str, ids: Sequence[int], changes: DepthChanges
) -> int:
    """Delete those deliveries *ids* of *consumer* whose ordering keys can be locked."""
    of_ids = await connection.fetch(_KEYS_OF, number, consumer, ids)
    if not of_ids:
        return 0
    keys = sorted(_keys(of_ids))
    locked = _keys(await connection.fetch(_LOCK_HEADS, number, consumer, keys))
    followers = await connection.fetch(_DELETE_FOLLOWERS, number, consumer, ids, locked)
    for row in followers:
        await connection.execute(_SHORTEN, number, consumer, row["ordering_key"])
        changes.add(number, consumer, **{"retry" if row["attempts"] else "pending": -1})
    shortened = await connection.fetch(_LOCK_HEADS, number, consumer, locked)
    heads = [row for row in shortened if row["id"] in ids]
    for row in heads:
        changes.add(number, consumer, **{_state(row).value: -1})
    followed = [row["id"] for row in heads if row["followers"]]
    alone = [row["id"] for row in heads if not row["followers"]]
    await connection.execute(deliveries.DELETE, number, consumer, alone)
    if followed:
        await connection.execute(deliveries.PROMOTE, number, consumer, followed)
    return len(followers) + len(heads)


def _keys(rows: Iterable[asyncpg.Record]) -> Sequence[int]:
    return [row["ordering_key"] for row in rows]
