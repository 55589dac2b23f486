"""Finding old rows without an index by time, which every row would have to be written to."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from apsw import Connection

from wats.clock import to_ms


class Walk:
    """Goes through a table in the order of its ids, from where it stopped the last time.

    That is nearly the order of time. A row that is out of it, or is old and has to stay, holds up
    nothing; it is looked at once in each walk through all that is old.

    Args:
        statement: Selects, for a time, an id and a limit: ids, whether each is old, and whether
            it can go.
        limit: How many rows are looked at together; a walk ends where none of so many is old.
    """

    def __init__(self, statement: str, limit: int) -> None:
        self._statement = statement
        self._limit = limit
        self._after = 0

    def next_rows(self, connection: Connection, before: datetime) -> Sequence[int]:
        """Return the ids of some rows that can go; none when a whole walk has found no more."""
        turns = 1 if self._after == 0 else 2  # one that began in the middle begins again
        for _ in range(turns):
            if ids := self._go_on(connection, to_ms(before)):
                return ids
        return ()

    def _go_on(self, connection: Connection, before_ms: int) -> Sequence[int]:
        while True:
            values = before_ms, self._after, self._limit
            rows: list[Any] = connection.execute(self._statement, values).fetchall()
            if not any(is_old for _, is_old, _ in rows):
                self._after = 0
                return ()
            self._after = rows[-1][0]
            if ids := [id_ for id_, _, can_go in rows if can_go]:
                return ids
