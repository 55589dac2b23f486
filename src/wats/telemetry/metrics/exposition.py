"""The registry in the formats of Prometheus: text 0.0.4 and OpenMetrics 1.0. No I/O.

All text of a series except its numbers is made once. The same state gives the same bytes: families
in the order of the vocabulary, labels sorted by key, series in the order of their label values.
"""

import gzip
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from math import isnan
from typing import Final, TypeAlias

from typing_extensions import override

from wats.telemetry.contract.families import SERIES
from wats.telemetry.contract.values import Kind
from wats.telemetry.metrics.negotiation import accepts_gzip, prefers_openmetrics
from wats.telemetry.metrics.series import Block, Registry

TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""The keys and values of the labels of a series."""

_GZIP_LEVEL: Final = 1
"""Takes a third of the time of the default level; the result is hardly larger."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An exposition for a response: its media type, its encoding if any, and its bytes."""

    content_type: str
    content_encoding: str | None
    body: bytes


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


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_quoted(text: str) -> str:
    return _escape(text).replace('"', '\\"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The differences of the two forms.

    Attributes:
        content_type: The media type.
        describe: Returns the name of a family, given the name of its samples.
        escape_help: Escapes a HELP text.
        bound: The value of `le` of a finite bucket.
        end: The last line, if it must have one.
    """

    content_type: str
    describe: Callable[[str], str]
    escape_help: Callable[[str], str]
    bound: Callable[[float], str]
    end: str


TEXT: Final = Dialect(
    content_type=TEXT_TYPE,
    describe=str,
    escape_help=_escape,
    bound=format_number,
    end="",
)
OPENMETRICS: Final = Dialect(
    content_type=OPENMETRICS_TYPE,
    describe=lambda name: name.removesuffix("_total"),
    escape_help=_escape_quoted,
    bound=repr,  # "SHOULD" be canonical, and prometheus_client refuses "1" for "1.0"
    end="# EOF\n",
)


class _FamilyText(ABC):
    """One family, as text with a slot for each number."""

    def __init__(self, block: Block, dialect: Dialect) -> None:
        family = block.family
        self.family = family
        self.slots = slice(block.offset, block.end)
        self.lines = block.lines
        self._initial = [values in block.initial for values in block.series]
        name = dialect.describe(family.name)
        description = f"# HELP {name} {dialect.escape_help(family.help)}\n"
        self._head = f"{description}# TYPE {name} {family.kind}\n".replace("%", "%%")
        keys = [label.key for label in family.labels]
        series = (tuple(zip(keys, values, strict=True)) for values in block.series)
        self._templates = ["".join(self._samples(pairs, dialect)) for pairs in series]
        self._shown: list[int] = []
        self._text = ""

    def render(self, numbers: Sequence[float]) -> tuple[str, int]:
        """Return the family with *numbers* in its slots, and how many samples that shows."""
        shown, values = self._read(numbers)
        if not shown:
            return "", 0
        if shown != self._shown:
            self._shown = shown
            self._text = self._head + "".join(map(self._templates.__getitem__, shown))
        return self._text % tuple(values), len(shown) * self.lines

    @abstractmethod
    def _samples(self, pairs: Pairs, dialect: Dialect) -> Iterator[str]:
        """Yield the lines of the series with the labels *pairs*."""

    @abstractmethod
    def _read(self, numbers: Sequence[float]) -> tuple[list[int], Sequence[object]]:
        """Return the ordinals of the visible series, and all their values."""


class _Counters(_FamilyText):
    @override
    def _samples(self, pairs: Pairs, dialect: Dialect) -> Iterator[str]:
        yield _sample(self.family.name, pairs, "%d")

    @override
    def _read(self, numbers: Sequence[float]) -> tuple[list[int], Sequence[object]]:
        known = enumerate(zip(numbers, self._initial, strict=True))
        shown = [ordinal for ordinal, (number, initial) in known if number or initial]
        return shown, [numbers[ordinal] for ordinal in shown]


class _Gauges(_FamilyText):
    @override
    def _samples(self, pairs: Pairs, dialect: Dialect) -> Iterator[str]:
        yield _sample(self.family.name, pairs, "%s")

    @override
    def _read(self, numbers: Sequence[float]) -> tuple[list[int], Sequence[object]]:
        shown = [ordinal for ordinal, number in enumerate(numbers) if not isnan(number)]
        return shown, [format_number(numbers[ordinal]) for ordinal in shown]


class _Histograms(_FamilyText):
    @override
    def _samples(self, pairs: Pairs, dialect: Dialect) -> Iterator[str]:
        name = self.family.name
        for bound in (*map(dialect.bound, self.family.buckets), "+Inf"):
            yield _sample(f"{name}_bucket", (*pairs, ("le", bound)), "%d")
        yield _sample(f"{name}_sum", pairs, "%s")
        yield _sample(f"{name}_count", pairs, "%d")

    @override
    def _read(self, numbers: Sequence[float]) -> tuple[list[int], Sequence[object]]:
        shown: list[int] = []
        values: list[object] = []
        width = len(self.family.buckets) + 2
        for ordinal, initial in enumerate(self._initial):
            last = (ordinal + 1) * width - 1
            counts = list(accumulate(numbers[ordinal * width : last]))
            if counts[-1] or initial:
                shown.append(ordinal)
                values += (*counts, format_number(numbers[last]), counts[-1])
        return shown, values


_PARTS: Final[Mapping[Kind, type[_FamilyText]]] = {
    Kind.COUNTER: _Counters,
    Kind.HISTOGRAM: _Histograms,
    Kind.GAUGE: _Gauges,
}


def _sample(name: str, pairs: Pairs, place: str) -> str:
    """Return a line with *place* in the position of the number."""
    labels = ",".join(f'{key}="{_escape_quoted(value)}"' for key, value in pairs)
    series = f"{name}{{{labels}}}" if labels else name
    return f"{series.replace('%', '%%')} {place}\n"


class Exposition:
    """Renders one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._parts: dict[Dialect, list[_FamilyText]] = {}

    def render(self, accept: str | None = None, accept_encoding: str | None = None) -> Rendered:
        """Return the exposition in the form that these request headers select.

        It is gzip if accepted, and text 0.0.4 unless OpenMetrics is preferred.
        """
        dialect = OPENMETRICS if prefers_openmetrics(accept) else TEXT
        body = "".join(self._texts(dialect)).encode()
        if accepts_gzip(accept_encoding):
            # With a time in the gzip header, the same state would not give the same bytes.
            packed = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            return Rendered(dialect.content_type, "gzip", packed)
        return Rendered(dialect.content_type, None, body)

    def _texts(self, dialect: Dialect) -> Iterator[str]:
        totals, gauges = self._registry.totals(), self._registry.gauges.tolist()
        live = 0
        for part in self._parts_in(dialect):
            numbers = (gauges if part.family.kind is Kind.GAUGE else totals)[part.slots]
            if part.family is SERIES:  # the last family, which counts itself as well
                numbers = [live + len(numbers), self._registry.budget]
            text, samples = part.render(numbers)
            live += samples
            yield text
        yield dialect.end

    def _parts_in(self, dialect: Dialect) -> list[_FamilyText]:
        """Return the families in *dialect*, rendered on first use."""
        if dialect not in self._parts:
            blocks = self._registry.blocks
            self._parts[dialect] = [_PARTS[block.family.kind](block, dialect) for block in blocks]
        return self._parts[dialect]
