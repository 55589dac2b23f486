import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.commands import Commands, Running
from wats.testing import sign

pytestmark = pytest.mark.long

SERVICE = {
    "host": "127.0.0.1",
    "port": 8787,
    "apiPrefix": "/api",
    "bearerToken": {"env": "WATS_SERVICE_BEARER_TOKEN"},
}
UPDATE = {
    "object": "whatsapp_business_account",
    "entry": [
        {
            "id": "1",
            "time": 1_790_000_000,
            "changes": [{"field": "account_update", "value": {"event": "X"}}],
        }
    ],
}

SINK = """
import os
import signal

FILE = os.open("calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(call):
    os.write(FILE, f"{os.getpid()} {call}\\n".encode())


class Sink:
    def increment_counter(self, name, value, attributes):
        pass

    record_histogram = increment_counter

    def record_event(self, name, attributes, timestamp):
        write(name)
        if name == "wats.started" and os.path.exists("impatient"):
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        write("closed")


def make():
    write("made")
    return Sink()
"""

SLOW_HANDLER = """
import asyncio
import pathlib


async def handle(update):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
"""


def wait_for(is_so: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def status_of(url: Any) -> int:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own
        return answer.status


def is_refused(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 0)).close()
    except ConnectionError:
        return True
    return False


def sink_calls(folder: Path) -> dict[int, list[str]]:
    """Return the lifecycle calls that the sink in each process received, in order of start."""
    calls: dict[int, list[str]] = {}
    for line in (folder / "calls").read_text().splitlines():
        pid, _, call = line.partition(" ")
        calls.setdefault(int(pid), []).append(call)
    return calls


def test_several_workers_are_ready_together_and_end_together(wats) -> None:
    wats.write(service={**SERVICE, "workers": 3})

    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        assert list(service.ready) == ["event", "url", "pid"]
        assert service.ready["pid"] == service.process.pid
        assert {status_of(f"{service.url}/readyz") for _ in range(20)} == {200}
        ended = service.end()

    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sink_is_made_in_each_process_and_closed_at_its_end(wats, workers: int) -> None:
    (wats.folder / "operators.py").write_text(SINK)
    wats.write(telemetry={"sink": "operators:make"}, service={**SERVICE, "workers": workers})

    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        ended = service.end()

    assert (ended.code, ended.err) == (0, "")
    calls = sink_calls(wats.folder)
    assert [*calls.values()] == [["made", "wats.started", "wats.draining", "closed"]] * workers
    assert (service.process.pid in calls) is (workers == 1)


def test_a_signal_during_the_start_ends_everything_started(wats) -> None:
    (wats.folder / "operators.py").write_text(SINK)
    (wats.folder / "impatient").touch()
    wats.write(telemetry={"sink": "operators:make"})

    result = wats.run("serve", "--config", str(wats.config), "--port", "0")

    assert (result.code, result.err) == (0, "")
    assert [*sink_calls(wats.folder).values()] == [
        ["made", "wats.started", "wats.draining", "closed"]
    ]


def test_the_sink_of_a_replacement_receives_its_worker_number(wats) -> None:
    (wats.folder / "operators.py").write_text(SINK)
    wats.write(telemetry={"sink": "operators:make"})
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", "2")

    with wats.running(*command) as service:
        victim = next(iter(sink_calls(wats.folder)))
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: (wats.folder / "calls").read_text().count("wats.started") == 3)
        ended = service.end()

    assert ended.code == 0
    killed, _, replacement = sink_calls(wats.folder).values()
    assert killed == ["made", "wats.started"]
    assert replacement == [
        *("made", "wats.worker.replaced", "wats.started"),
        *("wats.draining", "closed"),
    ]


def make_no_handler(wats: Any) -> None:
    wats.write(handlers=["canary_module:handle"])


def make_no_sink(wats: Any) -> None:
    wats.write(telemetry={"sink": "json:loads"})


