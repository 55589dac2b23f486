"""Find and delete the data of a person, one bounded step after another.

    deliveries ▸ dead letters ▸ indexed messages, windows ▸ other messages ▸ statuses
        ▸ early statuses ▸ responses ▸ log

The reading connection searches a range of rows, and the writer deletes the found rows, so writes
of the service do not wait for a search. Nearly all messages are found by the hash of their customer
in the message index, whatever the size of the database. The last phase empties the log; in a trial,
it searches the files of the database for identifiers that no row has, if that is requested.

Each function runs in the open transaction of its caller.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

import msgspec
from apsw import Connection

from wats.store.admin import Erased
from wats.store.person import Person
from wats.store.records import window_digest
from wats.store.sqlite import admin, message_index, messages, outbox, statuses
from wats.store.sqlite.connection import Writer

DELIVERIES: Final = "deliveries"
DEAD: Final = "dead"
INDEXED: Final = "indexed"
MESSAGES: Final = "messages"
STATUSES: Final = "statuses"
EARLY: Final = "early"
RESPONSES: Final = "responses"
LOG: Final = "log"

PHASES: Final = (DELIVERIES, DEAD, INDEXED, MESSAGES, STATUSES, EARLY, RESPONSES, LOG)

SEARCH_ROWS: Final = 20_000
SEARCH_BYTES: Final = 2 * 1_048_576
"""The maximum number and size of rows that one step searches, in about 20 ms."""

DELETE_ROWS: Final = 500
"""The maximum number of rows that one step deletes."""

FILE_BYTES: Final = 32 * 1_048_576
"""The part of a file that one step searches."""

OVERLAP: Final = 512
"""The bytes that two parts of a file have in common, more than an identifier has."""

CHECKPOINT_TRIES: Final = 20
"""How often the log is tried to be emptied, while other connections read it."""

_POSITION: Final = re.compile(rf"({'|'.join(PHASES)})\.(0|[1-9][0-9]{{0,17}})")

_MAY_NAME: Final = """
    instr(wa_message_id, :core_0) OR instr(wa_message_id, :core_1) OR instr(wa_message_id, :core_2)
"""

# The id of a row, its content if that may name the person, and whether a column is the person.
_SEARCH: Final[Mapping[str, str]] = {
    DELIVERIES: """
        SELECT id, payload, false FROM wats_deliveries WHERE id > :after ORDER BY id LIMIT :rows
    """,
    DEAD: """
        SELECT id, payload, false FROM wats_dead_deliveries WHERE id > :after
        ORDER BY id LIMIT :rows
    """,
    MESSAGES: f"""
        SELECT row_id, iif({_MAY_NAME}, CAST(wa_message_id AS BLOB), NULL),
            window_hash IS NULL AND (from_phone IN (:plain, :plus) OR to_phone IN (:plain, :plus))
        FROM wats_messages INDEXED BY wats_messages_unhashed
        WHERE row_id > :after AND (window_hash IS NULL OR from_phone >= ':')
        ORDER BY row_id LIMIT :rows
    """,
    STATUSES: """
        SELECT id, NULL, true FROM wats_statuses INDEXED BY wats_statuses_participant
        WHERE participant IN (:plain, :plus) AND participant <> '' AND id > :after
        ORDER BY id LIMIT :rows
    """,
    EARLY: f"""
        SELECT id, iif({_MAY_NAME}, CAST(wa_message_id AS BLOB), NULL),
            participant IN (:plain, :plus)
        FROM wats_early_statuses WHERE id > :after ORDER BY id LIMIT :rows
    """,
    RESPONSES: """
        SELECT rowid, response, false FROM wats_requests WHERE rowid > :after
        ORDER BY rowid LIMIT :rows
    """,
}

_NUMBERS = "SELECT phone_number_id FROM wats_numbers"

# Those that are not indexed yet, and the others; one statement, since they may be indexed between
# two, and buckets may be merged.
_INDEXED = """
SELECT row_id FROM wats_messages
WHERE row_id > (SELECT max(?1, indexed_row_id) FROM wats_marks WHERE id = 1)
    AND window_hash IS NOT NULL AND (from_phone IN (?2, ?3) OR to_phone IN (?2, ?3))
UNION ALL
SELECT m.row_id
FROM wats_message_buckets CROSS JOIN carray(?4) AS h
CROSS JOIN wats_message_index AS i
    ON i.bucket = wats_message_buckets.bucket AND i.hash = h.value AND i.row_id > ?1
