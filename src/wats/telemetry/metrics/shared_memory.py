"""Shared memory for the numbers of all worker processes. `series.py` defines the layout."""

import mmap
from typing import Final

GAUGES: Final = 128
SLOTS: Final = 8192
ERROR_BYTES: Final = 1024

_FLOAT64: Final = 8
_WORKERS: Final = 0
_ROW_BYTES: Final = SLOTS * _FLOAT64 + ERROR_BYTES
_HEAD_BYTES: Final = (1 + GAUGES) * _FLOAT64


class Board:
    """Numbers and error counts of *rows* worker processes, for as long as one process lives.

    A row belongs to the process that was given its number. The counts of a process stay when it
    ends, and its replacement continues them, so no counter ever falls. The memory holds numbers and
    the class names of errors only.

    Args:
        rows: The number of worker processes; at least 1.

    Raises:
        ValueError: The number of rows is not positive.
    """

    def __init__(self, rows: int = 1) -> None:
        if rows < 1:
            msg = "A board needs a row for at least one worker process."
            raise ValueError(msg)
        self._rows = rows
        self._bytes = memoryview(mmap.mmap(-1, _HEAD_BYTES + rows * _ROW_BYTES))
        self._head = self._bytes[:_HEAD_BYTES].cast("d")
        self._head[_WORKERS] = 1.0
        for gauge in range(GAUGES):
            self.gauges(GAUGES)[gauge] = float("nan")

    @property
    def rows(self) -> int:
        """The number of worker processes that have a row."""
        return self._rows

    @property
    def workers(self) -> int:
        """How many worker processes run now: 1, unless their supervisor sets it."""
        return int(self._head[_WORKERS])

    @workers.setter
    def workers(self, count: int) -> None:
        self._head[_WORKERS] = float(count)

    def slots(self, row: int, length: int) -> "memoryview[float]":
        """Return the first *length* float64 slots of *row*, which start as 0.

        Only the process that owns the row may write to it; a scrape reads all rows.

        Raises:
            IndexError: There is no such row.
            ValueError: A row has fewer slots.
        """
        first = self._first_byte(row)
        return self._bytes[first : first + _checked(length, SLOTS) * _FLOAT64].cast("d")

    def gauges(self, length: int) -> "memoryview[float]":
        """Return the first *length* gauges, which all processes share; NaN until one is set.

        The last write wins: a gauge is the current state, and the last observation is the best.

        Raises:
            ValueError: There are fewer gauges.
        """
        return self._head[1 : 1 + _checked(length, GAUGES)]

    def errors(self, row: int) -> "memoryview[int]":
        """Return the bytes in which the process of *row* keeps its errors; it is their only writer.

        Raises:
            IndexError: There is no such row.
        """
        first = self._first_byte(row) + SLOTS * _FLOAT64
        return self._bytes[first : first + ERROR_BYTES]

    def _first_byte(self, row: int) -> int:
        if not 0 <= row < self._rows:
            msg = "The board has no such row."
            raise IndexError(msg)
        return _HEAD_BYTES + row * _ROW_BYTES


def _checked(length: int, capacity: int) -> int:
    if length > capacity:
        msg = f"The board has room for {capacity}, not {length}."
        raise ValueError(msg)
    return length
