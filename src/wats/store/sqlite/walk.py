"""Find old rows without an index by time, to which every row would have to be added."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from apsw import Connection

from wats.clock import to_ms


class Walk:
    """Reads a table in order of id, which is approximately the order of time, in several calls.

    A walk continues where the previous call stopped, and ends after the last old row. Rows that are
    out of order, or are old but must be kept, do not end a walk; each walk reads them again.

    Args:
        statement: Selects, for a time, an id and a limit: ids, whether a row is old, and whether it
            can be deleted.
        limit: The number of rows read at a time. A walk ends if none of them is old.
    """

    def __init__(self, statement: str, limit: int) -> None:
        self._statement = statement
        self._limit = limit
        self._after = 0

    def next_rows(self, connection: Connection, before: datetime) -> Sequence[int]:
        """Return ids of rows that can be deleted; none if a complete walk has found none."""
        # A walk that did not start at the first row is repeated.
        for _ in range(1 if self._after == 0 else 2):
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
