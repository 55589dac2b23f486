"""One connection over real sockets: responses, counts, and when it ends."""

import asyncio
import gc
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from tests.process.http.running import Running
from tests.process.http.wire import (
    HOOK,
    SMUGGLED,
    TOKEN,
    Wire,
    chunked,
    head,
    post,
    serving_site,
    statuses_of,
    update,
)
from wats.process.http.admission import ConnectionLimits
from wats.process.http.framing import MAX_HEAD_BYTES
from wats.process.http.protocol import GatewayProtocol
from wats.process.server import bind, url_of
from wats.service import create_wats_service_app
from wats.testing import example_profile, example_secrets

GET = head("GET /healthz")
LAST = head("GET /healthz", "connection: close")
BAD = b'{"error":{"code":"malformed_http","message":"The request is not valid HTTP/1.x."}}'
TE = "transfer-encoding: chunked"
SIGNED = "x-hub-signature-256: sha256=" + "0" * 64
WEBHOOK = f"POST {HOOK}"
SHORT = ConnectionLimits(
    request_seconds=0.3, keep_alive_seconds=0.3, unsent_seconds=0.3, linger_seconds=0.3
)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(
            head("POST /nothing", "connection: upgrade", "upgrade: h2c", TE), id="upgrade"
        ),
        pytest.param(head("CONNECT /nothing", "content-length: 50"), id="connect"),
        pytest.param(head("POST /nothing", "content-length: 100", "upgrade: x"), id="unread-body"),
        pytest.param(LAST, id="close"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http-2"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", id="refused"),
    ],
)
async def test_no_request_is_served_after_the_end_of_a_connection(sent: bytes) -> None:
    async with Running() as running:
        for pieces in ((sent, SMUGGLED), (sent + SMUGGLED,)):
            assert len(statuses_of(await running.exchange(*pieces))) == 1


@pytest.mark.parametrize("offer", ["h2c", "websocket", "anything"])
@pytest.mark.parametrize("path", [HOOK, HOOK + "?x"], ids=["fast", "slow"])
async def test_a_declined_offer_to_upgrade_changes_nothing(path: str, offer: str) -> None:
    sent = post(update(1), "connection: Upgrade, HTTP2-Settings", f"upgrade: {offer}", path=path)
    before, end, body = sent.partition(b"\r\n\r\n")
    async with Running() as running:
        answer = await running.exchange(before + end, body[:10], body[10:] + LAST)

    assert statuses_of(answer) == [200, 200]
    assert b'"received":1' in answer


@pytest.mark.parametrize("is_cut", [False, True])
async def test_trailers_are_dropped(is_cut: bool) -> None:
    before = head("POST /status", TE)
    trailers = chunked(b"x", TOKEN, "X-Hub-Signature-256: x")
    async with Running() as running:
        pieces = (before, trailers) if is_cut else (before + trailers,)
        assert statuses_of(await running.exchange(*pieces)) == [404]
        signed = head("GET /status", TOKEN, TE) + chunked(b"", "Authorization: Bearer no")
        assert statuses_of(await running.exchange(signed)) == [200]