CROSS JOIN wats_messages AS m ON m.row_id = i.row_id
WHERE m.window_hash IS NOT NULL AND (from_phone IN (?2, ?3) OR to_phone IN (?2, ?3))
"""

_WINDOWS = "SELECT digest FROM wats_windows WHERE digest IN carray(?)"

_COUNT_STATUSES = f"""
SELECT count(*) FROM carray(?) CROSS JOIN wats_statuses ON id {statuses.ids_of("value")}
"""

_DELETE: Final[Mapping[str, str]] = {
    STATUSES: "DELETE FROM wats_statuses WHERE id = ?",
    EARLY: "DELETE FROM wats_early_statuses WHERE id = ?",
    RESPONSES: "UPDATE wats_requests SET response = CAST('{}' AS BLOB) WHERE rowid = ?",
}

_DELETE_STATUSES = f"DELETE FROM wats_statuses WHERE id {statuses.ids_of('?1')}"

_DELETE_WINDOW = "DELETE FROM wats_windows WHERE digest = ?"

_COUNT_OF: Final[Mapping[str, str]] = {
    DELIVERIES: "deliveries",
    DEAD: "dead_letters",
    MESSAGES: "messages",
    STATUSES: "statuses",
    EARLY: "statuses",
    RESPONSES: "responses",
}


class FoundRows(msgspec.Struct, frozen=True, kw_only=True):
    """The found rows of one step, and the counts and the next position."""

    rows: Sequence[int] = ()
    windows: Sequence[int] = ()
    erased: Erased


def phase_at(position: str | None) -> tuple[str, int]:
    """Return the phase of *position*, and the id after which it goes on.

    Raises:
        ValueError: The position is invalid.
    """
    if position is None:
        return PHASES[0], 0
    match = _POSITION.fullmatch(position)
    if match is None:
        msg = "not a position"
        raise ValueError(msg)
    return match[1], int(match[2])


def _next(phase: str, after: int | None) -> str | None:
    """Return the position after the row *after*, or of the next phase if it is `None`."""
    if after is not None:
        return f"{phase}.{after}"
    following = PHASES.index(phase) + 1
    return f"{PHASES[following]}.0" if following < len(PHASES) else None


def emptied(tries: int, *, is_empty: bool) -> Erased:
    """Return the result of a checkpoint; it is repeated if the log is not empty."""
    is_last = is_empty or tries + 1 >= CHECKPOINT_TRIES
    return Erased(position=_next(LOG, None if is_last else tries + 1))


def find(
    connection: Connection, phase: str, after: int, person: Person, numbers: Sequence[str]
) -> FoundRows:
    """Search the rows of *phase* after *after*."""
    if phase == LOG:
        return _find_traces(connection, after, person)
    if phase == INDEXED:
        return _find_indexed(connection, after, person, numbers)
    return _find_rows(connection, phase, after, person)


def _find_rows(connection: Connection, phase: str, after: int, person: Person) -> FoundRows:
    found, size, last = [], 0, None
    cores = dict(zip_longest(("core_0", "core_1", "core_2"), person.cores))
    plain, plus = person.spellings[0], person.spellings[-1]
    values = {"after": after, "rows": SEARCH_ROWS, "plain": plain, "plus": plus, **cores}
    for count, (id_, content, is_named) in enumerate(connection.execute(_SEARCH[phase], values), 1):
        size += len(content or b"")
        if is_named or (content and person.is_in(content)):
            found.append(id_)
        if count == SEARCH_ROWS or size > SEARCH_BYTES or len(found) == DELETE_ROWS:
            last = id_
            break
    counts = {_COUNT_OF[phase]: len(found)}
    if phase == MESSAGES:
        counts["statuses"] = _count_statuses(connection, found)
    return FoundRows(rows=found, erased=Erased(**counts, position=_next(phase, last)))


def _find_indexed(
    connection: Connection, after: int, person: Person, own: Sequence[str]
) -> FoundRows:
    """Find the messages with a hash of *person*, and the windows, in at most `DELETE_ROWS` rows."""
    numbers = sorted({*own, *(number for (number,) in connection.execute(_NUMBERS))})
    names = [(number, spelling) for number in numbers for spelling in person.spellings]
    hashes = {messages.window_hash(*each) for each in names}
    hashes |= {messages.person_hash(*each) for each in names}
    values = after, person.spellings[0], person.spellings[-1], message_index.numbers(hashes or {0})
    rows = sorted({row_id for (row_id,) in connection.execute(_INDEXED, values)})
    found = rows[:DELETE_ROWS]
    windows = _windows(connection, names) if after == 0 else ()
    return FoundRows(
        rows=found,
        windows=windows,
        erased=Erased(
            messages=len(found),
            statuses=_count_statuses(connection, found),
            windows=len(windows),
            position=_next(INDEXED, found[-1] if len(found) < len(rows) else None),
        ),
    )


def _count_statuses(connection: Connection, messages_of: Sequence[int]) -> int:
    if not messages_of:
        return 0
    count: int = connection.execute(_COUNT_STATUSES, (message_index.numbers(messages_of),)).get
    return count


def _windows(connection: Connection, names: Sequence[tuple[str, str]]) -> Sequence[int]:
    """Find the windows of business numbers and customers."""
    digests = [window_digest(*each) for each in names]
    found = connection.execute(_WINDOWS, (message_index.numbers(digests),)) if digests else ()
    return [digest for (digest,) in found]


def _find_traces(connection: Connection, after: int, person: Person) -> FoundRows:
    """Search a part of the database file, then of its log, for identifiers.

    The files are read by SQLite: closing a descriptor of our own would release its locks.
    """
    if not connection.db_filename("main"):
        return FoundRows(erased=Erased())
    is_log, offset = after & 1, after >> 1
    is_whole, data = connection.read("main", is_log, offset, FILE_BYTES + OVERLAP)
    following = 1 if not is_log else None
    if is_whole:
        following = (offset + FILE_BYTES) << 1 | is_log
    return FoundRows(erased=Erased(traces=person.traces(data), position=_next(LOG, following)))


def delete(writer: Writer, phase: str, found: FoundRows) -> None:
    """Delete the rows of *found*."""
    rows = found.rows
    if phase in {DELIVERIES, DEAD}:
        admin.delete(writer, rows)
        outbox.empty_keys(writer, rows)
        return
    if phase in {INDEXED, MESSAGES}:
        messages.delete(writer, rows)
        writer.executemany(_DELETE_STATUSES, [(id_,) for id_ in rows])
        writer.executemany(_DELETE_WINDOW, [(digest,) for digest in found.windows])
        return
    writer.executemany(_DELETE[phase], [(id_,) for id_ in rows])
