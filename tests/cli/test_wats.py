import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context

from wats import cli
from wats.cli import COMMANDS, main
from wats.version import __version__


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_the_version_is_printed(wats, option) -> None:
    result = wats.run(option)

    assert (result.code, result.out, result.err) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(wats, option) -> None:
    result = wats.invoke(option)

    assert result.code == 0
    for command in (
        *("serve", "simulate", "demo", "config", "token", "openapi"),
        *("status", "doctor", "support-bundle"),
    ):
        assert f"\n  {command} " in result.out


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_no_command_and_no_library_of_the_service(option) -> None:
    code = (
        "import sys\n"
        "from wats.cli import main\n"
        "main([sys.argv[1]], standalone_mode=False)\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, option], capture_output=True, text=True, check=True
    )

    loaded = set(done.stderr.splitlines())
    libraries = {"aiohttp", "apsw", "asyncio", "msgspec", "uvicorn", "uvloop", "yaml"}
    assert loaded & {*libraries, "prometheus_client", "rich"} == set()
    assert {name for name in loaded if name.startswith("wats")} == {
        "wats",
        "wats.cli",
        "wats.cli.arguments",
        "wats.cli.interrupts",
        "wats.extras",
        "wats.version",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_the_first_sentence_of_every_command(name) -> None:
    command = main.get_command(Context(main), name)

    assert command is not None
    assert command.name == name
    assert (command.help or "").split("\n\n")[0].replace("\n", " ").startswith(COMMANDS[name])


def test_every_module_of_the_command_line_is_a_command_except_shared_ones() -> None:
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}

    commands = {name.replace("-", "_") for name in COMMANDS}
    assert modules == commands | {"__init__", "admin", "arguments", "interrupts", "options"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("--version",), ("token",)])
def test_an_output_that_cannot_be_written_is_reported(arguments, unbuffered) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wats", *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == "Error: The output cannot be written: No space left on device.\n"


@pytest.mark.long
def test_the_demo_loses_no_update(wats) -> None:
    result = wats.run("demo")

    assert (result.code, result.err) == (0, "")
    assert "\n  lost 0 " in result.out
    assert "SIGKILL" in result.out
    assert result.out.count("Route not found.") == 3
    assert "\x1b" not in result.out


def test_serving_ends_with_the_signal_of_a_terminal_too(wats) -> None:
    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        ended = service.end(signal.SIGINT)

    assert (ended.code, ended.out, ended.err) == (0, "", "")
