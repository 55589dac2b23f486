"""A scrape as numbers that can be compared, added up and queried. No I/O."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""The labels of one series, as written in the exposition."""

MAX_LINES: Final = 20_000
"""Five times the budget of series."""

MAX_LINE_CHARACTERS: Final = 1024
"""Several times the longest line of a service. The parser needs quadratic time for a line."""

LARGEST_VALUE: Final = 1e18
"""The largest value that is read, so that no sum or quotient overflows."""


class NotAnExposition(ValueError):
    """The text is not an exposition, or not one that a service of ours would write."""


class Samples:
    """The samples of some families at one moment, or their increase between two.

    *values* holds, for each sample name, the value of each series; *kinds* the kind of its family.
    """

    def __init__(
        self,
        values: Mapping[str, Mapping[Labels, float]] | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self._values = values or {}
        self._kinds = kinds or {}

    @classmethod
    def parse(cls, exposition: str) -> "Samples":
        """Read the text format, version 0.0.4. The text may be hostile.

        Raises:
            NotAnExposition: The text has another form, or exceeds a limit.
        """
        values: dict[str, dict[Labels, float]] = {}
        kinds: dict[str, str] = {}
        for family in _families(exposition):
            for sample in family.samples:
                kinds[sample.name] = family.type
                series = values.setdefault(sample.name, {})
                series[tuple(sample.labels.items())] = _value_of(sample)
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
        return Samples(grown, self._kinds)

    @classmethod
    def sum(cls, parts: Iterable["Samples"]) -> "Samples":
        """Return the sum of *parts*."""
        values: dict[str, dict[Labels, float]] = {}
        kinds: dict[str, str] = {}
        for part in parts:
            kinds.update(part._kinds)
            for name, labels, value in part:
                series = values.setdefault(name, {})
                series[labels] = series.get(labels, 0.0) + value
        return cls(values, kinds)

    def _counts(self, name: str) -> bool:
        return self._kinds.get(name) in {"counter", "histogram"}

    def _select(
        self, name: str, wanted: Mapping[str, str]
    ) -> Iterator[tuple[Mapping[str, str], float]]:
        for labels, value in self._values.get(name, {}).items():
            pairs = dict(labels)
            if wanted.items() <= pairs.items():
                yield pairs, value


def _families(exposition: str) -> list[Metric]:
    lines = exposition.split("\n", MAX_LINES)
    if len(lines) > MAX_LINES or any(len(line) > MAX_LINE_CHARACTERS for line in lines):
        raise NotAnExposition
    try:
        return list(text_string_to_metric_families(exposition))
    except (LookupError, ValueError):  # it looks up escapes and first characters unchecked
        raise NotAnExposition from None


def _value_of(sample: Sample) -> float:
    try:
        float(sample.labels.get("le", "0"))
    except ValueError:
        raise NotAnExposition from None
    # A service of ours writes no timestamp, and no value that is not a number or not finite.
    if sample.timestamp is not None or not abs(sample.value) <= LARGEST_VALUE:
        raise NotAnExposition
    return float(sample.value)
