import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FLOORS = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.parametrize(
    ("package", "version"),
    [
        pytest.param("aiohttp", "3.14.0", id="CVE-2026-54273 to CVE-2026-54280"),
        pytest.param("aiohttp", "3.14.2", id="CVE-2026-69244"),
        pytest.param("apsw", "3.51.2.0", id="race when a write-ahead log is begun anew"),
    ],
)
def test_a_version_with_a_known_vulnerability_is_not_accepted(package: str, version: str) -> None:
    assert version not in FLOORS[package].specifier


def test_every_pinned_version_is_accepted() -> None:
    lines = (ROOT / "requirements" / "runtime.txt").read_text().splitlines()
    pins = dict(line.split(" ")[0].split("==") for line in lines if "==" in line.split(" ")[0])

    for package, floor in FLOORS.items():
        assert pins[package.lower()] in floor.specifier


def test_the_newest_release_of_a_package_with_an_upper_limit_is_tried() -> None:
    job = (ROOT / ".ci/weekly").read_text("utf-8")

    limited = [
        each.name
        for each in FLOORS.values()
        if any(limit.operator in {"<", "<=", "=="} for limit in each.specifier)
    ]
    assert limited == ["uvicorn"]
    assert "--upgrade uvicorn" in job
