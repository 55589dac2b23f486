"""Messages and the windows that they open, in SQL.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from apsw import Connection

from wats.clock import from_ms, to_ms
from wats.privacy import short_fingerprint
from wats.store.records import (
    Arrival,
    Direction,
    MessagePage,
    MessageRecord,
    WindowRecord,
    message_of,
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
    row_id, wa_message_hash, window_hash, opened_at, phone_number_id, wa_message_id, direction,
    from_phone, to_phone, type, status, graph_message_id, created_at, updated_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_MOVE_WINDOW = """
INSERT INTO wats_windows (digest, last_inbound_at) VALUES (?, ?)
ON CONFLICT (digest) DO UPDATE SET last_inbound_at = excluded.last_inbound_at
WHERE excluded.last_inbound_at > last_inbound_at
"""

_PAGE = """
SELECT row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
FROM wats_messages
WHERE row_id < ?
ORDER BY row_id DESC
LIMIT ?
"""

_LAST_ROW_ID = "SELECT coalesce(max(row_id), 0) FROM wats_messages"

_PENDING_MESSAGE = """
SELECT row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
FROM wats_messages
WHERE row_id > (SELECT indexed_row_id FROM wats_marks WHERE id = 1)
    AND wa_message_hash = ? AND wa_message_id = ?
ORDER BY row_id DESC
LIMIT 1
"""

_INDEXED_MESSAGE = """
SELECT m.row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
FROM wats_message_buckets
CROSS JOIN wats_message_index AS i ON i.bucket = wats_message_buckets.bucket AND i.hash = ?
CROSS JOIN wats_messages AS m ON m.row_id = i.row_id
WHERE wa_message_id = ?
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

OLD_MESSAGES = """
SELECT row_id, created_at < ?1, updated_at < ?1
FROM wats_messages
WHERE row_id > ?2
ORDER BY row_id
LIMIT ?3
"""
"""For a `Walk`. A message that was touched later has to stay, and does not end the walk."""

_PURGE = "DELETE FROM wats_messages WHERE row_id = ? AND updated_at < ?"

_OLD_WINDOWS = "SELECT digest FROM wats_windows WHERE last_inbound_at < ? LIMIT ?"

_PURGE_WINDOW = "DELETE FROM wats_windows WHERE digest = ? AND last_inbound_at < ?"

_Identity: TypeAlias = tuple[str, str, str]
"""The phone_number_id, wa_message_id and direction of a message."""


class _New(NamedTuple):
    """A message to insert, and the time (ms) by which a redelivery is looked up."""

    record: MessageRecord
    stated_at: int
    window: WindowRecord | None = None


def project(writer: Writer, arrivals: Sequence[Arrival]) -> Sequence[datetime | None]:
    """Record the messages, statuses and windows of new *arrivals*.

    Returns:
        For each arrival that reports that a message was delivered: when that message
        was recorded as sent. `None` for all others, and for messages that are not recorded.
    """
    new: list[_New] = []
    windows: list[WindowRecord] = []
    for arrival in arrivals:
        message, window = arrival.message, arrival.window
        if window is not None and (message is None or not _is_opened_by(window, message)):
            windows.append(window)
            window = None
        if message is not None:
            new.append(_New(message, to_ms(arrival.occurred_at), window))
    _insert(writer, new)
    writer.executemany(_MOVE_WINDOW, map(_window_row, windows))
    sent = statuses.record(writer, [a.status for a in arrivals if a.status is not None])
    return [_sent_at(arrival, sent) for arrival in arrivals]


def _is_opened_by(window: WindowRecord, message: MessageRecord) -> bool:
    return (
        window.customer == message.from_phone and window.phone_number_id == message.phone_number_id
    )


def _sent_at(arrival: Arrival, sent: Mapping[statuses.MessageKey, int]) -> datetime | None:
    status = arrival.status
    if status is None or status.status != "delivered":
        return None
    created_at = sent.get((status.phone_number_id, status.wa_message_id))
    return None if created_at is None else from_ms(created_at)


def unknown(
    writer: Writer, numbered: Sequence[tuple[int, Arrival]]
) -> Sequence[tuple[int, Arrival]]:
    """Return those of *numbered* without a message, or whose message is not recorded yet.

    Of several with the same message only the first is returned.
    """
    firsts: dict[_Identity, tuple[int, int]] = {}
    for number, arrival in numbered:
        if arrival.message is not None:
            stated_at = to_ms(arrival.occurred_at)
            firsts.setdefault(_identity(arrival.message), (number, stated_at))
    known = _known(writer, {each: at for each, (_, at) in firsts.items()})
    new = {number for identity, (number, _) in firsts.items() if identity not in known}
    return [each for each in numbered if each[1].message is None or each[0] in new]


def _known(writer: Writer, times: Mapping[_Identity, int]) -> Collection[_Identity]:
    """Return identities of recorded messages, all those of *times* among them."""
    if not times:
        return ()
    index = writer.message_index
    index.catch_up(writer)
    row_ids = index.find_since(
        writer, [(short_fingerprint(identity[1]), at) for identity, at in times.items()]
    )
    if not row_ids:
        return ()
    return set(writer.execute(_IDENTITIES, (numbers(row_ids),)))


