"""The position of each series on the board: counters and histograms in rows, gauges shared.

All series are known when the service is made, so each has its slot from the start. Recording is one
look-up and one addition: no text is built, and only numbers are kept.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from operator import add, getitem
from typing import NamedTuple, TypeVar

from wats.telemetry.contract.families import Family
from wats.telemetry.contract.labels import Subjects, Values
from wats.telemetry.contract.values import Kind
from wats.telemetry.metrics.shared_memory import Board

T = TypeVar("T")


class Axis(NamedTuple):
    """The closed values of a label, and the fallback for any other."""

    values: Sequence[object]
    other: object


class Places(dict[tuple[object, ...], T]):
    """Data for each possible series; looked up by a tuple of label values.

    Any other combination is looked up as the possible series that differs in the fewest labels, by
    their fallbacks, and not kept.
    """

    def __init__(self, axes: Sequence[Axis], items: Iterable[tuple[tuple[object, ...], T]]) -> None:
        super().__init__(items)
        self._axes: Sequence[tuple[Container[object], object]] = [
            (frozenset(axis.values), axis.other) for axis in axes
        ]

    def __missing__(self, values: tuple[object, ...]) -> T:
        pairs = zip(values, self._axes, strict=True)
        choices = [(value if value in known else other, other) for value, (known, other) in pairs]
        for replaced in sorted(product((0, 1), repeat=len(choices)), key=sum):
            series = tuple(map(getitem, choices, replaced))
            if series in self:
                return self[series]
        return self[next(reversed(self))]


@dataclass(frozen=True)
class Block:
    """A family on the board, from slot `offset` on.

    A counter or a gauge takes a slot for each series. A histogram takes one for each bucket, which
    are not cumulative here, one for the values above all buckets, and one for the sum. It has none
    for the count: that is the sum of the others, so a scrape during a recording cannot see the two
    disagree.
    """

    family: Family
    subjects: Subjects
    offset: int

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The closed values of each label."""
        return tuple(
            Axis(label.values_of(self.subjects), label.other) for label in self.family.labels
        )

    @cached_property
    def series(self) -> tuple[Values, ...]:
        """The label values of every possible series, in the order of their slots."""
        if self.family.possible is None:
            return tuple(self._combinations())
        possible = set(self.family.possible(self.subjects))
        return tuple(values for values in self._combinations() if values in possible)

    @cached_property
    def initial(self) -> frozenset[Values]:
        """The series that are exposed before any event."""
        return frozenset(self.family.initial(self.subjects))

    @cached_property
    def places(self) -> Places[int]:
        """The first slot for a combination of label values, given in label order."""
        firsts = range(self.offset, self.end, self.width)
        return Places(self.axes, zip(self.series, firsts, strict=True))

    @property
    def width(self) -> int:
        """The slots of one series."""
        return len(self.family.buckets) + 2 if self.family.kind is Kind.HISTOGRAM else 1

    @property
    def lines(self) -> int:
        """The lines of one series in the exposition; Prometheus counts each as a series."""
        return self.width + 1 if self.family.kind is Kind.HISTOGRAM else 1

    @property
    def end(self) -> int:
        """The first slot after the block."""
        return self.offset + len(self.series) * self.width

    def _combinations(self) -> Iterator[Values]:
        return product(*(label.values_of(self.subjects) for label in self.family.labels))


class Registry:
    """The blocks of the families that have a subject, and their slots on *board*.

    Within a process, one thread records, into *row*; a scrape sums the rows of all. The slot
    `spare` is never read, and takes the events of counters that are not exposed.

    Raises:
        IndexError: The board has no such row.
        ValueError: The board is too small.
    """

    def __init__(
        self, families: Iterable[Family], subjects: Subjects, *, board: Board, row: int = 0
    ) -> None:
        blocks: list[Block] = []
        ends = {True: 0, False: 0}
        for family in families:
            if subjects.have(family.needs):
                shared = family.kind is Kind.GAUGE
                blocks.append(Block(family, subjects, ends[shared]))
                ends[shared] = blocks[-1].end
        self.blocks = tuple(blocks)
        self.gauges = board.gauges(ends[True])
        self.spare = ends[False]
        self.slots = board.slots(row, self.spare + 1)
        self._rows = [board.slots(each, ends[False]) for each in range(board.rows)]
        self._blocks = {block.family: block for block in blocks}

    def block(self, family: Family | None) -> Block | None:
        """Return the block of *family*, if the family is exposed."""
        return None if family is None else self._blocks.get(family)

    @property
    def budget(self) -> int:
        """The most series that can ever be exposed."""
        return sum(len(block.series) * block.lines for block in self.blocks)

    def totals(self) -> list[float]:
        """Return the sum of every slot over all rows."""
        totals: list[float] = self._rows[0].tolist()  # type: ignore[assignment]  # typeshed: ints
        for row in self._rows[1:]:
            totals = list(map(add, totals, row))
        return totals
