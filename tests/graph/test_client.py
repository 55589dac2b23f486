import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import aiohttp
import aiohttp.abc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import (
    ConfigError,
    GraphCause,
    GraphError,
    GraphOutcomeUnknown,
    GraphRefused,
    GraphUnreachable,
    MalformedRequest,
)
from wats.graph.causes import NEVER_WRITTEN
from wats.graph.client import GraphClient
from wats.graph.connections import MAX_INTERIM_RESPONSES
from wats.graph.responses import GraphResponse
from wats.privacy import Secret
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome

TOKEN = "EAAtoken"
OK = b'{"messages":[{"id":"wamid.X"}]}'


@dataclass
class Recorded:
    operations: list[tuple[EndpointFamily, int, Outcome]] = field(default_factory=list)
    errors: list[ErrorCategory] = field(default_factory=list)

    def operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float, /
    ) -> None:
        assert seconds >= 0
        self.operations.append((family, status, outcome))

    def error(self, category: ErrorCategory, /) -> None:
        self.errors.append(category)


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


Respond = Callable[[asyncio.StreamWriter, int], Awaitable[bool]]
"""Answers the nth request; returns whether the connection stays open."""


@dataclass
class RawServer:
    """An HTTP server that sends the bytes that a test prescribes."""

    respond: Respond
    reads: bool = True
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                if self.reads:
                    self.requests.append(await read_request(reader))
                if not await self.respond(writer, len(self.requests)):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in head[1:] if line]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), "a header was sent twice"
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0], headers, body)


@contextlib.asynccontextmanager
async def serving(respond: Respond, *, reads: bool = True) -> AsyncIterator[RawServer]:
    raw = RawServer(respond, reads)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(raw.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        # Closed transports release their sockets in the next turn of the loop.
        await asyncio.sleep(0)


def answering(
    status: int = 200,
    body: bytes = OK,
    *,
    content_type: str = "application/json",
    headers: str = "",
    length: int | None = None,
) -> Respond:
    async def respond(writer: asyncio.StreamWriter, _number: int) -> bool:
        size = len(body) if length is None else length
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{headers}"
            f"content-length: {size}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        return length is None

    return respond


async def hanging(_writer: asyncio.StreamWriter, _number: int) -> bool:
    await asyncio.sleep(600)
    return False


async def closing(_writer: asyncio.StreamWriter, _number: int) -> bool:
    return False


async def resetting(writer: asyncio.StreamWriter, _number: int) -> bool:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    return False


async def babbling(writer: asyncio.StreamWriter, _number: int) -> bool:
    writer.write(b"this is not HTTP\r\n\r\n")
    await writer.drain()
    return False


async def trickling(writer: asyncio.StreamWriter, _number: int) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def flooding(writer: asyncio.StreamWriter, _number: int) -> bool:
    for _ in range(500):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 500)
        await writer.drain()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await asyncio.sleep(600)
    return False


def answering_after(interim: int) -> Respond:
    usual = answering()

    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * interim)
        return await usual(writer, number)

    return respond


STALE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
"""A response to no request, which would invite to send a message again."""

IMPATIENT = {"connect_seconds": 0.3, "read_seconds": 0.3, "total_seconds": 0.6}
"""For calls without a timely response; other calls need more time."""


def a_client(base_url: str, recorded: Recorded, **settings: Any) -> GraphClient:
    times = {"connect_seconds": 60.0, "read_seconds": 60.0, "total_seconds": 90.0, **settings}
    return GraphClient(
        base_url=base_url,
        version="v25.0",
        access_token=Secret(TOKEN),
        telemetry=recorded,
        **times,
    )


@contextlib.asynccontextmanager
async def started(
    base_url: str, recorded: Recorded | None = None, **settings: Any
) -> AsyncIterator[GraphClient]:
    client = a_client(base_url, recorded or Recorded(), **settings)
    await client.start()
    try:
        yield client
    finally:
        await client.close()
        # aiohttp closes its TLS transports in the loop's next turns.
        await asyncio.sleep(0)


