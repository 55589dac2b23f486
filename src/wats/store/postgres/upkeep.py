"""Delete expired rows, a bounded number at a time."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from wats.store.postgres import messages, pacing
from wats.store.postgres.connection import Connection
from wats.store.postgres.depths import DepthChanges
from wats.store.postgres.rows import numbers
from wats.store.records import Retention

PURGE_ROWS: Final = 500
"""The maximum number of rows that one call deletes for each table and business number."""

CALL_ROWS: Final = 10_000
"""The number of deleted rows from which on a call leaves the other business numbers to the next
one. A transaction of hundreds of numbers would exceed its time limit, and never delete anything."""

_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) wats_deliveries, wats_dead_deliveries"
"""Removes deleted rows. The write-ahead log is recycled by the server only, not by clients."""

_OLD_UPDATES = """
DELETE FROM wats_inbox WHERE ctid = ANY(array(
    SELECT ctid FROM wats_inbox WHERE phone_number_id = $1 AND received_at < $2 LIMIT $3
)) AND phone_number_id = $1
"""

_OLD_DEAD = """
DELETE FROM wats_dead_deliveries WHERE phone_number_id = $1 AND id = ANY(array(
    SELECT id FROM wats_dead_deliveries
    WHERE phone_number_id = $1 AND died_at < $2 ORDER BY died_at LIMIT $3
    FOR UPDATE SKIP LOCKED
))
RETURNING consumer
"""

# A message is kept as long as its statuses, which determine its current status.
_OLD_MESSAGES = """
DELETE FROM wats_messages AS message WHERE ctid = ANY(array(
    SELECT ctid FROM wats_messages AS old
    WHERE phone_number_id = $1 AND updated_at < $2 AND NOT EXISTS (
        SELECT 1 FROM wats_statuses AS status
        WHERE status.phone_number_id = $1 AND status.wa_message_id = old.wa_message_id
            AND status.occurred_at >= $2
    )
    LIMIT $3
)) AND message.phone_number_id = $1
"""

_OLD_STATUSES = """
DELETE FROM wats_statuses WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
    AND wa_message_id = ANY($3::text[])
