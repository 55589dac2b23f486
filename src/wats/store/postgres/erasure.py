"""Find and delete the data of a person, one bounded step after another.

    deliveries ▸ dead letters ▸ messages ▸ statuses ▸ windows ▸ responses ▸ log

A step reads a part of a table, for one business number, and of deliveries for one consumer. Deleted
rows leave the files when PostgreSQL vacuums the tables; the last phase does that for payloads.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from wats.store.admin import Erased
from wats.store.person import Person
from wats.store.postgres import outbox
from wats.store.postgres.admin import discard, names_of_consumers
from wats.store.postgres.connection import Connection
from wats.store.postgres.rows import clean, numbers
from wats.store.records import window_digest

DELIVERIES: Final = "deliveries"
DEAD: Final = "dead"
MESSAGES: Final = "messages"
STATUSES: Final = "statuses"
WINDOWS: Final = "windows"
RESPONSES: Final = "responses"
LOG: Final = "log"

PHASES: Final = (DELIVERIES, DEAD, MESSAGES, STATUSES, WINDOWS, RESPONSES, LOG)

SEARCH_ROWS: Final = 50_000
"""The maximum number of rows without content that one step searches."""

CONTENT_ROWS: Final = 500
CONTENT_BYTES: Final = 8 * 1_048_576
"""The maximum number and size of payloads and responses that one step searches."""

DELETE_ROWS: Final = 500
"""The maximum number of messages that one step deletes."""

_POSITION: Final = re.compile(
    rf"({'|'.join(PHASES)})\.(0|[1-9][0-9]{{0,8}})\.(0|[1-9][0-9]{{0,17}})"
)

_CONTENT: Final[Mapping[str, str]] = {
    DELIVERIES: """
        SELECT id, payload FROM (
            SELECT id, payload, sum(octet_length(payload)) OVER (ORDER BY id)
                - octet_length(payload) AS before
            FROM (
                SELECT id, payload FROM wats_deliveries
                WHERE phone_number_id = $1 AND consumer = $5 AND id >= $2 ORDER BY id LIMIT $3
            ) AS part
        ) AS sized WHERE before < $4
    """,
    DEAD: """
        SELECT id, payload FROM (
            SELECT id, payload, sum(octet_length(payload)) OVER (ORDER BY id)
                - octet_length(payload) AS before
            FROM (
                SELECT id, payload FROM wats_dead_deliveries
                WHERE phone_number_id = $1 AND id >= $2 ORDER BY id LIMIT $3
            ) AS part
        ) AS sized WHERE before < $4
    """,
}

_LAST: Final[Mapping[str, str]] = {
    MESSAGES: """
        SELECT row_id FROM wats_messages WHERE phone_number_id = $1 AND row_id >= $2
        ORDER BY row_id OFFSET $3 LIMIT 1
    """,
    STATUSES: """
        SELECT occurred_at FROM wats_statuses WHERE phone_number_id = $1 AND occurred_at >= $2
        ORDER BY occurred_at OFFSET $3 LIMIT 1
    """,
}

_ROWS: Final[Mapping[str, str]] = {
    MESSAGES: """
        SELECT row_id AS place, row_id AS id, wa_message_id,
            coalesce(from_phone = ANY($4) OR to_phone = ANY($4), false) AS is_theirs
        FROM wats_messages
        WHERE phone_number_id = $1 AND row_id >= $2 AND row_id <= $3 AND (
            from_phone = ANY($4) OR to_phone = ANY($4) OR wa_message_id LIKE ANY($5)
        )
        ORDER BY row_id LIMIT $6::bigint
    """,
    STATUSES: """
        SELECT occurred_at AS place, id, wa_message_id, participant = ANY($4) AS is_theirs
        FROM wats_statuses
        WHERE phone_number_id = $1 AND occurred_at >= $2 AND occurred_at <= $3 AND (
            participant = ANY($4) OR wa_message_id LIKE ANY($5)
        )
        ORDER BY occurred_at LIMIT $6::bigint
    """,
}

_MESSAGES_OF = """
SELECT wa_message_id FROM wats_messages
WHERE phone_number_id = $1 AND wa_message_id = ANY($2::text[]) AND (
    from_phone = ANY($3) OR to_phone = ANY($3) OR wa_message_id LIKE ANY($4)
)
"""

_STATUSES_OF = """
SELECT count(*) FROM wats_statuses WHERE phone_number_id = $1 AND wa_message_id = ANY($2::text[])
"""

_WINDOWS_OF = """
SELECT digest FROM wats_windows WHERE phone_number_id = $1 AND digest = ANY($2::bigint[])
"""

_RESPONSES = """
SELECT expires_at, scope, key_hash, response FROM wats_requests
WHERE expires_at >= $1 AND expires_at <= coalesce((
    SELECT expires_at FROM wats_requests WHERE expires_at >= $1
    ORDER BY expires_at OFFSET $2 LIMIT 1
), $3)
ORDER BY expires_at
"""

_DELETE_MESSAGES = """
DELETE FROM wats_messages WHERE phone_number_id = $1 AND row_id = ANY($2::bigint[])
"""

_DELETE_STATUSES_OF = """
DELETE FROM wats_statuses WHERE phone_number_id = $1 AND wa_message_id = ANY($2::text[])
"""

_DELETE_STATUSES = """
DELETE FROM wats_statuses WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
    AND wa_message_id = ANY($3::text[])