async def post(client: GraphClient, *, method: str = "POST") -> GraphResponse:
    return await client.call(EndpointFamily.MESSAGES, method, ["200", "messages"], payload=b"{}")


async def test_a_call_has_exactly_the_documented_bytes() -> None:
    async with serving(answering()) as server, started(server.url + "/proxy?a=b") as client:
        answer = await client.call(
            EndpointFamily.MESSAGES,
            "post",
            ["200", "a b:c"],
            query={"fields": "id,name", "after": "x&y"},
            payload=b'{ "as" : "it is" }',
        )

    [request] = server.requests
    assert answer == GraphResponse(200, {"messages": [{"id": "wamid.X"}]}, OK)
    assert (
        request.line == "POST /proxy/v25.0/200/a%20b%3Ac?a=b&fields=id%2Cname&after=x%26y HTTP/1.1"
    )
    assert request.body == b'{ "as" : "it is" }'
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("wats/")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_call_without_a_body_has_no_content_type(method: str) -> None:
    async with serving(answering()) as server, started(server.url) as client:
        await client.call(EndpointFamily.GROUPS, method, ["g"])

    [request] = server.requests
    assert "content-type" not in request.headers
    assert request.body == b""


@pytest.mark.parametrize(
    "segment",
    [
        *("", " ", ".", "..", "a/b", "a\\b", "a?b", "a#b", "a\nb", "a\x7f", "\x85", "100%", "%zz"),
        *("%2e%2e", "%252e%252e", "%2Fx", "%25252525252e", "%ff", "\ud800"),
    ],
)
async def test_a_segment_that_could_change_the_path_is_refused(segment: str) -> None:
    recorded = Recorded()

    async with serving(answering()) as server, started(server.url, recorded) as client:
        with pytest.raises(MalformedRequest) as caught:
            await client.call(EndpointFamily.GROUPS, "GET", ["ok", segment])

    assert caught.value.details[0].path == "path[1]"
    assert (server.connections, recorded.operations) == (0, [])


async def test_another_method_is_refused() -> None:
    async with started("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="must be GET"):
            await client.call(EndpointFamily.GROUPS, "TRACE", ["x"])


@given(segments=st.lists(st.text(max_size=8), min_size=1, max_size=3))
def test_every_segment_arrives_as_one_or_is_refused(segments: list[str]) -> None:
    client = a_client("http://host", Recorded())

    try:
        url = client._url(segments, None)
    except MalformedRequest:
        return

    sent = url.raw_path.removeprefix("/v25.0/").split("/")
    assert len(sent) == len(segments)
    assert all(one not in {"", ".", ".."} for one in map(unquote, sent))


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"base_url": "ftp://host"}, "invalid_url"),
        ({"base_url": "http://"}, "invalid_url"),
        ({"base_url": "http://user:pass@host"}, "invalid_url"),
        ({"version": "25"}, "invalid_version"),
        ({"access_token": Secret("a\r\nb")}, "invalid_token"),
        ({"access_token": Secret("")}, "invalid_token"),
        ({"connect_seconds": 30.0, "total_seconds": 30.0}, "invalid_timeout"),
    ],
)
def test_an_invalid_argument_is_refused_before_the_call(
    settings: dict[str, Any], code: str
) -> None:
    valid: dict[str, Any] = {
        "base_url": "https://host",
        "version": "v25.0",
        "access_token": Secret(TOKEN),
        "telemetry": Recorded(),
    }

    with pytest.raises(ConfigError) as caught:
        GraphClient(**{**valid, **settings})

    assert [issue.code for issue in caught.value.issues] == [code]


