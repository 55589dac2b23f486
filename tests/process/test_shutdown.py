"""However a handler misbehaves, it cannot decide when and how the service ends."""

import json
import os
import signal
import subprocess
import time
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest

from tests.cli.test_serve import fetch
from tests.commands import LONGEST_SECONDS
from tests.namespaces import CONTAINER, needs_container
from tests.settings import config_of
from wats.testing import sign

pytestmark = pytest.mark.long

CANARY = "no stock for 15550001234"
ENTRY = {"id": "1", "time": 1_790_000_000, "changes": []}

HANDLERS = f"""
import asyncio
import pathlib
import sys


async def leave(update):
    pathlib.Path("called").touch()
    sys.exit({CANARY!r})


async def leave_later(update):
    async def fail():
        sys.exit({CANARY!r})

    asyncio.create_task(fail())


async def interrupt_later(update):
    async def fail():
        raise KeyboardInterrupt({CANARY!r})

    asyncio.create_task(fail())


async def stay(update):
    pathlib.Path("called").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


async def block(update):
    import time
    pathlib.Path("called").touch()
    while True:
        time.sleep(1)


async def block_for_a_while(update):
    import time
    pathlib.Path("called").touch()
    time.sleep(4)


async def fail(update):
    raise ValueError


async def stay_in_a_thread(update):
    pathlib.Path("called").touch()
    import time
    await asyncio.to_thread(time.sleep, 600)
"""

LINE_OF_BLOCK = HANDLERS.splitlines().index("        time.sleep(1)") + 1
LINE_OF_SHORT_BLOCK = HANDLERS.splitlines().index("    time.sleep(4)") + 1


@pytest.fixture
def with_handler(wats):
    """Configures one of `HANDLERS`."""

    def configure(name: str, **sections: object) -> list[str]:
        (wats.folder / "misbehaving.py").write_text(HANDLERS)
        wats.write(handlers=[f"misbehaving:{name}"], **sections)
        return ["serve", "--config", str(wats.config), "--port", "0"]

    return configure


def post_update(wats, url: str, event: str = "X") -> int:
    changes = [{"field": "account_update", "value": {"event": event}}]
    return post_entries(wats, url, [{**ENTRY, "changes": changes}])


def post_entries(wats, url: str, entries: list[dict[str, object]]) -> int:
    body = {"object": "whatsapp_business_account", "entry": entries}
    secret = wats.environ["WATS_APP_SECRET"]
    signed = {"x-hub-signature-256": sign(json.dumps(body).encode(), secret)}
    return fetch(f"{url}/webhooks/whatsapp", body, signed)[0]


def wait_for(path: Path) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("persistence", [{"url": "sqlite:///wats.db"}, "none"], ids=["store", "no"])
def test_a_handler_that_exits_fails_its_call_only(wats, with_handler, persistence) -> None:
    command = with_handler("leave", persistence=persistence)

    with wats.running(*command) as service:
        assert post_update(wats, service.url, "X") == 200
        wait_for(wats.folder / "called")
        assert post_update(wats, service.url, "Y") == 200
        assert fetch(f"{service.url}/readyz")[0] == 200
        ended = service.end()

    assert (ended.code, ended.out) == (0, "")
    assert CANARY not in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("handler", ["leave_later", "interrupt_later"])
def test_a_service_that_a_background_task_ends_logs_a_class_and_fails(
    wats, with_handler, handler: str
) -> None:
    with wats.running(*with_handler(handler)) as service:
        assert post_update(wats, service.url) == 200
        out, err = service.process.communicate(timeout=LONGEST_SECONDS)

    assert (service.process.returncode, out) == (1, "")
    lines = [json.loads(each) for each in err.splitlines()]
    name = "SystemExit" if handler == "leave_later" else "KeyboardInterrupt"
    assert ("python", name) in [(line.get("library"), line["errorName"]) for line in lines]
    assert CANARY not in err


def test_a_module_of_handlers_that_exits_is_refused_without_its_text(wats) -> None:
    (wats.folder / "leaving.py").write_text(f"import sys\nsys.exit({CANARY!r})")
    wats.write(handlers=["leaving:handle"])

    result = wats.run("serve", "--config", str(wats.config), "--port", "0")

    assert result.code == 1
    assert "SystemExit" in result.err
    assert CANARY not in result.err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("handler", ["stay", "stay_in_a_thread"])
def test_a_handler_that_does_not_end_does_not_keep_the_service_from_ending(
    wats, with_handler, handler: str, workers: int
) -> None:
    command = with_handler(handler)

    with wats.running(*command, "--workers", str(workers)) as service:
        assert post_update(wats, service.url) == 200
        wait_for(wats.folder / "called")
        ended = service.end()

    assert (ended.code, ended.out) == (0, "")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("is_in_container", [False, pytest.param(True, marks=needs_container)])
