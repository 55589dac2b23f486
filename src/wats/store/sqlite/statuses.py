"""The statuses of outbound messages in SQL.

The statuses of a message are stored by its row id. Statuses of a message that is not recorded are
*early*, and are stored by hash: another application sent the message, or the webhook arrived before
the response of Graph.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, TypeAlias

import msgspec
from apsw import Connection

from wats.clock import from_ms, to_ms
from wats.privacy import short_fingerprint
from wats.store.records import Arrival, StatusRecord, rank_of, status_of
from wats.store.sqlite.connection import Writer
from wats.store.sqlite.message_index import buckets_with_sent, look_up, numbers

ID_BITS = 16
"""The lowest bits of an id, which number the statuses of one message. Part of the schema."""


def ids_of(row_id: str) -> str:
    """Return the SQL for the range of ids of the statuses of the message *row_id*."""
    return f"BETWEEN {row_id} << {ID_BITS} AND ({row_id} + 1 << {ID_BITS}) - 1"


_MESSAGES = """
SELECT phone_number_id, wa_message_id, row_id, status, created_at, updated_at
FROM carray(?) CROSS JOIN wats_messages ON row_id = value
WHERE direction = 'outbound'
"""

_KNOWN = f"""
SELECT s.id, s.status, s.participant, s.occurred_at
FROM carray(?) AS m CROSS JOIN wats_statuses AS s ON s.id {ids_of("m.value")}
"""

_INSERT = """
INSERT INTO wats_statuses (id, status, participant, error_code, occurred_at) VALUES (?, ?, ?, ?, ?)
"""

_ADVANCE = """
UPDATE wats_messages SET status = ?, updated_at = ? WHERE row_id = ?
"""

_EARLY = """
SELECT id, phone_number_id, wa_message_id, status, participant, error_code, occurred_at
FROM carray(?) CROSS JOIN wats_early_statuses ON wa_message_hash = value
"""

_INSERT_EARLY = """
INSERT INTO wats_early_statuses (
    wa_message_hash, phone_number_id, wa_message_id, status, participant, error_code, occurred_at
)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_DELETE_EARLY = "DELETE FROM wats_early_statuses WHERE id = ?"

_HISTORY = f"""
WITH found (row_id) AS (
    SELECT row_id FROM wats_messages
    WHERE row_id > (SELECT indexed_row_id FROM wats_marks WHERE id = 1) AND wa_message_hash = ?1
    UNION ALL
    SELECT i.row_id FROM wats_message_buckets
    CROSS JOIN wats_message_index AS i ON i.bucket = wats_message_buckets.bucket AND i.hash = ?1
    WHERE has_sent
)
SELECT m.phone_number_id, m.wa_message_id, s.status, s.participant, s.error_code, s.occurred_at,
    s.id AS position, 0 AS is_early
FROM found AS f CROSS JOIN wats_messages AS m ON m.row_id = f.row_id
CROSS JOIN wats_statuses AS s ON s.id {ids_of("m.row_id")}
WHERE m.wa_message_id = ?2
UNION ALL
SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at, id, 1
FROM wats_early_statuses
WHERE wa_message_hash = ?1 AND wa_message_id = ?2
ORDER BY is_early, position
"""

MessageKey: TypeAlias = tuple[str, str]
"""The phone_number_id and wa_message_id of an outbound message."""

Transition: TypeAlias = tuple[str, str, int | None, int]
"""status, participant, error_code, occurred_at (ms)."""

_Row: TypeAlias = tuple[Any, ...]


class SentMessage(msgspec.Struct):
    """The columns of an outbound message that statuses use. Times are milliseconds."""

    row_id: int
    status: str
    created_at: int
    updated_at: int


def receive(
    writer: Writer, arrivals: Sequence[Arrival]
) -> tuple[Collection[int], Sequence[datetime | None]]:
    """Record the statuses of *arrivals*.

    Returns:
        The positions of the arrivals whose status is already recorded, or repeated in *arrivals*;
        and for each arrival, the time at which its message was recorded as sent, if the arrival is
        the status `delivered` of a recorded message.
    """
    found = [(n, each.status) for n, each in enumerate(arrivals) if each.status is not None]
    sent_at: list[datetime | None] = [None] * len(arrivals)
    if not found:
        return (), sent_at
    known, sent = record(writer, [status for _, status in found])
    for n, status in found:
        key = status.phone_number_id, status.wa_message_id
        if status.status == "delivered" and key in sent:
            sent_at[n] = from_ms(sent[key])
    return [found[place][0] for place in known], sent_at


def record(
    writer: Writer, records: Sequence[StatusRecord]
) -> tuple[Collection[int], Mapping[MessageKey, int]]:
    """Record the new statuses of *records*, and advance their messages by rank.

    Returns:
        The positions of the other *records*, and the creation times (ms) of the recorded messages.
    """
    keys = [(each.phone_number_id, each.wa_message_id) for each in records]
    transitions = [
        (each.status, each.participant, each.error_code, to_ms(each.occurred_at))
        for each in records
    ]
    missing = {key: short_fingerprint(key[1]) for key in keys}
    sent, early = _find(writer, missing)
    found = list(zip(range(len(keys)), keys, transitions, strict=True))
    known = _add(writer, [(n, sent[key], each) for n, key, each in found if key in sent])
    if missing:
        known += _add_early(writer, [each for each in found if each[1] in missing], early)
    return known, {key: message.created_at for key, message in sent.items()}


