"""The registry as Prometheus text, version 0.0.4. No I/O.

All text of a series but its numbers is made once. The same state gives the same bytes: families in
the order of the vocabulary, labels sorted by key, series in the order of their label values.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import accumulate, count
from typing import Final

from typing_extensions import override

from wats.telemetry.registry import Block, Registry
from wats.telemetry.vocabulary import Kind

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def format_number(value: float) -> str:
    """Return *value* in the fewest digits that read back as the same float64.

    Whole numbers have no fraction. Very large and very small numbers are written as JavaScript
    writes them: with an exponent from 1e21 on, and below 1e-6.
    """
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text.removesuffix(".0")
    if -7 < int(exponent) < 21:
        return format(Decimal(text), "f")
    return f"{mantissa}e{int(exponent):+d}"


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_value(text: str) -> str:
    return _escape_help(text).replace('"', '\\"')


class _Part(ABC):
    """One family: its head, and the text of its series but for the numbers."""

    def __init__(self, block: Block) -> None:
        family = block.family
        description = f"# HELP {family.name} {_escape_help(family.help)}\n"
        self.head = f"{description}# TYPE {family.name} {family.kind}\n"
        self.slots = slice(block.offset, block.end)
        self.initial = [ordinal in block.initial for ordinal in range(block.length)]

    @abstractmethod
    def samples(self, totals: Sequence[float]) -> list[str]:
        """Return the lines of the series that are to be seen, given the totals of their slots."""


class _Counters(_Part):
    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self._prefixes = [f"{block.family.name}{{{labels}}} " for labels in _label_texts(block)]

    @override
    def samples(self, totals: Sequence[float]) -> list[str]:
        return [
            f"{prefix}{int(total)}\n"
            for prefix, initial, total in zip(self._prefixes, self.initial, totals, strict=True)
            if total or initial
        ]


class _Histograms(_Part):
    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self._width = block.width
        self._templates = [_histogram_template(block, labels) for labels in _label_texts(block)]

    @override
    def samples(self, totals: Sequence[float]) -> list[str]:
        samples: list[str] = []
        series = zip(self._templates, self.initial, count(step=self._width))
        for template, initial, first in series:
            sum_at = first + self._width - 1
            counts = list(accumulate(map(int, totals[first:sum_at])))
            if counts[-1] or initial:
                samples.append(template % (*counts, format_number(totals[sum_at]), counts[-1]))
        return samples


def _label_texts(block: Block) -> Iterator[str]:
    keys = [label.key for label in block.family.labels]
    for values in block.series():
        pairs = zip(keys, values, strict=True)
        yield ",".join(f'{key}="{_escape_value(value)}"' for key, value in pairs)


def _histogram_template(block: Block, labels: str) -> str:
    """Return the lines of one series with a place for each count, the sum and the last count."""
    name = block.family.name
    literal = labels.replace("%", "%%")
    bounds = [*map(format_number, block.family.buckets), "+Inf"]
    lines = [f'{name}_bucket{{{literal},le="{bound}"}} %d\n' for bound in bounds]
    return "".join([*lines, f"{name}_sum{{{literal}}} %s\n", f"{name}_count{{{literal}}} %d\n"])


class Exposition:
    """Renders one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._parts: list[_Part] = [
            _Histograms(block) if block.family.kind is Kind.HISTOGRAM else _Counters(block)
            for block in registry.blocks
            if block.exposed
        ]

    def render(self) -> bytes:
        """Return the exposition; empty if no family has a series."""
        totals = self._registry.totals()
        lines: list[str] = []
        for part in self._parts:
            samples = part.samples(totals[part.slots])
            if samples:
                lines.append(part.head)
                lines.extend(samples)
        return "".join(lines).encode()