@pytest.mark.parametrize("before", [post(update(1)), post(update(1), path=HOOK + "?x"), GET])
async def test_the_refusal_of_garbage_waits_for_its_turn(before: bytes) -> None:
    async with Running() as running:
        answer = await running.exchange(before + before + b"garbage\r\n\r\n")

        assert statuses_of(answer) == [200, 200, 400]
        assert answer.endswith(BAD)
        assert running.counted()[-1] == ("unmatched", "4xx")
        assert running.sink.counters[-1].attributes["http.request.method"] == "unknown"
        assert len(running.counted()) == 3


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", id="two-hosts"),
        pytest.param(b"GET / HTTP/1.0\r\nhost: a\r\nHost: b\r\n\r\n", id="two-hosts-in-1.0"),
        pytest.param(b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", id="http-2.0"),
        pytest.param(b"GET / HTTP/0.9\r\nhost: a\r\n\r\n", id="http-0.9"),
        pytest.param(b"GET /\r\n\r\n", id="no-version"),
        pytest.param(b"GET / RTSP/1.0\r\nhost: a\r\n\r\n", id="another-protocol"),
        pytest.param(head("POST /", "transfer-encoding: gzip, chunked"), id="gzip"),
        pytest.param(head("POST /", TE, TE), id="chunked-twice"),
        pytest.param(head("POST /", TE, "content-length: 3"), id="length-and-chunks"),
        pytest.param(head("POST /", "content-length: 3", TE), id="chunks-and-length"),
        pytest.param(head("POST /", TE).replace(b"1.1", b"1.0"), id="chunked-in-1.0"),
        pytest.param(head("POST /", "content-length: 3", "content-length: 3"), id="two-lengths"),
        pytest.param(head("POST /", "content-length: +3"), id="signed-length"),
        pytest.param(head("POST /", "content-length: 3, 3"), id="list-of-lengths"),
        pytest.param(head("POST /", "content-length : 3"), id="space-before-the-colon"),
        pytest.param(head("GET /", "x: 1\r\n 2"), id="folded-line"),
        pytest.param(head("GET /", "x: 1\ny: 2"), id="bare-line-feed"),
        pytest.param(head("GET /", "x: 1\n\nGET /healthz HTTP/1.1"), id="bare-empty-line"),
        pytest.param(head("GET /", "x: 1\ry: 2"), id="bare-carriage-return"),
        pytest.param(head("GET /", "x: \x00"), id="null"),
        pytest.param(b"\n" + GET, id="line-feed-before"),
        pytest.param(b"\r\n\r\n" + GET, id="two-empty-lines-before"),
        pytest.param(head("GET  /"), id="two-spaces"),
        pytest.param(head("GET x"), id="no-path"),
    ],
)
async def test_violations_of_rfc_9112_are_refused(sent: bytes) -> None:
    async with Running() as running:
        answer = await running.exchange(sent + GET)

    assert statuses_of(answer) == [400]
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(BAD)


async def test_a_head_is_counted_exactly_however_it_is_cut() -> None:
    room = MAX_HEAD_BYTES - len(head("GET /healthz", "x: ", "connection: close"))
    largest = head("GET /healthz", f"x: {'y' * room}", "connection: close")
    larger = head("GET /healthz", f"x: {'y' * (room + 1)}", "connection: close")
    async with Running() as running:
        for place in (len(largest), 10, MAX_HEAD_BYTES - 1, 40_000):
            fits = await running.exchange(largest[:place], largest[place:])
            refused = await running.exchange(larger[:place], larger[place:])
            assert (statuses_of(fits), statuses_of(refused)) == ([200], [400])


async def test_endless_trailers_and_extensions_are_refused() -> None:
    before = head(WEBHOOK, TE, SIGNED)
    attacks = (
        b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 20_000,
        b"1\r\nx\r\n0\r\na: " + b"b" * 100_000,
        b"1;" + b"e" * 100_000,
        b"1;eeeeeeee\r\nx\r\n" * 20_000,
        b"1\r\nx\r\n" * 20_000,
    )
    async with Running() as running:
        for attack in attacks:
            assert statuses_of(await running.exchange(before, attack)) == [400]


async def test_a_bare_url_is_that_of_the_root() -> None:
    async with Running() as running:
        answer = await running.exchange(head("GET http://x", "connection: close"))

    assert statuses_of(answer) == [404]


@pytest.mark.parametrize(
    "sent", [post(update(1)), GET, GET * 3 + post(update(2), path=HOOK + "?x")]
)
async def test_a_client_that_closes_its_side_gets_its_responses(sent: bytes) -> None:
    async with Running() as running:
        answer = await running.exchange(sent, ends=True)

    assert set(statuses_of(answer)) == {200}
    assert len(statuses_of(answer)) == max(1, sent.count(b" HTTP/1.1"))


async def test_a_connection_that_ends_during_a_head_counts_no_webhook() -> None:
    async with Running() as running:
        async with running.connection(post(update(1)) + b"GET /hea") as (reader, _):
            await reader.readline()
        await running.until(lambda: not running.connections)

        assert running.counted() == [("/webhook", "2xx")]