@pytest.mark.parametrize(
    ("respond", "expected"),
    [
        pytest.param(answering(body=b""), None, id="empty"),
        pytest.param(answering(body=b'{"a":'), None, id="broken-json"),
        pytest.param(answering(body=b"null"), None, id="null"),
        pytest.param(answering(body=b"{}", content_type="text/plain"), {}, id="undeclared-json"),
        pytest.param(answering(body=b"done", content_type="text/plain"), "done", id="text"),
        pytest.param(answering(body=b"", content_type="text/plain"), None, id="empty-text"),
        pytest.param(answering(body=b'{"id"', length=500), None, id="cut-off"),
        pytest.param(answering(body=b'"' + b"x" * 2000 + b'"'), None, id="too-long"),
        pytest.param(
            answering(body=b'{"error":{"code":1}}'), {"error": {"code": 1}}, id="error-object"
        ),
        pytest.param(answering(status=202, body=b"[]"), [], id="202"),
    ],
)
async def test_a_2xx_response_is_never_a_failure(respond: Respond, expected: object) -> None:
    recorded = Recorded()

    async with (
        serving(respond) as server,
        started(server.url, recorded, max_answer_bytes=1000) as client,
    ):
        answer = await post(client)

    assert answer.payload == expected
    assert len(server.requests) == 1
    assert recorded.operations == [
        (EndpointFamily.MESSAGES, answer.status, Outcome.SUCCESS),
    ]


async def test_no_response_holds_the_access_token_of_its_request() -> None:
    echo = json.dumps({"a": f"{TOKEN} other-token", "b": 1}).encode()

    async with serving(answering(body=echo)) as server, started(server.url) as client:
        answer = await post(client)
        of_another = await post(client.with_token(Secret("other-token")))

    assert answer.body == b'{"a": " other-token", "b": 1}'
    assert of_another.payload == {"a": f"{TOKEN} ", "b": 1}


@pytest.mark.parametrize(
    ("respond", "status", "throttled"),
    [
        pytest.param(
            answering(400, b'{"error":{"code":131047}}'), 400, False, id="with-an-error-object"
        ),
        pytest.param(answering(404, b"<html>", content_type="text/html"), 404, False, id="html"),
        pytest.param(answering(429, b"{", length=500), 429, True, id="cut-off"),
        pytest.param(answering(403, b"x" * 2000), 403, False, id="too-long"),
        pytest.param(
            answering(504, b'{"error":{"code":131026}}'), 504, False, id="504-with-an-error-object"
        ),
    ],
)
async def test_a_response_that_proves_a_refusal_is_a_refusal(
    respond: Respond, status: int, throttled: bool
) -> None:
    recorded = Recorded()

    async with (
        serving(respond) as server,
        started(server.url, recorded, max_answer_bytes=1000) as client,
    ):
        with pytest.raises(GraphRefused) as caught:
            await post(client)

    assert (caught.value.upstream_status, caught.value.throttled) == (status, throttled)
    assert recorded.operations == [(EndpointFamily.MESSAGES, status, Outcome.ERROR)]
    assert recorded.errors == [ErrorCategory(caught.value.diagnostics.category)]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [303, 408, 499, 500, 502, 503, 504, 520, 524])
async def test_the_page_of_a_proxy_leaves_the_outcome_of_a_write_unknown(
    method: str, status: int
) -> None:
    recorded = Recorded()

    async with (
        serving(answering(status, b"<html>", headers="Retry-After: 17\r\n")) as server,
        started(server.url, recorded) as client,
    ):
        with pytest.raises(GraphOutcomeUnknown) as caught:
            await post(client, method=method)

    assert (caught.value.retry_after, caught.value.diagnostics.retryable) == ("17", False)
    assert recorded.operations == [(EndpointFamily.MESSAGES, status, Outcome.ERROR)]
    assert recorded.errors == []


