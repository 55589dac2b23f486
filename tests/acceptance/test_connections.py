"""Hostile connections to `wats serve`: memory, descriptors, and webhooks of Meta among them."""

import contextlib
import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process.http.wire import (
    SMUGGLED,
    chunked,
    conversation,
    cuts,
    head,
    post,
    statuses_of,
    update,
)
from tests.settings import SECRETS, config_of
from wats.service.upkeep import CHECKPOINT_EVERY_SECONDS

pytestmark = pytest.mark.long

HOOK = "/webhooks/whatsapp"
SECONDS = 3.0
MIB = 1024 * 1024
WRONG = "x-hub-signature-256: sha256=" + "0" * 64
OPENAPI = head("GET /openapi.json")


class Serving(NamedTuple):
    """A running `wats serve`."""

    pid: int
    port: int

    def connect(self, seconds: float = 60.0) -> socket.socket:
        """Return a connection each of whose operations may take so many *seconds*."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def memory(self) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text("ascii")
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def exchange(self, *pieces: bytes, pause: float = 0.0) -> bytes:
        """Send *pieces*, close this direction, and return all bytes received."""
        with self.connect() as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while received := connection.recv(65_536):
                    answer += received
        return answer


@contextlib.contextmanager
def running(folder: Path, *, descriptors: int | None = None, **sections: Any) -> Iterator[Serving]:
    (folder / "config.json").write_text(json.dumps(config_of(**sections)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))

    process = subprocess.Popen(
        [sys.executable, "-m", "wats", "serve", "--config", "config.json", "--port", "0"],
        cwd=folder,
        env={**os.environ, **SECRETS},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=limit,  # noqa: PLW1509 - no threads in the child
    )
    assert process.stdout is not None
    with process:
        url = json.loads(process.stdout.readline())["url"]
        try:
            yield Serving(process.pid, int(url.rpartition(":")[2]))
        finally:
            process.terminate()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with running(tmp_path) as service:
        yield service


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with running(tmp_path_factory.mktemp("shared")) as service:
        yield service


def test_a_pipeline_over_sockets_gets_responses_in_order_for_every_cut(shared: Serving) -> None:
    for seed in range(300):
        choose = random.Random(seed)
        sent, expected = conversation(choose)

        answer = shared.exchange(*list(cuts(choose, sent))[:40], pause=0.001)

        # The responses to a truncated pipeline are the first ones.
        assert statuses_of(answer) == expected[: len(statuses_of(answer))], seed
        assert statuses_of(shared.exchange(sent)) == expected, seed


def flood(first: bytes, more: bytes = b"", *, receive_buffer: int = 0) -> Callable[..., None]:
    """Return an attack: *first* and then *more* without end; it reads no response."""

    def attack(service: Serving, until: float) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.socket() as connection:
                if receive_buffer:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                connection.settimeout(0.5)
                connection.connect(("127.0.0.1", service.port))
                connection.sendall(first)
                while more and time.monotonic() < until:
                    connection.sendall(more)

    return attack


def hold(first: bytes) -> Callable[..., None]:
    """Return an attack: connections that send *first* and stay open."""

    def attack(service: Serving, until: float) -> None:
        held = []
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                held.append(service.connect(5.0))
                held[-1].sendall(first)
            if len(held) > 60:
                held.pop(0).close()
            time.sleep(0.005)
        for connection in held:
            connection.close()

    return attack


CHUNKS = head("POST /nothing", "transfer-encoding: chunked")
SIGNED_CHUNKS = head(f"POST {HOOK}", WRONG, "transfer-encoding: chunked")
LARGE = head(f"POST {HOOK}", WRONG, f"content-length: {3 * MIB}") + b"x" * (3 * MIB - 1)
LARGE_SLOW = LARGE.replace(HOOK.encode(), f"{HOOK}?x".encode(), 1)
ATTACKS = {
    "trailers": flood(CHUNKS + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 10_000),
    "trailers-of-a-webhook": flood(SIGNED_CHUNKS + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 10_000),
    "one-trailer": flood(SIGNED_CHUNKS + b"1\r\nx\r\n0\r\na: ", b"b" * 65_536),
    "extensions": flood(SIGNED_CHUNKS + b"1;", b"e" * 65_536),
    "tiny-chunks": flood(SIGNED_CHUNKS, b"1\r\nx\r\n" * 10_000),
    "pipeline-of-webhooks": flood(b"", post(b"{}", signature="sha256=" + "0" * 64) * 400),
    "pipeline-of-others": flood(b"", OPENAPI * 1_000, receive_buffer=4096),
    "unread-answers": hold(OPENAPI * 100),
    "aborted-uploads": flood(LARGE),
    "aborted-uploads-slow": flood(LARGE_SLOW),
    "bodies-in-flight": hold(LARGE),
    "bodies-in-flight-slow": hold(LARGE_SLOW),
    "long-heads": hold(head("GET /", "x: " + "y" * 65_000)[:-4]),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_unauthenticated_clients_cannot_exhaust_memory_or_delay_responses(
    serving: Serving, attack: Callable[..., None]
) -> None:
    assert statuses_of(serving.exchange(post(update(0)))) == [200]
    before, peak, answered = serving.memory(), 0.0, 0
    until = time.monotonic() + SECONDS
    attackers = [threading.Thread(target=attack, args=(serving, until)) for _ in range(3)]
    for attacker in attackers:
        attacker.start()

    while time.monotonic() < until:
        answered += statuses_of(serving.exchange(post(update(answered)))) == [200]
        peak = max(peak, serving.memory())
        time.sleep(0.02)
    for attacker in attackers:
        attacker.join()

    assert answered > 0
    assert peak < 200
    await_memory(serving, before + 10)


def await_memory(service: Serving, most: float, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while service.memory() > most and time.monotonic() < deadline:
        time.sleep(0.1)
    assert service.memory() <= most


def large_update(number: int) -> bytes:
    return update(number).replace(b"EVENT_", b"E" * (3 * MIB - 1024))


def burst(service: Serving, requests: list[bytes]) -> list[bytes]:
    """Complete all *requests* at the same moment; return the responses."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(service.connect()) for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request[:-1])
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request[-1:])
        return [connection.recv(65_536) for connection in connections]


