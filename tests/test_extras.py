import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import Ended
from tests.settings import SECRETS, config_of
from wats.extras import EXTRAS, install_command

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = sys.argv.pop(1).split(",")
sys.meta_path.insert(0, Blocker())
"""
RUN = "from wats.cli import main\nmain()\n"


def run_without(packages: str, *words: str, code: str = RUN) -> Ended:
    """Run a `wats` command in a process that cannot import *packages*."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, packages, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **SECRETS},
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_every_extra_installs_the_packages_that_it_is_named_for() -> None:
    extras = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    distributions = packages_distributions()

    assert set(EXTRAS.values()) == set(extras)
    for package, extra in EXTRAS.items():
        required = {canonicalize_name(Requirement(each).name) for each in extras[extra]}
        assert required & {canonicalize_name(each) for each in distributions[package]}


@pytest.mark.parametrize(
    ("error", "command"),
    [
        (ModuleNotFoundError(name="rich.console"), "pip install 'wats[inspect]'"),
        (ModuleNotFoundError(name="richer"), None),
        (ModuleNotFoundError(), None),
        (ImportError(name="rich"), None),
        (RuntimeError(), None),
    ],
)
def test_only_a_missing_package_of_an_extra_has_a_command(error, command) -> None:
    assert install_command(error) == command


@pytest.mark.parametrize("package", ["rich", "prometheus_client"])
def test_status_without_its_extra_names_the_command_that_installs_it(package) -> None:
    result = run_without(package, "status", "--url", "http://127.0.0.1:9")

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: 'wats status' needs a package that is not installed; "
        "run: pip install 'wats[inspect]'\n"
    )


@pytest.mark.parametrize("name", ["doctor", "support-bundle"])
def test_a_client_without_its_extra_names_the_command_that_installs_it(name) -> None:
    result = run_without("prometheus_client", name)

    assert (result.code, result.out) == (1, "")
    assert f"'wats {name}' needs a package" in result.err
    assert result.err.endswith("pip install 'wats[inspect]'\n")


RUN_EACH = """
from click.testing import CliRunner
from wats.cli import main

for words in sys.argv[1:]:
    result = CliRunner().invoke(main, words)
    print(words, result.exit_code, repr(result.stderr))
"""


def test_every_other_command_needs_no_extra() -> None:
    commands = "--help", "serve --help", "metrics schema", "token", "demo --help"

    result = run_without(",".join(EXTRAS), *commands, code=RUN_EACH)

    assert result == Ended(0, "".join(f"{each} 0 ''\n" for each in commands), "")


@pytest.mark.parametrize(
    ("package", "extra", "sections"),
    [
        ("asyncpg", "postgres", {"persistence": {"url": "postgresql://user@127.0.0.1:9/name"}}),
        (
            "opentelemetry",
            "otel",
            {"telemetry": {"sink": "wats.telemetry.otel:from_environment"}, "persistence": "none"},
        ),
    ],
)
def test_a_config_whose_extra_is_not_installed_names_the_command_that_installs_it(
    tmp_path, package, extra, sections
) -> None:
    config = tmp_path / "wats.config.json"
    config.write_text(json.dumps(config_of(**sections)))

    result = run_without(package, "serve", "--config", str(config), "--port", "0")

    assert (result.code, result.out) == (1, "")
    assert "Traceback" not in result.err
    assert f"is not installed; run: pip install 'wats[{extra}]'" in result.err


def test_an_import_of_the_otel_sink_names_the_command_too() -> None:
    result = run_without("opentelemetry", code="import wats.telemetry.otel")

    assert result.code == 1
    assert result.err.splitlines()[-2:] == [
        "ModuleNotFoundError: No module named 'opentelemetry'",
        "Run: pip install 'wats[otel]'",
    ]


def test_an_import_of_the_adapter_of_pywa_names_the_command_too() -> None:
    result = run_without("pywa", code="import wats.adapters.pywa")

    assert result.code == 1
    assert result.err.splitlines()[-2:] == [
        "ModuleNotFoundError: No module named 'pywa'",
        "Run: pip install 'wats[pywa]'",
    ]
