"""Messages, their statuses and the windows that they open.

The row of a message has the status at the time of recording; statuses that Meta reported are rows
of their own. Each read computes the current status from both, so it is independent of the order of
writes, and of transactions that do not see each other's changes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from wats.clock import from_ms, to_ms
from wats.store.postgres.connection import Connection
from wats.store.postgres.rows import add_numbers, clean, clean_or_none, columns, numbers
from wats.store.records import (
    Direction,
    MessageFilter,
    MessagePage,
    MessageRecord,
    StatusRecord,
    WindowRecord,
    message_of,
    page_of,
    rank_of,
    row_id_of,
    status_of,
    window_digest,
)

_INSERT_MESSAGES = """
INSERT INTO wats_messages (
    phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
)
SELECT * FROM unnest(
    $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
    $6::text::text[], $7::text::text[], $8::text::text[], $9::text::bigint[], $10::text::bigint[]
)
ON CONFLICT DO NOTHING
RETURNING phone_number_id, wa_message_id, direction
"""

_INSERT_STATUSES = """
INSERT INTO wats_statuses (
    phone_number_id, wa_message_id, status, participant, occurred_at, error_code
)
SELECT * FROM unnest(
    $1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::bigint[],
    $6::text::bigint[]
)
ON CONFLICT DO NOTHING
RETURNING phone_number_id, wa_message_id, status, participant, occurred_at
"""

_MOVE_WINDOWS = """
INSERT INTO wats_windows (phone_number_id, digest, last_inbound_at)
SELECT * FROM unnest($1::text::text[], $2::text::bigint[], $3::text::bigint[])
ON CONFLICT (phone_number_id, digest) DO UPDATE SET last_inbound_at = excluded.last_inbound_at
WHERE excluded.last_inbound_at > wats_windows.last_inbound_at
"""

_SENT_TIMES = """
SELECT number, id, created_at
FROM unnest($1::text::text[], $2::text::text[]) AS of (number, id) CROSS JOIN LATERAL (
    SELECT created_at FROM wats_messages
    WHERE phone_number_id = number AND wa_message_id = id AND direction = 'outbound'
) AS sent
"""

_MESSAGE = """
SELECT row_id, phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status,
    graph_message_id, created_at, updated_at
FROM wats_messages
"""

# Of one number, or of all if it is NULL. The number is compared to that of the subquery, so that
# the rows of each number are looked up by an index.
_PAGE = f"""
SELECT message.* FROM wats_numbers AS of CROSS JOIN LATERAL (
    {_MESSAGE}
    WHERE phone_number_id = of.phone_number_id AND row_id < $2 ORDER BY row_id DESC LIMIT $3
) AS message
WHERE $1::text IS NULL OR of.phone_number_id = $1
ORDER BY row_id DESC LIMIT $3
"""

_GET = f"""
SELECT message.* FROM wats_numbers AS of CROSS JOIN LATERAL (
    {_MESSAGE}
    WHERE phone_number_id = of.phone_number_id AND wa_message_id = $2
) AS message
WHERE $1::text IS NULL OR of.phone_number_id = $1
ORDER BY row_id DESC LIMIT 1
"""

_LAST_ROW_ID = """
SELECT coalesce(max(last.row_id), 0) FROM wats_numbers AS of CROSS JOIN LATERAL (
    SELECT row_id FROM wats_messages
    WHERE phone_number_id = of.phone_number_id ORDER BY row_id DESC LIMIT 1
) AS last
WHERE $1::text IS NULL OR of.phone_number_id = $1
"""

_STATUSES = """
SELECT status.* FROM unnest($1::text[], $2::text[]) AS of (number, message) CROSS JOIN LATERAL (
    SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at, id
    FROM wats_statuses
    WHERE phone_number_id = number AND wa_message_id = message
) AS status
ORDER BY id
"""

_WINDOW = """
SELECT last_inbound_at FROM wats_windows WHERE phone_number_id = $1 AND digest = $2
"""

_OLD_STATUSES = """
SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at, id
FROM wats_statuses
WHERE phone_number_id = $1 AND occurred_at < $2
ORDER BY occurred_at LIMIT $3
"""

_MESSAGES_OF = f"""
{_MESSAGE}
WHERE phone_number_id = $1 AND wa_message_id = ANY($2::text[]) AND direction = 'outbound'
FOR UPDATE
"""

_ADVANCE = """
UPDATE wats_messages SET
    status = ($3::text[])[array_position($2::text[], wa_message_id)],
    updated_at = ($4::bigint[])[array_position($2::text[], wa_message_id)]
