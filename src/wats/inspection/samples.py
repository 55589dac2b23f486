"""A scrape as numbers that can be compared, added up and queried. No I/O."""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""The labels of one series, as written in the exposition."""

_SAMPLE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?'
    r" (?P<value>\S+)",
    re.ASCII,
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)', re.ASCII)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_TYPE = re.compile(r"# TYPE (\S+) (counter|gauge|histogram)")
_PARTS: Final = ("_bucket", "_sum", "_count")


class NotAnExposition(ValueError):
    """A line that a service of ours would not write. Only its number is reported."""


class Samples:
    """The samples of some families at one moment, or their increase between two.

    *values* holds, for each sample name, the value of each series. *kinds* holds the kind of each
    family; a histogram's samples have its name and a suffix.
    """

    def __init__(
        self,
        values: Mapping[str, Mapping[Labels, float]] | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self._values = values or {}
        self.kinds = kinds or {}

    @classmethod
    def parse(cls, exposition: str) -> "Samples":
        """Read the text format, version 0.0.4, as our own service writes it.

        Raises:
            NotAnExposition: The text has another form.
        """
        values: dict[str, dict[Labels, float]] = {}
        kinds: dict[str, str] = {}
        # Not `splitlines`, which splits at further characters than a line feed.
        lines = exposition.removesuffix("\n").split("\n") if exposition else []
        for number, line in enumerate(lines, 1):
            if line.startswith("#"):
                if found := _TYPE.fullmatch(line):
                    kinds[found[1]] = found[2]
                continue
            try:
                name, labels, value = _sample(line)
            except ValueError:
                msg = f"Line {number} is not a sample."
                raise NotAnExposition(msg) from None
            values.setdefault(name, {})[labels] = value
        return cls(values, kinds)

    def __iter__(self) -> Iterator[tuple[str, Labels, float]]:
        for name, series in self._values.items():
            for labels, value in series.items():
                yield name, labels, value

    def __len__(self) -> int:
        return sum(map(len, self._values.values()))

    def has(self, name: str) -> bool:
        """Return whether there is a sample of this name."""
        return name in self._values

    def family(self, name: str) -> str:
        """Return the family of the sample *name*."""
        for part in _PARTS:
            base = name.removesuffix(part)
            if base != name and self.kinds.get(base) == "histogram":
                return base
        return name

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the series of *name* that have these labels; 0 if there is none."""
        return sum(value for _, value in self._select(name, labels))

    def split(self, name: str, by: str, **labels: str) -> dict[str, float]:
        """Return the sums by value of the label *by*, in the order of the scrape."""
        sums: dict[str, float] = {}
        for pairs, value in self._select(name, labels):
            key = pairs.get(by, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def quantile(self, share: float, family: str, **labels: str) -> float | None:
        """Estimate a quantile of a histogram, as Prometheus does; *share* is more than 0.

        Returns:
            Infinity if it is above the last bound; `None` if nothing was observed.
        """
        found = self.split(f"{family}_bucket", "le", **labels)
        buckets = sorted((float(bound), count) for bound, count in found.items())
        bounds = [0.0, *(bound for bound, _ in buckets)]
        counts = [0.0, *(count for _, count in buckets)]
        if counts[-1] <= 0:
            return None
        rank = share * counts[-1]
        place = bisect_left(counts, rank)
        if math.isinf(bounds[place]):
            return math.inf
        width = bounds[place] - bounds[place - 1]
        return bounds[place - 1] + width * (rank - counts[place - 1]) / (
            counts[place] - counts[place - 1]
        )

    def increase_since(self, before: "Samples") -> "Samples":
        """Return the increase of counters and histograms, without unchanged ones.

        If a value fell or is gone, the service restarted, and everything has grown from 0.
        """
        counted = {name: each for name, each in self._values.items() if self._counts(name)}
        if any(
            value > counted.get(name, {}).get(labels, -math.inf)
            for name, labels, value in before
            if before._counts(name)
        ):
            before = Samples()
        grown: dict[str, dict[Labels, float]] = {}
        for name, series in counted.items():
            earlier = before._values.get(name, {})
            changes = {labels: series[labels] - earlier.get(labels, 0.0) for labels in series}
            if any(changes.values()):
                # For a bucket, 0 is significant: no event was that quick.
                keeps_all = name.endswith("_bucket")
                grown[name] = {key: each for key, each in changes.items() if each or keeps_all}
        return Samples(grown, self.kinds)

    @classmethod
    def sum(cls, parts: Iterable["Samples"]) -> "Samples":
        """Return the sum of *parts*."""
        values: dict[str, dict[Labels, float]] = {}
        kinds: dict[str, str] = {}
        for part in parts:
            kinds.update(part.kinds)
            for name, labels, value in part:
                series = values.setdefault(name, {})
                series[labels] = series.get(labels, 0.0) + value
        return cls(values, kinds)

    def _counts(self, name: str) -> bool:
        return self.kinds.get(self.family(name)) in {"counter", "histogram"}

    def _select(
        self, name: str, wanted: Mapping[str, str]
    ) -> Iterator[tuple[Mapping[str, str], float]]:
        for labels, value in self._values.get(name, {}).items():
            pairs = dict(labels)
            if wanted.items() <= pairs.items():
                yield pairs, value


def _sample(line: str) -> tuple[str, Labels, float]:
    found = _SAMPLE.fullmatch(line)
    if found is None:
        raise ValueError
    labels = _labels(found["labels"] or "")
    for key, value in labels:
        if key == "le":
            float(value)
    return found["name"], labels, float(found["value"])


def _labels(text: str) -> Labels:
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None:
            raise ValueError
        pairs.append((found[1], _ESCAPE.sub(_unescape, found[2])))
        at = found.end()
    return tuple(pairs)


def _unescape(found: re.Match[str]) -> str:
    return {"n": "\n"}.get(found[1], found[1])
