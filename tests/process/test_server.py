import asyncio
import signal
import socket

import pytest
from uvicorn.lifespan.on import LifespanOn

from tests.process.http.running import Running
from tests.process.http.wire import head, post, update
from wats.errors import ConfigError
from wats.process.http.admission import ConnectionLimits
from wats.process.server import bind
from wats.process.shared_listener import shares_of

HALF_A_WEBHOOK = (
    b"POST /webhooks/whatsapp HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
    b"x-hub-signature-256: sha256=0\r\n\r\n{"
)


async def test_a_webhook_whose_client_hangs_up_during_it_is_counted() -> None:
    async with Running() as running:
        async with running.connection(HALF_A_WEBHOOK):
            await asyncio.sleep(0.05)

        await running.until(lambda: running.counted() == [("/webhook", "unknown")])


@pytest.mark.parametrize("half", [HALF_A_WEBHOOK, b"GET /heal", b""], ids=["body", "head", "none"])
async def test_a_request_that_does_not_arrive_is_not_waited_for_for_ever(half: bytes) -> None:
    async with (
        Running(limits=ConnectionLimits(request_seconds=0.2)) as running,
        running.connection(half) as (reader, _),
    ):
        async with asyncio.timeout(60):
            assert await reader.read() == b""


@pytest.mark.parametrize("shares_its_socket", [False, True])
async def test_a_server_that_stops_waits_for_no_client_that_is_stuck(
    capfd: pytest.CaptureFixture[str], shares_its_socket: bool
) -> None:
    running = Running(
        share=shares_of(1)[0] if shares_its_socket else None,
        limits=ConnectionLimits(request_seconds=3600),
    )
    async with asyncio.timeout(60):
        async with running, running.connection(HALF_A_WEBHOOK) as (reader, _):
            await running.until(lambda: running.connections == 1)
            await asyncio.sleep(0.05)
            running.server.should_exit = True
            assert await reader.read() == b""

    assert running.counted() == [("/webhook", "unknown")]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("shares_its_socket", [False, True])
async def test_a_server_announces_the_drain_before_it_ends_a_connection(
    shares_its_socket: bool,
) -> None:
    open_connections: list[int] = []
    running = Running(
        draining=lambda: open_connections.append(len(running.server.server_state.connections)),
        share=shares_of(1)[0] if shares_its_socket else None,
    )
    async with running, running.connection(b"") as (reader, _):
        await running.until(lambda: running.connections == 1)
        assert open_connections == []
        running.server.should_exit = True
        assert await reader.read() == b""

    assert open_connections == [1]


@pytest.mark.parametrize(
    "request_bytes",
    [post(update(1)), head("GET /healthz"), head("HEAD /healthz")],
    ids=["webhook", "whole", "parts"],
)
async def test_during_the_drain_each_response_ends_its_connection(request_bytes: bytes) -> None:
    drained = asyncio.Event()
    running = Running(draining=drained.set, drain_seconds=3600)
    async with running, running.connection(request_bytes) as (reader, writer):
        async with asyncio.timeout(60):
            kept = await reader.readuntil(b"\r\n\r\n")
            running.server.should_exit = True
            await drained.wait()
            writer.write(request_bytes)
            last = await reader.read()
            another = await running.exchange(request_bytes)
        running.server.handle_exit(signal.SIGINT, None)

    assert b"connection: close\r\n" not in kept
    assert last.count(b"HTTP/1.1 200 OK\r\n") == last.count(b"connection: close\r\n") == 1
    assert another.count(b"HTTP/1.1 200 OK\r\n") == another.count(b"connection: close\r\n") == 1


async def test_a_second_interrupt_still_stops_the_application() -> None:
    running = Running()

    async with running:
        running.server.handle_exit(signal.SIGINT, None)
        running.server.handle_exit(signal.SIGINT, None)

    lifespan = running.server.lifespan
    assert isinstance(lifespan, LifespanOn)
    assert lifespan.shutdown_event.is_set()


async def test_servers_on_one_socket_know_the_connections_of_each_other() -> None:
    shares = shares_of(2)
    async with Running(share=shares[1]) as running, running.connection(b""):
        await running.until(lambda: shares[0].least() == 1)

    assert shares[0].least() > 1_000_000


async def test_small_responses_are_sent_without_delay() -> None:
    listener = bind("127.0.0.1", 0)

    assert listener.proto == socket.IPPROTO_TCP
    listener.close()


def test_a_port_that_is_taken_is_refused_in_a_sentence() -> None:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    try:
        with pytest.raises(ConfigError, match="cannot listen") as caught:
            bind("127.0.0.1", port)
    finally:
        listener.close()

    assert f"'127.0.0.1:{port}': Address already in use" in str(caught.value)


def test_an_ipv6_address_is_in_brackets_in_a_refusal() -> None:
    with pytest.raises(ConfigError) as caught:
        bind("2001:db8::1", 8080)

    assert "'[2001:db8::1]:8080': " in str(caught.value)


async def test_signals_that_the_parent_has_blocked_stop_a_server() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        async with Running():
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert not blocked & {signal.SIGINT, signal.SIGTERM}
