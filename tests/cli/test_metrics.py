import json
from pathlib import Path

import msgspec
import pytest

from wats.telemetry.contract.families import FAMILIES
from wats.telemetry.schema import Schema

MANUAL = Path(__file__).parents[2] / "docs/telemetry.md"


def table(text: str) -> list[list[str]]:
    """Return the rows of a table of the manual, without its head and the marks of code."""
    lines = text.strip().replace("`", "").splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def test_the_schema_is_a_table_of_families_with_totals_of_both_sets(wats) -> None:
    result = wats.run("metrics", "schema", environ={})

    head, *rows = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert head.split() == ["FAMILY", "KIND", "SET", "NEEDS", "SERIES", "LABELS"]
    assert [row.split()[0] for row in rows[: len(FAMILIES)]] == [each.name for each in FAMILIES]
    assert "http_requests_total" in rows[0]
    assert rows[0].endswith("method, route, status_class")
    assert rows[len(FAMILIES)] == ""
    assert [row.split(":")[0] for row in rows[len(FAMILIES) + 1 :]] == ["contract", "operator"]


def test_the_schema_as_json_has_the_documented_shape(wats) -> None:
    result = wats.invoke("metrics", "schema", "--json")

    document = json.loads(result.out)
    assert result.code == 0
    assert list(document) == ["families", "sets"]
    assert list(document["families"][0]) == [
        *("name", "kind", "help", "set", "needs", "labels", "attributes", "buckets", "series")
    ]
    assert list(document["families"][0]["labels"][0]) == [
        *("key", "attribute", "values", "described", "other")
    ]
    assert list(document["sets"][0]) == ["set", "series", "budget"]
    assert msgspec.convert(document, Schema).sets[1].budget == 4000


def block(name: str) -> str:
    page = MANUAL.read_text("utf-8")
    return page.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]


@pytest.fixture
def schema(wats) -> Schema:
    result = wats.invoke("metrics", "schema", "--json")
    return msgspec.json.decode(result.out, type=Schema)


def test_the_schema_has_the_families_and_the_series_of_the_manual(schema: Schema) -> None:
    families, sets = block("families").strip().split("\n\n")

    assert [[*row[:4], *row[5:]] for row in table(families)] == [
        [
            *(each.name, each.kind, ", ".join(label.key for label in each.labels)),
            *(each.set, str(each.series), each.help),
        ]
        for each in schema.families
    ]
    assert table(sets) == [[s.set, f"{s.series:,}", f"{s.budget:,}"] for s in schema.sets]


def test_the_schema_has_the_labels_and_values_of_the_manual(schema: Schema) -> None:
    explained = {
        (key, family): (values, other)
        for key, values, other, families in table(block("labels"))
        for family in families.split(", ")
    }

    assert explained == {
        (label.key, each.name): (
            ", ".join(label.values) if label.values else f"{label.described}, and {label.other}",
            label.other,
        )
        for each in schema.families
        for label in each.labels
    }


def test_the_schema_has_the_attributes_and_buckets_of_the_manual(schema: Schema) -> None:
    result = {row[0]: row[2].replace("none", "") for row in table(block("attributes"))}
    bounds = dict(table(block("buckets")))

    assert result == {
        each.name: ", ".join(each.attributes)
        for each in schema.families
        if each.attributes is not None
    }
    assert bounds == {
        each.name: " ".join(f"{bound:g}" for bound in each.buckets)
        for each in schema.families
        if each.buckets
    }
