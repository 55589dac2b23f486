"""One idempotency key against a proxy in front of Graph that responds with every HTTP status."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from wats.errors import GraphOutcomeUnknown, IdempotencyOutcomeUnknown
from wats.graph.client import GraphClient
from wats.outbound.accept import Accepted, Acceptor, SendRequest
from wats.outbound.messages import Outgoing
from wats.outbound.transmit import Transmitter
from wats.privacy import Secret
from wats.store.sqlite import SQLiteStore
from wats.telemetry import UNMATCHED, Adapter, RouteLabel, Telemetry

ACCEPTED = b'{"messages":[{"id":"wamid.A"}]}'
PAGE = b"<html>Try again later.</html>"
WINDOW_CLOSED = 131047
CLIENT_ERRORS = frozenset(range(400, 500)) - {408, 499}
BODILESS = frozenset({204, 304, *range(100, 200)})


def error_object(code: object) -> bytes:
    return json.dumps({"error": {"message": "m", "type": "OAuthException", "code": code}}).encode()


@dataclass
class Proxy:
    """Forwards every request to Graph, which accepts it, and replaces the response."""

    graph_port: int = 0
    port: int = 0
    status: int = 502
    body: bytes = PAGE

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while request := await read_message(reader):
                upstream, downstream = await asyncio.open_connection("127.0.0.1", self.graph_port)
                downstream.write(request)
                assert ACCEPTED in await read_message(upstream)
                downstream.close()
                writer.write(self.response())
                await writer.drain()
                if self.status in BODILESS:
                    break
        writer.close()

    def response(self) -> bytes:
        head = f"HTTP/1.1 {self.status:03} Status\r\n"
        if self.status in BODILESS:
            return f"{head}\r\n".encode()
        return f"{head}content-length: {len(self.body)}\r\n\r\n".encode() + self.body


@dataclass
class Graph:
    """Accepts every message and counts them."""

    sends: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        self.sends += 1
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(ACCEPTED)}\r\n\r\n"
        writer.write(head.encode() + ACCEPTED)
        writer.close()


async def read_message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


@pytest.fixture
async def graph_server() -> Graph:
    return Graph()


@pytest.fixture
async def proxy(graph_server: Graph) -> AsyncIterator[Proxy]:
    between = Proxy()
    async with (
        await asyncio.start_server(graph_server.serve, "127.0.0.1", 0) as behind,
        await asyncio.start_server(between.serve, "127.0.0.1", 0) as listener,
    ):
        between.graph_port = behind.sockets[0].getsockname()[1]
        between.port = listener.sockets[0].getsockname()[1]
        yield between


@pytest.fixture
async def acceptor(proxy: Proxy, store: SQLiteStore) -> AsyncIterator[Acceptor]:
    telemetry = Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=Adapter.SQLITE)
    client = GraphClient(
        base_url=f"http://127.0.0.1:{proxy.port}",
        version="v25.0",
        access_token=Secret("token"),
        telemetry=telemetry.graph,
    )
    await client.start()
    yield Acceptor(
        transmitter=Transmitter(client, telemetry=telemetry, log=lambda _: None),
        store=store,
        telemetry=telemetry,
        phone_number_id="15551234567",
        log=lambda _: None,
    )
    await client.close()


async def attempt(acceptor: Acceptor, key: str) -> Accepted | Exception:
    try:
        request = SendRequest(
            payload=b"{}",
            scope="/messages",
            idempotency_key=key,
            request_body=b"{}",
            message=Outgoing(type="text", recipient="15551230000"),
        )
        return await acceptor.accept(request)
    except Exception as error:
        return error


async def outcome_of(acceptor: Acceptor, graph: Graph, key: str) -> tuple[str, str, int]:
    """Return the types of two results for one key, and the number of messages sent."""
    before = graph.sends
    first, second = [await attempt(acceptor, key) for _ in range(2)]
    return type(first).__name__, type(second).__name__, graph.sends - before


SENT_ONCE = ("Accepted", "Accepted", 1)
UNKNOWN = ("GraphOutcomeUnknown", "IdempotencyOutcomeUnknown", 1)
REFUSED = ("GraphRefused", "GraphRefused", 2)


@pytest.mark.parametrize(
    ("body", "proves_a_refusal"),
    [
        pytest.param(PAGE, False, id="page"),
        pytest.param(b"", False, id="empty", marks=pytest.mark.long),
        pytest.param(
            b'{"code":131047,"message":"m"}', False, id="bare-error-object", marks=pytest.mark.long
        ),
        pytest.param(
            b'{"error":"down"}', False, id="error-that-is-no-object", marks=pytest.mark.long
        ),
        pytest.param(error_object(WINDOW_CLOSED), True, id="error-object"),
    ],
)
async def test_a_key_sends_once_unless_the_status_or_graph_proves_a_refusal(
    acceptor: Acceptor, proxy: Proxy, graph_server: Graph, body: bytes, proves_a_refusal: bool
) -> None:
    proxy.body = body
    wrong = {}
    for status in range(100, 600):
        proxy.status = status

        outcome = await outcome_of(acceptor, graph_server, f"key-{status}")

        is_refused = status in CLIENT_ERRORS or (proves_a_refusal and status not in BODILESS)
        expected = SENT_ONCE if 200 <= status < 300 else REFUSED if is_refused else UNKNOWN
        if outcome != expected:
            wrong[status] = outcome

    assert wrong == {}


CODES = (
    *(1, 2, 131000, 131016, 133004, 135000),  # no reason given
    *(503, 999, 15550001111),  # not a code of Graph's
    *("131047", 131047.5, True, None, []),  # not an integer
)


@pytest.mark.parametrize("status", [303, 408, 499, 500, 502, 503, 504, 524])
async def test_an_error_code_that_does_not_rule_out_a_send_leaves_the_outcome_unknown(
    acceptor: Acceptor,
    proxy: Proxy,
    graph_server: Graph,
    subtests: pytest.Subtests,
    status: int,
) -> None:
    for number, code in enumerate(CODES):
        with subtests.test(str(number)):
            proxy.status, proxy.body = status, error_object(code)

            assert await outcome_of(acceptor, graph_server, f"key-{number}") == UNKNOWN


@pytest.mark.parametrize("code", [1, 2, 131000, 131016, 999])
async def test_a_client_error_is_a_refusal_for_any_error_code(
    acceptor: Acceptor, proxy: Proxy, graph_server: Graph, code: int
) -> None:
    proxy.status, proxy.body = 400, error_object(code)

    assert await outcome_of(acceptor, graph_server, "key") == REFUSED


async def test_an_unknown_outcome_keeps_the_error_code_and_is_not_retryable(
    acceptor: Acceptor, proxy: Proxy
) -> None:
    proxy.status, proxy.body = 500, error_object(131000)

    error = await attempt(acceptor, "key")

    assert isinstance(error, GraphOutcomeUnknown)
    assert (error.diagnostics.meta_code, error.diagnostics.name) == (131000, "UnknownError")
    assert not error.diagnostics.retryable


async def test_an_unknown_key_stays_unknown_after_the_proxy_has_recovered(
    acceptor: Acceptor, proxy: Proxy, graph_server: Graph
) -> None:
    await attempt(acceptor, "key")
    proxy.status, proxy.body = 200, ACCEPTED

    results = [await attempt(acceptor, "key") for _ in range(3)]

    assert {type(result) for result in results} == {IdempotencyOutcomeUnknown}
    assert graph_server.sends == 1