def record(writer: Writer, records: Sequence[MessageRecord]) -> Sequence[None]:
    """Insert those of *records* that are not recorded yet, and adopt their early statuses."""
    firsts: dict[_Identity, _New] = {}
    for message in records:
        new = _New(message, to_ms(message.created_at))
        firsts.setdefault(_identity(message), new)
    known = _known(writer, {each: new.stated_at for each, new in firsts.items()})
    _insert(writer, [new for identity, new in firsts.items() if identity not in known])
    return [None] * len(records)


def _identity(message: MessageRecord) -> _Identity:
    return message.phone_number_id, message.wa_message_id, message.direction.value


def _insert(writer: Writer, messages: Sequence[_New]) -> None:
    """Insert *messages*, of which none is recorded, with the early statuses of those sent."""
    if not messages:
        return
    hashes = [short_fingerprint(each.record.wa_message_id) for each in messages]
    first = writer.message_index.allocate(writer, hashes, _latest_at(messages))
    rows = list(map(_row, count(first), hashes, messages))
    writer.executemany(_INSERT, rows)
    sent = {
        (record.phone_number_id, record.wa_message_id): statuses.SentMessage(
            row_id=row_id,
            status=record.status,
            created_at=to_ms(record.created_at),
            updated_at=to_ms(record.updated_at),
        )
        for row_id, (record, _, _) in enumerate(messages, first)
        if record.direction is Direction.OUTBOUND
    }
    statuses.adopt(writer, sent)


def _latest_at(messages: Sequence[_New]) -> int:
    """Return the latest time (ms) of *messages* and their windows."""
    moments = [each.record.created_at for each in messages]
    moments += [each.window.last_inbound_at for each in messages if each.window is not None]
    return max(to_ms(max(moments)), *[each.stated_at for each in messages])


def _row(row_id: int, hash_: int, new: _New) -> tuple[object, ...]:
    record, _, window = new
    created_at = to_ms(record.created_at)
    updated_at = created_at if record.updated_at is record.created_at else to_ms(record.updated_at)
    window_hash = opened_at = None
    if window is not None:
        window_hash = _window_hash(window.phone_number_id, window.customer)
        opened_at = to_ms(window.last_inbound_at)
    return (
        row_id,
        hash_,
        window_hash,
        opened_at,
        record.phone_number_id,
        record.wa_message_id,
        record.direction,
        record.from_phone,
        record.to_phone,
        record.type,
        record.status,
        record.graph_message_id,
        created_at,
        updated_at,
    )


def _window_hash(phone_number_id: str, customer: str) -> int:
    return short_fingerprint(f"{phone_number_id} {customer}")


def _window_row(record: WindowRecord) -> tuple[int, int]:
    digest = window_digest(record.phone_number_id, record.customer)
    return digest, to_ms(record.last_inbound_at)


def page(connection: Connection, limit: int, cursor: str | None) -> MessagePage:
    """Read the messages before *cursor*, and one more to know whether there is a next page."""
    last_row_id: int = connection.execute(_LAST_ROW_ID).get
    before = last_row_id + 1 if cursor is None else row_id_of(cursor, last_row_id)
    rows: list[Any] = connection.execute(_PAGE, (before, limit + 1)).fetchall()
    items = tuple(message_of(row) for row in rows[:limit])
    next_cursor = items[-1].row_id if len(rows) > limit else None
    return MessagePage(items=items, next_cursor=next_cursor)


def get(connection: Connection, wa_message_id: str) -> MessageRecord | None:
    """Read the message with this id; of several, the last recorded.

    The search ends at the bucket of the message: at once for a recent one, after all buckets if
    there is none. A bucket takes 2 to 5 us: 0.1 to 0.2 ms for five million messages.
    """
    values = short_fingerprint(wa_message_id), wa_message_id
    # The pending messages first: they can become indexed between the two statements.
    for statement in (_PENDING_MESSAGE, _INDEXED_MESSAGE):
        row = connection.execute(statement, values).fetchone()
        if row is not None:
            return message_of(row)
    return None


def last_inbound_at(connection: Connection, phone_number_id: str, customer: str) -> datetime | None:
    """Read when *customer* last opened a window with this number.

    The search ends with the first bucket whose messages are all older than the window; it takes as
    long as that of `get`.
    """
    values = _window_hash(phone_number_id, customer), phone_number_id, customer
    digest = window_digest(phone_number_id, customer)
    # The pending messages first: they can become indexed between the two statements.
    found: int | None = connection.execute(_LATEST_WINDOW, (*values, digest)).get
    for latest_at, opened_at in connection.execute(_INDEXED_WINDOWS, values):
        if found is not None and found >= latest_at:
            break
        found = opened_at if found is None else max(found, opened_at)
    return None if found is None else from_ms(found)


def old_windows(connection: Connection, before: datetime, limit: int) -> Sequence[int]:
    """Look for windows not opened since *before*, among all of them."""
    return [digest for (digest,) in connection.execute(_OLD_WINDOWS, (to_ms(before), limit))]


def purge(connection: Connection, row_ids: Sequence[int], before: datetime) -> int:
    """Delete those messages of *row_ids* that were still not touched since *before*."""
    before_ms = to_ms(before)
    message_index.remove(connection, row_ids, before_ms)
    return change(connection, _PURGE, [(row_id, before_ms) for row_id in row_ids])


def purge_windows(connection: Connection, digests: Sequence[int], before: datetime) -> int:
    """Delete those of the windows *digests* that were still not opened since *before*."""
    return change(connection, _PURGE_WINDOW, [(digest, to_ms(before)) for digest in digests])
