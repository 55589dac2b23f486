"""Find and delete old rows without an index by time, to which every row would have to be added."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from apsw import Connection

from wats.clock import to_ms
from wats.store.sqlite.connection import change

PURGE_ROWS: Final = 500
"""The maximum number of rows that one call of `purge` deletes from each table."""

_FIND: Final = "SELECT {1}, {2}, {3} FROM {0} WHERE {1} > ?1 ORDER BY {1} LIMIT ?3"

_DELETE: Final = "DELETE FROM {0} WHERE {1} = ?1 AND {2}"


class Walk:
    """Reads a table in order of id, which is approximately the order of time, in several calls.

    A walk continues where the previous call stopped, and ends after the last old row. Rows that are
    out of order, or are old but must be kept, do not end a walk; each walk reads them again.

    Args:
        table: The table.
        id_: Its column with the ids.
        is_old: The condition of an old row, with the time `?2`.
        can_go: The condition of a row that can be deleted, if that is not every old row.
        limit: The number of rows read at a time. A walk ends if none of them is old.
    """

    def __init__(
        self, table: str, id_: str, is_old: str, can_go: str = "", limit: int = PURGE_ROWS
    ) -> None:
        self._find = _FIND.format(table, id_, is_old, can_go or is_old)
        self._delete = _DELETE.format(table, id_, can_go or is_old)
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
            values = self._after, before_ms, self._limit
            rows: list[Any] = connection.execute(self._find, values).fetchall()
            if not any(is_old for _, is_old, _ in rows):
                self._after = 0
                return ()
            self._after = rows[-1][0]
            if ids := [id_ for id_, _, can_go in rows if can_go]:
                return ids

    def delete(self, connection: Connection, ids: Sequence[int], before: datetime) -> int:
        """Delete those rows *ids* that can still be deleted; return their number."""
        before_ms = to_ms(before)
        return change(connection, self._delete, [(id_, before_ms) for id_ in ids])
