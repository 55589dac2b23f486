"""The statuses of outbound messages in SQL.

The statuses of a message are stored by its row id. Those of a message that is not recorded, as
another application sent it or the webhook overtook our own record, are *early* and stored by hash.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import NamedTuple, TypeAlias

from apsw import Connection

from wats.clock import from_ms, to_ms
from wats.privacy import short_fingerprint
from wats.store.records import Arrival, StatusRecord, rank_of
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.message_index import buckets_with_sent, look_up, numbers

ID_BITS = 16
"""The lower bits of an id number the statuses of one message. Part of the schema."""

_MESSAGES = """
SELECT row_id, phone_number_id, wa_message_id, status, created_at, updated_at
FROM carray(?) CROSS JOIN wats_messages ON row_id = value
WHERE direction = 'outbound'
"""

_KNOWN = """
SELECT s.id, s.status, s.participant, s.occurred_at
FROM carray(?1) AS m
CROSS JOIN wats_statuses AS s ON s.id BETWEEN m.value << ?2 AND ((m.value + 1) << ?2) - 1
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
    phone_number_id, wa_message_id, status, participant, error_code, occurred_at, wa_message_hash
)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_DELETE_EARLY = "DELETE FROM wats_early_statuses WHERE id = ?"

_HISTORY = """
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
CROSS JOIN wats_statuses AS s ON s.id BETWEEN m.row_id << ?3 AND ((m.row_id + 1) << ?3) - 1
WHERE m.wa_message_id = ?2
UNION ALL
SELECT phone_number_id, wa_message_id, status, participant, error_code, occurred_at, id, 1
FROM wats_early_statuses
WHERE wa_message_hash = ?1 AND wa_message_id = ?2
ORDER BY is_early, position
"""

OLD_STATUSES = """
SELECT id, occurred_at < ?1, occurred_at < ?1 FROM wats_statuses
WHERE id > ?2
ORDER BY id
LIMIT ?3
"""
"""For a `Walk`."""

OLD_EARLY_STATUSES = """
SELECT id, occurred_at < ?1, occurred_at < ?1 FROM wats_early_statuses
WHERE id > ?2
ORDER BY id
LIMIT ?3
"""
"""For a `Walk`."""

_PURGE = "DELETE FROM wats_statuses WHERE id = ? AND occurred_at < ?"

_PURGE_EARLY = "DELETE FROM wats_early_statuses WHERE id = ? AND occurred_at < ?"

MessageKey: TypeAlias = tuple[str, str]
"""The phone_number_id and wa_message_id of an outbound message."""

Transition: TypeAlias = tuple[str, str, int | None, int]
"""status, participant, error_code, occurred_at (ms)."""

_Identity: TypeAlias = tuple[str, str, int]
"""status, participant, occurred_at (ms)."""


class SentMessage(NamedTuple):
    """The row of an outbound message, as far as statuses concern it. Times are milliseconds."""

    row_id: int
    status: str
    created_at: int
    updated_at: int


def receive(writer: Writer, arrivals: Sequence[Arrival]) -> Iterable[datetime | None]:
    """Record the statuses of *arrivals*.

    Returns:
        For each arrival that reports that a recorded message was delivered: when that message was
        recorded as sent.
    """
    records = [each.status for each in arrivals if each.status is not None]
    if not records:
        return repeat(None)
    sent = record(writer, records)
    return [_sent_at(each.status, sent) for each in arrivals]


def _sent_at(status: StatusRecord | None, sent: Mapping[MessageKey, int]) -> datetime | None:
    if status is None or status.status != "delivered":
        return None
    created_at = sent.get((status.phone_number_id, status.wa_message_id))
    return None if created_at is None else from_ms(created_at)


def record(writer: Writer, records: Iterable[StatusRecord]) -> Mapping[MessageKey, int]:
    """Record those of *records* that are not recorded yet, and move their messages on.

    Returns:
        When the messages were created (ms), of those that are recorded.
    """
    transitions: dict[MessageKey, list[Transition]] = {}
    for each in records:
        key = each.phone_number_id, each.wa_message_id
        transition = each.status, each.participant, each.error_code, to_ms(each.occurred_at)
        transitions.setdefault(key, []).append(transition)
    if not transitions:
        return {}
    sent, early = _find(writer, transitions)
    add(writer, [(message, transitions[key]) for key, message in sent.items()])
    _add_early(writer, {key: transitions[key] for key in transitions if key not in sent}, early)
    return {key: message.created_at for key, message in sent.items()}


_Early: TypeAlias = dict[MessageKey, dict[int, Transition]]
"""Early statuses by their messages and ids, in order of arrival."""


def _find(
    writer: Writer, keys: Collection[MessageKey]
) -> tuple[Mapping[MessageKey, SentMessage], _Early]:
    """Return the messages of *keys* that are recorded, and the early statuses of the others.

    The buckets are searched from the last to the first, as most statuses follow soon. All of them
    are searched for the first status of a message that is not recorded: about 0.05 ms at five
    million messages. Its early status spares the next ones the search.
    """
    index = writer.message_index
    index.catch_up(writer)
    missing = {key: short_fingerprint(key[1]) for key in keys}
    sent = _read(writer, index.find_pending(set(missing.values())), missing)
    early = _read_early(writer, missing)
    unseen = {key: hash_ for key, hash_ in missing.items() if key not in early}
    steps = buckets_with_sent(writer)
    while unseen and (buckets := next(steps, None)):
        row_ids = look_up(writer, buckets, sorted(set(unseen.values())))
        sent |= _read(writer, row_ids, unseen)
    return sent, early


