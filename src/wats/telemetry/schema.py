"""The schema of telemetry as one value: all families, labels, label values and bounds."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from wats.telemetry.contract.families import FAMILIES, Family, families_of
from wats.telemetry.contract.labels import MAX_TARGETS, Label, Subjects
from wats.telemetry.contract.values import Adapter, FamilySet, RouteLabel
from wats.telemetry.metrics.series import Registry
from wats.telemetry.metrics.shared_memory import Board

BUDGETS: Final[Mapping[FamilySet, int]] = {FamilySet.CONTRACT: 2000, FamilySet.OPERATOR: 4000}
"""The number of series that a set never exceeds."""


class LabelSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A label of a family.

    Attributes:
        key: Its key in the exposition.
        attribute: Its name for sinks; `None` if sinks do not receive it.
        values: Its closed values; `None` if they are known only when a service is made.
        described: Their description in that case, else `None`.
        other: The fallback for any other value.
    """

    key: str
    attribute: str | None
    values: tuple[str, ...] | None
    described: str | None
    other: str


class FamilySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A metric family.

    Attributes:
        name: Its name.
        kind: `counter`, `histogram` or `gauge`.
        help: Its HELP text.
        set: The smallest set that includes it.
        needs: The condition for its exposure: `always` or `store`.
        labels: Its labels, sorted by key.
        attributes: The attributes that a sink receives, in order; `None` if it receives none.
        buckets: The finite upper bounds of a histogram.
        series: The most series that it can have, as Prometheus counts: a bucket is one.
    """

    name: str
    kind: str
    help: str
    set: str
    needs: str
    labels: tuple[LabelSchema, ...]
    attributes: tuple[str, ...] | None
    buckets: tuple[float, ...]
    series: int


class SetSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A set of families: the most series that it can have, and its budget."""

    set: str
    series: int
    budget: int


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """Every family in the order of the exposition, and the totals of the sets."""

    families: tuple[FamilySchema, ...]
    sets: tuple[SetSchema, ...]


def schema_of(routes: Sequence[RouteLabel]) -> Schema:
    """Return the schema of the largest service with *routes*: a store, and all the handlers."""
    subjects = Subjects(
        routes=tuple(routes),
        adapter=Adapter.SQLITE,
        targets=tuple(f"handler_{place}" for place in range(MAX_TARGETS)),
    )
    registry = Registry(FAMILIES, subjects, board=Board())
    series = {block.family: len(block.series) * block.lines for block in registry.blocks}
    return Schema(
        families=tuple(_family(family, series.get(family, 0)) for family in FAMILIES),
        sets=tuple(
            SetSchema(
                set=chosen.value,
                series=sum(series.get(family, 0) for family in families_of(chosen)),
                budget=budget,
            )
            for chosen, budget in BUDGETS.items()
        ),
    )


def _family(family: Family, series: int) -> FamilySchema:
    return FamilySchema(
        name=family.name,
        kind=family.kind.value,
        help=family.help,
        set=family.set.value,
        needs=family.needs.value,
        labels=tuple(map(_label, family.labels)),
        attributes=family.attributes,
        buckets=family.buckets,
        series=series,
    )


def _label(label: Label) -> LabelSchema:
    return LabelSchema(
        key=label.key,
        attribute=label.attribute or None,
        values=tuple(map(str, label.values)) or None,
        described=label.described or None,
        other=str(label.other),
    )