def _half(request: bytes) -> bytes:
    return request[:-1]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /hea", id="head"),
        pytest.param(_half(post(update(1))), id="body-fast"),
        pytest.param(_half(post(update(1), path=HOOK + "?x")), id="body-slow"),
        pytest.param(head(WEBHOOK, TE, SIGNED) + b"5\r\nhel", id="chunks"),
        pytest.param(post(update(1), "expect: 100-continue")[:-300], id="expected-body"),
        pytest.param(head("POST /nothing", "content-length: 10"), id="early-answer"),
        pytest.param(head("POST /nothing", TE), id="early-answer-to-chunks"),
        pytest.param(head(WEBHOOK, "content-length: 9999999"), id="too-large"),
        pytest.param(GET, id="idle"),
        pytest.param(LAST, id="lingering"),
        pytest.param(b"garbage", id="refused"),
    ],
)
async def test_every_state_that_waits_for_a_client_has_an_end(sent: bytes) -> None:
    async with Running(limits=SHORT) as running, running.connection(sent):
        await running.until(lambda: running.connections == 0)


def _client_that_does_not_read(running: Running) -> socket.socket:
    address = urlsplit(running.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect((address.hostname, address.port))
    client.setblocking(False)
    client.send(head("GET /openapi.json") * 250)
    return client


async def test_a_client_that_does_not_read_loses_its_connection() -> None:
    async with Running(limits=SHORT) as running:
        clients = [_client_that_does_not_read(running) for _ in range(5)]
        await running.until(lambda: running.connections > 0)
        await running.until(lambda: running.connections == 0)
        for client in clients:
            client.close()


async def test_idle_connections_make_room_for_new_ones() -> None:
    async with (
        Running(limits=ConnectionLimits(max_connections=8)) as running,
        AsyncExitStack() as stack,
    ):
        for _ in range(30):
            await stack.enter_async_context(running.connection(b""))
        await running.until(lambda: running.connections == 8)

        assert (await running.served(post(update(1)))).startswith(b"HTTP/1.1 200 ")


async def test_requests_that_wait_for_graph_leave_connections_to_webhooks_and_probes() -> None:
    graph = bind("127.0.0.1", 0)  # accepts connections, and never responds
    profile = example_profile(graph_url=url_of(graph))
    app = create_wats_service_app(profile=profile, secrets=example_secrets())
    limits = ConnectionLimits(max_connections=8)
    body = b'{"to": "15550001234", "text": "hi"}'
    send = head("POST /api/messages/text", TOKEN, f"content-length: {len(body)}") + body
    async with (
        Running(app, hook=app.hook, limits=limits, grace_seconds=0) as running,
        AsyncExitStack() as stack,
    ):
        for _ in range(6):
            await stack.enter_async_context(running.connection(send))
        await running.until(lambda: len(running.server.server_state.tasks) == 6)
        refused = await running.exchange(send, ends=True)
        served = [
            await running.served(each)
            for each in (post(update(1)), post(update(2), path=HOOK + "?x"), head("GET /readyz"))
        ]

    graph.close()
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 5\r\n" in refused
    assert b'"code":"overloaded"' in refused
    assert [each.split()[1] for each in served] == [b"200"] * 3


async def test_clients_that_do_not_read_make_room_for_new_ones() -> None:
    async with Running(limits=ConnectionLimits(max_connections=8)) as running:
        clients = [_client_that_does_not_read(running) for _ in range(30)]
        for number in range(10):
            assert (await running.served(post(update(number)))).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.close()


async def test_idle_clients_are_evicted_before_those_with_an_arriving_request() -> None:
    half = _half(post(update(1)))
    async with (
        Running(limits=ConnectionLimits(max_connections=2)) as running,
        running.connection(half) as (reader, writer),
    ):
        await running.until(lambda: running.connections == 1)
        async with running.connection(b""), running.connection(b""):
            await asyncio.sleep(0.05)
            writer.write(post(update(1))[-1:])

            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", [HOOK, HOOK + "?x"], ids=["fast", "slow"])
async def test_beyond_the_memory_budget_the_oldest_bodies_are_refused(path: str) -> None:
    before = head(f"POST {path}", SIGNED, "content-length: 200000")
    async with (
        Running(limits=ConnectionLimits(max_held_bytes=400_000)) as running,
        AsyncExitStack() as stack,
    ):
        opened = []
        for _ in range(10):
            connection = running.connection(before + b"x" * 100_000)
            opened.append(await stack.enter_async_context(connection))
            await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            refused = await opened[0][0].read()
        assert (await running.served(post(update(1)))).startswith(b"HTTP/1.1 200 ")
        opened[-1][1].write(b"x" * 100_000)

        assert statuses_of(refused) == [503]
        assert b"\r\nretry-after: 5\r\n" in refused
        assert b'"code":"overloaded"' in refused
        assert (await opened[-1][0].readline()).startswith(b"HTTP/1.1 401 ")
        assert ("/webhook", "5xx") in running.counted()


@pytest.mark.parametrize("path", [HOOK, HOOK + "?x"], ids=["fast", "slow"])
async def test_the_memory_budget_includes_the_heads_of_unfinished_requests(path: str) -> None:
    before = head(f"POST {path}", SIGNED, "content-length: 9", f"x: {'y' * 60_000}")
    limits = ConnectionLimits(max_held_bytes=200_000)
    async with Running(limits=limits) as running, AsyncExitStack() as stack:
        opened = []
        for _ in range(4):
            opened.append(await stack.enter_async_context(running.connection(before + b"x")))
            await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            refused = await opened[0][0].read()
        opened[-1][1].write(b"x" * 8)

        assert statuses_of(refused) == [503]
        assert (await opened[-1][0].readline()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(_half(post(update(1))), id="body-fast"),
        pytest.param(_half(post(update(1), path=HOOK + "?x")), id="body-slow"),
        pytest.param(post(update(1)) * 3 + GET * 3, id="pipeline"),
        pytest.param(head("POST /nothing", TE) + b"5\r\n", id="early-answer"),
        pytest.param(b"garbage", id="refused"),
        pytest.param(head(WEBHOOK, TE, SIGNED) + b"x\r\n", id="malformed-chunk"),
    ],
)
async def test_a_connection_that_was_aborted_leaves_no_garbage(sent: bytes) -> None:
    async with serving_site() as site:
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                wire, protocol = Wire(), GatewayProtocol(site)
                wire.connect(protocol)
                protocol.data_received(sent)
                for _ in range(5):
                    await asyncio.sleep(0)
                wire.abort()
                del wire, protocol
            for _ in range(10):
                await asyncio.sleep(0)
            left = sum(isinstance(each, GatewayProtocol) for each in gc.get_objects())
        finally:
            gc.enable()

    assert left == 0


