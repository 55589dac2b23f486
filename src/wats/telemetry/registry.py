"""Where the numbers are: one flat array of float64 in memory that worker processes share.

Each worker process writes one row of its own, so no write ever needs a lock; a scrape by any of
them sums the rows. A series is an ordinal, the mixed-radix number of its label ordinals, so that
recording is one addition at a known place: no text is built and nothing is allocated.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from operator import add
from typing import NamedTuple

from wats.telemetry.vocabulary import Family, Kind, Label, Subjects, Values

_FLOAT64 = 8


class Axis(NamedTuple):
    """One label of a block: how many slots each value lies from the first, and any other value."""

    steps: Mapping[object, int]
    other: int

    def step(self, value: object) -> int:
        """Return the step of *value*; what is not in the closed list counts as `other`."""
        return self.steps.get(value, self.other)


@dataclass(frozen=True)
class Block:
    """A family as it lies in memory, from slot `offset` on.

    A counter takes a slot for each series. A histogram takes one for each bucket, which are not
    cumulative here, one for what is above them all, and one for the sum. It has none for the count:
    that is the sum of the others, so a scrape amid a recording cannot see the two disagree.
    """

    family: Family
    subjects: Subjects
    offset: int

    @cached_property
    def values(self) -> tuple[tuple[str, ...], ...]:
        """The closed values of each label; those of `route` come from the route table."""
        return tuple(label.values or self._routes for label in self.family.labels)

    @property
    def _routes(self) -> tuple[str, ...]:
        return tuple(route.template for route in self.subjects.routes)

    @property
    def exposed(self) -> bool:
        """Whether there is anything that the family could tell of."""
        return self.subjects.have(self.family.needs)

    @property
    def width(self) -> int:
        """The slots of one series."""
        return len(self.family.buckets) + 2 if self.family.kind is Kind.HISTOGRAM else 1

    @property
    def length(self) -> int:
        """The number of series."""
        return prod(len(values) for values in self.values)

    @property
    def end(self) -> int:
        """The first slot after the block."""
        return self.offset + self.length * self.width

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The axis of each label. The last label varies fastest."""
        axes: list[Axis] = []
        stride = self.width
        for label, values in zip(reversed(self.family.labels), reversed(self.values), strict=True):
            axes.append(_axis(label, values, stride))
            stride *= len(values)
        return tuple(reversed(axes))

    @cached_property
    def initial(self) -> frozenset[int]:
        """The ordinals of the series that are exposed before anything happened."""
        return frozenset(
            (self.slot(*values) - self.offset) // self.width
            for values in self.family.initial(self.subjects)
        )

    def series(self) -> Iterator[Values]:
        """Iterate over the label values of every series, in the order of their slots."""
        return product(*self.values)

    @cached_property
    def _closed(self) -> Mapping[tuple[object, ...], int]:
        """The first slot of every series, as one look-up for what is in the closed lists."""
        return dict(zip(self.series(), range(self.offset, self.end, self.width), strict=True))

    def slot(self, *values: object) -> int:
        """Return the first slot of the series with these label values, given in label order."""
        known = self._closed.get(values)
        if known is not None:
            return known
        slot = self.offset
        for (steps, other), value in zip(self.axes, values, strict=True):
            slot += steps.get(value, other)
        return slot


def _axis(label: Label, values: Sequence[str], stride: int) -> Axis:
    steps: dict[object, int] = {value: ordinal * stride for ordinal, value in enumerate(values)}
    return Axis(steps, steps[label.other])


class Registry:
    """The blocks of some families, and a row of slots for each worker process.

    It must be made before the workers are forked; each of them then calls `use_row` once with its
    own number. Within a process, one thread records.
    """

    def __init__(self, families: Sequence[Family], subjects: Subjects, *, rows: int = 1) -> None:
        if rows < 1:
            msg = "A registry needs a row for at least one worker process."
            raise ValueError(msg)
        blocks: list[Block] = []
        end = 0
        for family in families:
            block = Block(family, subjects, end)
            blocks.append(block)
            end = block.end
        self.blocks = tuple(blocks)
        memory = memoryview(mmap.mmap(-1, rows * end * _FLOAT64)).cast("d")
        self._rows = [memory[row * end : (row + 1) * end] for row in range(rows)]
        self.slots = self._rows[0]

    def use_row(self, row: int) -> None:
        """Record into *row* from now on; whoever wrote it before must be gone.

        What an earlier process counted there stays, so a counter does not fall when a worker is
        replaced.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self._rows):
            msg = "The registry has no such row."
            raise IndexError(msg)
        self.slots = self._rows[row]

    def block(self, family: Family) -> Block:
        """Return the block of *family*."""
        return next(block for block in self.blocks if block.family is family)

    def totals(self) -> list[float]:
        """Return the sum of every slot over all rows."""
        totals: list[float] = self._rows[0].tolist()  # type: ignore[assignment]  # typeshed: ints
        for row in self._rows[1:]:
            totals = list(map(add, totals, row))
        return totals
