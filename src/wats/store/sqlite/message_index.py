"""The index of messages by the hash of their WhatsApp id, and of the windows that they opened.

A hash belongs to a random place of an index, and each place in a large index is another page that a
commit has to write. So the index consists of buckets, one per 16,384 row ids, and messages are
added to it some hundred at a time, in order: all insertions go to the last bucket, whatever the
size of the store.

    row ids    0 … 262143     | 262144 … 278527 | 278528 … last indexed | … last
    found in   merged bucket  | bucket          | bucket                | memory of the writer

A look-up searches each bucket that can have the message. So the upkeep merges buckets: sixteen that
are complete become one, a small range of hashes at a time.

The messages that are not indexed yet are *pending*. Each writer holds their hashes in memory and
reads those that other processes recorded; a reader scans the rows. A hash is no proof: callers
compare the rows that they find.

Each function runs inside a transaction that its caller opened.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import apsw
from apsw import Connection

BUCKET_BITS = 14
MERGED_BITS = 18
"""Row ids that differ in these lower bits only share a bucket, and later a merged bucket. Part of
the schema, like the numbers of buckets: even, ascending, and that of a merged bucket follows that
of the first bucket that was merged."""

_PER_MERGED = 2 << (MERGED_BITS - BUCKET_BITS)
"""The distance of the numbers of merged buckets."""

_MERGED_HASHES = 1 << 22
"""The range of hashes that are merged at a time: a thousand entries of 2^18 messages."""

INDEX_BATCH: Final = 500
"""How many messages are indexed at a time: enough that they share pages, few enough that a commit
is hardly longer and a reader scans the pending ones in a fraction of a millisecond."""

TIME_TOLERANCE_MS = 600_000
"""How much later than the first delivery of a message a redelivery may claim that it was sent. At
a hundred million messages a month, one or two buckets of messages come in such a time."""

_FIRST_STEP = 2
_STEP_FACTOR = 4

_MARKS = "SELECT last_row_id, indexed_row_id FROM wats_marks WHERE id = 1"

_ALLOCATE = """
UPDATE wats_marks SET last_row_id = ?, pending_latest_at = max(pending_latest_at, ?) WHERE id = 1
"""

_PENDING = "SELECT wa_message_hash, row_id FROM wats_messages WHERE row_id > ?"

# A message may have the hash of its own window.
_INDEX_PENDING = """
INSERT OR IGNORE INTO wats_message_index (bucket, hash, row_id)
SELECT (row_id >> ?2) * 2, hash, row_id FROM (
    SELECT wa_message_hash AS hash, row_id FROM wats_messages WHERE row_id > ?1
    UNION ALL
    SELECT window_hash, row_id FROM wats_messages WHERE row_id > ?1 AND window_hash IS NOT NULL
)
ORDER BY 1, 2, 3
"""

_EXTEND_BUCKETS = """
INSERT INTO wats_message_buckets (bucket, latest_at, has_sent)
SELECT (row_id >> ?2) * 2, (SELECT pending_latest_at FROM wats_marks WHERE id = 1),
    max(direction = 'outbound')
FROM wats_messages WHERE row_id > ?1 GROUP BY 1
ON CONFLICT (bucket) DO UPDATE SET latest_at = max(latest_at, excluded.latest_at),
    has_sent = max(has_sent, excluded.has_sent)
"""

_MARK_INDEXED = """
UPDATE wats_marks SET indexed_row_id = last_row_id, pending_latest_at = 0 WHERE id = 1
"""

_BUCKETS_SINCE = "SELECT bucket FROM wats_message_buckets WHERE latest_at >= ?"

_BUCKETS_BEFORE = """
SELECT bucket FROM wats_message_buckets WHERE has_sent AND bucket < ? ORDER BY bucket DESC LIMIT ?
"""

_LOOK_UP = """
SELECT i.row_id
FROM carray(?) AS b CROSS JOIN carray(?) AS h
CROSS JOIN wats_message_index AS i ON i.bucket = b.value AND i.hash = h.value
"""

_REMOVE = """
DELETE FROM wats_message_index WHERE bucket IN (?3, ?4) AND row_id = ?1 AND hash IN (
    SELECT wa_message_hash FROM wats_messages WHERE row_id = ?1 AND updated_at < ?2
    UNION ALL
    SELECT window_hash FROM wats_messages WHERE row_id = ?1 AND updated_at < ?2
)
"""

_REMOVE_EMPTY_BUCKET = """
DELETE FROM wats_message_buckets
WHERE bucket = ?1 AND NOT EXISTS (SELECT 1 FROM wats_message_index WHERE bucket = ?1)
"""

_FIRST_UNMERGED = """
SELECT min(bucket) FROM wats_message_buckets WHERE bucket % 2 = 0 AND bucket < ?
"""

_UNMERGED = (
    "SELECT bucket FROM wats_message_buckets WHERE bucket BETWEEN ? AND ? AND bucket % 2 = 0"
)

_FIRST_HASH = """
SELECT min((SELECT min(hash) FROM wats_message_index WHERE bucket = value)) FROM carray(?)
"""

_COPY = """
INSERT INTO wats_message_index (bucket, hash, row_id)
SELECT ?2, i.hash, i.row_id
FROM carray(?1) AS b CROSS JOIN wats_message_index AS i
    ON i.bucket = b.value AND i.hash BETWEEN ?3 AND ?4
