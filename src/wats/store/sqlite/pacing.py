"""Token buckets in SQL.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from wats.store.pacing import (
    NUMBER_BUCKET,
    RECOVERY_US,
    Bucket,
    Demand,
    Pace,
    Penalty,
    Permit,
    take,
)
from wats.store.records import Claimed
from wats.store.sqlite import deliveries
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.message_index import numbers

_READ = """
SELECT bucket, full_at, level, level_at FROM wats_pacing
WHERE phone_number_id = ? AND bucket IN carray(?)
"""

_WRITE = """
INSERT INTO wats_pacing (phone_number_id, bucket, full_at, level, level_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (phone_number_id, bucket) DO UPDATE
SET full_at = excluded.full_at, level = excluded.level, level_at = excluded.level_at
"""

_DUE_OF_NUMBER = """
SELECT id, update_id, siblings, ordering_key, attempts, lease IS NOT NULL, is_final, payload
FROM wats_deliveries
WHERE consumer = ?1 AND due_at <= ?2
    AND NOT EXISTS (SELECT 1 FROM wats_consumers WHERE name = ?1 AND is_paused)
    AND EXISTS (
        SELECT 1 FROM wats_outbox AS item
        WHERE item.id = wats_deliveries.id AND item.phone_number_id = ?4
    )
ORDER BY due_at, id
LIMIT ?3
"""

_POSTPONE = "UPDATE wats_deliveries SET due_at = ? WHERE id = ?"

_PURGE = """
DELETE FROM wats_pacing WHERE (phone_number_id, bucket) IN (
    SELECT phone_number_id, bucket FROM wats_pacing
    WHERE full_at < ?1 AND level_at + level * ?2 < ?1 LIMIT ?3
)
"""

_Row: TypeAlias = tuple[Any, ...]


def _now(writer: Writer) -> int:
    return writer.clock() * 1000


def _read(writer: Writer, pace: Pace, keys: Iterable[int]) -> dict[int, Bucket]:
    rows: Any = writer.execute(_READ, (pace.phone_number_id, numbers(keys)))
    return {key: Bucket(*values) for key, *values in rows}


def _write(writer: Writer, pace: Pace, buckets: Mapping[int, Bucket]) -> None:
    rows = [
        (pace.phone_number_id, key, each.full_at, each.level, each.level_at)
        for key, each in buckets.items()
    ]
    writer.executemany(_WRITE, rows)


def pace(writer: Writer, *, demand: Demand) -> Permit:
    """Permit the message of *demand*, or refuse it."""
    buckets = _read(writer, demand.pace, demand.limits)
    permit = take(buckets, demand, _now(writer))
    if permit.is_granted:
        _write(writer, demand.pace, buckets)
    return permit


def throttle(writer: Writer, *, pace: Pace, penalty: Penalty) -> None:
    """Pause the bucket of *penalty*, and slow it down."""
    key = penalty.bucket
    bucket = _read(writer, pace, (key,)).get(key, Bucket())
    limit = pace.number if key == NUMBER_BUCKET else pace.pair
    _write(writer, pace, {key: bucket.throttled(limit, penalty, _now(writer))})


def _due(writer: Writer, name: str, limit: int, number: str) -> Sequence[_Row]:
    """Return messages of *number* that can be leased: *limit* and one more."""
    values = name, writer.clock(), limit + 1, number
    rows: list[Any] = writer.execute(_DUE_OF_NUMBER, values).fetchall()
    return rows


def _key_of(row: _Row) -> int:
    ordering_key: int = row[3]
    return ordering_key


def _was_leased(row: _Row) -> bool:
    return bool(row[5])


def claim(writer: Writer, *, name: str, limit: int, pace: Pace) -> Claimed:
    """Lease heads of the consumer *name* that are permitted; postpone others to their turn."""
    rows = _due(writer, name, limit, pace.phone_number_id)
    if not rows:
        return Claimed((), more=False)
    keys = {NUMBER_BUCKET, *(_key_of(row) for row in rows)}
    buckets, now = _read(writer, pace, keys), _now(writer)
    chosen: list[_Row] = []
    postponed: list[tuple[int, int]] = []
    wait_us = 0
    for row in rows[:limit]:
        if _was_leased(row):  # it is not sent again
            chosen.append(row)
            continue
        if wait_us := buckets.get(NUMBER_BUCKET, Bucket()).wait(pace.number, now):
            break
        permit = take(buckets, Demand(pace=pace, ordering_key=_key_of(row)), now)
        if permit.is_granted:
            chosen.append(row)
        else:
            postponed.append((-(-(now + permit.wait_us) // 1000), row[0]))
    writer.executemany(_POSTPONE, postponed)
    if chosen:
        _write(writer, pace, buckets)
    leased = deliveries.lease(writer, name, chosen)
    more = not wait_us and (len(rows) > limit or bool(postponed))
    return Claimed(leased, more, wait_us / 1_000_000)


def purge(writer: Writer, limit: int) -> int:
    """Delete buckets that are full, and are not slowed down any more."""
    return change(writer, _PURGE, [(_now(writer), RECOVERY_US, limit)])
