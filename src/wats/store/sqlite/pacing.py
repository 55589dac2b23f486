"""Token buckets in SQL.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from wats.store.pacing import (
    NUMBER_BUCKET,
    RECOVERY_US,
    SECOND_US,
    Bucket,
    Candidate,
    Demand,
    Pace,
    Penalty,
    Permit,
    take,
    take_turn,
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

_DUE_OF_NUMBER = deliveries.DUE_IF.format("""EXISTS (
    SELECT 1 FROM wats_outbox AS item
    WHERE item.id = wats_deliveries.id AND item.phone_number_id = ?4
)""")

_POSTPONE = "UPDATE wats_deliveries SET due_at = ? WHERE id = ?"

_PURGE = """
DELETE FROM wats_pacing WHERE (phone_number_id, bucket) IN (
    SELECT phone_number_id, bucket FROM wats_pacing
    WHERE full_at < ?1 AND level_at + level * ?2 < ?1 LIMIT ?3
)
"""


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


def pace(writer: Writer, demand: Demand) -> Permit:
    """Permit the message of *demand*, or refuse it."""
    found = _read(writer, demand.pace, demand.limits)
    buckets = {**found}
    permit = take(buckets, demand, _now(writer))
    if buckets != found:
        _write(writer, demand.pace, buckets)
    return permit


def throttle(writer: Writer, pace: Pace, penalty: Penalty) -> None:
    """Pause the bucket of *penalty*, and slow it down."""
    key = penalty.bucket
    bucket = _read(writer, pace, (key,)).get(key, Bucket())
    _write(writer, pace, {key: bucket.throttled(pace.limit_of(key), penalty, _now(writer))})


def claim(writer: Writer, *, name: str, limit: int, pace: Pace) -> Claimed:
    """Lease heads of the consumer *name* that are permitted; postpone others to their turn."""
    values = name, writer.clock(), limit + 1, pace.phone_number_id
    rows: list[Any] = writer.execute(_DUE_OF_NUMBER, values).fetchall()
    if not rows:
        return Claimed((), more=False)
    candidates = [Candidate(row[0], row[3], bool(row[5] and row[6])) for row in rows]
    keys = {NUMBER_BUCKET, *(each.ordering_key for each in candidates)}
    buckets, now = _read(writer, pace, keys), _now(writer)
    turn = take_turn(buckets, pace, candidates[:limit], now)
    writer.executemany(_POSTPONE, [(due_at, id_) for id_, due_at in turn.postponed.items()])
    if turn.ids and not pace.is_unlimited:
        _write(writer, pace, buckets)
    leased = deliveries.lease(writer, name, [row for row in rows if row[0] in turn.ids])
    more = not turn.wait_us and (len(rows) > limit or bool(turn.postponed))
    return Claimed(leased, more, turn.wait_us / SECOND_US)


def purge(writer: Writer, limit: int) -> int:
    """Delete buckets that are full, and are not slowed down any more."""
    return change(writer, _PURGE, [(_now(writer), RECOVERY_US, limit)])
