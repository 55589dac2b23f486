"""The package: its metadata, and a wheel that works without the repository."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from tests.pages import PAGES, ROOT, blocks, commands_in
from wats.version import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BASE = PROJECT["urls"]["Homepage"]
PREPARE = """
import sys
from hatchling.build import prepare_metadata_for_build_wheel
print(prepare_metadata_for_build_wheel(sys.argv[1]))
"""
BUILD = """
import os, sys
from hatchling.build import build_sdist
print(build_sdist(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "-c", PREPARE, str(folder)]
    name = subprocess.check_output(command, cwd=ROOT, text=True).strip()
    return Parser().parsestr((folder / name / "METADATA").read_text("utf-8"))


def links_in(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_the_links_of_the_long_description_are_absolute(metadata: Message) -> None:
    links = links_in(metadata.get_payload())

    assert metadata["Description-Content-Type"] == "text/markdown"
    assert len(links) > 20
    assert [link for link in links if not re.match("https://|#", link)] == []


def test_the_links_of_the_long_description_are_those_of_the_readme(metadata: Message) -> None:
    links = [link.removeprefix(f"{BASE}/") for link in links_in(metadata.get_payload())]

    assert links == links_in(PAGES["README.md"])


def test_the_package_has_the_urls_of_the_project(metadata: Message) -> None:
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL"))

    assert {"Homepage", "Documentation", "Changelog"} <= urls.keys()
    assert urls == PROJECT["urls"]
    for url in set(urls.values()) - {BASE}:
        assert (ROOT / url.removeprefix(f"{BASE}/")).is_file()


def test_runbooks_are_at_the_urls_of_the_project_by_default() -> None:
    rules = yaml.safe_load((ROOT / "operators/rules.yml").read_text("utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]

    assert alerts
    assert all(f'"{BASE}/docs/alerts.md"' in each["annotations"]["runbook_url"] for each in alerts)


def test_the_versions_of_python_are_those_that_are_tested(metadata: Message) -> None:
    prefix = "Programming Language :: Python :: 3."
    classifiers = metadata.get_all("Classifier", [])
    named = [each.removeprefix(prefix) for each in classifiers if each.startswith(prefix)]

    script = (ROOT / ".ci/run").read_text("utf-8")
    (programs,) = re.findall(r"^for python in (.+) /usr/bin/python3; do$", script, re.MULTILINE)
    assert metadata["Requires-Python"] == f">=3.{named[0]}"
    assert [f"python3.{each}" for each in named[:0:-1]] == programs.split()
    listed = f"{', '.join(f'3.{each}' for each in named[:-1])} and 3.{named[-1]}"
    assert f"The tested versions are Python {listed};" in PAGES["CONTRIBUTING.md"]


def test_an_extra_is_added_to_an_installed_wats_without_looking_for_wats_elsewhere() -> None:
    extras = ",".join(PROJECT["optional-dependencies"])
    command = [sys.executable, "-m", "pip", "install", "--no-index", f"wats[{extras}]"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"Requirement already satisfied: wats[{extras}]" in done.stdout


@pytest.mark.long
def test_the_commands_that_are_shown_install_the_package(tmp_path: Path) -> None:
    options = {"NO_INDEX": "1", "NO_DEPS": "1", "NO_BUILD_ISOLATION": "false", "UPGRADE": "1"}
    environ = {**os.environ, **{f"PIP_{name}": value for name, value in options.items()}}
    (block,) = blocks("docs/cli.md", "sh")

    for command in commands_in(block):
        pip = command.replace("python3", shlex.quote(sys.executable), 1)
        subprocess.run(
            ["sh", "-euc", pip], env={**environ, "PIP_TARGET": str(tmp_path)}, cwd=ROOT, check=True
        )

    assert (tmp_path / "wats/cli/topics.json").is_file()
    assert (tmp_path / "bin/wats").is_file()


@pytest.mark.long
def test_a_wheel_from_the_source_distribution_works(tmp_path: Path) -> None:
    build = [sys.executable, "-c", BUILD, str(tmp_path)]
    sdist = subprocess.check_output(build, cwd=ROOT, text=True).strip()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false"}
    wheels = [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(tmp_path / sdist)]
    subprocess.run(wheels, env=offline, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")

    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "wats", *words]
        return subprocess.check_output(command, env=environ, cwd=tmp_path, text=True)

    where = [sys.executable, "-c", "import wats; print(wats.__file__)"]
    package = subprocess.check_output(where, env=environ, cwd=tmp_path, text=True)
    assert package.startswith(environ["PYTHONPATH"])
    assert run("--version") == f"{__version__}\n"
    assert "operating" in run("help")
    assert (tmp_path / f"installed/wats-{__version__}.data/data/share/wats/rules.yml").is_file()
