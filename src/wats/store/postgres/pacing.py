"""Token buckets in SQL.

The bucket of a number is locked before those of its recipients, and after keys and heads. So the
buckets of one number have one writer at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from wats.store.pacing import (
    NUMBER_BUCKET,
    Bucket,
    Candidate,
    Demand,
    Pace,
    Penalty,
    Permit,
    Turn,
    take,
    take_turn,
)
from wats.store.postgres.connection import Connection

_ADD_NUMBER: Final = """
INSERT INTO wats_pacing (phone_number_id, bucket, full_at, level, level_at)
VALUES ($1, -1, 0, 0, 0) ON CONFLICT DO NOTHING
"""

_LOCK_NUMBER: Final = """
SELECT full_at, level, level_at, (SELECT wats_now()) * 1000 FROM wats_pacing
WHERE phone_number_id = $1 AND bucket = -1
FOR UPDATE
"""

_READ: Final = """
SELECT bucket, full_at, level, level_at FROM wats_pacing
WHERE phone_number_id = $1 AND bucket = ANY($2::bigint[]) AND bucket <> -1
"""

_WRITE: Final = """
INSERT INTO wats_pacing (phone_number_id, bucket, full_at, level, level_at)
SELECT $1::text, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
ON CONFLICT (phone_number_id, bucket) DO UPDATE
SET full_at = excluded.full_at, level = excluded.level, level_at = excluded.level_at
"""

_POSTPONE: Final = """
UPDATE wats_deliveries SET due_at = ($4::bigint[])[array_position($3::bigint[], id)]
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

PURGE: Final = """
DELETE FROM wats_pacing WHERE ctid = ANY(array(
    SELECT ctid FROM wats_pacing
    WHERE full_at < (SELECT wats_now()) * 1000 AND bucket <> -1
        AND level_at + level * 60000000::bigint < (SELECT wats_now()) * 1000
    LIMIT $1
)) AND full_at < (SELECT wats_now()) * 1000
"""
"""Deletes buckets that are full, and are not slowed down any more."""


async def _locked(
    connection: Connection, pace: Pace, keys: Iterable[int]
) -> tuple[dict[int, Bucket], int]:
    """Lock the buckets of the number; return those with *keys*, and the time."""
    number = pace.phone_number_id
    row: Any = await connection.fetchrow(_LOCK_NUMBER, number)
    if row is None:
        await connection.execute(_ADD_NUMBER, number)
        row = await connection.fetchrow(_LOCK_NUMBER, number)
    full_at, level, level_at, now = row
    found = await connection.fetch(_READ, number, sorted(keys))
    buckets = {key: Bucket(*values) for key, *values in found}
    return {**buckets, NUMBER_BUCKET: Bucket(full_at, level, level_at)}, now


async def _write(connection: Connection, pace: Pace, buckets: Mapping[int, Bucket]) -> None:
    rows = [(key, each.full_at, each.level, each.level_at) for key, each in buckets.items()]
    await connection.execute(_WRITE, pace.phone_number_id, *zip(*rows, strict=True))


async def pace(connection: Connection, demand: Demand) -> Permit:
    """Permit the message of *demand*, or refuse it."""
    found, now = await _locked(connection, demand.pace, demand.limits)
    buckets = {**found}
    permit = take(buckets, demand, now)
    if buckets != found:
        await _write(connection, demand.pace, buckets)
    return permit


async def throttle(connection: Connection, pace: Pace, penalty: Penalty) -> None:
    """Pause the bucket of *penalty*, and slow it down."""
    key = penalty.bucket
    buckets, now = await _locked(connection, pace, (key,))
    bucket = buckets.get(key, Bucket()).throttled(pace.limit_of(key), penalty, now)
    await _write(connection, pace, {key: bucket})


async def take_turns(
    connection: Connection, consumer: str, pace: Pace, rows: Sequence[Any]
) -> Turn:
    """Permit those heads *rows* whose turn it is, and postpone those of recipients that wait."""
    if not rows:
        return Turn(ids=frozenset(), postponed={}, wait_us=0)
    candidates = [Candidate(row["id"], row["ordering_key"], row["is_final"]) for row in rows]
    buckets, now = await _locked(connection, pace, [each.ordering_key for each in candidates])
    turn = take_turn(buckets, pace, candidates, now)
    if turn.ids and not pace.is_unlimited:
        await _write(connection, pace, buckets)
    if turn.postponed:
        ids, times = list(turn.postponed), list(turn.postponed.values())
        await connection.execute(_POSTPONE, pace.phone_number_id, consumer, ids, times)
    return turn