async def test_aborted_connections_over_sockets_leave_no_garbage() -> None:
    async with Running() as running:
        gc.collect()
        gc.disable()
        try:
            for sent in (_half(post(update(1))), GET * 3, head("POST /x", TE), b"GET /", LAST):
                for _ in range(5):
                    async with running.connection(sent) as (_, writer):
                        await asyncio.sleep(0.01)
                        writer.transport.abort()
            await running.until(lambda: running.connections == 0)
            await running.until(
                lambda: not any(isinstance(each, GatewayProtocol) for each in gc.get_objects())
            )
        finally:
            gc.enable()


async def test_while_a_request_is_served_a_bounded_part_of_the_next_is_read() -> None:
    served = asyncio.Event()

    async def app(scope, receive, send) -> None:
        await served.wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with serving_site() as site:
        wire = Wire()
        protocol = GatewayProtocol(replace(site, app=app))
        wire.connect(protocol)
        protocol.data_received(GET * 10_000)
        await asyncio.sleep(0)
        assert not wire.is_reading
        assert len(site.server.tasks) == 1

        served.set()
        while not wire.is_reading:
            await asyncio.sleep(0)
        protocol.connection_lost(None)


async def test_no_response_is_made_while_the_client_reads_none() -> None:
    async with serving_site() as site:
        wire, protocol = Wire(), GatewayProtocol(site)
        wire.connect(protocol)
        protocol.pause_writing()
        protocol.data_received((post(update(1), signature="x") + GET) * 50)
        await asyncio.sleep(0)
        assert wire.written == b""

        protocol.resume_writing()
        while len(statuses_of(wire.written)) < 100:
            await asyncio.sleep(0)
        protocol.connection_lost(None)
