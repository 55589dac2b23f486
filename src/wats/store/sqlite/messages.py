"""Messages, their statuses and the windows that they open, in SQL.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import count
from typing import Any, TypeAlias

from apsw import Connection

from wats.clock import from_ms, to_ms
from wats.privacy import fingerprint, short_fingerprint
from wats.store.records import (
    STATUS_RANK,
    Arrival,
    Direction,
    MessagePage,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import recent
from wats.store.sqlite.connection import change
from wats.store.sqlite.recent import LAST_GATHERED, MAY_BE_KNOWN, ROW_IDS

_UNRANKED = -1

_IS_MESSAGE_KNOWN = f"""
SELECT EXISTS (
    SELECT 1 FROM wats_messages
    WHERE row_id IN {ROW_IDS} AND wa_message_id = ?2 AND phone_number_id = ?3 AND direction = ?4
)
"""

_INSERT_MESSAGE = """
INSERT INTO wats_messages (
    row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    status_rank, graph_message_id, created_at, updated_at, wa_message_hash, window, opened_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_IS_STATUS_KNOWN = """
SELECT EXISTS (
    SELECT 1 FROM wats_statuses
    WHERE wa_message_hash = ? AND wa_message_id = ? AND phone_number_id = ?
        AND status = ? AND participant = ? AND occurred_at = ?
)
"""

_INSERT_STATUS = """
INSERT INTO wats_statuses (
    phone_number_id, wa_message_id, status, participant, error_code, occurred_at, wa_message_hash
)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_ADVANCE = f"""
UPDATE wats_messages SET status = ?4, status_rank = ?5, updated_at = max(updated_at, ?6)
WHERE row_id IN {ROW_IDS} AND phone_number_id = ?2 AND wa_message_id = ?3
    AND direction = 'outbound' AND status_rank < ?5
"""

_WAITING_STATUSES = """
SELECT status, occurred_at FROM wats_statuses
WHERE wa_message_hash = ? AND phone_number_id = ? AND wa_message_id = ?
ORDER BY id
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

_MESSAGE = f"""
SELECT row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
FROM wats_messages
WHERE wa_message_id = ?2 AND row_id IN (
    SELECT row_id FROM wats_message_ids WHERE hash = ?1
    UNION ALL
    SELECT row_id FROM wats_messages WHERE row_id > {LAST_GATHERED} AND wa_message_hash = ?1
)
ORDER BY row_id DESC
LIMIT 1
"""

_SENT_AT = f"""
SELECT created_at FROM wats_messages
WHERE row_id IN {ROW_IDS} AND phone_number_id = ?2 AND wa_message_id = ?3
    AND direction = 'outbound'
"""

_STATUSES = """
SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at
FROM wats_statuses
WHERE wa_message_hash = ? AND wa_message_id = ?
ORDER BY id
"""

_WINDOW = f"""
SELECT max(at) FROM (
    SELECT last_inbound_at AS at FROM wats_windows WHERE digest = ?1
    UNION ALL
    SELECT opened_at FROM wats_messages WHERE row_id > {LAST_GATHERED} AND window = ?1
)
"""

OLD_MESSAGES = """
SELECT row_id, created_at < ?1, updated_at < ?1
FROM wats_messages
WHERE row_id > ?2
ORDER BY row_id
LIMIT ?3
"""
"""For a `Walk`. One that was touched later has to stay, and does not end the walk."""

_FORGET_ID = """
DELETE FROM wats_message_ids WHERE row_id = ?1 AND hash = (
    SELECT wa_message_hash FROM wats_messages WHERE row_id = ?1 AND updated_at < ?2
)
"""

_PURGE_MESSAGE = "DELETE FROM wats_messages WHERE row_id = ? AND updated_at < ?"

OLD_STATUSES = """
SELECT id, occurred_at < ?1, occurred_at < ?1 FROM wats_statuses
WHERE id > ?2
ORDER BY id
LIMIT ?3
"""
"""For a `Walk`."""

_PURGE_STATUS = "DELETE FROM wats_statuses WHERE id = ? AND occurred_at < ?"

_OLD_WINDOWS = "SELECT digest FROM wats_windows WHERE last_inbound_at < ? LIMIT ?"

_PURGE_WINDOW = "DELETE FROM wats_windows WHERE digest = ? AND last_inbound_at < ?"


_Row: TypeAlias = tuple[Any, ...]


def project(connection: Connection, arrivals: Sequence[Arrival]) -> None:
    """Write what *arrivals* say about messages, statuses and windows."""
    _insert(connection, [(a.message, a.window) for a in arrivals if a.message is not None])
    _record_statuses(connection, [a.status for a in arrivals if a.status is not None])
    windows = [a.window for a in arrivals if a.window is not None and a.message is None]
    connection.executemany(_MOVE_WINDOW, map(_window_row, windows))


def unknown(
    connection: Connection, numbered: Sequence[tuple[int, Arrival]]
) -> Sequence[tuple[int, Arrival]]:
    """Return those of *numbered* that bring no message, or one that is not recorded.

    Of several that bring the same message only the first is returned.
    """
    firsts: dict[_Row, int] = {}
    for number, arrival in numbered:
        if arrival.message is not None:
            firsts.setdefault(_identity(arrival.message), number)
    known = {firsts[identity] for identity in _known(connection, firsts)}
    new = set(firsts.values()) - known
    return [each for each in numbered if each[1].message is None or each[0] in new]


def _known(connection: Connection, identities: Collection[_Row]) -> Sequence[_Row]:
    """Return those of *identities* that messages are recorded with."""
    recent.catch_up(connection)
    hashes = [identity[:1] for identity in identities]
    answers = connection.executemany(MAY_BE_KNOWN, hashes)
    likely = [each for each, (may_be,) in zip(identities, answers, strict=True) if may_be]
    answers = connection.executemany(_IS_MESSAGE_KNOWN, likely)
    return [each for each, (is_known,) in zip(likely, answers, strict=True) if is_known]


def record(connection: Connection, records: Sequence[MessageRecord]) -> Sequence[None]:
    """Insert those of *records* that are not known yet, with the statuses that came before them."""
    firsts: dict[_Row, MessageRecord] = {}
    for message in records:
        firsts.setdefault(_identity(message), message)
    for identity in _known(connection, firsts):
        del firsts[identity]
    _insert(connection, [(message, None) for message in firsts.values()])
    return [None] * len(records)


def _identity(message: MessageRecord) -> _Row:
    message_id = message.wa_message_id
    return short_fingerprint(message_id), message_id, message.phone_number_id, message.direction


def _insert(
    connection: Connection, records: Sequence[tuple[MessageRecord, WindowRecord | None]]
) -> None:
    if not records:
        return
    row_ids = count(recent.give(connection, len(records)))
    rows = [_message_row(row_id, *each) for row_id, each in zip(row_ids, records, strict=False)]
    connection.executemany(_INSERT_MESSAGE, rows)
    sent = [message for message, _ in records if message.direction is Direction.OUTBOUND]
    _advance(
        connection,
        [
            (message.phone_number_id, message.wa_message_id, status, occurred_at)
            for message in sent
            for status, occurred_at in _waiting(connection, message)
        ],
    )


def _waiting(connection: Connection, message: MessageRecord) -> Sequence[tuple[str, int]]:
    """Return the statuses of *message* that came before it."""
    identity = (
        short_fingerprint(message.wa_message_id),
        message.phone_number_id,
        message.wa_message_id,
    )
    found: list[Any] = connection.execute(_WAITING_STATUSES, identity).fetchall()
    return found


def _advance(connection: Connection, transitions: Sequence[tuple[str, str, str, int]]) -> None:
    if not transitions:
        return
    recent.catch_up(connection)
    connection.executemany(
        _ADVANCE,
        [
            (short_fingerprint(message_id), number, message_id, status, _rank(status), occurred_at)
            for number, message_id, status, occurred_at in transitions
        ],
    )


def _message_row(
    row_id: int, record: MessageRecord, window: WindowRecord | None
) -> tuple[object, ...]:
    created_at = to_ms(record.created_at)
    updated_at = created_at if record.updated_at is record.created_at else to_ms(record.updated_at)
    return (
        row_id,
        record.phone_number_id,
        record.wa_message_id,
        record.direction,
        record.from_phone,
        record.to_phone,
        record.type,
        record.status,
        _rank(record.status),
        record.graph_message_id,
        created_at,
        updated_at,
        short_fingerprint(record.wa_message_id),
        *((None, None) if window is None else _window_row(window)),
    )


def _window_digest(phone_number_id: str, customer: str) -> int:
    # The only key that a window has, so two windows must not share it by chance.
    return fingerprint(f"{phone_number_id} {customer}")


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
            short_fingerprint(record.wa_message_id),
        )
        for record in records
    ]
    by_identity: dict[_Row, _Row] = {}
    for row in rows:
        number, message_id, status, participant, _, occurred_at, digest = row
        identity = digest, message_id, number, status, participant, occurred_at
        by_identity.setdefault(identity, row)
    # Not by one statement: SQLite copies what a table is asked for before it inserts into it,
    # which costs twice as much.
    answers = connection.executemany(_IS_STATUS_KNOWN, by_identity)
    new = [row for row, (known,) in zip(by_identity.values(), answers, strict=True) if not known]
    connection.executemany(_INSERT_STATUS, new)
    _advance(connection, [(*row[:3], row[5]) for row in rows])


