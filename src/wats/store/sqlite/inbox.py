"""The inbox in SQL: which updates are new, what they project, and who gets them.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias

from apsw import Connection

from wats.clock import to_ms
from wats.store.records import Arrival, Received
from wats.store.sqlite import deliveries, messages
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.deliveries import Arriving

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

_NO_SLOTS: Final[Mapping[str, int]] = MappingProxyType({})

_Numbered: TypeAlias = tuple[int, Arrival]


def receive(
    writer: Writer, calls: Sequence[Sequence[Arrival]], slots: Mapping[str, int] = _NO_SLOTS
) -> Sequence[Sequence[Received | None]]:
    """Store what is new of all *calls*; return the results of each.

    Up to so many deliveries of each consumer as *slots* has are leased.
    """
    shared = dict(slots)
    arriving = [Arriving(arrival, shared, []) for arrivals in calls for arrival in arrivals]
    numbered = list(enumerate(each.arrival for each in arriving))
    new = _insert_identities(writer, messages.unknown(writer, numbered))
    sent_at = messages.project(writer, [arrival for _, arrival in new])
    deliveries.insert(writer, [arriving[number] for number, _ in new])
    results: list[Received | None] = [None] * len(arriving)
    for (number, _), at in zip(new, sent_at, strict=True):
        each = arriving[number]
        results[number] = Received(each.leased, each.waiting, at)
    split = iter(results)
    return [[next(split) for _ in arrivals] for arrivals in calls]


def _insert_identities(writer: Writer, numbered: Sequence[_Numbered]) -> Sequence[_Numbered]:
    """Insert the identities of updates that are not messages; return what is new of *numbered*."""
    others = [each for each in numbered if each[1].message is None]
    if not others:
        return numbered
    last_id: int = writer.execute(_LAST_ID).get
    rows = [_row(id_, arrival) for id_, (_, arrival) in enumerate(others, last_id + 1)]
    if change(writer, _INSERT_UPDATE, rows) == len(rows):
        return numbered
    inserted = {id_ for (id_,) in writer.execute(_INSERTED_SINCE, (last_id,))}
    known = {number for id_, (number, _) in enumerate(others, last_id + 1) if id_ not in inserted}
    return [each for each in numbered if each[0] not in known]


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
