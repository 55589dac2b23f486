import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.pages import PAGES
from tests.test_extras import run_without
from wats.cli import COMMANDS, main
from wats.cli.help import topics

RUN = "from wats.cli import main\nmain(prog_name='wats')\n"


def request_of(line: str) -> dict[str, str]:
    """Return the environment in which a shell asks for the completions of *line*."""
    count = str(len(line.split(" ")) - 1)
    return {"_WATS_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": count}


def completions(line: str) -> list[str]:
    done = CliRunner().invoke(main, prog_name="wats", env=request_of(line))
    assert (done.exit_code, done.stderr) == (0, "")
    return read(done.stdout)


def completions_without(packages: str, line: str) -> list[str]:
    """Return the completions of a process that cannot import *packages*."""
    done = run_without(packages, code=f"import os\nos.environ |= {request_of(line)}\n{RUN}")
    assert (done.code, done.err) == (0, "")
    return read(done.out)


def read(out: str) -> list[str]:
    return [each.partition(",")[2] for each in out.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("wats s", ["serve", "simulate", "status", "support-bundle"]),
        ("wats serve --san", ["--sandbox"]),
        ("wats database r", ["restore"]),
        ("wats help ope", ["operating", "openapi"]),
        ("wats nothing x", []),
    ],
)
def test_a_word_is_completed(line: str, found: list[str]) -> None:
    assert completions(line) == found


def test_all_commands_and_topics_are_completed() -> None:
    assert completions("wats ") == list(COMMANDS)
    assert completions("wats help ") == list(dict.fromkeys([*topics(), *COMMANDS]))


def test_a_missing_extra_does_not_disturb_the_completion() -> None:
    extras = "rich,prometheus_client,asyncpg"

    assert "doctor" in completions_without(extras, "wats do")
    assert completions_without(extras, "wats status --wa") == []


def test_completing_a_command_loads_no_command() -> None:
    assert completions_without("aiohttp,apsw,msgspec,uvicorn,uvloop,yaml", "wats s")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_works_in_its_shell(shell: str) -> None:
    (line,) = re.findall(rf"`([^`]*{shell}_source[^`]*)`", PAGES["docs/cli.md"])
    line = line.replace("\\|", "|")
    if shutil.which(shell) is None:  # at least the script exists
        line, shell = line.replace("eval ", "echo ").replace("| source", ""), "bash"
    installed = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{installed}:{os.environ['PATH']}"}
    show = {"bash": "complete -p wats"}.get(shell, "true")

    done = subprocess.run(
        [shell, "-c", f"{line}\n{show} || true"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert "_wats_completion" in done.stdout
