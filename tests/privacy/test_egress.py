"""Wats connects to Graph only, and only for the requests that it must send."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import uvloop

from tests.privacy.asking import Ask, Asker
from tests.privacy.canaries import Canaries
from tests.privacy.fake_graph import FakeGraph
from tests.privacy.service import PATIENCE_SECONDS, Service, Setup, read_telemetry, running
from tests.privacy.wire import ask_all
from tests.settings import NOBODY
from wats.cli import main
from wats.store.sqlite import SQLiteStore

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
NO_NETWORK = (sys.executable, str(HERE / "no_network.py"))
"""The kernel kills this program when it connects anywhere, or starts a child that could."""

CONFIG = """
version: 1
defaultProfile: p
profiles:
  p:
    graph: {apiVersion: v25.0, baseUrl: "https://graph.facebook.com"}
    whatsapp: {wabaId: "100000000000001", phoneNumberId: "200000000000002"}
    auth: {accessToken: {env: A}}
    webhook: {path: /webhooks/whatsapp, verifyToken: {env: B}, appSecret: {env: C}}
    service: {host: 127.0.0.1, port: 8787, apiPrefix: /api, bearerToken: {env: D}}
    persistence: {url: "sqlite:///wats.db"}
"""

OFFLINE = {
    "config validate": ("wats.config.yaml",),
    "database backup": ("new.db", "--config", "wats.config.yaml"),
    "database restore": ("backup.db", "--config", "wats.config.yaml"),
    "help": (),
    "init": (),
    "metrics schema": ("--json",),
    "openapi": ("--config", "wats.config.yaml"),
    "token": (),
}
"""Commands that connect nowhere, and the arguments they need to succeed."""

TO_A_HOST = {
    *("consumers list", "consumers show", "consumers pause", "consumers resume"),
    *("inbox list", "inbox show", "inbox retry", "inbox discard", "listen"),
    *("messages list", "messages show", "replay"),
    *("outbox list", "outbox show", "outbox retry", "outbox discard"),
    *("dead-letters list", "dead-letters show", "dead-letters retry", "dead-letters discard"),
    *("database copy", "doctor", "erase", "status", "support-bundle"),
}
"""Commands whose arguments name a host."""

FOR_LONG = {"demo", "serve", "simulate"}
"""Commands that run until they are ended."""


def commands(group: click.Group = main, *names: str) -> Iterator[str]:
    """Yield every command of the command line."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name))