def test_a_handler_that_blocks_the_loop_does_not_keep_a_single_process_from_ending(
    wats, with_handler, is_in_container: bool
) -> None:
    service_section = config_of()["profiles"]["local"]["service"]
    command = with_handler("block", service={**service_section, "shutdownSeconds": 0})
    if is_in_container:  # the kernel treats signals to the first process differently
        run = wats.command
        wats.command = lambda arguments: [*CONTAINER, *run(arguments)]

    with wats.running(*command) as service:
        assert post_update(wats, service.url) == 200
        wait_for(wats.folder / "called")
        pid = service.process.pid
        if is_in_container:
            assert service.ready["pid"] == 1
            (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(pid, signal.SIGTERM)
        _, err = service.process.communicate(timeout=LONGEST_SECONDS)

    assert service.process.returncode == 1
    lines = [json.loads(each) for each in err.splitlines()]
    assert [line["event"] for line in lines] == ["wats.loop.blocked", "wats.shutdown.forced"]
    assert {(line["file"], line["line"]) for line in lines} == {("misbehaving.py", LINE_OF_BLOCK)}


def test_a_handler_that_blocks_the_loop_is_logged_with_its_position(wats, with_handler) -> None:
    with wats.running(*with_handler("block_for_a_while")) as service:
        assert post_update(wats, service.url) == 200
        wait_for(wats.folder / "called")
        assert fetch(f"{service.url}/healthz")[0] == 200  # once the loop turns
        ended = service.end()

    blocked, resumed = (json.loads(each) for each in ended.err.splitlines())
    assert (ended.code, blocked["event"]) == (0, "wats.loop.blocked")
    assert (blocked["file"], blocked["line"]) == ("misbehaving.py", LINE_OF_SHORT_BLOCK)
    assert resumed["event"] == "wats.loop.resumed"


UPDATES = 100


def test_a_log_that_is_not_read_delays_neither_requests_nor_the_end(
    wats, with_handler, request: pytest.FixtureRequest
) -> None:
    # Each update is a dead letter, and so a line of the log: more than a pipe and the buffer take.
    command = with_handler("fail", inbox={"maxAttempts": 1})
    change = {"field": "account_update", "value": {"event": "X"}}
    unread, stderr = os.pipe()
    fcntl(stderr, F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        wats.command(command),
        cwd=wats.folder,
        env=wats.environ,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    request.addfinalizer(process.kill)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]

    for first in range(0, 20 * UPDATES, UPDATES):
        entries = [
            {"id": str(first + number), "time": 1_790_000_000, "changes": [change]}
            for number in range(UPDATES)
        ]
        assert post_entries(wats, url, entries) == 200
    statuses = [fetch(f"{url}{path}")[0] for path in ("/readyz", "/healthz")]
    process.terminate()

    assert statuses == [200, 200]
    assert process.wait(LONGEST_SECONDS) == 0
    process.stdout.close()
    os.close(unread)
    os.close(stderr)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_process_of_the_service_can_leave_a_core_file(wats, workers: int) -> None:
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", str(workers))

    with wats.running(*command) as service:
        pid = service.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        limits = [Path(f"/proc/{each}/limits").read_text() for each in (pid, *children)]
        service.end(signal.SIGTERM)

    assert len(limits) == (1 if workers == 1 else 3)
    lines = [line for text in limits for line in text.splitlines() if "core file" in line]
    assert {tuple(line.split()[4:6]) for line in lines} == {("0", "0")}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("mode", "lines"), [(0o644, 1), (0o600, 0)])
def test_a_database_that_other_users_can_open_is_logged_at_the_start(
    wats, workers: int, mode: int, lines: int
) -> None:
    database = wats.folder / "wats.db"
    database.touch()
    database.chmod(mode)
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", str(workers))

    with wats.running(*command) as service:
        ended = service.end()

    assert [json.loads(line)["event"] for line in ended.err.splitlines()] == [
        "wats.database.exposed"
    ] * lines


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hangup_is_logged_and_ends_nothing(wats, workers: int) -> None:
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", str(workers))

    with wats.running(*command) as service:
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert fetch(f"{service.url}/readyz")[0] == 200
        ended = service.end()

    assert (ended.code, ended.out) == (0, "")
    assert [json.loads(line)["event"] for line in ended.err.splitlines()] == ["wats.signal.ignored"]


@pytest.mark.parametrize("workers", [1, 2])
def test_readiness_fails_immediately_while_new_connections_are_still_served(
    wats, workers: int
) -> None:
    service_section = config_of()["profiles"]["local"]["service"]
    wats.write(service={**service_section, "drainSeconds": 10})
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", str(workers))

    with wats.running(*command) as service:
        service.process.terminate()
        end = time.monotonic() + LONGEST_SECONDS
        while (answer := fetch(f"{service.url}/readyz"))[0] != 503:
            assert time.monotonic() < end
        webhook = post_update(wats, service.url)
        ended = service.end()

    assert answer[1]["error"]["message"] == "The service is about to stop."
    assert webhook == 200
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_terminal_interrupts_without_a_drain(wats) -> None:
    service_section = config_of()["profiles"]["local"]["service"]
    wats.write(service={**service_section, "drainSeconds": 3600})
    command = ("serve", "--config", str(wats.config), "--port", "0")

    with wats.running(*command) as service:
        ended = service.end(signal.SIGINT)

    assert ended.code == 0


SWALLOWS = """
import os
import pathlib
import sys
import time


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SLOW_IMPORT"]:
            pathlib.Path("importing").touch()
            try:
                time.sleep(60)
            except BaseException:
                pass


sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("module", ["wats.cli.serve", "handlers"])
def test_an_interrupt_during_an_import_that_swallows_exceptions_ends_the_start(
    wats, module: str, workers: str
) -> None:
    (wats.folder / "sitecustomize.py").write_text(SWALLOWS)
    (wats.folder / "handlers.py").write_text("async def handle(update): pass\n")
    wats.write(handlers=["handlers:handle"], service=config_of()["profiles"]["local"]["service"])
    environ = {**wats.environ, "PYTHONPATH": str(wats.folder), "SLOW_IMPORT": module}
    command = wats.command(["serve", "--config", wats.config, "--port", "0", "--workers", workers])
    with subprocess.Popen(command, cwd=wats.folder, env=environ, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + LONGEST_SECONDS
        while not (wats.folder / "importing").exists():
            assert time.monotonic() < end
            time.sleep(0.01)

        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LONGEST_SECONDS / 2)

    # The supervisor of several workers has started, so it ends in an orderly way.
    is_supervised = (module, workers) == ("handlers", "2")
    assert process.returncode == (0 if is_supervised else -signal.SIGINT)
    assert err == b""