ORDER BY 2, 3
"""

_DELETE_COPIED = "DELETE FROM wats_message_index WHERE bucket = ? AND hash BETWEEN ? AND ?"

_EXTEND_MERGED = """
INSERT INTO wats_message_buckets (bucket, latest_at, has_sent)
SELECT ?2, max(m.latest_at), max(m.has_sent)
FROM carray(?1) AS b CROSS JOIN wats_message_buckets AS m ON m.bucket = b.value
WHERE true
ON CONFLICT (bucket) DO UPDATE SET latest_at = max(latest_at, excluded.latest_at),
    has_sent = max(has_sent, excluded.has_sent)
"""


class Marks(NamedTuple):
    """The last row id that was allocated, and the last that is indexed. No row id is reused."""

    last: int
    indexed: int


def read_marks(connection: Connection) -> Marks:
    """Read how far messages were recorded and indexed, by whichever process."""
    last, indexed = connection.execute(_MARKS).get
    return Marks(last, indexed)


def numbers(values: Iterable[int]) -> "apsw.CArrayBinding":
    """Bind at least one of *values* as a table for `carray`."""
    return apsw.carray(array("q", values))


class MessageIndex:
    """What one writer knows of the pending messages.

    Forget it when a transaction is rolled back: the next `catch_up` reads it from the table.

    Args:
        batch: How many messages are indexed at a time.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._pending: dict[int, tuple[int, ...]] = {}
        self._seen = Marks(0, 0)

    def forget(self) -> None:
        """Drop what is in memory."""
        self._pending, self._seen = {}, Marks(0, 0)

    def catch_up(self, connection: Connection) -> int:
        """Index the pending messages if there are enough; read those of other processes.

        Returns:
            The last row id that was allocated.
        """
        marks = read_marks(connection)
        if marks.last - marks.indexed >= self._batch:
            index_pending(connection)
            marks = Marks(marks.last, marks.last)
        if marks != self._seen:
            after = self._seen.last
            if marks.indexed != self._seen.indexed:
                self._pending, after = {}, marks.indexed
            self._add(connection.execute(_PENDING, (after,)))
            self._seen = marks
        return marks.last

    def allocate(self, connection: Connection, hashes: Sequence[int], latest_at: int) -> None:
        """Allocate the next row ids to messages with *hashes*, which the caller inserts next.

        Call `catch_up` first in the same transaction. *latest_at* is the latest of all times (ms)
        that the messages state, or that their redeliveries or windows can have.
        """
        first = self._seen.last + 1
        last = self._seen.last + len(hashes)
        connection.execute(_ALLOCATE, (last, latest_at))
        self._add(zip(hashes, range(first, last + 1), strict=True))
        self._seen = Marks(last, self._seen.indexed)

    def _add(self, rows: Iterable[tuple[int, int]]) -> None:
        pending = self._pending
        for hash_, row_id in rows:
            pending[hash_] = (*pending.get(hash_, ()), row_id)

    def find_pending(self, hashes: Iterable[int]) -> list[int]:
        """Return the row ids of pending messages with *hashes*; `catch_up` first."""
        pending = self._pending
        return [row_id for hash_ in hashes if hash_ in pending for row_id in pending[hash_]]

    def find_since(
        self, connection: Connection, hashes: Sequence[int], times: Sequence[int]
    ) -> list[int]:
        """Return the row ids of messages that were possibly recorded before; `catch_up` first.

        For each of *hashes*, *times* has the time (ms) that the delivery of its message states. A
        redelivery states the time of the first delivery, so the `latest_at` of its bucket is not
        earlier. At a hundred million messages a month that leaves 2 or 3 buckets for a message of
        now, and 90 to 120 for a redelivery after seven days, about 0.2 ms. Our own clock does not
        matter, whether it is late, early or set back.
        """
        found = self.find_pending(hashes)
        rest = list(zip(times, hashes, strict=True))
        while rest:
            since = max(rest)[0] - TIME_TOLERANCE_MS
            period = [time for time in rest if time[0] >= since]
            buckets = buckets_since(connection, min(period)[0] - TIME_TOLERANCE_MS)
            found += look_up(connection, buckets, sorted([hash_ for _, hash_ in period]))
            rest = [time for time in rest if time[0] < since]
        return found