def run_without_network(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in *folder* where the kernel kills every process that connects."""
    command = [*NO_NETWORK, sys.executable, *arguments]
    secrets = dict.fromkeys("ABCD", "a-secret-for-tests-of-egress")
    environ = {**os.environ, **secrets}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


WAYS_OUT = {
    "socket": "import socket; socket.create_connection(('127.0.0.1', PORT))",
    "unix-socket": "import socket; socket.socket(socket.AF_UNIX).connect('/nowhere')",
    "udp": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "udp-message": "import socket\n"
    "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('127.0.0.1', PORT))",
    "dns": "import socket; socket.getaddrinfo('wats.invalid', 443)",
    "urllib": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:PORT')",
    "uvloop": "import asyncio, uvloop\n"
    "async def go(): await loop().create_connection(asyncio.Protocol, '127.0.0.1', PORT)\n"
    "loop = asyncio.get_running_loop\n"
    "uvloop.run(go())",
    "uvloop-dns": "import asyncio, uvloop\n"
    "async def go(): await asyncio.get_running_loop().getaddrinfo('wats.invalid', 443)\n"
    "uvloop.run(go())",
    "uvloop-udp": "import asyncio, uvloop\n"
    "async def go():\n"
    "    loop = asyncio.get_running_loop()\n"
    "    there = ('127.0.0.1', PORT)\n"
    "    way, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, there)\n"
    "    way.sendto(b'x', there)\n"
    "    await asyncio.sleep(1)\n"
    "uvloop.run(go())",
    "aiohttp": "import aiohttp, uvloop\n"
    "async def go():\n"
    "    async with aiohttp.ClientSession() as session: await session.get('http://127.0.0.1:PORT')\n"
    "uvloop.run(go())",
    "child": "import subprocess, sys\n"
    "code = 'import socket; socket.create_connection((\"127.0.0.1\", PORT))'\n"
    "sys.exit(-subprocess.run([sys.executable, '-c', code]).returncode)",
}


@pytest.fixture
def port() -> Iterator[str]:
    """Listen, so that a connection would succeed if it were not stopped; expect none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield str(listener.getsockname()[1])
        with pytest.raises(BlockingIOError):
            listener.accept()


CHILDREN = {
    "subprocess": "import subprocess; subprocess.run(['true'])",
    "shell": "import os; os.system('true')",
    "fork": "import os; os.fork()",
    "posix-spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "forkserver": "import multiprocessing\n"
    "multiprocessing.get_context('forkserver').Process(target=print).start()",
    "uvloop": "import asyncio, uvloop\nuvloop.run(asyncio.create_subprocess_exec('true'))",
}


@pytest.mark.parametrize("way", CHILDREN)
def test_a_process_that_starts_a_child_is_killed(way: str, tmp_path: Path) -> None:
    done = run_without_network(tmp_path, "-c", CHILDREN[way])

    assert done.returncode == -signal.SIGSYS, done.stderr


def test_a_process_that_starts_a_thread_is_not_killed(tmp_path: Path) -> None:
    code = "import threading; one = threading.Thread(target=print); one.start(); one.join()"

    assert run_without_network(tmp_path, "-c", code).returncode == 0


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_process_that_connects_anywhere_is_killed(way: str, port: str, tmp_path: Path) -> None:
    code = WAYS_OUT[way].replace("'127.0.0.1', PORT", f"'127.0.0.1', {port}").replace("PORT", port)

    done = run_without_network(tmp_path, "-c", code)

    assert abs(done.returncode) == signal.SIGSYS, done.stderr


def test_listening_and_replying_to_a_connected_client_is_allowed(tmp_path: Path) -> None:
    code = (
        "import socket; socket.create_server(('127.0.0.1', 0)); a, b = socket.socketpair();"
        "a.send(b'x'); assert b.recv(1) == b'x'"
    )

    assert run_without_network(tmp_path, "-c", code).returncode == 0


def test_importing_all_of_wats_connects_nowhere_and_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import importlib, pkgutil, threading, wats\n"
        "otel = {'wats.telemetry.otel', 'wats.telemetry.sinks.opentelemetry'}\n"
        "for module in pkgutil.walk_packages(wats.__path__, 'wats.'):\n"
        "    if module.name not in {'wats.__main__', *otel}:\n"
        "        importlib.import_module(module.name)\n"
        "assert threading.active_count() == 1\n"
    )

    done = run_without_network(tmp_path, "-W", "error", "-c", code)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_creating_a_service_connects_nowhere_and_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "from wats import create_wats_service_app, open_store\n"
        "from wats.testing import example_profile, example_secrets\n"
        "profile = example_profile(graph_url='https://graph.facebook.com')\n"
        "store = open_store('sqlite:///wats.db')\n"
        "create_wats_service_app(profile=profile, secrets=example_secrets(), persistence=store)\n"
        "assert threading.active_count() == 1\n"
    )

    done = run_without_network(tmp_path, "-c", code)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_listed_as_local_or_with_its_host() -> None:
    assert set(commands()) == OFFLINE.keys() | TO_A_HOST | FOR_LONG


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], []], ids=["version", "help", "none"]
)
def test_local_commands_connect_nowhere(arguments: list[str], tmp_path: Path) -> None:
    done = run_without_network(tmp_path, "-m", "wats", *arguments)

    assert (done.returncode, done.stderr) == (0, "")


async def make_database(path: Path) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await store.close()


@pytest.mark.parametrize("command", OFFLINE)
def test_a_command_without_a_host_connects_nowhere(command: str, tmp_path: Path) -> None:
    if command != "init":
        (tmp_path / "wats.config.yaml").write_text(CONFIG)
    for name in ("wats.db", "backup.db"):
        asyncio.run(make_database(tmp_path / name))

    done = run_without_network(tmp_path, "-m", "wats", *command.split(" "), *OFFLINE[command])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


OF_GRAPH = re.compile("/api/(media|graph)/|/api/messages/[^/?]*/read|/api/marketing_messages")
"""The targets whose requests Graph gets, even without a valid body."""


def asks_that_need_no_graph(asker: Asker) -> Iterator[Ask]:
    yield from (ask for place, ask in enumerate(asker.webhooks()) if place < 500)
    yield from asker.webhooks_that_are_refused()
    yield from asker.challenges()
    for ask in chain(asker.every_route(), asker.tokens()):
        if not OF_GRAPH.match(ask.target):
            yield ask
    yield from asker.paths_that_lead_nowhere()
    yield from asker.broken_bodies()


