"""The index of messages by a hash of their WhatsApp id, and by a hash of the windows they opened.

Hashes are random, so in one large index each insertion would change another page, which a commit
has to write. The index therefore consists of buckets, one per 16,384 row ids, and messages are
indexed in batches of some hundred, in order: all insertions go to the last bucket, independent of
the size of the store.

    row ids    0 … 262143     | 262144 … 278527 | 278528 … last indexed | … last
    found in   merged bucket  | bucket          | bucket                | memory of the writer

A look-up searches every bucket that may contain the message. To bound their number, the upkeep
merges sixteen complete buckets into one, a small range of hashes at a time. A writer keeps a filter
of the messages recorded since it started, so it seldom searches their buckets for a new message.

Messages that are not indexed yet are *pending*. Each writer keeps their hashes in memory, and reads
the hashes that other processes recorded; a reader scans the rows. Hashes may collide: callers
compare the rows.

Each function runs in the open transaction of its caller.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw
from apsw import Connection

from wats.store.sqlite.recent_hashes import RecentHashes

BUCKET_BITS = 14
MERGED_BITS = 18
"""Row ids that are equal without their lowest 14 bits share a bucket, and those that are equal
without their lowest 18 bits share a merged bucket. Part of the schema, like the numbers of buckets:
buckets have even numbers in ascending order; the number of a merged bucket is one above that of its
first bucket."""

_PER_MERGED = 2 << (MERGED_BITS - BUCKET_BITS)
"""The difference between the numbers of consecutive merged buckets."""

_MERGED_HASHES = 1 << 22
"""The range of hashes merged at a time: about 1,000 entries in a bucket of 2^18 messages."""

INDEX_BATCH: Final = 500
"""The number of messages indexed at a time. Large batches share pages; small batches keep commits
short, and the scan of pending messages by readers below a millisecond."""

TIME_TOLERANCE_MS = 600_000
"""By how much the time in a redelivery may exceed the time in the first delivery of a message. One
or two buckets are filled in this time at a hundred million messages a month."""

MAX_READ: Final = 4096
"""The maximum number of indexed messages of other processes that a writer reads for its filter; if
there are more, the filter begins anew."""

_NOTHING: Final = RecentHashes(first=2**62, filter_bits=3)

_FIRST_STEP = 2
_STEP_FACTOR = 4

_MARKS = "SELECT last_row_id, indexed_row_id FROM wats_marks WHERE id = 1"

_ALLOCATE = """
UPDATE wats_marks SET last_row_id = ?, pending_latest_at = max(pending_latest_at, ?) WHERE id = 1
"""

_MESSAGES_AFTER = "SELECT wa_message_hash, row_id FROM wats_messages WHERE row_id > ?"

# The hash of a message may equal the hash of its window.
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
DELETE FROM wats_message_index WHERE row_id = ? AND hash IN (?, ?) AND bucket IN (?, ?)
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
    """The last allocated and the last indexed row id. Row ids are not reused."""

    last: int
    indexed: int


def read_marks(connection: Connection) -> Marks:
    """Read the last allocated and the last indexed row id of all processes."""
    last, indexed = connection.execute(_MARKS).get
    return Marks(last, indexed)


def numbers(values: Iterable[int]) -> "apsw.CArrayBinding":
    """Bind *values*, which must not be empty, as a table for `carray`."""
    return apsw.carray(array("q", values))


class MessageIndex:
    """The pending messages in the memory of one writer, and a filter of the recent ones.

    Call `forget` after a rollback; the next `catch_up` reads the pending messages from the table.

    Attributes:
        hits: The buckets in which most messages of the last statuses were: messages that were sent
            one after the other have statuses one after the other.

    Args:
        batch: The number of messages indexed at a time.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self.hits: Sequence[int] = ()
        self.forget()

    def forget(self) -> None:
        """Drop all messages from memory."""
        self._pending: dict[int, tuple[int, ...]] = {}
        self._seen = Marks(-1, -1)
        self._recent = _NOTHING

    def catch_up(self, connection: Connection) -> int:
        """Index the pending messages if there are enough; read those of other processes.

        Returns:
            The last allocated row id.
        """
        marks = read_marks(connection)
        if marks.last - marks.indexed >= self._batch:
            index_pending(connection)
            marks = Marks(marks.last, marks.last)
        if marks != self._seen:
            self._read(connection, marks)
        return marks.last

    def _read(self, connection: Connection, marks: Marks) -> None:
        """Read the messages of other processes, and forget which indexed messages were pending."""
        seen = self._seen
        if self._recent is _NOTHING or marks.indexed - seen.last > MAX_READ:
            first = marks.indexed + 1 if marks.indexed else 0  # there is no row 0
            self._recent, seen = RecentHashes(first), Marks(marks.indexed, -1)
        after = seen.last
        if marks.indexed != seen.indexed:
            self._pending, after = {}, min(seen.last, marks.indexed)
        rows: list[Any] = connection.execute(_MESSAGES_AFTER, (after,)).fetchall()
        self._recent.add([hash_ for hash_, row_id in rows if row_id > seen.last], marks.last)
        self._add(row for row in rows if row[1] > marks.indexed)
        self._seen = marks

    def allocate(self, connection: Connection, hashes: Sequence[int], latest_at: int) -> None:
        """Allocate the next row ids to messages with *hashes*, which the caller inserts next.

        Call `catch_up` first in the same transaction. *latest_at* is the latest time (ms) in the
        messages, their redeliveries and their windows.
        """
        first = self._seen.last + 1
        last = self._seen.last + len(hashes)
        connection.execute(_ALLOCATE, (last, latest_at))
        self._add(zip(hashes, range(first, last + 1), strict=True))
        self._recent.add(hashes, last)
        self._seen = Marks(last, self._seen.indexed)

    def _add(self, rows: Iterable[tuple[int, int]]) -> None:
        pending = self._pending
        for hash_, row_id in rows:
            pending[hash_] = (*pending.get(hash_, ()), row_id)

    def find_pending(self, hashes: Iterable[int]) -> list[int]:
        """Return the row ids of pending messages with *hashes*; `catch_up` first."""
        pending = self._pending
        return [row_id for hash_ in hashes if hash_ in pending for row_id in pending[hash_]]

    def note_hits(self, row_ids: Iterable[int]) -> None:
        """Note that statuses have just been found to be of the messages *row_ids*."""
        counts = Counter([_buckets_of(row_id)[0] for row_id in row_ids])
        self.hits = [bucket for bucket, _ in counts.most_common(_FIRST_STEP)]

    def find_since(
        self, connection: Connection, hashes: Sequence[int], times: Sequence[int]
    ) -> list[int]:
        """Return the row ids of recorded messages with *hashes*; call `catch_up` first.

        *times* are the times (ms) in the webhooks, one for each hash. A redelivery repeats the time
        of the first delivery, so the bucket of its message has an equal or later `latest_at`. At a
        hundred million messages a month, a writer that has just started searches 2 or 3 buckets for
        a current message. For a redelivery after seven days, 90 to 120 are searched, in about
        0.2 ms. Errors of our own clock have no influence.
        """
        found = self.find_pending(hashes)
        rest = list(zip(times, hashes, strict=True))
        while rest:
            since = max(rest)[0] - TIME_TOLERANCE_MS
            period = [time for time in rest if time[0] >= since]
            buckets = buckets_since(connection, min(period)[0] - TIME_TOLERANCE_MS)
            found += self._search(connection, buckets, sorted([hash_ for _, hash_ in period]))
            rest = [time for time in rest if time[0] < since]
        return found

    def _search(
        self, connection: Connection, buckets: Sequence[int], hashes: Sequence[int]
    ) -> Sequence[int]:
        """Return the row ids of *hashes* in *buckets*, by the filter for buckets that it covers."""
        first = self._recent.first
        covered = [bucket for bucket in buckets if _first_row(bucket) >= first]
        others = [bucket for bucket in buckets if _first_row(bucket) < first]
        return [
            *look_up(connection, others, hashes),
            *look_up(connection, covered, self._recent.select(hashes)),
        ]


