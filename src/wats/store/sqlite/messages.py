"""Messages, their statuses and the windows that they open, in SQL.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from sqlite3 import Connection

from wats.clock import from_ms, to_ms
from wats.store.records import (
    STATUS_RANK,
    Arrival,
    Direction,
    MessagePage,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)

_UNRANKED = -1

_INSERT_MESSAGE = """
INSERT INTO wats_messages (
    phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status, status_rank,
    graph_message_id, created_at, updated_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (wa_message_id, phone_number_id, direction) DO NOTHING
"""

_INSERT_STATUS = """
INSERT INTO wats_statuses (
    phone_number_id, wa_message_id, status, participant, error_code, occurred_at
)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (wa_message_id, phone_number_id, status, participant, occurred_at) DO NOTHING
"""

_ADVANCE = """
UPDATE wats_messages SET status = ?, status_rank = ?, updated_at = max(updated_at, ?)
WHERE phone_number_id = ? AND wa_message_id = ? AND direction = 'outbound' AND status_rank < ?
"""

_WAITING_STATUSES = """
SELECT status, occurred_at FROM wats_statuses
WHERE phone_number_id = ? AND wa_message_id = ?
ORDER BY id
"""

_MOVE_WINDOW = """
INSERT INTO wats_windows (phone_number_id, customer, last_inbound_at) VALUES (?, ?, ?)
ON CONFLICT (phone_number_id, customer) DO UPDATE SET last_inbound_at = excluded.last_inbound_at
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

_MESSAGE = """
SELECT row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
FROM wats_messages
WHERE wa_message_id = ?
ORDER BY row_id DESC
LIMIT 1
"""

_STATUSES = """
SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at
FROM wats_statuses
WHERE wa_message_id = ?
ORDER BY id
"""

_WINDOW = """
SELECT last_inbound_at FROM wats_windows WHERE phone_number_id = ? AND customer = ?
"""

_PURGE_MESSAGES = """
DELETE FROM wats_messages
WHERE row_id IN (SELECT row_id FROM wats_messages WHERE updated_at < ? LIMIT ?)
"""

_PURGE_STATUSES = """
DELETE FROM wats_statuses
WHERE id IN (SELECT id FROM wats_statuses WHERE occurred_at < ? LIMIT ?)
"""

_OLD_WINDOWS = """
SELECT phone_number_id, customer FROM wats_windows WHERE last_inbound_at < ? LIMIT ?
"""

_PURGE_WINDOW = """
DELETE FROM wats_windows WHERE phone_number_id = ? AND customer = ? AND last_inbound_at < ?
"""


def project(connection: Connection, arrivals: Sequence[Arrival]) -> None:
    """Write what *arrivals* say about messages, statuses and windows."""
    record(connection, [a.message for a in arrivals if a.message is not None])
    _record_statuses(connection, [a.status for a in arrivals if a.status is not None])
    _move_windows(connection, [a.window for a in arrivals if a.window is not None])


def record(connection: Connection, records: Sequence[MessageRecord]) -> None:
    """Insert *records* that are not known yet, with the statuses that came before them."""
    connection.executemany(_INSERT_MESSAGE, [_message_row(record) for record in records])
    for message in records:
        if message.direction is Direction.OUTBOUND:
            identity = message.phone_number_id, message.wa_message_id
            waiting = connection.execute(_WAITING_STATUSES, identity).fetchall()
            _advance(connection, [(*identity, status, at) for status, at in waiting])


def _advance(connection: Connection, transitions: Iterable[tuple[str, str, str, int]]) -> None:
    connection.executemany(
        _ADVANCE,
        [
            (status, rank, occurred_at, phone_number_id, wa_message_id, rank)
            for phone_number_id, wa_message_id, status, occurred_at in transitions
            for rank in (_rank(status),)
        ],
    )


def _message_row(record: MessageRecord) -> tuple[object, ...]:
    created_at = to_ms(record.created_at)
    updated_at = created_at if record.updated_at is record.created_at else to_ms(record.updated_at)
    return (
        record.phone_number_id,
        record.wa_message_id,
        record.direction.value,
        record.from_phone,
        record.to_phone,
        record.type,
        record.status,
        _rank(record.status),
        record.graph_message_id,
        created_at,
        updated_at,
    )


def _rank(status: str) -> int:
    return STATUS_RANK.get(status, _UNRANKED)


def _record_statuses(connection: Connection, records: Sequence[StatusRecord]) -> None:
    rows = [
        (
            record.phone_number_id,
            record.wa_message_id,
            record.status,
            record.participant,
            record.error_code,
            to_ms(record.occurred_at),
        )
        for record in records
    ]
    connection.executemany(_INSERT_STATUS, rows)
    _advance(connection, [(*row[:3], row[5]) for row in rows])


def _move_windows(connection: Connection, records: Sequence[WindowRecord]) -> None:
    connection.executemany(
        _MOVE_WINDOW,
        [(r.phone_number_id, r.customer, to_ms(r.last_inbound_at)) for r in records],
    )


def page(connection: Connection, limit: int, cursor: str | None) -> MessagePage:
    """Read the messages before *cursor*, and one more to know whether there is a next page."""
    (last_row_id,) = connection.execute(_LAST_ROW_ID).fetchone()
    before = last_row_id + 1 if cursor is None else _row_id_of(cursor, last_row_id)
    rows = connection.execute(_PAGE, (before, limit + 1)).fetchall()
    items = tuple(_message_of(row) for row in rows[:limit])
    next_cursor = items[-1].row_id if len(rows) > limit else None
    return MessagePage(items=items, next_cursor=next_cursor)


def _row_id_of(cursor: str, last_row_id: int) -> int:
    # Longer than any row id, so that no int() is asked to read a million digits.
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        return 0
    row_id = int(cursor)
    return row_id if row_id <= last_row_id else 0


def _message_of(row: tuple[int, str, str, str, str, str, str, str, str, int, int]) -> MessageRecord:
    return MessageRecord(
        row_id=str(row[0]),
        phone_number_id=row[1],
        wa_message_id=row[2],
        direction=Direction(row[3]),
        from_phone=row[4],
        to_phone=row[5],
        type=row[6],
        status=row[7],
        graph_message_id=row[8],
        created_at=from_ms(row[9]),
        updated_at=from_ms(row[10]),
    )


def get(connection: Connection, wa_message_id: str) -> MessageRecord | None:
    """Read the message with this id; of several, the last recorded."""
    row = connection.execute(_MESSAGE, (wa_message_id,)).fetchone()
    return None if row is None else _message_of(row)


def statuses(connection: Connection, wa_message_id: str) -> Sequence[StatusRecord]:
    """Read the history of this message."""
    return [
        StatusRecord(
            phone_number_id=phone_number_id,
            wa_message_id=wamid,
            status=status,
            participant=participant,
            error_code=error_code,
            occurred_at=from_ms(occurred_at),
        )
        for phone_number_id, wamid, status, participant, error_code, occurred_at in (
            connection.execute(_STATUSES, (wa_message_id,))
        )
    ]


def last_inbound_at(connection: Connection, phone_number_id: str, customer: str) -> datetime | None:
    """Read when *customer* last opened a window with this number."""
    row = connection.execute(_WINDOW, (phone_number_id, customer)).fetchone()
    return None if row is None else from_ms(row[0])


def purge(connection: Connection, before: datetime, limit: int) -> int:
    """Delete messages and statuses not touched since *before*."""
    bounds = to_ms(before), limit
    return sum(
        connection.execute(statement, bounds).rowcount
        for statement in (_PURGE_MESSAGES, _PURGE_STATUSES)
    )


def old_windows(
    connection: Connection, *, before: datetime, limit: int
) -> Sequence[tuple[str, str]]:
    """Look for windows not opened since *before*.

    They have no index by time, which every message would have to be written to.
    """
    return connection.execute(_OLD_WINDOWS, (to_ms(before), limit)).fetchall()


def purge_windows(
    connection: Connection, windows: Sequence[tuple[str, str]], before: datetime
) -> int:
    """Delete those of *windows* that were still not opened since *before*."""
    before_ms = to_ms(before)
    rows = [(*window, before_ms) for window in windows]
    return connection.executemany(_PURGE_WINDOW, rows).rowcount
