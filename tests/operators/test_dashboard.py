import json
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from tests.operators.conftest import parse_query
from wats.telemetry.contract.families import FAMILIES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "operators"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def in_words(query):
    """Return *query* as it is once Grafana has put its variables in."""
    return (
        query.replace("$job", "wats").replace("$instance", ".+").replace("$__rate_interval", "1m")
    )


def test_the_dashboard_is_fresh(generate) -> None:
    written = (FOLDER / "dashboard.json").read_text("utf-8")

    assert written == generate.render(), "Run .venv/bin/python operators/generate.py."


def test_queries_of_the_dashboard_use_existing_series_only(checker) -> None:
    assert {query: said for query in QUERIES if (said := checker.objections(in_words(query)))} == {}


def test_every_family_is_on_it(checker) -> None:
    shown = {family for query in QUERIES for family in checker.families(in_words(query))}

    assert shown == set(FAMILIES)


@pytest.mark.parametrize("gauge", ["wats_inbox_depth", "outbox_depth"])
def test_replicas_that_measure_the_same_store_are_not_summed_up(gauge) -> None:
    (query,) = (each for each in QUERIES if f"{gauge}{{" in each)

    assert "instance" in parse_query(in_words(query)).grouped


def test_the_time_since_the_last_success_leaves_out_a_task_that_had_none() -> None:
    (query,) = (each for each in QUERIES if "upkeep_last_success" in each)

    assert in_words(query) == (
        "time() - min by (task) "
        '(wats_upkeep_last_success_timestamp_seconds{job="wats",instance=~".+"} > 0)'
    )


def test_a_family_without_a_row_has_a_graph_in_the_last_one(generate) -> None:
    rows = dict(generate.ROWS)
    left_out = rows.pop("Graph")

    panels = generate.dashboard(rows)["panels"]

    titles = [panel["title"] for panel in panels]
    graphs = dict(zip(titles, panels, strict=True))
    others = titles[titles.index("Other") + 1 :]
    assert {each.family.name for each in generate.ROWS["Store"]}.isdisjoint(others)
    assert {each.family.name for each in left_out} <= set(others)
    assert "sum by (error_category) (" in graphs["wats_graph_errors_total"]["targets"][0]["expr"]


def test_a_label_that_a_family_lacks_is_found(generate) -> None:
    first, *others = generate.ROWS["Graph"]
    row = (replace(first, by=("recipient",)), *others)
    rows = {**generate.ROWS, "Graph": row}

    with pytest.raises(ValueError, match="has no recipient"):
        generate.dashboard(rows)


def test_no_panel_lies_on_another() -> None:
    panels = DASHBOARD["panels"]
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(x + width <= 24 for x, _, width, _ in places)
    for (x, y, w, h), (other_x, other_y, other_w, other_h) in combinations(places, 2):
        is_next_to = x + w <= other_x or other_x + other_w <= x
        assert is_next_to or y + h <= other_y or other_y + other_h <= y


def test_every_panel_queries_the_selected_prometheus() -> None:
    for panel in DASHBOARD["panels"]:
        for asked in (panel, *panel.get("targets", ())):
            assert panel["type"] == "row" or asked["datasource"]["uid"] == "${datasource}"
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]


def test_a_package_carries_the_material(tmp_path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]

    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name: archive.read(name) for name in archive.namelist() if "share/wats" in name}
    names = {Path(name).name: content for name, content in carried.items()}
    assert names == {
        name: (FOLDER / name).read_bytes()
        for name in ("prometheus.yml", "rules.yml", "dashboard.json")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "operators" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