WHERE phone_number_id = $1 AND wa_message_id = ANY($2::text[]) AND direction = 'outbound'
"""


async def insert(connection: Connection, records: Sequence[MessageRecord]) -> Sequence[bool]:
    """Insert *records*; return for each whether it is new. The first of equal records is new."""
    firsts: dict[tuple[str, str, str], int] = {}
    for index, record in enumerate(records):
        firsts.setdefault(_identity(record), index)
    if not firsts:
        return ()
    rows = [_row(key, records[firsts[key]]) for key in sorted(firsts)]
    found = await connection.fetch(_INSERT_MESSAGES, *columns(rows))
    new = {firsts[number, message_id, direction] for number, message_id, direction in found}
    return [index in new for index in range(len(records))]


async def record(connection: Connection, message: MessageRecord) -> None:
    """Record one sent message, unless it is recorded."""
    await add_numbers(connection, [clean(message.phone_number_id)])
    await insert(connection, [message])


def _identity(record: MessageRecord) -> tuple[str, str, str]:
    return clean(record.phone_number_id), clean(record.wa_message_id), record.direction.value


def _row(key: tuple[str, str, str], record: MessageRecord) -> tuple[Any, ...]:
    return (
        *key,
        clean_or_none(record.from_phone),
        clean_or_none(record.to_phone),
        clean(record.type),
        clean(record.status),
        clean_or_none(record.graph_message_id),
        to_ms(record.created_at),
        to_ms(record.updated_at),
    )


async def insert_statuses(
    connection: Connection, records: Sequence[StatusRecord]
) -> Sequence[bool]:
    """Insert *records* in their order; return for each whether it is new.

    The first of equal records is new.
    """
    firsts: dict[tuple[Any, ...], int] = {}
    for index, record in enumerate(records):
        firsts.setdefault(_status_identity(record), index)
    if not firsts:
        return ()
    rows = [(*key, records[index].error_code) for key, index in firsts.items()]
    found = await connection.fetch(_INSERT_STATUSES, *columns(rows))
    new = {firsts[tuple(row)] for row in found}
    return [index in new for index in range(len(records))]


def _status_identity(record: StatusRecord) -> tuple[Any, ...]:
    return (
        clean(record.phone_number_id),
        clean(record.wa_message_id),
        clean(record.status),
        clean(record.participant),
        to_ms(record.occurred_at),
    )


async def move_windows(connection: Connection, records: Sequence[WindowRecord]) -> None:
    """Move forward the windows of *records*."""
    latest: dict[tuple[str, int], int] = {}
    for record in records:
        number = clean(record.phone_number_id)
        key = number, window_digest(number, record.customer)
        latest[key] = max(latest.get(key, 0), to_ms(record.last_inbound_at))
    if latest:
        rows = [(*key, latest[key]) for key in sorted(latest)]
        await connection.execute(_MOVE_WINDOWS, *columns(rows))


async def sent_times(
    connection: Connection, statuses: Sequence[StatusRecord | None]
) -> Sequence[datetime | None]:
    """Return the send time of the message of each status `delivered`, `None` for others."""
    messages = [
        (clean(each.phone_number_id), clean(each.wa_message_id))
        if each is not None and each.status == "delivered"
        else None
        for each in statuses
    ]
    wanted = sorted({each for each in messages if each is not None})
    if not wanted:
        return [None] * len(statuses)
    found = await connection.fetch(_SENT_TIMES, *columns(wanted))
    sent = {(number, message_id): from_ms(at) for number, message_id, at in found}
    return [None if each is None else sent.get(each) for each in messages]


async def page(
    connection: Connection, limit: int, cursor: str | None, wanted: MessageFilter
) -> MessagePage:
    """Read the *wanted* messages before *cursor*, and one row more to detect a next page."""
    number = clean_or_none(wanted.phone_number_id)
    last = await connection.fetchval(_LAST_ROW_ID, number)
    before = last + 1 if cursor is None else row_id_of(cursor, last)
    rows = await connection.fetch(_PAGE, number, before, (wanted.rows or limit) + 1)
    return page_of(await _messages_of(connection, rows), limit, wanted)


async def get(
    connection: Connection, wa_message_id: str, phone_number_id: str | None = None
) -> MessageRecord | None:
    """Read the last recorded message with this id, of this or any number."""
    values = clean_or_none(phone_number_id), clean(wa_message_id)
    messages = await _messages_of(connection, await connection.fetch(_GET, *values))
    return messages[0] if messages else None


async def _messages_of(
    connection: Connection, rows: Sequence[asyncpg.Record]
) -> Sequence[MessageRecord]:
    history: dict[tuple[str, str], list[StatusRecord]] = {}
    sent = {(row[1], row[2]) for row in rows if row[3] == Direction.OUTBOUND.value}
    for status in await connection.fetch(_STATUSES, *zip(*sent, strict=True)) if sent else ():
        history.setdefault((status[0], status[1]), []).append(status_of(tuple(status)))
    return [
        _advanced(message_of(tuple(row)), history.get((row[1], row[2]), ()))
        if row[3] == Direction.OUTBOUND.value
        else message_of(tuple(row))
        for row in rows
    ]


def _advanced(message: MessageRecord, statuses: Iterable[StatusRecord]) -> MessageRecord:
    """Return *message* advanced by each of *statuses* whose rank is higher.

    The order of arrival of message and statuses has no influence.
    """
    status, updated_at = message.status, message.updated_at
    for each in statuses:
        if rank_of(each.status) > rank_of(status):
            status, updated_at = each.status, max(updated_at, each.occurred_at)
    return msgspec.structs.replace(message, status=status, updated_at=updated_at)


async def statuses(connection: Connection, wa_message_id: str) -> Sequence[StatusRecord]:
    """Read the statuses of this message in order of arrival."""
    of_numbers = await numbers(connection)
    ids = [clean(wa_message_id)] * len(of_numbers)
    rows = await connection.fetch(_STATUSES, of_numbers, ids)
    return [status_of(tuple(row)) for row in rows]


async def last_inbound_at(
    connection: Connection, phone_number_id: str, customer: str
) -> datetime | None:
    """Read when *customer* last opened a window with this number."""
    number = clean(phone_number_id)
    digest = window_digest(number, customer)
    opened_at: int | None = await connection.fetchval(_WINDOW, number, digest)
    return None if opened_at is None else from_ms(opened_at)


async def fold_old_statuses(
    connection: Connection, number: str, before: int, limit: int
) -> Sequence[asyncpg.Record]:
    """Apply statuses older than *before* to the rows of their messages; return these statuses.

    The caller can delete them: ranks only increase, so the current status of a message stays.
    """
    old = await connection.fetch(_OLD_STATUSES, number, before, limit)
    history: dict[str, list[StatusRecord]] = {}
    for row in sorted(old, key=lambda row: row["id"]):
        history.setdefault(row["wa_message_id"], []).append(status_of(tuple(row)))
    found = await connection.fetch(_MESSAGES_OF, number, sorted(history))
    advanced = [_advanced(message_of(tuple(row)), history[row["wa_message_id"]]) for row in found]
    if advanced:
        rows = [(each.wa_message_id, each.status, to_ms(each.updated_at)) for each in advanced]
        await connection.execute(_ADVANCE, number, *zip(*rows, strict=True))
    return old
