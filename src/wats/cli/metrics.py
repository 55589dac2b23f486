"""`wats metrics`: the available metrics, without a running service."""

from collections.abc import Iterator

import click
import msgspec

from wats.cli.arguments import StrictGroup
from wats.telemetry.schema import Schema, schema_of
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.table import route_table

_ROW = "{:38} {:10} {:9} {:7} {:>6}  {}"


@click.group(cls=StrictGroup)
def metrics() -> None:
    """List the metric families."""


@metrics.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def schema(as_json: bool) -> None:
    """Print every metric family with its labels and its maximum number of series.

    The numbers are for the largest service: all routes, a store, and more handlers than the
    metrics name. No other family is ever exposed.
    """
    every = schema_of(route_labels(route_table(example_profile(), groups_enabled=True)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(every), indent=2))
    else:
        click.echo("\n".join(_table(every)))


def _table(every: Schema) -> Iterator[str]:
    yield _ROW.format("FAMILY", "KIND", "SET", "NEEDS", "SERIES", "LABELS")
    for family in every.families:
        keys = ", ".join(label.key for label in family.labels)
        cells = (family.name, family.kind, family.set, family.needs, family.series, keys)
        yield _ROW.format(*cells).rstrip()
    yield ""
    for each in every.sets:
        yield f"{each.set}: at most {each.series:,} series; the budget is {each.budget:,}"