def _read(
    connection: Connection, row_ids: Collection[int], missing: dict[MessageKey, int]
) -> dict[MessageKey, SentMessage]:
    """Read those of the messages *row_ids* that are *missing*, and take them out of there."""
    if not row_ids:
        return {}
    found: dict[MessageKey, SentMessage] = {}
    for row_id, number, message_id, *rest in connection.execute(_MESSAGES, (numbers(row_ids),)):
        if missing.pop((number, message_id), None) is not None:
            found[number, message_id] = SentMessage(row_id, *rest)
    return found


def _read_early(connection: Connection, hashes: Mapping[MessageKey, int]) -> _Early:
    if not hashes:
        return {}
    found: _Early = {}
    for id_, number, message_id, *transition in sorted(
        connection.execute(_EARLY, (numbers(set(hashes.values())),))
    ):
        if (number, message_id) in hashes:
            found.setdefault((number, message_id), {})[id_] = tuple(transition)
    return found


def add(
    connection: Connection, transitions: Sequence[tuple[SentMessage, Collection[Transition]]]
) -> None:
    """Add those of *transitions* that are new to their messages, and move these on by rank.

    The first 65,536 transitions of a message are kept.
    """
    if not transitions:
        return
    known: dict[int, set[_Identity]] = {message.row_id: set() for message, _ in transitions}
    next_ids = {row_id: row_id << ID_BITS for row_id in known}
    for id_, *identity in connection.execute(_KNOWN, (numbers(known), ID_BITS)):
        row_id = id_ >> ID_BITS
        known[row_id].add(tuple(identity))
        next_ids[row_id] = max(next_ids[row_id], id_ + 1)
    rows: list[tuple[object, ...]] = []
    advanced: list[tuple[str, int, int]] = []
    for message, theirs in transitions:
        row_id = message.row_id
        room = ((row_id + 1) << ID_BITS) - next_ids[row_id]
        new = _new(theirs, known[row_id])[:room]
        rows += [(id_, *each) for id_, each in enumerate(new, next_ids[row_id])]
        after = _advance(message, new)
        if after is not None:
            advanced.append((*after, row_id))
    connection.executemany(_INSERT, rows)
    connection.executemany(_ADVANCE, advanced)


def _new(transitions: Iterable[Transition], known: set[_Identity]) -> list[Transition]:
    """Return those of *transitions* that are not *known*, and add them to these."""
    new: list[Transition] = []
    for transition in transitions:
        status, participant, _, occurred_at = transition
        identity = status, participant, occurred_at
        if identity not in known:
            known.add(identity)
            new.append(transition)
    return new


def _advance(message: SentMessage, transitions: Iterable[Transition]) -> tuple[str, int] | None:
    """Return status and updated_at after *transitions*; `None` if they change nothing."""
    rank, updated_at = rank_of(message.status), message.updated_at
    after = None
    for status, _, _, occurred_at in transitions:
        if rank_of(status) > rank:
            rank, updated_at = rank_of(status), max(updated_at, occurred_at)
            after = status, updated_at
    return after


def _add_early(
    connection: Connection,
    transitions: Mapping[MessageKey, Collection[Transition]],
    early: _Early,
) -> None:
    rows = [
        (*key, *transition, short_fingerprint(key[1]))
        for key, theirs in transitions.items()
        for transition in _new(theirs, _identities(early.get(key, {}).values()))
    ]
    connection.executemany(_INSERT_EARLY, rows)


def _identities(transitions: Iterable[Transition]) -> set[_Identity]:
    return {(status, participant, at) for status, participant, _, at in transitions}


def adopt(connection: Connection, messages: Mapping[MessageKey, SentMessage]) -> None:
    """Add the early statuses of *messages*, which were just recorded, to them."""
    early = _read_early(connection, {key: short_fingerprint(key[1]) for key in messages})
    add(connection, [(messages[key], list(theirs.values())) for key, theirs in early.items()])
    ids = [(id_,) for theirs in early.values() for id_ in theirs]
    connection.executemany(_DELETE_EARLY, ids)


def history(connection: Connection, wa_message_id: str) -> Sequence[StatusRecord]:
    """Read the transitions of this message; search all buckets with sent messages."""
    values = short_fingerprint(wa_message_id), wa_message_id, ID_BITS
    return [
        StatusRecord(
            phone_number_id=phone_number_id,
            wa_message_id=wamid,
            status=status,
            participant=participant,
            error_code=error_code,
            occurred_at=from_ms(occurred_at),
        )
        for phone_number_id, wamid, status, participant, error_code, occurred_at, _, _ in (
            connection.execute(_HISTORY, values)
        )
    ]


def purge(connection: Connection, ids: Sequence[int], before: datetime) -> int:
    """Delete the statuses *ids*, which are from before *before*."""
    return change(connection, _PURGE, [(id_, to_ms(before)) for id_ in ids])


def purge_early(connection: Connection, ids: Sequence[int], before: datetime) -> int:
    """Delete the early statuses *ids*, which are from before *before*."""
    return change(connection, _PURGE_EARLY, [(id_, to_ms(before)) for id_ in ids])
