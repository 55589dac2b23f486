"""The tests themselves: they pass in the background, in any order, and in several processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

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