HANDLERS = """
async def handle(update):
    pass
"""


@pytest.mark.parametrize("handlers", [[], ["handlers:handle"]], ids=["none", "one"])
def test_memory_is_returned_after_a_burst_of_large_signed_webhooks(
    tmp_path: Path, handlers: list[str]
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with running(tmp_path, handlers=handlers) as service:
        for number in range(20):
            assert statuses_of(service.exchange(post(update(number)))) == [200]
        before = service.memory()

        answers = burst(service, [post(large_update(number)) for number in range(16)])

        assert [statuses_of(each) for each in answers] == [[200]] * 16
        # The page cache of SQLite is dropped when the log has been emptied.
        await_memory(service, before + 10, CHECKPOINT_EVERY_SECONDS + 60)


def test_few_descriptors_do_not_shut_the_webhook_out(tmp_path: Path) -> None:
    with running(tmp_path, descriptors=256) as service, contextlib.ExitStack() as stack:
        for number in range(600):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", service.port))
            with contextlib.suppress(OSError):
                client.sendall(OPENAPI * 128 if number % 2 else SMUGGLED[:20])
            if number % 60 == 0:
                assert statuses_of(service.exchange(post(update(number)))) == [200]

        assert len(list(Path(f"/proc/{service.pid}/fd").iterdir())) < 256
        answer = service.exchange(
            head(f"POST {HOOK}", WRONG, "transfer-encoding: chunked"), chunked(b"{}")
        )
        assert statuses_of(answer) == [401]