def make_a_newer_database(wats: Any) -> None:
    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        service.end()
    with closing(sqlite3.connect(wats.folder / "wats.db")) as connection:
        connection.execute(
            "INSERT INTO wats_schema_migrations VALUES ('9999_later', 9999, 'canary', 9999, 0)"
        )
        connection.commit()


def make_no_database(wats: Any) -> None:
    wats.write(persistence={"url": f"sqlite:///{wats.folder}"})


@pytest.mark.parametrize(
    "spoil", [make_no_handler, make_no_sink, make_a_newer_database, make_no_database]
)
def test_workers_that_cannot_start_log_once_like_one_process(wats, spoil: Any) -> None:
    spoil(wats)
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers")

    alone = wats.run(*command, "1")
    together = wats.run(*command, "3")

    assert alone.code == 1
    assert alone.err.startswith("Error: ")
    assert together == alone


def test_a_worker_that_ends_silently_is_logged(wats) -> None:
    (wats.folder / "leaving.py").write_text("import os\nos._exit(0)")
    wats.write(handlers=["leaving:handle"])

    result = wats.run("serve", "--config", str(wats.config), "--port", "0", "--workers", "2")

    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: A worker process ended before it was ready.\n"


def test_a_database_in_memory_is_for_one_process(wats) -> None:
    wats.write(persistence={"url": "sqlite:///:memory:"})

    result = wats.run("serve", "--config", str(wats.config), "--port", "0", "--workers", "2")

    assert (result.code, result.out) == (1, "")
    assert "service.workers: must be 1" in result.err


@pytest.mark.parametrize("workers", ["0", "65", "-1", "many"])
def test_an_invalid_number_of_workers_is_refused(wats, workers: str) -> None:
    result = wats.invoke("serve", "--config", str(wats.config), "--workers", workers)

    assert result.code != 0
    assert "--workers" in result.err
    assert "Traceback" not in result.err


def test_the_sandbox_is_one_process(wats) -> None:
    result = wats.invoke("serve", "--sandbox", "--workers", "2")

    assert result.code != 0
    assert "--workers" in result.err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
def test_an_interrupt_from_the_terminal_finishes_open_requests_and_accepts_no_others(
    wats, signals: list[signal.Signals], workers: int
) -> None:
    with a_slow_request(wats, workers) as (service, statuses):
        for number in signals:
            # A terminal sends it to every process of the command.
            os.killpg(service.process.pid, number)
        wait_for(lambda: is_refused(service.url))
        assert statuses == []
        (wats.folder / "go").touch()
        out, err = service.process.communicate(timeout=30)

    assert statuses == [200]
    assert (service.process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_interrupt_from_the_terminal_does_not_wait_for_open_requests(
    wats, workers: int
) -> None:
    with a_slow_request(wats, workers) as (service, statuses):
        os.killpg(service.process.pid, signal.SIGINT)
        wait_for(lambda: is_refused(service.url))
        os.killpg(service.process.pid, signal.SIGINT)
        service.process.communicate(timeout=30)

    assert statuses == []


@contextmanager
def a_slow_request(wats: Commands, workers: int) -> Iterator[tuple[Running, list[int]]]:
    """Send a webhook whose handler waits for the file `go`; yield the service and statuses."""
    (wats.folder / "slow.py").write_text(SLOW_HANDLER)
    wats.write(
        persistence="none",
        handlers=["slow:handle"],
        service={**SERVICE, "workers": workers, "shutdownSeconds": 300},
    )
    body = json.dumps(UPDATE).encode()
    signature = sign(body, wats.environ["WATS_APP_SECRET"])
    statuses: list[int] = []

    with wats.running("serve", "--config", str(wats.config), "--port", "0", group=True) as service:
        request = urllib.request.Request(  # noqa: S310 - our own
            f"{service.url}/webhooks/whatsapp", body, {"x-hub-signature-256": signature}
        )

        def ask() -> None:
            with suppress(OSError, http.client.HTTPException):
                statuses.append(status_of(request))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for((wats.folder / "begun").exists)
        yield service, statuses
        asking.join()
