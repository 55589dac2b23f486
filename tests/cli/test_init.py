import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from wats.config import load_config

FILES = {"wats.config.yaml", "wats.env", "orders.py"}


@pytest.fixture
def empty(wats, monkeypatch) -> Path:
    """An empty working directory, without secrets in the environment."""
    wats.config.unlink()
    monkeypatch.chdir(wats.folder)
    wats.environ = {
        name: value for name, value in wats.environ.items() if not name.startswith("WATS_")
    }
    folder: Path = wats.folder
    return folder


def fetch(url: str, body: str | None = None) -> Any:
    data = None if body is None else body.encode()
    with urllib.request.urlopen(url, data=data, timeout=30) as answer:  # noqa: S310 - our own
        return json.load(answer)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.long
def test_the_named_commands_run_a_gateway_that_replies_to_a_message(wats, empty) -> None:
    shown = wats.run("init").out
    ports = {"8787": str(free_port()), "9900": str(free_port())}
    config = empty / "wats.config.yaml"
    for written, used in ports.items():
        shown = shown.replace(written, used)
        config.write_text(config.read_text().replace(written, used))
    serve, simulate, curl = (shlex.split(line) for line in re.findall("(?m)^  (.*)$", shown))
    assert (serve[0], simulate[0], curl[:2]) == ("wats", "wats", ["curl", "-s"])

    with wats.running(*serve[1:]) as service, wats.running(*simulate[1:]) as meta:
        fetch(curl[2], curl[curl.index("-d") + 1])
        until = time.monotonic() + 30
        while not (state := fetch(f"{meta.url}/_simulator/state"))["sends"]:
            assert time.monotonic() < until
            time.sleep(0.02)
        ended = service.end(signal.SIGINT)

    assert (state["inbound"], state["sends"]) == (1, 1)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_the_config_is_valid_and_its_secrets_are_random(wats, empty) -> None:
    wats.invoke("init")

    profile, secrets = load_config("wats.config.yaml", environ={}, env_file="wats.env")

    assert profile.handlers == ("orders:on_update",)
    revealed = [
        secrets.access_token.reveal(),
        secrets.verify_token.reveal(),
        secrets.app_secrets[0].reveal(),
        secrets.bearer_tokens[0].reveal(),
        secrets.telemetry_tokens[0].reveal(),
    ]
    assert len(set(revealed)) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in revealed)


@pytest.mark.parametrize("is_on_path", [True, False])
def test_the_next_command_is_found_by_the_shell(wats, empty, is_on_path) -> None:
    folder = str(Path(sys.executable).parent)
    program = f"{folder}/wats"
    environ = {**wats.environ, "PATH": folder if is_on_path else "/usr/bin"}

    done = subprocess.run(
        [program, "init"], env=environ, capture_output=True, text=True, check=True
    )

    command = "wats" if is_on_path else shlex.quote(program)
    assert f"\n  {command} serve\n" in done.stdout


def test_no_secret_is_printed(wats, empty) -> None:
    result = wats.invoke("init")

    assert result.code == 0
    assert re.findall("[0-9a-f]{16}", result.out + result.err) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_env_file_is_for_its_owner_alone(wats, empty, umask) -> None:
    before = os.umask(umask)
    try:
        wats.invoke("init")
    finally:
        os.umask(before)

    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in empty.iterdir()}
    assert modes == {
        "wats.env": 0o600,
        "wats.config.yaml": 0o666 & ~umask,
        "orders.py": 0o666 & ~umask,
    }


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_existing_file_is_never_overwritten(wats, empty, name) -> None:
    (empty / name).write_text("mine")

    result = wats.invoke("init")

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: Nothing was written.\n  {name}: the file exists already. (file_exists)\n"
    )
    assert [(each.name, each.read_text()) for each in empty.iterdir()] == [(name, "mine")]


def test_a_link_in_the_place_of_a_file_is_not_followed(wats, empty) -> None:
    (empty / "wats.env").symlink_to("elsewhere")

    result = wats.invoke("init")

    assert "wats.env: the file exists already. (file_exists)" in result.err
    assert not (empty / "elsewhere").exists()


def test_every_existing_file_is_named(wats, empty) -> None:
    assert wats.invoke("init").code == 0

    result = wats.invoke("init")

    assert result.code == 1
    assert set(re.findall(r"(?m)^  (\S+): the file exists already", result.err)) == FILES


def test_a_folder_in_which_nothing_can_be_written_is_reported(wats, monkeypatch) -> None:
    monkeypatch.chdir("/proc")

    result = wats.invoke("init")

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: Nothing was written.\n  wats.config.yaml: ")
    assert "Traceback" not in result.err