async def test_an_error_of_graph_with_an_unknown_outcome_is_counted_by_its_category() -> None:
    recorded = Recorded()

    async with (
        serving(answering(500, b'{"error":{"code":131000}}')) as server,
        started(server.url, recorded) as client,
    ):
        with pytest.raises(GraphOutcomeUnknown):
            await post(client)

    assert recorded.errors == [ErrorCategory.SEND_MESSAGE]


@pytest.mark.parametrize("status", [303, 408, 499, 500, 502, 503, 504])
async def test_a_read_that_fails_is_a_refusal_for_any_status(status: int) -> None:
    async with serving(answering(status, b"<html>")) as server, started(server.url) as client:
        with pytest.raises(GraphRefused) as caught:
            await client.call(EndpointFamily.GROUPS, "GET", ["g"])

    assert caught.value.upstream_status == status
    assert caught.value.diagnostics.retryable is (status >= 500)


async def test_retry_after_reaches_the_caller() -> None:
    async with (
        serving(answering(429, b"", headers="Retry-After:  17 \r\n")) as server,
        started(server.url) as client,
    ):
        with pytest.raises(GraphRefused) as caught:
            await post(client)

    assert caught.value.retry_after == "17"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        pytest.param(b"<html>", GraphCause.PROXY, id="a-page"),
        pytest.param(b'{"code":131026}', GraphCause.PROXY, id="an-error-of-another-form"),
        pytest.param(b'{"error":{"code":131026}}', None, id="an-error-of-graph"),
    ],
)
@pytest.mark.parametrize("status", [400, 503])
async def test_a_response_without_an_error_of_graph_is_that_of_a_proxy(
    status: int, body: bytes, cause: GraphCause | None
) -> None:
    async with serving(answering(status, body)) as server, started(server.url) as client:
        with pytest.raises(GraphError) as caught:
            await post(client)

    assert caught.value.cause is cause


async def test_a_proxy_that_cannot_be_reached_is_the_cause() -> None:
    async with aiohttp.ClientSession(proxy=f"http://127.0.0.1:{a_closed_port()}") as session:
        client = a_client("http://graph.test", Recorded(), session=session)
        await is_unreachable(client, GraphCause.PROXY)


@pytest.mark.parametrize(
    "respond",
    [closing, resetting, babbling, flooding, answering(502)],
    ids=lambda each: each.__name__,
)
async def test_a_proxy_that_opens_no_tunnel_is_the_cause(respond: Respond) -> None:
    async with (
        serving(respond) as proxy,
        started("https://graph.test", proxy=proxy.url) as client,
    ):
        await is_unreachable(client, GraphCause.PROXY)

    assert [each.line for each in proxy.requests] == ["CONNECT graph.test:443 HTTP/1.1"]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_every_call_proves_that_we_know_the_app_secret(method: str) -> None:
    proof = hmac.new(b"the secret", TOKEN.encode(), hashlib.sha256).hexdigest()
    async with (
        serving(answering()) as server,
        started(server.url, app_secret=Secret("the secret")) as client,
    ):
        await client.call(EndpointFamily.GROUPS, method, ["g"], query={"limit": "2"})
        await client.call(EndpointFamily.GROUPS, method, ["g"])

    assert [each.line for each in server.requests] == [
        f"{method} /v25.0/g?appsecret_proof={proof}&limit=2 HTTP/1.1",
        f"{method} /v25.0/g?appsecret_proof={proof} HTTP/1.1",
    ]


async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else() -> None:
    async with serving(answering()) as elsewhere:
        moved = answering(307, b"", headers=f"Location: {elsewhere.url}/\r\n")
        async with serving(moved) as server, started(server.url) as client:
            with pytest.raises(GraphOutcomeUnknown):
                await post(client)

    assert elsewhere.connections == 0


async def test_the_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async with serving(answering()) as server, started(server.url) as client:
        answer = await post(client)

    assert answer.status == 200


def a_closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NoNames(aiohttp.abc.AbstractResolver):
    async def resolve(self, *_args: Any, **_named: Any) -> list[Any]:
        raise OSError("no such name")

    async def close(self) -> None:
        pass


