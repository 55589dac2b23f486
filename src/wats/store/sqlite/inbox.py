"""The inbox in SQL: which updates are new, what they project, and who gets them.

Each function runs inside a transaction that its caller opened.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeAlias

from apsw import Connection

from wats.clock import to_ms
from wats.store.records import Arrival, Received
from wats.store.sqlite import deliveries, messages, statuses
from wats.store.sqlite.connection import Writer, change

Call: TypeAlias = tuple[Sequence[Arrival], Mapping[str, int]]
"""The arguments of one call of `InboxStore.receive`: arrivals, and slots by consumer."""

_LAST_ID = "SELECT coalesce(max(id), 0) FROM wats_inbox"

_INSERT_UPDATE = """
INSERT INTO wats_inbox (id, occurred_at, key, kind, phone_number_id, received_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (occurred_at, key) DO NOTHING
"""

_INSERTED_SINCE = "SELECT id FROM wats_inbox WHERE id > ?"

OLD_UPDATES = """
SELECT id, received_at < ?1, received_at < ?1 FROM wats_inbox
WHERE id > ?2
ORDER BY id
LIMIT ?3
"""
"""For a `Walk`."""

_PURGE = "DELETE FROM wats_inbox WHERE id = ? AND received_at < ?"


def receive(writer: Writer, calls: Sequence[Call]) -> Sequence[Sequence[Received | None]]:
    """Store what is new of all *calls*; return the results of each."""
    slots: Counter[str] = Counter()
    for _, reserved in calls:
        slots.update(reserved)
    results = iter(_receive(writer, [each for arrivals, _ in calls for each in arrivals], slots))
    return [list(islice(results, len(arrivals))) for arrivals, _ in calls]


def _receive(
    writer: Writer, arrivals: Sequence[Arrival], slots: Mapping[str, int]
) -> Sequence[Received | None]:
    known = {*messages.receive(writer, arrivals), *_insert_identities(writer, arrivals)}
    if known:
        new = [each for n, each in enumerate(arrivals) if n not in known]
        found = iter(_receive_new(writer, new, slots))
        return [None if n in known else next(found) for n in range(len(arrivals))]
    return _receive_new(writer, arrivals, slots)


def _receive_new(
    writer: Writer, arrivals: Sequence[Arrival], slots: Mapping[str, int]
) -> Sequence[Received]:
    messages.move_windows(writer, arrivals)
    sent_at = statuses.receive(writer, arrivals)
    leased, waiting = deliveries.insert(writer, arrivals, slots)
    return list(map(Received, leased, waiting, sent_at))


def _insert_identities(writer: Writer, arrivals: Sequence[Arrival]) -> Collection[int]:
    """Insert the identities of updates that are not messages; return the positions of others."""
    others = [n for n, each in enumerate(arrivals) if each.message is None]
    if not others:
        return ()
    last_id: int = writer.execute(_LAST_ID).get
    rows = [_row(id_, arrivals[n]) for id_, n in enumerate(others, last_id + 1)]
    if change(writer, _INSERT_UPDATE, rows) == len(rows):
        return ()
    inserted = {id_ for (id_,) in writer.execute(_INSERTED_SINCE, (last_id,))}
    return [n for id_, n in enumerate(others, last_id + 1) if id_ not in inserted]


def _row(id_: int, arrival: Arrival) -> tuple[object, ...]:
    return (
        id_,
        to_ms(arrival.occurred_at),
        arrival.key,
        arrival.kind,
        arrival.phone_number_id,
        to_ms(arrival.received_at),
    )


def purge(connection: Connection, update_ids: Sequence[int], before: datetime) -> int:
    """Delete the identities *update_ids*, which were found to be received before *before*."""
    before_ms = to_ms(before)
    return change(connection, _PURGE, [(id_, before_ms) for id_ in update_ids])
