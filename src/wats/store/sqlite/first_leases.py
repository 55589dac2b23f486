"""Deliveries that were leased as they arrived, and that nothing else has happened to.

Nearly every update has one target, and is handled as soon as it is stored. Its delivery is one row
for as long as it takes, which says all that there is to say: inserted once, deleted once. When
anything else becomes of it than to be done, it is moved to where the other deliveries are.

There are never many: whoever wants to know something of them reads them all, so their table needs
no index.

Each function runs inside a transaction that its caller opened.
"""

import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from apsw import Connection

from wats.store.sqlite.connection import delete_found

MOST = 500
"""How many there may be. Whatever else is leased as it arrives is a delivery like any other."""

Line: TypeAlias = tuple[str, int]
"""Those who wait for one another: a target and a lane."""

LEASE_IDS = range(-(2**62), 0)
"""The numbers of first leases, which no other lease has, so that it is known where to look. What
was moved keeps its number until it is leased again."""

FirstLease: TypeAlias = tuple[int, int]
"""update_id, lease_id."""

Row: TypeAlias = tuple[int, int, str, int, int, bytes]
"""update_id, lease_id, target, lane, leased_until (ms), payload."""

_INSERT = """
INSERT INTO wats_first_leases (update_id, lease_id, target, lane, leased_until, payload)
VALUES (?, ?, ?, ?, ?, ?)
"""

_LINES = "SELECT target, lane FROM wats_first_leases"

_RENEW = "UPDATE wats_first_leases SET leased_until = ? WHERE update_id = ? AND lease_id = ?"

_DELETE = "DELETE FROM wats_first_leases WHERE update_id = ? AND lease_id = ?"

_IS_HELD = """
SELECT EXISTS (SELECT 1 FROM wats_first_leases WHERE update_id = ? AND lease_id = ?)
"""

_EXPIRED = "SELECT update_id, lease_id FROM wats_first_leases WHERE leased_until <= ?"

_MOVE_PAYLOAD = """
INSERT INTO wats_payloads (update_id, waiting, payload)
SELECT update_id, 1, payload FROM wats_first_leases WHERE update_id = ? AND lease_id = ?
"""

_MOVE_DELIVERY = """
INSERT INTO wats_deliveries (
    target, lane, update_id, state, is_head, due_at, attempts, lease_id
)
SELECT target, lane, update_id, 'leased', 1, leased_until, 1, lease_id
FROM wats_first_leases
WHERE update_id = ? AND lease_id = ?
"""


def new_lease_id() -> int:
    """Return one of `LEASE_IDS` that nobody has had."""
    return -1 - secrets.randbits(62)


def insert(connection: Connection, rows: Collection[Row]) -> None:
    """Lease what arrived; nothing of its line is outstanding."""
    connection.executemany(_INSERT, rows)


def lines(connection: Connection) -> set[Line]:
    """Return the lines of all of them; no two have the same."""
    return set(connection.execute(_LINES))


def renew(connection: Connection, leases: Collection[FirstLease], leased_until: int) -> None:
    """Move the ends of those of *leases* that are still held here."""
    connection.executemany(_RENEW, [(leased_until, *lease) for lease in leases])


def end(connection: Connection, held: Mapping[FirstLease, Line]) -> Mapping[int, Line]:
    """Delete those of *held* that are still here, payload and all.

    Returns:
        The lines of these, by their updates.
    """
    found = delete_found(connection, _DELETE, _IS_HELD, list(held))
    return {lease[0]: held[lease] for lease in found}


def move(connection: Connection, leases: Iterable[FirstLease]) -> None:
    """Make those of *leases* that are still here deliveries like any other, still leased."""
    rows = list(dict.fromkeys(leases))
    for statement in (_MOVE_PAYLOAD, _MOVE_DELIVERY, _DELETE):
        connection.executemany(statement, rows)


def move_expired(connection: Connection, now: int) -> None:
    """Move those whose leases end at *now* (ms) or ended before, so that they can be claimed."""
    move(connection, list(connection.execute(_EXPIRED, (now,))))