async def arrived(server: RawServer) -> None:
    while not server.requests:  # the server is a list of the requests received
        await asyncio.sleep(0.005)


async def is_unreachable(client: GraphClient, cause: GraphCause | None = None) -> None:
    with pytest.raises(GraphUnreachable) as caught:
        await post(client)
    assert caught.value.cause is cause
    assert caught.value.diagnostics.advice.startswith("Retry")


async def test_a_refused_connection_was_never_written() -> None:
    recorded = Recorded()

    async with started(f"http://127.0.0.1:{a_closed_port()}", recorded) as client:
        await is_unreachable(client, GraphCause.REFUSED)

    assert recorded.operations == [(EndpointFamily.MESSAGES, 0, Outcome.ERROR)]


async def test_a_name_that_is_not_found_was_never_written() -> None:
    connector = aiohttp.TCPConnector(resolver=NoNames())

    async with aiohttp.ClientSession(connector=connector) as session:
        client = a_client("http://graph.test", Recorded(), session=session)
        await is_unreachable(client, GraphCause.DNS)


@pytest.mark.parametrize("host", ["graph..example", "a" * 64 + ".example"])
async def test_a_name_that_cannot_exist_was_never_written(host: str) -> None:
    async with started(f"https://{host}") as client:
        await is_unreachable(client, GraphCause.DNS)


async def test_a_failed_tls_handshake_was_never_written() -> None:
    async with (
        serving(babbling, reads=False) as server,
        started(f"https://127.0.0.1:{server.port}") as client,
    ):
        await is_unreachable(client, GraphCause.TLS)

    assert server.connections == 1


async def test_a_tls_handshake_that_hangs_was_never_written() -> None:
    async with (
        serving(hanging, reads=False) as server,
        started(f"https://127.0.0.1:{server.port}", **IMPATIENT) as client,
    ):
        await is_unreachable(client, GraphCause.TIMEOUT)


async def test_waiting_in_vain_for_a_free_connection_was_never_written() -> None:
    recorded = Recorded()
    async with (
        serving(hanging) as server,
        started(server.url, recorded, max_connections=1, connect_seconds=0.1) as client,
    ):
        first = asyncio.create_task(post(client))
        while not server.requests:
            if first.done():  # it took this machine longer to connect
                first = asyncio.create_task(post(client))
                recorded.operations.clear()
            await asyncio.sleep(0.005)
        await is_unreachable(client, GraphCause.TIMEOUT)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    assert len(server.requests) == 1
    assert recorded.operations == [(EndpointFamily.MESSAGES, 0, Outcome.ERROR)] * 2


@pytest.mark.parametrize("state", ["never started", "closed"])
async def test_a_client_without_a_session_sends_nothing(state: str) -> None:
    recorded = Recorded()
    client = a_client("http://127.0.0.1:1", recorded)
    if state == "closed":
        await client.start()
        await client.close()
        await client.close()

    await is_unreachable(client)

    assert recorded.operations == []