def index_pending(connection: Connection) -> None:
    """Add all pending messages to the index."""
    indexed = read_marks(connection).indexed
    connection.execute(_INDEX_PENDING, (indexed, BUCKET_BITS))
    connection.execute(_EXTEND_BUCKETS, (indexed, BUCKET_BITS))
    connection.execute(_MARK_INDEXED)


def look_up(
    connection: Connection, buckets: Collection[int], hashes: Collection[int]
) -> Sequence[int]:
    """Return the row ids of *hashes* in *buckets*, in about 2 us for each bucket and hash."""
    if not buckets or not hashes:
        return ()
    found = connection.execute(_LOOK_UP, (numbers(buckets), numbers(hashes)))
    return [row_id for (row_id,) in found]


def buckets_since(connection: Connection, since: int) -> Sequence[int]:
    """Return the buckets with messages at or after *since* (ms)."""
    return [bucket for (bucket,) in connection.execute(_BUCKETS_SINCE, (since,))]


def buckets_with_sent(connection: Connection) -> Iterator[Sequence[int]]:
    """Yield the buckets with sent messages, from the last to the first, in growing steps."""
    before, count = 2**62, _FIRST_STEP
    while True:
        rows = connection.execute(_BUCKETS_BEFORE, (before, count))
        buckets = [bucket for (bucket,) in rows]
        if not buckets:
            return
        yield buckets
        before, count = buckets[-1], count * _STEP_FACTOR


def remove(connection: Connection, deleted: Iterable[tuple[int, int, int | None]]) -> None:
    """Remove the messages *deleted*: their row ids, and both hashes of each."""
    rows = [(*row, *_buckets_of(row[0])) for row in deleted]
    connection.executemany(_REMOVE, rows)
    _remove_empty(connection, {bucket for row in rows for bucket in row[3:]})


def _buckets_of(row_id: int) -> tuple[int, int]:
    """Return the bucket and the merged bucket of the message *row_id*."""
    return (row_id >> BUCKET_BITS) * 2, (row_id >> MERGED_BITS) * _PER_MERGED + 1


def _first_row(bucket: int) -> int:
    """Return the first row id of *bucket*, which may be merged."""
    return (bucket >> 1) << BUCKET_BITS


def _remove_empty(connection: Connection, buckets: Iterable[int]) -> None:
    connection.executemany(_REMOVE_EMPTY_BUCKET, [(bucket,) for bucket in buckets])


def merge(connection: Connection) -> int:
    """Move one range of hashes from sixteen complete buckets to their merged bucket.

    Returns:
        The number of changed rows; 0 when nothing is left to merge.
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