def _window_row(record: WindowRecord) -> tuple[int, int]:
    digest = _window_digest(record.phone_number_id, record.customer)
    return digest, to_ms(record.last_inbound_at)


def page(connection: Connection, limit: int, cursor: str | None) -> MessagePage:
    """Read the messages before *cursor*, and one more to know whether there is a next page."""
    last_row_id: int = connection.execute(_LAST_ROW_ID).get
    before = last_row_id + 1 if cursor is None else _row_id_of(cursor, last_row_id)
    rows: list[Any] = connection.execute(_PAGE, (before, limit + 1)).fetchall()
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
    row = connection.execute(_MESSAGE, (short_fingerprint(wa_message_id), wa_message_id)).fetchone()
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
            connection.execute(_STATUSES, (short_fingerprint(wa_message_id), wa_message_id))
        )
    ]


def sent_at(connection: Connection, status: StatusRecord) -> datetime | None:
    """Read when the message was sent that *status* is about, if it is known."""
    identity = short_fingerprint(status.wa_message_id), status.phone_number_id, status.wa_message_id
    row: Any = connection.execute(_SENT_AT, identity).fetchone()
    return None if row is None else from_ms(row[0])


def last_inbound_at(connection: Connection, phone_number_id: str, customer: str) -> datetime | None:
    """Read when *customer* last opened a window with this number."""
    digest = _window_digest(phone_number_id, customer)
    opened_at: int | None = connection.execute(_WINDOW, (digest,)).get
    return None if opened_at is None else from_ms(opened_at)


def old_windows(connection: Connection, before: datetime, limit: int) -> Sequence[int]:
    """Look for windows not opened since *before*, among all of them."""
    return [digest for (digest,) in connection.execute(_OLD_WINDOWS, (to_ms(before), limit))]


def purge(connection: Connection, row_ids: Sequence[int], before: datetime) -> int:
    """Delete those messages of *row_ids* that were still not touched since *before*."""
    _delete_old(connection, _FORGET_ID, row_ids, before)
    return _delete_old(connection, _PURGE_MESSAGE, row_ids, before)


def purge_statuses(connection: Connection, ids: Sequence[int], before: datetime) -> int:
    """Delete the statuses *ids*, which are from before *before*."""
    return _delete_old(connection, _PURGE_STATUS, ids, before)


def purge_windows(connection: Connection, digests: Sequence[int], before: datetime) -> int:
    """Delete those of the windows *digests* that were still not opened since *before*."""
    return _delete_old(connection, _PURGE_WINDOW, digests, before)


def _delete_old(
    connection: Connection, statement: str, ids: Sequence[int], before: datetime
) -> int:
    before_ms = to_ms(before)
    return change(connection, statement, [(id_, before_ms) for id_ in ids])