"""

_DELETE_WINDOWS = """
DELETE FROM wats_windows WHERE phone_number_id = $1 AND digest = ANY($2::bigint[])
"""

_EMPTY_RESPONSE = """
UPDATE wats_requests SET response = '{}' WHERE scope = $1 AND key_hash = $2
"""

_END: Final = 2**62


class Position(msgspec.Struct, frozen=True):
    """A position: the phase, the index of a part of its tables, and the first row to read."""

    phase: str
    part: int = 0
    first: int = 0

    def next(self, first: int | None, parts: int) -> str | None:
        """Return the position of *first*, or of the next part, or else of the next phase."""
        if first is not None:
            return f"{self.phase}.{self.part}.{first}"
        if self.part + 1 < parts:
            return f"{self.phase}.{self.part + 1}.0"
        return f"{PHASES[PHASES.index(self.phase) + 1]}.0.0"


class PersonRows(msgspec.Struct, frozen=True, kw_only=True):
    """The found rows of one step, and the counts and the next position."""

    number: str = ""
    rows: Sequence[Any] = ()
    erased: Erased


def place_at(position: str | None) -> Position:
    """Return the place of *position*.

    Raises:
        ValueError: The position is invalid.
    """
    if position is None:
        return Position(PHASES[0])
    match = _POSITION.fullmatch(position)
    if match is None:
        msg = "not a position"
        raise ValueError(msg)
    return Position(match[1], int(match[2]), int(match[3]))


async def find(
    connection: Connection, place: Position, person: Person, own: Sequence[str]
) -> PersonRows:
    """Search the rows at *place*."""
    if place.phase == RESPONSES:
        return await _find_responses(connection, place, person)
    parts = await _parts(connection, place.phase, own)
    if place.part >= len(parts):
        return PersonRows(erased=Erased(position=place.next(None, 0)))
    number, consumer = parts[place.part]
    match place.phase:
        case "deliveries" | "dead":
            rows = await _content(connection, place, number, consumer)
            return _theirs(place, number, rows, person, len(parts))
        case "windows":
            return await _find_windows(connection, place, number, person, len(parts))
        case _:
            return await _find_rows(connection, place, number, person, len(parts))


async def _parts(
    connection: Connection, phase: str, own: Sequence[str]
) -> Sequence[tuple[str, str]]:
    """Return the parts of the tables of *phase*: business numbers, and consumers of deliveries."""
    of_numbers = await numbers(connection)
    if phase == DELIVERIES:
        names = await names_of_consumers(connection)
        return [(number, name) for number in of_numbers for name in names]
    if phase == WINDOWS:
        of_numbers = sorted({*of_numbers, *map(clean, own)})
    return [(number, "") for number in of_numbers]


async def _content(
    connection: Connection, place: Position, number: str, consumer: str
) -> Sequence[asyncpg.Record]:
    values = [number, place.first, CONTENT_ROWS, CONTENT_BYTES]
    if place.phase == DELIVERIES:
        values.append(consumer)
    return await connection.fetch(_CONTENT[place.phase], *values)


def _theirs(
    place: Position, number: str, rows: Sequence[asyncpg.Record], person: Person, parts: int
) -> PersonRows:
    found = [row["id"] for row in rows if person.is_in(row["payload"])]
    position = place.next(rows[-1]["id"] + 1 if rows else None, parts)
    if place.phase == DELIVERIES:
        return PersonRows(
            number=number, rows=found, erased=Erased(deliveries=len(found), position=position)
        )
    return PersonRows(
        number=number, rows=found, erased=Erased(dead_letters=len(found), position=position)
    )


async def _find_rows(
    connection: Connection, place: Position, number: str, person: Person, parts: int
) -> PersonRows:
    last = await connection.fetchval(_LAST[place.phase], number, place.first, SEARCH_ROWS)
    end = _END if last is None else last
    patterns = [f"%{core}%" for core in person.cores]
    # Several statuses have the same time, so their number is bounded by the search only.
    limit = DELETE_ROWS if place.phase == MESSAGES else None
    rows = await connection.fetch(
        _ROWS[place.phase], number, place.first, end, list(person.spellings), patterns, limit
    )
    if len(rows) == limit:
        last = rows[-1]["place"]
    found = [
        (row["id"], row["wa_message_id"])
        for row in rows
        if row["is_theirs"] or person.is_in(row["wa_message_id"].encode())
    ]
    position = place.next(None if last is None else last + 1, parts)
    names = [name for _, name in found]
    if place.phase == STATUSES:
        # Statuses of their messages were counted, and deleted, with the messages.
        counted = await connection.fetch(
            _MESSAGES_OF, number, names, list(person.spellings), patterns
        )
        of_messages = {row["wa_message_id"] for row in counted}
        found = [each for each in found if each[1] not in of_messages]
        erased = Erased(statuses=len(found), position=position)
    else:
        statuses = await connection.fetchval(_STATUSES_OF, number, names)
        erased = Erased(messages=len(found), statuses=statuses, position=position)
    return PersonRows(number=number, rows=found, erased=erased)


async def _find_windows(
    connection: Connection, place: Position, number: str, person: Person, parts: int
) -> PersonRows:
    digests = [window_digest(number, spelling) for spelling in person.spellings]
    rows = [row["digest"] for row in await connection.fetch(_WINDOWS_OF, number, digests)]
    erased = Erased(windows=len(rows), position=place.next(None, parts))
    return PersonRows(number=number, rows=rows, erased=erased)


async def _find_responses(connection: Connection, place: Position, person: Person) -> PersonRows:
    rows = await connection.fetch(_RESPONSES, place.first, CONTENT_ROWS, _END)
    found = [
        (row["scope"], row["key_hash"])
        for row in rows
        if row["response"] is not None and person.is_in(row["response"])
    ]
    last = rows[-1]["expires_at"] + 1 if len(rows) > CONTENT_ROWS else None
    return PersonRows(rows=found, erased=Erased(responses=len(found), position=place.next(last, 1)))


async def delete(connection: Connection, place: Position, found: PersonRows) -> None:
    """Delete the rows of *found*."""
    rows, number = found.rows, found.number
    match place.phase:
        case "deliveries" | "dead":
            await discard(connection, rows, await names_of_consumers(connection))
            await outbox.empty_keys(connection, number, rows)
        case "messages":
            ids, names = zip(*rows, strict=True)
            await connection.execute(_DELETE_STATUSES_OF, number, names)
            await connection.execute(_DELETE_MESSAGES, number, ids)
        case "statuses":
            ids, names = zip(*rows, strict=True)
            await connection.execute(_DELETE_STATUSES, number, ids, names)
        case "windows":
            await connection.execute(_DELETE_WINDOWS, number, rows)
        case _:
            await connection.executemany(_EMPTY_RESPONSE, rows)