def isolated(workers: int, handler: str | None = None) -> Setup:
    """Return a service that is killed if it connects anywhere; so is a worker that has a child."""
    workers_only = {"PYTHONPATH": str(HERE / "childless_workers")}
    return Setup(
        graph_url=NOBODY,
        has_groups=False,
        workers=workers,
        handler=handler,
        launcher=NO_NETWORK if workers == 1 else (*NO_NETWORK, "--with-children"),
        environ={} if workers == 1 else workers_only,
    )


async def serve_without_network(folder: Path, *, workers: int, sends: bool) -> Service:
    canaries = Canaries()
    setup = isolated(workers)
    async with running(canaries, folder, setup) as service:
        asker = service.asker(canaries)
        asked = await ask_all(service.url, asks_that_need_no_graph(asker))
        assert {answer.status for _, answer in asked} >= {200, 400, 401, 404, 405, 413}
        service.surfaces |= await read_telemetry(service.url, service.secrets)
        if sends:
            await ask_all(service.url, [asker.text("the first message")])
            async with asyncio.timeout(PATIENCE_SECONDS):
                await service.process.wait()
        else:
            await service.stop()
    return service


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_connects_nowhere(workers: int, tmp_path: Path) -> None:
    service = uvloop.run(serve_without_network(tmp_path, workers=workers, sends=False))

    assert service.process.returncode == 0
    assert "wats.worker.replaced" not in service.surfaces["stderr"]
    assert "http_requests_total" in service.surfaces["/metrics"]


async def serve_with_children(folder: Path, workers: int) -> Service:
    """Serve one webhook whose handler starts a child, until the kernel has killed a process."""
    canaries = Canaries()
    async with running(canaries, folder, isolated(workers, "start_child")) as service:
        with suppress(OSError, EOFError):  # the process may die before it responds
            await ask_all(service.url, list(islice(service.asker(canaries).webhooks(), 1)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            if workers == 1:
                await service.process.wait()
            else:
                while "wats.worker.replaced" not in (service.folder / "stderr").read_text():
                    await asyncio.sleep(0.05)
    return service


@pytest.mark.parametrize("workers", [1, 2])
def test_a_child_that_a_webhook_starts_is_noticed(workers: int, tmp_path: Path) -> None:
    service = uvloop.run(serve_with_children(tmp_path, workers))

    assert workers == 2 or service.process.returncode == -signal.SIGSYS


def test_a_service_is_killed_if_it_connects_anywhere_but_graph(tmp_path: Path) -> None:
    service = uvloop.run(serve_without_network(tmp_path, workers=1, sends=True))

    assert service.process.returncode == -signal.SIGSYS


def guarded(folder: Path, allowed: str) -> dict[str, str]:
    """Return the environment of a process that may turn to one address and is watched."""
    return {
        "PYTHONPATH": str(HERE / "guard"),
        "GUARD_RECORD": str(folder / "record"),
        "GUARD_ALLOWED": allowed,
    }


async def serve_with_graph(folder: Path) -> tuple[Service, str]:
    canaries = Canaries()
    async with FakeGraph(canaries) as graph:
        allowed = urlsplit(graph.url).netloc
        environ = guarded(folder, allowed)
        setup = Setup(graph_url=graph.url, has_groups=False, environ=environ)
        async with running(canaries, folder, setup) as service:
            asker = service.asker(canaries)
            await ask_all(service.url, asks_that_need_no_graph(asker))
            assert (folder / "record").read_text() == ""
            await ask_all(service.url, asker.messages())
            await service.stop()
    assert min(graph.served.values()) > 0
    return service, allowed


def test_a_service_that_sends_connects_only_to_graph(tmp_path: Path) -> None:
    service, allowed = uvloop.run(serve_with_graph(tmp_path))

    assert service.process.returncode == 0
    assert set((tmp_path / "record").read_text().splitlines()) == {f"socket.connect {allowed}"}


@pytest.mark.parametrize("way", WAYS_OUT.keys() - {"child"})
def test_a_connection_to_another_host_is_detected(way: str, port: str, tmp_path: Path) -> None:
    code = WAYS_OUT[way].replace("PORT", port)
    environ = {**os.environ, **guarded(tmp_path, "127.0.0.1:1")}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, timeout=60, check=False
    )

    assert done.returncode == 1
    (line, *_) = (tmp_path / "record").read_text().splitlines()
    assert line.startswith(("socket.", "uvloop."))
    assert ("uvloop" in way) == line.startswith("uvloop.")