@pytest.mark.parametrize(
    ("respond", "reads", "cause"),
    [
        pytest.param(closing, True, GraphCause.RESET, id="closed-after-the-request"),
        pytest.param(resetting, True, GraphCause.RESET, id="reset-after-the-request"),
        pytest.param(closing, False, GraphCause.RESET, id="closed-unread"),
        pytest.param(resetting, False, GraphCause.RESET, id="reset-unread"),
        pytest.param(hanging, True, GraphCause.TIMEOUT, id="no-answer-in-time"),
        pytest.param(trickling, True, GraphCause.TIMEOUT, id="an-answer-that-never-ends"),
        pytest.param(babbling, True, GraphCause.OTHER, id="an-answer-that-is-no-http"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_request_without_a_response_may_have_been_carried_out(
    respond: Respond, reads: bool, cause: GraphCause, method: str
) -> None:
    recorded = Recorded()

    async with (
        serving(respond, reads=reads) as server,
        started(
            server.url, recorded, **(IMPATIENT if cause is GraphCause.TIMEOUT else {})
        ) as client,
    ):
        with pytest.raises(GraphOutcomeUnknown) as caught:
            await post(client, method=method)

    assert caught.value.cause is cause
    assert caught.value.diagnostics.advice.startswith("Do not retry")
    assert server.connections == 1
    assert recorded.operations == [(EndpointFamily.MESSAGES, 0, Outcome.ERROR)]


@pytest.mark.parametrize(
    ("respond", "cause"),
    [
        pytest.param(closing, GraphCause.RESET, id="closed-after-the-request"),
        pytest.param(hanging, GraphCause.TIMEOUT, id="no-answer-in-time"),
        pytest.param(babbling, GraphCause.OTHER, id="an-answer-that-is-no-http"),
    ],
)
async def test_a_read_without_a_response_can_be_repeated(
    respond: Respond, cause: GraphCause
) -> None:
    recorded = Recorded()

    limits = IMPATIENT if cause is GraphCause.TIMEOUT else {}
    async with serving(respond) as server, started(server.url, recorded, **limits) as client:
        with pytest.raises(GraphUnreachable) as caught:
            await post(client, method="GET")

    assert caught.value.cause is cause
    assert caught.value.diagnostics.retryable
    assert recorded.operations == [(EndpointFamily.MESSAGES, 0, Outcome.ERROR)]


async def test_a_response_with_a_long_header_is_read() -> None:
    usage = f"x-business-use-case-usage: {'a' * 60_000}\r\n"

    async with serving(answering(headers=usage)) as server, started(server.url) as client:
        answer = await post(client)

    assert answer.body == OK


@pytest.mark.parametrize(
    ("method", "error"), [("POST", GraphOutcomeUnknown), ("GET", GraphUnreachable)]
)
async def test_a_flood_of_interim_responses_ends_the_call(
    method: str, error: type[GraphError]
) -> None:
    recorded = Recorded()

    async with serving(flooding) as server, started(server.url, recorded) as client:
        with pytest.raises(error) as caught:
            await post(client, method=method)

    assert caught.value.cause is GraphCause.OTHER
    assert server.connections == 1
    assert recorded.operations == [(EndpointFamily.MESSAGES, 0, Outcome.ERROR)]


async def test_a_few_interim_responses_before_each_response_are_ignored() -> None:
    async with (
        serving(answering_after(MAX_INTERIM_RESPONSES)) as server,
        started(server.url) as client,
    ):
        answers = [await post(client) for _ in range(3)]

    assert [answer.body for answer in answers] == [OK] * 3
    assert server.connections == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_on_a_kept_connection_is_written_once(method: str) -> None:
    usual = answering()

    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        return number == 1 and await usual(writer, number)

    async with serving(respond) as server, started(server.url) as client:
        await post(client, method=method)
        with pytest.raises(GraphOutcomeUnknown):
            await post(client, method=method)

    assert len(server.requests) == 2
    assert server.connections == 1


async def test_a_read_on_a_kept_connection_that_broke_is_tried_again() -> None:
    usual = answering()

    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        return number != 2 and await usual(writer, number)

    recorded = Recorded()
    async with serving(respond) as server, started(server.url, recorded) as client:
        await client.call(EndpointFamily.GROUPS, "GET", ["g"])
        answer = await client.call(EndpointFamily.GROUPS, "GET", ["g"])

    assert answer.status == 200
    assert len(server.requests) == 3
    assert len(recorded.operations) == 2


async def test_a_kept_connection_that_was_closed_meanwhile_fails_no_request() -> None:
    usual = answering()

    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        await usual(writer, number)
        return False

    async with serving(respond) as server, started(server.url) as client:
        await post(client)
        for _ in range(10):  # turns of the loop, in which the client notices it
            await asyncio.sleep(0.005)
        answer = await post(client)

    assert answer.status == 200
    assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize("stale", [STALE, STALE[:20]], ids=["whole", "partial"])
async def test_data_on_a_kept_connection_is_not_taken_as_a_response(stale: bytes) -> None:
    usual = answering()
    written = asyncio.Event()

    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        is_kept = await usual(writer, number)
        if number == 1:
            await written.wait()
            writer.write(stale)
        return is_kept

    async with serving(respond) as server, started(server.url) as client:
        await post(client)
        written.set()
        for _ in range(10):  # turns of the loop, in which the client notices it
            await asyncio.sleep(0.005)
        answer = await post(client)

    assert answer.body == OK
    assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_cancelled_call_is_recorded_once() -> None:
    recorded = Recorded()
    async with (
        serving(hanging) as server,
        started(server.url, recorded) as client,
    ):
        call = asyncio.create_task(post(client))
        await arrived(server)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    assert recorded.operations == [(EndpointFamily.MESSAGES, 0, Outcome.ERROR)]


def test_only_failures_of_connecting_count_as_never_written() -> None:
    errors = [getattr(aiohttp, name) for name in aiohttp.__all__]
    unwritten = {
        error.__name__
        for error in errors
        if isinstance(error, type) and issubclass(error, NEVER_WRITTEN)
    }

    assert unwritten == {
        "ClientConnectorCertificateError",
        "ClientConnectorDNSError",
        "ClientConnectorError",
        "ClientConnectorSSLError",
        "ClientHttpProxyError",
        "ClientProxyConnectionError",
        "ClientSSLError",
        "ConnectionTimeoutError",
        "InvalidURL",
        "InvalidUrlClientError",
        "InvalidUrlRedirectClientError",
    }


async def test_neither_token_nor_path_shows_in_a_failure() -> None:
    group_id = "of".join(["group", "jane"])
    async with started(f"http://127.0.0.1:{a_closed_port()}") as client:
        with pytest.raises(GraphUnreachable) as caught:
            await client.call(EndpointFamily.GROUPS, "GET", [group_id])

    shown = "".join(traceback.format_exception(caught.value)) + repr(client)
    assert caught.value.cause is GraphCause.REFUSED
    assert group_id not in shown
    assert TOKEN not in shown


async def test_a_given_session_is_used_and_left_open() -> None:
    async with serving(answering()) as server, aiohttp.ClientSession() as session:
        client = a_client(server.url, Recorded(), session=session)
        await client.start()
        answer = await post(client)
        await client.close()

        assert answer.status == 200
        assert not session.closed


async def test_a_payload_is_sent_as_it_is_byte_by_byte() -> None:
    payload = json.dumps({"text": {"body": "é\n\u2028"}}, ensure_ascii=False).encode()

    async with serving(answering()) as server, started(server.url) as client:
        await client.call(EndpointFamily.MESSAGES, "POST", ["1", "messages"], payload=payload)

    assert server.requests[0].body == payload


async def instrument(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
    """Add the headers that OpenTelemetry adds to the requests of an instrumented process."""
    params.headers["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    params.headers["tracestate"] = "vendor=value"
    params.headers["baggage"] = "customer=value"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_the_trace_of_an_instrumented_process_is_not_passed_to_meta(method) -> None:
    instrumented = aiohttp.TraceConfig()
    instrumented.on_request_start.append(instrument)

    async with (
        serving(answering()) as graph,
        aiohttp.ClientSession(trace_configs=[instrumented]) as session,
    ):
        client = a_client(graph.url, Recorded(), session=session)
        await client.call(EndpointFamily.MESSAGES, method, ("1", "messages"))

    (request,) = graph.requests
    assert request.headers.keys() & {"traceparent", "tracestate", "baggage"} == set()
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