"""

_OLD_WINDOWS = """
DELETE FROM wats_windows WHERE phone_number_id = $1 AND digest = ANY(array(
    SELECT digest FROM wats_windows WHERE phone_number_id = $1 AND last_inbound_at < $2 LIMIT $3
)) AND last_inbound_at < $2
"""

_OLD_REQUESTS = """
DELETE FROM wats_requests WHERE ctid = ANY(array(
    SELECT ctid FROM wats_requests WHERE expires_at < (SELECT wats_now()) LIMIT $1
)) AND expires_at < (SELECT wats_now())
"""

_OLD_ITEMS = """
DELETE FROM wats_outbox WHERE ctid = ANY(array(
    SELECT ctid FROM wats_outbox WHERE expires_at < (SELECT wats_now()) LIMIT $1
)) AND expires_at < (SELECT wats_now())
"""

# Locked until the transaction ends, so a process that registers the consumer waits.
_UNSEEN = """
SELECT name FROM wats_consumers WHERE seen_at < $1 ORDER BY name FOR UPDATE SKIP LOCKED
"""

_HEADS = """
SELECT id, ordering_key, followers, lease IS NOT NULL AS is_leased, attempts > 0 AS is_retry
FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND followers IS NOT NULL
ORDER BY ordering_key LIMIT $3
FOR UPDATE
"""

_DELETE_FOLLOWERS = """
DELETE FROM wats_deliveries WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY(array(
    SELECT follower.id FROM unnest($3::bigint[], $4::int[]) AS head (ordering_key, room)
    CROSS JOIN LATERAL (
        SELECT id FROM wats_deliveries
        WHERE phone_number_id = $1 AND consumer = $2 AND ordering_key = head.ordering_key
            AND due_at IS NULL
        ORDER BY last_id LIMIT head.room
    ) AS follower
))
"""

_DELETE_HEADS = """
DELETE FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_SHORTEN = """
UPDATE wats_deliveries
SET followers = followers - ($4::int[])[array_position($3::bigint[], id)]
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_FORGET = """
WITH empty AS (
    DELETE FROM wats_consumers WHERE name = $1 AND NOT EXISTS (
        SELECT 1 FROM wats_depths WHERE consumer = $1
        HAVING sum(pending) <> 0 OR sum(leased) <> 0 OR sum(retry) <> 0 OR sum(dead) <> 0
    )
    RETURNING name
)
DELETE FROM wats_depths USING empty WHERE consumer = empty.name
"""


async def vacuum(connection: Connection) -> bool:
    """Remove deleted rows; return whether no table was skipped.

    A table is skipped, with a warning, if another vacuum is running or the role may not vacuum it.
    """
    warnings: list[object] = []

    def note(_: object, warning: object) -> None:
        warnings.append(warning)

    connection.add_log_listener(note)
    try:
        await connection.execute(_VACUUM)
    finally:
        connection.remove_log_listener(note)
    return not warnings


async def purge(connection: Connection, retention: Retention, now: int) -> int:
    """Delete a bounded number of expired rows; return this number."""
    inbox_before = now - round(retention.inbox * 1000)
    dead_before = now - round(retention.dead * 1000)
    messages_before = now - round(retention.messages * 1000)
    # The record of a message identifies its redeliveries.
    records_before = min(messages_before, inbox_before)
    changes, count = DepthChanges(), 0
    of_numbers = await numbers(connection)
    for number in of_numbers:
        if count >= CALL_ROWS:
            break
        for statement, before in (
            (_OLD_UPDATES, inbox_before),
            (_OLD_MESSAGES, records_before),
            (_OLD_WINDOWS, messages_before),
        ):
            count += _deleted(await connection.execute(statement, number, before, PURGE_ROWS))
        count += await _purge_statuses(connection, number, messages_before)
        dead = await connection.fetch(_OLD_DEAD, number, dead_before, PURGE_ROWS)
        for (consumer,) in dead:
            changes.add(number, consumer, dead=-1)
        count += len(dead)
    for statement in (_OLD_REQUESTS, _OLD_ITEMS, pacing.PURGE):
        count += _deleted(await connection.execute(statement, PURGE_ROWS))
    await changes.write(connection)
    return count


async def _purge_statuses(connection: Connection, number: str, before: int) -> int:
    old = await messages.fold_old_statuses(connection, number, before, PURGE_ROWS)
    ids = [row["id"] for row in old]
    names = sorted({row["wa_message_id"] for row in old})
    return _deleted(await connection.execute(_OLD_STATUSES, number, ids, names))


def _deleted(status: str) -> int:
    return int(status.rpartition(" ")[2])


async def purge_unseen(connection: Connection, retention: Retention, now: int) -> int:
    """Delete deliveries of consumers that have not been registered for `retention.unseen`."""
    unseen = await connection.fetch(_UNSEEN, now - round(retention.unseen * 1000))
    of_numbers = await numbers(connection)
    changes, count = DepthChanges(), 0
    for (consumer,) in unseen:
        found = 0
        for number in of_numbers:
            if count + found >= CALL_ROWS:
                break
            found += await _purge_consumer(connection, number, consumer, changes)
        if not found:
            await connection.execute(_FORGET, consumer)
        count += found
    await changes.write(connection)
    return count


async def _purge_consumer(
    connection: Connection, number: str, consumer: str, changes: DepthChanges
) -> int:
    heads = await connection.fetch(_HEADS, number, consumer, PURGE_ROWS)
    gone = _followers_to_delete(heads)
    whole = [head for head in heads if gone.get(head["id"], 0) == head["followers"]]
    partly = [head for head in heads if 0 < gone.get(head["id"], 0) < head["followers"]]
    followed = [head for head in heads if gone.get(head["id"])]
    if followed:
        keys = [head["ordering_key"] for head in followed]
        rooms = [gone[head["id"]] for head in followed]
        await connection.execute(_DELETE_FOLLOWERS, number, consumer, keys, rooms)
    if partly:
        ids = [head["id"] for head in partly]
        await connection.execute(_SHORTEN, number, consumer, ids, [gone[id_] for id_ in ids])
    if whole:
        await connection.execute(_DELETE_HEADS, number, consumer, [head["id"] for head in whole])
    followers = sum(gone.values())
    changes.add(number, consumer, pending=-followers)
    for head in whole:
        changes.add(number, consumer, **{_state(head): -1})
    return followers + len(whole)


def _followers_to_delete(heads: Sequence[asyncpg.Record]) -> dict[int, int]:
    """Return how many followers to delete by id of the head, `PURGE_ROWS` in total."""
    room, gone = PURGE_ROWS, {}
    for head in heads:
        gone[head["id"]] = min(room, head["followers"])
        room -= gone[head["id"]]
    return gone


def _state(head: asyncpg.Record) -> str:
    if head["is_leased"]:
        return "leased"
    return "retry" if head["is_retry"] else "pending"
