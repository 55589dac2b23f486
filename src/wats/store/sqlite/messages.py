"""Messages and the windows that they open, in SQL.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from apsw import Connection

from wats.clock import EPOCH, from_ms, to_ms
from wats.privacy import short_fingerprint
from wats.store.person import names_only
from wats.store.records import (
    ALL_MESSAGES,
    Arrival,
    Direction,
    MessageFilter,
    MessagePage,
    MessageRecord,
    WindowRecord,
    message_of,
    page_of,
    row_id_of,
    window_digest,
)
from wats.store.sqlite import message_index, statuses
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.message_index import numbers

_IDENTITIES = """
SELECT phone_number_id, wa_message_id, direction
FROM carray(?) CROSS JOIN wats_messages ON row_id = value
"""

_INSERT = """
INSERT INTO wats_messages (
    row_id, wa_message_hash, window_hash, opened_at, created_at, updated_at, phone_number_id,
    wa_message_id, direction, status, type, from_phone, to_phone, graph_message_id
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_ADD_NUMBER = "INSERT OR IGNORE INTO wats_numbers (phone_number_id) VALUES (?)"

_MOVE_WINDOW = """
INSERT INTO wats_windows (digest, last_inbound_at) VALUES (?, ?)
ON CONFLICT (digest) DO UPDATE SET last_inbound_at = excluded.last_inbound_at
WHERE excluded.last_inbound_at > last_inbound_at
"""

_COLUMNS = """m.row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type,
    status, graph_message_id, created_at, updated_at"""
"""The columns of `message_of`."""

_PAGE = f"""
SELECT {_COLUMNS}
FROM wats_messages AS m
WHERE row_id < ?
ORDER BY row_id DESC
LIMIT ?
"""

_LAST_ROW_ID = "SELECT coalesce(max(row_id), 0) FROM wats_messages"

_PENDING_MESSAGE = f"""
SELECT {_COLUMNS}
FROM wats_messages AS m
WHERE row_id > (SELECT indexed_row_id FROM wats_marks WHERE id = 1)
    AND wa_message_hash = ?1 AND wa_message_id = ?2
    AND (?3 IS NULL OR phone_number_id = ?3)
ORDER BY row_id DESC
LIMIT 1
"""

_INDEXED_MESSAGE = f"""
SELECT {_COLUMNS}
FROM wats_message_buckets
CROSS JOIN wats_message_index AS i ON i.bucket = wats_message_buckets.bucket AND i.hash = ?1
CROSS JOIN wats_messages AS m ON m.row_id = i.row_id
WHERE wa_message_id = ?2 AND (?3 IS NULL OR phone_number_id = ?3)
ORDER BY wats_message_buckets.bucket DESC, i.row_id DESC
LIMIT 1
"""

_LATEST_WINDOW = """
SELECT max(at) FROM (
    SELECT last_inbound_at AS at FROM wats_windows WHERE digest = ?4
    UNION ALL
    SELECT opened_at FROM wats_messages
    WHERE row_id > (SELECT indexed_row_id FROM wats_marks WHERE id = 1)
        AND window_hash = ?1 AND phone_number_id = ?2 AND from_phone = ?3
)
"""

_INDEXED_WINDOWS = """
SELECT latest_at, m.opened_at
FROM wats_message_buckets
CROSS JOIN wats_message_index AS i ON i.bucket = wats_message_buckets.bucket AND i.hash = ?
CROSS JOIN wats_messages AS m ON m.row_id = i.row_id
WHERE m.window_hash = i.hash AND m.phone_number_id = ? AND m.from_phone = ?
ORDER BY latest_at DESC
"""

CAN_GO = f"""
updated_at < ?2 AND NOT EXISTS (
    SELECT 1 FROM wats_statuses
    WHERE id {statuses.ids_of("row_id")} AND occurred_at >= ?2
)
"""
"""For a `Walk`. Without its message, a status would not be recognized."""

_DELETE = """
DELETE FROM wats_messages WHERE row_id = ?1 AND {}
RETURNING row_id, wa_message_hash, window_hash
"""

_OLD_WINDOWS = "SELECT digest FROM wats_windows WHERE last_inbound_at < ? LIMIT ?"

_PURGE_WINDOW = "DELETE FROM wats_windows WHERE digest = ? AND last_inbound_at < ?"

_Row: TypeAlias = tuple[Any, ...]
"""The values of `_INSERT`."""

_HASH, _OPENED_AT, _CREATED_AT, _UPDATED_AT, _DIRECTION, _STATUS = 1, 3, 4, 5, 8, 9
_NUMBER = 6
_KEY, _IDENTITY = slice(6, 8), slice(6, 9)
"""The columns phone_number_id and wa_message_id, without and with the direction."""


def receive(writer: Writer, arrivals: Sequence[Arrival]) -> Collection[int]:
    """Record the messages of *arrivals*, with the windows that they open.

    Returns:
        The positions of the arrivals whose message is already recorded, or repeated in *arrivals*.
    """
    found = [(n, each, each.message) for n, each in enumerate(arrivals) if each.message is not None]
    if not found:
        return ()
    first = writer.message_index.catch_up(writer) + 1
    times = [to_ms(arrival.occurred_at) for _, arrival, _ in found]
    rows = [
        _row(first + place, message, _own_window(arrival), arrival.occurred_at, times[place])
        for place, (_, arrival, message) in enumerate(found)
    ]
    return [found[place][0] for place in _insert(writer, rows, times)]


def record(writer: Writer, records: Sequence[MessageRecord]) -> Sequence[None]:
    """Insert the new messages of *records*, and adopt their early statuses."""
    first = writer.message_index.catch_up(writer) + 1
    rows = [_row(row_id, each, None, EPOCH, 0) for row_id, each in enumerate(records, first)]
    if rows:
        _insert(writer, rows, [row[_CREATED_AT] for row in rows])
    return [None] * len(records)


def _own_window(arrival: Arrival) -> WindowRecord | None:
    """Return the window of *arrival* if it can be stored in the row of its message."""
    message, window = arrival.message, arrival.window
    if (
        message is None
        or window is None
        or window.customer != message.from_phone
        or window.phone_number_id != message.phone_number_id
    ):
        return None
    return window


def _row(
    row_id: int, message: MessageRecord, window: WindowRecord | None, moment: datetime, at: int
) -> _Row:
    """Return the row of *message*; *at* is *moment* in milliseconds, usually that of *window*."""
    created_at = to_ms(message.created_at)
    opened_at = None
    if window is None:
        person_hash = _customer_hash(message)
    else:
        person_hash = window_hash(window.phone_number_id, window.customer)
        opened_at = at if window.last_inbound_at is moment else to_ms(window.last_inbound_at)
    return (
        row_id,
        short_fingerprint(message.wa_message_id),
        person_hash,
        opened_at,
        created_at,
        created_at if message.updated_at is message.created_at else to_ms(message.updated_at),
        message.phone_number_id,
        message.wa_message_id,
        message.direction,
        message.status,
        message.type,
        message.from_phone,
        message.to_phone,
        message.graph_message_id,
    )


def _insert(writer: Writer, rows: Sequence[_Row], times: Sequence[int]) -> Collection[int]:
    """Insert the new messages of *rows*, and adopt their early statuses.

    The rows are numbered from the next row id. *times* are the times (ms) in their webhooks.

    Returns:
        The positions of the other rows.
    """
    hashes = [row[_HASH] for row in rows]
    known = _known(writer, rows, hashes, times)
    if known:
        unknown = [row[1:] for n, row in enumerate(rows) if n not in known]
        rows = [(row_id, *row) for row_id, row in enumerate(unknown, rows[0][0])]
        hashes = [row[_HASH] for row in rows]
    if rows:
        created_at = [row[_CREATED_AT] for row in rows]
        opened_at = [row[_OPENED_AT] or 0 for row in rows]
        latest_at = max(*times, *created_at, *opened_at)
        writer.message_index.allocate(writer, hashes, latest_at)
        writer.executemany(_INSERT, rows)
        writer.executemany(_ADD_NUMBER, {(row[_NUMBER],) for row in rows})
        if sent := _sent(rows):
            statuses.adopt(writer, sent)
    return known


def _known(
    writer: Writer, rows: Sequence[_Row], hashes: Sequence[int], times: Sequence[int]
) -> Collection[int]:
    """Return the positions of *rows* whose message is recorded, or is in a previous row."""
    row_ids = writer.message_index.find_since(writer, hashes, times)
    if not row_ids and len(set(hashes)) == len(hashes):
        return ()
    seen = set(writer.execute(_IDENTITIES, (numbers(row_ids),))) if row_ids else set()
    known = set()
    for n, row in enumerate(rows):
        identity = row[_IDENTITY]
        if identity in seen:
            known.add(n)
        seen.add(identity)
    return known


def _sent(rows: Sequence[_Row]) -> Mapping[statuses.MessageKey, statuses.SentMessage]:
    outbound = Direction.OUTBOUND
    sent = [row for row in rows if row[_DIRECTION] is outbound]
    return {
        row[_KEY]: statuses.SentMessage(row[0], row[_STATUS], row[_CREATED_AT], row[_UPDATED_AT])
        for row in sent
    }


def move_windows(writer: Writer, arrivals: Sequence[Arrival]) -> None:
    """Move forward the windows of *arrivals* that are not stored in rows of messages."""
    rows = [
        (window_digest(window.phone_number_id, window.customer), to_ms(window.last_inbound_at))
        for each in arrivals
        if (window := each.window) is not None and _own_window(each) is None
    ]
    if rows:
        writer.executemany(_MOVE_WINDOW, rows)


def window_hash(phone_number_id: str, customer: str) -> int:
    """Return the hash of messages that opened the window of *customer* with this number."""
    return short_fingerprint(f"{phone_number_id} {customer}")


def person_hash(phone_number_id: str, customer: str) -> int:
    """Return the hash of the other messages of *customer*, which no look-up of a window reads."""
    return short_fingerprint(f"{phone_number_id}/{customer.removeprefix('+')}")


def _customer_hash(message: MessageRecord) -> int | None:
    """Return the hash of the customer; `None` if *message* may name several persons.

    An erasure finds a message with a hash by its hash alone, and searches all other messages.
    """
    sender, recipient = message.from_phone, message.to_phone
    if (sender is None) is (recipient is None):
        return None
    customer = sender or recipient or ""
    if not names_only(message.wa_message_id, customer):
        return None
    return person_hash(message.phone_number_id, customer)


def page(
    connection: Connection,
    limit: int,
    cursor: str | None,
    wanted: MessageFilter = ALL_MESSAGES,
) -> MessagePage:
    """Read the *wanted* messages before *cursor*, and one row more to detect a next page."""
    last_row_id: int = connection.execute(_LAST_ROW_ID).get
    before = last_row_id + 1 if cursor is None else row_id_of(cursor, last_row_id)
    rows = connection.execute(_PAGE, (before, (wanted.rows or limit) + 1))
    return page_of([message_of(row) for row in rows], limit, wanted)


def get(
    connection: Connection, wa_message_id: str, phone_number_id: str | None = None
) -> MessageRecord | None:
    """Read the last recorded message with this id, of this or any number.

    The search starts at the latest bucket and ends at the bucket of the message. For an id without
    a message it reads all buckets, 2 to 5 us each: 0.1 to 0.2 ms for five million messages.
    """
    values = short_fingerprint(wa_message_id), wa_message_id, phone_number_id
    # Pending messages first: they may be indexed between the two statements.
    for statement in (_PENDING_MESSAGE, _INDEXED_MESSAGE):
        row = connection.execute(statement, values).fetchone()
        if row is not None:
            return message_of(row)
    return None


def last_inbound_at(connection: Connection, phone_number_id: str, customer: str) -> datetime | None:
    """Read when *customer* last opened a window with this number.

    The search ends at the first bucket whose messages are all older than the window. Its cost is
    that of `get`.
    """
    values = window_hash(phone_number_id, customer), phone_number_id, customer
    digest = window_digest(phone_number_id, customer)
    # Pending messages first: they may be indexed between the two statements.
    found: int | None = connection.execute(_LATEST_WINDOW, (*values, digest)).get
    for latest_at, opened_at in connection.execute(_INDEXED_WINDOWS, values):
        if found is not None and found >= latest_at:
            break
        found = opened_at if found is None else max(found, opened_at)
    return None if found is None else from_ms(found)


def old_windows(connection: Connection, before: datetime, limit: int) -> Sequence[int]:
    """Find windows that have not been opened since *before*, by scanning all windows."""
    return [digest for (digest,) in connection.execute(_OLD_WINDOWS, (to_ms(before), limit))]


def purge(connection: Connection, row_ids: Sequence[int], before: datetime) -> int:
    """Delete the messages of *row_ids* that have not been updated since *before*."""
    before_ms = to_ms(before)
    return _delete(connection, CAN_GO, [(row_id, before_ms) for row_id in row_ids])


def delete(connection: Connection, row_ids: Sequence[int]) -> None:
    """Delete the messages of *row_ids*."""
    _delete(connection, "true", [(row_id,) for row_id in row_ids])


def _delete(connection: Connection, condition: str, rows: Sequence[_Row]) -> int:
    deleted: list[Any] = connection.executemany(_DELETE.format(condition), rows).fetchall()
    message_index.remove(connection, deleted)
    return len(deleted)


def purge_windows(connection: Connection, digests: Sequence[int], before: datetime) -> int:
    """Delete the windows of *digests* that have not been opened since *before*."""
    return change(connection, _PURGE_WINDOW, [(digest, to_ms(before)) for digest in digests])
