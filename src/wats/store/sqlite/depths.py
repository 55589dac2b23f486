"""The depth of each consumer, from counters, and the age of its oldest delivery, in SQL."""

from typing import Any

from apsw import Connection

from wats.store.records import OUTBOX, Depth, InboxDepth

_COUNTS = "SELECT name, pending, leased, retry, dead FROM wats_consumers"

_OLDEST = "SELECT consumer, arrived_at FROM wats_deliveries ORDER BY id LIMIT ?"

_OLDEST_OF = """
SELECT min(arrived_at) FROM (
    SELECT arrived_at FROM wats_deliveries
    WHERE consumer = ? AND due_at IS NOT NULL ORDER BY due_at LIMIT ?
)
"""

_MOST_ROWS = 5000
"""The maximum number of rows read to find the oldest delivery of a consumer."""


def read(connection: Connection, configured: frozenset[str], now: int) -> InboxDepth:
    """Read the depth of every consumer, and the age of the oldest delivery."""
    consumers = {
        name: Depth(pending=pending, leased=leased, retry=retry, dead=dead)
        for name, pending, leased, retry, dead in connection.execute(_COUNTS)
    }
    found = InboxDepth(consumers=consumers, configured=configured)
    is_mixed = found.orphaned or found.outbox.outstanding
    oldest = _oldest(connection, found.inbound if is_mixed else None)
    return InboxDepth(
        consumers=consumers,
        configured=configured,
        oldest_seconds=_age(oldest, now),
        outbox_seconds=oldest_seconds(connection, OUTBOX, now),
    )


def oldest_seconds(connection: Connection, consumer: str, now: int) -> float:
    """Read the age of the oldest delivery of *consumer*, or 0.

    The oldest delivery is a head. It is found among the first `_MOST_ROWS` that are due.
    """
    oldest: int | None = connection.execute(_OLDEST_OF, (consumer, _MOST_ROWS)).get
    return _age(oldest, now)


def _age(oldest: int | None, now: int) -> float:
    return 0.0 if oldest is None else max(now - oldest, 0) / 1000


def _oldest(connection: Connection, consumers: frozenset[str] | None) -> int | None:
    """Return the arrival time of the oldest delivery of *consumers*, or of all if `None`.

    At most `_MOST_ROWS` rows are read. If none belongs to *consumers*, the arrival time of the
    last row is returned.
    """
    rows: list[Any] = connection.execute(
        _OLDEST, (1 if consumers is None else _MOST_ROWS,)
    ).fetchall()
    for consumer, arrived_at in rows:
        if consumers is None or consumer in consumers:
            oldest: int = arrived_at
            return oldest
    return rows[-1][1] if len(rows) == _MOST_ROWS else None
