"""The inbox in SQL: deduplicate updates, write their projections, insert their deliveries.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from types import MappingProxyType
from typing import Final

from wats.clock import to_ms
from wats.store.records import Arrival, Received, leased_on_arrival
from wats.store.sqlite import deliveries, messages, outbox, statuses
from wats.store.sqlite.connection import Writer, change

_INSERT_UPDATE = """
INSERT INTO wats_inbox (occurred_at, key, kind, phone_number_id, received_at)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (occurred_at, key) DO NOTHING
"""

# The ids inserted by one transaction are consecutive.
_INSERTED = "SELECT occurred_at, key FROM wats_inbox WHERE id > last_insert_rowid() - ?"

PROMPT: Final = timedelta(hours=1)
"""The delay from which on a status has an identity besides its record. The retention of the record
begins when the status occurred, so it may end before that of the identity."""

_NO_SLOTS: Final[Mapping[str, int]] = MappingProxyType({})


def receive(
    writer: Writer, calls: Sequence[Sequence[Arrival]], slots: Mapping[str, int] = _NO_SLOTS
) -> Sequence[Sequence[Received | None]]:
    """Store the new updates of all *calls*; return the results of each call.

    At most *slots* deliveries of each consumer are leased on arrival.
    """
    results = iter(_receive(writer, [each for arrivals in calls for each in arrivals], slots))
    return [list(islice(results, len(arrivals))) for arrivals in calls]


def undo_receive(writer: Writer, results: Sequence[Sequence[Received | None]]) -> None:
    """Release deliveries whose webhook was refused before they were leased on arrival."""
    deliveries.release(writer, leased_on_arrival(results))


def _receive(
    writer: Writer, arrivals: Sequence[Arrival], slots: Mapping[str, int]
) -> Sequence[Received | None]:
    recorded, sent_at = statuses.receive(writer, arrivals)
    known = {
        *messages.receive(writer, arrivals),
        *recorded,
        *_insert_identities(writer, arrivals),
    }
    if not known:
        return _receive_new(writer, arrivals, sent_at, slots)
    new = [n for n in range(len(arrivals)) if n not in known]
    received = iter(
        _receive_new(writer, [arrivals[n] for n in new], [sent_at[n] for n in new], slots)
    )
    return [None if n in known else next(received) for n in range(len(arrivals))]


def _receive_new(
    writer: Writer,
    arrivals: Sequence[Arrival],
    sent_at: Sequence[datetime | None],
    slots: Mapping[str, int],
) -> Sequence[Received]:
    messages.move_windows(writer, arrivals)
    outbox.prove(writer, [each.proof for each in arrivals if each.proof is not None])
    leased, waiting = deliveries.insert(writer, arrivals, slots)
    return list(map(Received, leased, waiting, sent_at))


def _insert_identities(writer: Writer, arrivals: Sequence[Arrival]) -> Collection[int]:
    """Insert the identities of updates that records do not identify; return the known positions."""
    others = [each for each in enumerate(arrivals) if not _has_record(each[1])]
    if not others:
        return ()
    rows = [
        (
            to_ms(each.occurred_at),
            each.key,
            each.kind,
            each.phone_number_id,
            to_ms(each.received_at),
        )
        for _, each in others
    ]
    inserted = change(writer, _INSERT_UPDATE, rows)
    if inserted == len(rows):
        return ()
    new = set(writer.execute(_INSERTED, (inserted,))) if inserted else set()
    known = []
    for (n, _), row in zip(others, rows, strict=True):
        if row[:2] in new:
            new.remove(row[:2])
        else:
            known.append(n)
    return known


def _has_record(arrival: Arrival) -> bool:
    """Return whether *arrival* is identified by the record of its message or status."""
    if arrival.status is not None:
        return arrival.received_at - arrival.status.occurred_at < PROMPT
    return arrival.message is not None