def _find(
    writer: Writer, missing: dict[MessageKey, int]
) -> tuple[Mapping[MessageKey, SentMessage], Sequence[_Row]]:
    """Find the recorded messages of *missing*, keys with their hashes, and remove them there.

    The buckets of the messages of the previous statuses are searched first, then all from the last
    to the first, because most statuses follow soon after the message. The first status of a message
    that is not recorded searches all buckets, about 0.05 ms at five million messages; later ones
    find its early status before that.

    Returns:
        The recorded messages, and the early statuses of the others.
    """
    index = writer.message_index
    index.catch_up(writer)
    sent = _read(writer, index.find_pending(missing.values()), missing)
    early = _read_early(writer, missing.values())
    searched = {row[1:3] for row in early}
    steps = chain([index.hits] if index.hits else (), buckets_with_sent(writer))
    while (hashes := {missing[key] for key in missing.keys() - searched}) and (
        buckets := next(steps, None)
    ):
        sent |= _read(writer, look_up(writer, buckets, sorted(hashes)), missing)
    index.note_hits([message.row_id for message in sent.values()])
    return sent, early


def _read(
    connection: Connection, row_ids: Collection[int], missing: dict[MessageKey, int]
) -> dict[MessageKey, SentMessage]:
    """Read the messages *row_ids* that are in *missing*, and remove them from *missing*."""
    if not row_ids:
        return {}
    found: dict[MessageKey, SentMessage] = {}
    for number, message_id, *rest in connection.execute(_MESSAGES, (numbers(row_ids),)):
        key = number, message_id
        if missing.pop(key, None) is not None:
            found[key] = SentMessage(*rest)
    return found


def _read_early(connection: Connection, hashes: Collection[int]) -> Sequence[_Row]:
    """Read early statuses in order of arrival."""
    if not hashes:
        return ()
    return sorted(connection.execute(_EARLY, (numbers(set(hashes)),)))


def _add(
    connection: Connection, transitions: Sequence[tuple[int, SentMessage, Transition]]
) -> list[int]:
    """Add the new *transitions* to their messages, and advance the messages by rank.

    At most 65,536 transitions of a message are kept.

    Returns:
        The first elements of the other *transitions*.
    """
    if not transitions:
        return []
    next_ids = {message.row_id: message.row_id << ID_BITS for _, message, _ in transitions}
    known: set[_Row] = set()
    for id_, *identity in connection.execute(_KNOWN, (numbers(next_ids),)):
        row_id = id_ >> ID_BITS
        next_ids[row_id] = id_ + 1
        known.add((row_id, *identity))
    rows: list[_Row] = []
    repeated: list[int] = []
    advanced: dict[int, _Row] = {}
    for place, message, transition in transitions:
        row_id, (status, participant, _, occurred_at) = message.row_id, transition
        identity, id_ = (row_id, status, participant, occurred_at), next_ids[row_id]
        if identity in known:
            repeated.append(place)
            continue
        if id_ >> ID_BITS > row_id:
            continue
        known.add(identity)
        next_ids[row_id] = id_ + 1
        rows.append((id_, *transition))
        if rank_of(status) > rank_of(message.status):
            message.status, message.updated_at = status, max(message.updated_at, occurred_at)
            advanced[row_id] = status, message.updated_at, row_id
    connection.executemany(_INSERT, rows)
    connection.executemany(_ADVANCE, advanced.values())
    return repeated


def _add_early(
    connection: Connection,
    transitions: Sequence[tuple[int, MessageKey, Transition]],
    early: Sequence[_Row],
) -> list[int]:
    """Add the *transitions* that are not in *early*; return the first elements of the others."""
    known = {(*row[1:5], row[6]) for row in early}
    rows: list[_Row] = []
    repeated: list[int] = []
    for place, key, transition in transitions:
        identity = *key, *transition[:2], transition[3]
        if identity in known:
            repeated.append(place)
            continue
        known.add(identity)
        rows.append((short_fingerprint(key[1]), *key, *transition))
    connection.executemany(_INSERT_EARLY, rows)
    return repeated


def adopt(connection: Connection, messages: Mapping[MessageKey, SentMessage]) -> None:
    """Move the early statuses of *messages*, which have just been recorded, to the messages."""
    early = _read_early(connection, {short_fingerprint(key[1]) for key in messages})
    found = [(row[0], messages[row[1:3]], row[3:]) for row in early if row[1:3] in messages]
    if found:
        _add(connection, found)
        connection.executemany(_DELETE_EARLY, [(id_,) for id_, _, _ in found])


def history(connection: Connection, wa_message_id: str) -> Sequence[StatusRecord]:
    """Read the transitions of this message, by searching all buckets with sent messages."""
    values = short_fingerprint(wa_message_id), wa_message_id
    return [status_of(row) for row in connection.execute(_HISTORY, values)]