def index_pending(connection: Connection) -> None:
    """Add all pending messages to the index."""
    indexed = read_marks(connection).indexed
    connection.execute(_INDEX_PENDING, (indexed, BUCKET_BITS))
    connection.execute(_EXTEND_BUCKETS, (indexed, BUCKET_BITS))
    connection.execute(_MARK_INDEXED)


def look_up(
    connection: Connection, buckets: Collection[int], hashes: Collection[int]
) -> Sequence[int]:
    """Return the row ids that *buckets* have for *hashes*: about 2 us for each pair."""
    if not buckets or not hashes:
        return ()
    found = connection.execute(_LOOK_UP, (numbers(buckets), numbers(hashes)))
    return [row_id for (row_id,) in found]


def buckets_since(connection: Connection, since: int) -> Sequence[int]:
    """Return the buckets that have messages of the time *since* (ms) or later."""
    return [bucket for (bucket,) in connection.execute(_BUCKETS_SINCE, (since,))]


def buckets_with_sent(connection: Connection) -> Iterator[Sequence[int]]:
    """Yield the buckets that have sent messages, from the last to the first, in growing steps."""
    before, count = 2**62, _FIRST_STEP
    while True:
        rows = connection.execute(_BUCKETS_BEFORE, (before, count))
        buckets = [bucket for (bucket,) in rows]
        if not buckets:
            return
        yield buckets
        before, count = buckets[-1], count * _STEP_FACTOR


def remove(connection: Connection, row_ids: Collection[int], before_ms: int) -> None:
    """Remove the messages *row_ids* not touched since *before_ms*, which are deleted next."""
    rows = [(row_id, before_ms, *_buckets_of(row_id)) for row_id in row_ids]
    connection.executemany(_REMOVE, rows)
    _remove_empty(connection, {bucket for row in rows for bucket in row[2:]})


def _buckets_of(row_id: int) -> tuple[int, int]:
    """Return the buckets that can have the message *row_id*."""
    return (row_id >> BUCKET_BITS) * 2, (row_id >> MERGED_BITS) * _PER_MERGED + 1


def _remove_empty(connection: Connection, buckets: Iterable[int]) -> None:
    connection.executemany(_REMOVE_EMPTY_BUCKET, [(bucket,) for bucket in buckets])


def merge(connection: Connection) -> int:
    """Move one range of hashes from sixteen complete buckets to their merged bucket.

    Returns:
        How many rows changed; 0 when there is nothing left to merge.
    """
    complete = (read_marks(connection).indexed + 1) >> MERGED_BITS
    unmerged: int | None = connection.execute(_FIRST_UNMERGED, (complete * _PER_MERGED,)).get
    if unmerged is None:
        return 0
    before = connection.total_changes()
    first = unmerged - unmerged % _PER_MERGED
    rows = connection.execute(_UNMERGED, (first, first + _PER_MERGED - 1))
    buckets = [bucket for (bucket,) in rows]
    hash_: int | None = connection.execute(_FIRST_HASH, (numbers(buckets),)).get
    if hash_ is not None:
        last = hash_ + _MERGED_HASHES - 1
        connection.execute(_COPY, (numbers(buckets), first + 1, hash_, last))
        connection.executemany(_DELETE_COPIED, [(bucket, hash_, last) for bucket in buckets])
        connection.execute(_EXTEND_MERGED, (numbers(buckets), first + 1))
    _remove_empty(connection, buckets)
    return connection.total_changes() - before
