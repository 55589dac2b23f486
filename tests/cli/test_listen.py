"""`wats listen`, as a process, against a running service with a database."""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_admin import Gateway, until
from tests.commands import Commands
from wats.cli import listen
from wats.inbound.pullers import Retry
from wats.inspection.client import NoAnswer
from wats.inspection.updates import UpdateRoutes
from wats.web.api.updates import PulledUpdate, PulledUpdates

pytestmark = pytest.mark.long  # it starts many processes


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    commands = Commands(tmp_path)
    commands.write(
        persistence={"url": f"sqlite:///{tmp_path}/wats.db"},
        pullers=[{"name": "batch", "leaseSeconds": 2}],
    )
    with commands.running("serve", "--config", "wats.config.json", "--port", "0") as running:
        yield Gateway(commands, running)


def texts(output: str) -> list[str]:
    return [json.loads(line)["raw"]["text"]["body"] for line in output.splitlines()]


def test_each_update_is_printed_once_as_a_line(gateway: Gateway) -> None:
    for text in ("1", "2", "é\u202e"):
        gateway.receive(text)

    no_status = gateway.run("listen", "batch", "--once", "--kind", "status")
    first = gateway.run("listen", "batch", "--once", "--kind", "message", "--kind", "status")
    others = gateway.run("listen", "--limit", "2")  # the only puller
    none = gateway.run("listen", "batch", "--once")

    assert (no_status.code, no_status.out) == (0, "")
    assert (first.code, first.err, texts(first.out)) == (0, "", ["1"])
    assert (others.code, others.err, texts(others.out)) == (0, "", ["2", "é\u202e"])
    assert others.out.isascii()
    assert (none.code, none.out) == (0, "")
    assert gateway.json("consumers", "list")["items"][0]["pending"] == 0


def test_of_several_pullers_one_must_be_named(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    commands.write(pullers=[{"name": "a"}, {"name": "b"}])

    done = commands.invoke("listen", "--once", "--config", str(commands.config))

    assert (done.code, done.out) == (1, "")
    assert "exactly one" in done.err


def test_a_config_without_a_puller_is_named_as_the_cause(tmp_path: Path) -> None:
    commands = Commands(tmp_path)

    done = commands.invoke("listen", "--once", "--config", str(commands.config))

    assert (done.code, done.out) == (1, "")
    assert "The config has no puller." in done.err


def test_listen_prints_updates_as_they_arrive_and_outlives_a_restart_of_the_service(
    gateway: Gateway,
) -> None:
    command = gateway.commands.command(
        ("listen", "batch", "--limit", "2", "--url", gateway.url, "--config", "wats.config.json")
    )
    listening = subprocess.Popen(
        command,
        cwd=gateway.folder,
        env=gateway.commands.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert listening.stdout is not None
    gateway.receive("1")
    first = listening.stdout.readline()
    until(lambda: gateway.json("consumers", "list")["items"][0]["leased"] == 0)
    gateway.process.end()
    port = gateway.url.rpartition(":")[2]
    serve = "serve", "--config", "wats.config.json", "--port", port

    with gateway.commands.running(*serve):
        gateway.receive("2")
        rest, err = listening.communicate(timeout=30)

    assert texts(first + rest) == ["1", "2"]
    assert listening.returncode == 0
    assert set(err.splitlines()) <= {
        f"{gateway.url} does not respond: the connection was refused. Trying again.",
        f"{gateway.url} does not respond: the connection was closed. Trying again.",
    }


def test_listen_goes_on_after_a_first_acknowledgement_without_a_response(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "FIRST_PAUSE_SECONDS", 0.0)
    update: Any = {"raw": {"text": {"body": "1"}}}
    pulled = PulledUpdates(updates=(PulledUpdate(receipt="r", attempt=1, update=update),))
    losses = [NoAnswer("It does not respond.")]
    acknowledged: list[list[str]] = []

    class Routes(UpdateRoutes):
        def __init__(self) -> None:
            pass

        def acknowledge(self, receipts: Sequence[str], retry: Retry = False) -> Any:
            if losses:
                raise losses.pop()
            acknowledged.append([*receipts])

    listen._pull_all(Routes(), lambda **_: pulled, 1)

    out, err = capsys.readouterr()
    assert texts(out) == ["1", "1"]
    assert err == "It does not respond. Trying again.\n"
    assert acknowledged == [["r"]]


def test_an_interrupt_ends_listen_without_a_lease(gateway: Gateway) -> None:
    command = gateway.commands.command(
        ("listen", "batch", "--url", gateway.url, "--config", "wats.config.json")
    )
    listening = subprocess.Popen(
        command, cwd=gateway.folder, env=gateway.commands.environ, stdout=subprocess.PIPE, text=True
    )
    assert listening.stdout is not None
    gateway.receive("1")
    listening.stdout.readline()
    until(lambda: gateway.json("consumers", "list")["items"][0]["leased"] == 0)

    listening.send_signal(signal.SIGINT)

    rest, _ = listening.communicate(timeout=60)
    assert (listening.returncode, rest) == (0, "")
    gateway.receive("2")
    assert texts(gateway.run("listen", "batch", "--once").out) == ["2"]


def test_a_puller_that_is_not_in_the_config_is_an_error(gateway: Gateway) -> None:
    ended = gateway.run("listen", "nobody", "--once")

    assert (ended.code, ended.out) == (1, "")
    assert "[consumer_not_found]" in ended.err
