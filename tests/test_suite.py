"""The tests themselves: runs in the background, and the map of `tests/README.md`."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
MAP = (TESTS / "README.md").read_text("utf-8")

IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

PRINT_IGNORED = """
import signal, sys

print([n for n in map(int, sys.argv[1:]) if signal.getsignal(n) is signal.SIG_IGN])
"""


def ignore_signals() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def test_commands_can_be_interrupted() -> None:
    command = [sys.executable, "-c", PRINT_IGNORED, *(str(int(number)) for number in IGNORED)]

    assert subprocess.check_output(command, text=True) == "[]\n"


@pytest.mark.long
def test_commands_can_be_interrupted_when_the_tests_run_in_the_background() -> None:
    test = f"tests/{Path(__file__).name}::{test_commands_can_be_interrupted.__name__}"
    inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    shown = subprocess.run(
        inner,
        cwd=ROOT,
        env=environ,
        preexec_fn=ignore_signals,
        capture_output=True,
        text=True,
        check=False,
    )

    assert shown.returncode == 0, shown.stdout


def test_every_path_of_the_map_exists() -> None:
    rows = "\n".join(line for line in MAP.splitlines() if line.startswith("|"))
    named = [path for path in re.findall(r"`([^`]+)`", rows) if path.endswith(".py")]

    assert len(named) > 50
    assert [path for path in named if not list(TESTS.glob(path))] == []


def test_every_module_that_mirrors_no_source_is_in_the_map() -> None:
    folders = (TESTS, TESTS / "acceptance", TESTS / "privacy")
    paths = [
        str(path.relative_to(TESTS)) for folder in folders for path in folder.glob("test_*.py")
    ]
    mirrored = {path for path in paths if (ROOT / "src/wats" / path.replace("test_", "")).exists()}

    missing = [path for path in paths if f"`{path}`" not in MAP]
    assert [path for path in missing if path not in mirrored] == []


def test_no_test_replaces_a_name_of_ours() -> None:
    replaced = re.compile(r"\bsetattr\(\s*[\"']?wats\b")

    assert not [path for path in TESTS.rglob("*.py") if replaced.search(path.read_text("utf-8"))]
