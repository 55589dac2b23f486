"""Deliveries that were leased as they arrived, and that nothing else has happened to.

Nearly every update has one target, and is handled as soon as it is stored. Its delivery is one row
for as long as it takes, which says all that there is to say: inserted once, deleted once. When
anything else becomes of it than to be done, it is moved to where the other deliveries are.

There are never many: whoever wants to know something of them reads them all, so their table needs
no index.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from apsw import Connection

from wats.store.sqlite.connection import delete_found

FIRST_LEASE = 0
"""The lease id of each of them. An update arrives only once, so it needs no number of its own."""

MOST = 500
"""How many there may be. Whatever else is leased as it arrives is a delivery like any other."""

Line: TypeAlias = tuple[str, int]
"""Those who wait for one another: a target and a lane."""

FirstLease: TypeAlias = tuple[int, str, int, int, bytes]
"""update_id, target, lane, leased_until (ms), payload."""

_INSERT = """
INSERT INTO wats_first_leases (update_id, target, lane, leased_until, payload)
VALUES (?, ?, ?, ?, ?)
"""

_LINES = "SELECT target, lane FROM wats_first_leases"

_RENEW = "UPDATE wats_first_leases SET leased_until = ? WHERE update_id = ?"

_DELETE = "DELETE FROM wats_first_leases WHERE update_id = ?"

_IS_THERE = "SELECT EXISTS (SELECT 1 FROM wats_first_leases WHERE update_id = ?)"

_RAN_OUT = "SELECT update_id FROM wats_first_leases WHERE leased_until <= ?"

_MOVE_PAYLOAD = """
INSERT INTO wats_payloads (update_id, waiting, payload)
SELECT update_id, 1, payload FROM wats_first_leases WHERE update_id = ?
"""

_MOVE_DELIVERY = f"""
INSERT INTO wats_deliveries (
    target, lane, update_id, state, is_head, due_at, attempts, lease_id
)
SELECT target, lane, update_id, 'leased', 1, leased_until, 1, {FIRST_LEASE}
FROM wats_first_leases
WHERE update_id = ?
"""  # noqa: S608  # what is put in is our own number


def insert(connection: Connection, rows: Collection[FirstLease]) -> None:
    """Lease what arrived; nothing of its line is outstanding."""
    connection.executemany(_INSERT, rows)


def lines(connection: Connection) -> set[Line]:
    """Return the lines of all of them; no two have the same."""
    return set(connection.execute(_LINES))


def renew(connection: Connection, update_ids: Collection[int], leased_until: int) -> None:
    """Move the ends of the leases that are still held."""
    connection.executemany(_RENEW, [(leased_until, update_id) for update_id in update_ids])


def end(connection: Connection, lines: Mapping[int, Line]) -> Mapping[int, Line]:
    """Delete those of the updates *lines* that are still here, payload and all; return these."""
    rows = [(update_id,) for update_id in lines]
    found = delete_found(connection, _DELETE, _IS_THERE, rows)
    if len(found) == len(rows):
        return lines
    return {update_id: lines[update_id] for (update_id,) in found}


def move(connection: Connection, update_ids: Collection[int]) -> None:
    """Make those of *update_ids* that are still here deliveries like any other, still leased."""
    rows = [(update_id,) for update_id in update_ids]
    for statement in (_MOVE_PAYLOAD, _MOVE_DELIVERY, _DELETE):
        connection.executemany(statement, rows)


def move_those_ran_out(connection: Connection, now: int) -> None:
    """Move those whose leases ended before *now* (ms), so that they can be claimed."""
    move(connection, [update_id for (update_id,) in connection.execute(_RAN_OUT, (now,))])
