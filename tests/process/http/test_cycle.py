"""Applications of all kinds behind our connection: ASGI as its specification has it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.process.http.running import Running
from tests.process.http.wire import converse, head, site_of, statuses_of
from wats.process.http.admission import ConnectionLimits
from wats.web.exchange import RESPOND_EXTENSION, Response, ResponseBroken, headers_of

App = Callable[[Any, Any, Any], Awaitable[None]]
GET = head("GET /a%20b?c=d")
CLOSE = head("GET /", "connection: close")


def http_only(app: App) -> App:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await app(scope, receive, send)

    return wrapped


def sends(*messages: dict[str, Any], fails: bool = False) -> App:
    @http_only
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send({"type": f"http.response.{message['kind']}", **message})
        if fails:
            raise ValueError

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"kind": "start", "status": status, "headers": headers}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"kind": "body", "body": data, "more_body": more}


STREAM = sends(start(), body(b"one", more=True), body(b"", more=True), body(b"two"))
LENGTH = (b"content-length", b"3")
RETRY_LATER = Response(429, b"{}", headers=((b"retry-after", b"2"),))


@pytest.fixture
async def reports() -> AsyncIterator[list[dict[str, Any]]]:
    """Collect errors reported to the loop, which would fail the test otherwise."""
    loop, collected = asyncio.get_running_loop(), []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: collected.append(context))
    yield collected
    loop.set_exception_handler(before)


async def answer_of(app: App, sent: bytes) -> bytes:
    async with Running(app) as running:
        return await running.exchange(sent)


async def test_a_stream_is_sent_in_chunks_and_the_connection_kept() -> None:
    answer = await answer_of(STREAM, GET + CLOSE)

    assert answer.count(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") == 2


async def test_a_stream_to_a_client_of_http_1_0_ends_with_the_connection() -> None:
    answer = await answer_of(STREAM, b"GET / HTTP/1.0\r\n\r\n")

    assert answer.endswith(b"connection: close\r\n\r\nonetwo")
    assert b"chunked" not in answer


async def test_a_response_with_a_length_is_sent_as_it_is() -> None:
    app = sends(start(200, LENGTH, (b"X-A", b"b")), body(b"o", more=True), body(b"ne"))

    answer = await answer_of(app, CLOSE)

    assert b"\r\nx-a: b\r\n" in answer
    assert answer.endswith(b"\r\n\r\none")


@pytest.mark.parametrize(
    ("app", "sent"),
    [
        pytest.param(sends(start(204), body()), CLOSE, id="no-content"),
        pytest.param(sends(start(304), body(b"x")), CLOSE, id="not-modified"),
        pytest.param(sends(start(200, LENGTH), body(b"one")), b"HEAD" + CLOSE[3:], id="head"),
    ],
)
async def test_some_responses_have_no_body(app: App, sent: bytes) -> None:
    answer = await answer_of(app, sent)

    assert answer.endswith(b"\r\n\r\n")
    assert b"chunked" not in answer


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(sends(fails=True), id="raises"),
        pytest.param(sends(), id="returns"),
        pytest.param(sends(start(), fails=True), id="raises-behind-the-start"),
        pytest.param(sends(start()), id="returns-behind-the-start"),
        pytest.param(sends(body(b"x")), id="no-start"),
        pytest.param(sends(start(200, (b"a", b"b\r\nc: d")), body()), id="two-lines-in-a-header"),
        pytest.param(sends(start(200, (b"a b", b"c")), body()), id="space-in-a-name"),
        pytest.param(sends(start(200, LENGTH, LENGTH), body(b"one")), id="two-lengths"),
        pytest.param(sends(start(200, LENGTH), body(b"four")), id="too-long"),
        pytest.param(sends(start(200, LENGTH), body(b"on")), id="too-short"),
    ],
)
async def test_a_failing_application_gets_a_500_response_and_is_reported(
    app: App, reports: list[dict[str, Any]]
) -> None:
    answer = await answer_of(app, GET + GET)

    assert statuses_of(answer) == [500]
    assert len(reports) == 1
    assert answer.endswith(b'{"error":{"code":"internal_error","message":"The service failed."}}')


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(sends(start(), body(b"one", more=True), fails=True), id="raises"),
        pytest.param(sends(start(), body(b"one", more=True)), id="returns"),
        pytest.param(
            sends(start(200, (b"content-length", b"9")), body(b"one", more=True), body(b"two")),
            id="too-short",
        ),
    ],
)
async def test_a_response_that_breaks_off_ends_the_connection(
    app: App, reports: list[dict[str, Any]]
) -> None:
    async with Running(app) as running, running.connection(GET + GET) as (reader, _):
        answer = await reader.read()

    assert statuses_of(answer) == [200]
    assert not answer.endswith(b"0\r\n\r\n")
    assert len(reports) == 1


async def test_a_body_is_requested_and_passed_on_as_it_arrives() -> None:
    received: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append(scope)
        received.append(await receive())
        while received[-1]["more_body"]:
            received.append(await receive())
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})
        received.append(await receive())

    sent = head("POST /a%20b?c=d", "expect: 100-continue", "transfer-encoding: chunked", "X: \t1 ")
    async with Running(app) as running:
        answer = await running.exchange(sent, b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n" + CLOSE)
        scope, *messages, end = received[: received.index({"type": "http.disconnect"}) + 1]

    assert statuses_of(answer)[:2] == [100, 200]
    assert b"".join(each["body"] for each in messages) == b"onetwo"
    assert end == {"type": "http.disconnect"}
    assert (scope["path"], scope["raw_path"]) == ("/a b", b"/a%20b")
    assert (scope["query_string"], scope["method"], scope["http_version"]) == (
        b"c=d",
        "POST",
        "1.1",
    )
    assert (b"x", b"1") in [(name, value.strip()) for name, value in scope["headers"]]
    assert scope["client"][0] == scope["server"][0] == "127.0.0.1"


async def test_an_application_receives_the_disconnect_of_its_client() -> None:
    received: list[Any] = []

    @http_only
    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        received.append(await receive())

    async with Running(app) as running:
        async with running.connection(head("POST /", "content-length: 9") + b"x"):
            await running.until(lambda: len(received) == 1)
        await running.until(lambda: len(received) == 2)

    assert received[1] == {"type": "http.disconnect"}


@http_only
async def swallow_stream(scope: Any, receive: Any, send: Any) -> None:
    scope["extensions"]["wats.stream"]["begin"]()
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % size})


async def test_each_wait_for_a_stream_has_a_deadline_of_its_own() -> None:
    limits = ConnectionLimits(request_seconds=3, keep_alive_seconds=3)
    sent = head("POST /", "content-length: 8", "connection: close")
    async with (
        Running(swallow_stream, limits=limits) as running,
        running.connection(sent) as (reader, writer),
        asyncio.timeout(60),
    ):
        for _ in range(8):
            await asyncio.sleep(0.4)
            writer.write(b"x")
        answer = await reader.read()

    assert answer.endswith(b"8\r\n0\r\n\r\n")


async def test_a_stream_that_stops_ends_the_connection() -> None:
    limits = ConnectionLimits(request_seconds=0.3)
    sent = head("POST /", "content-length: 8") + b"x"
    async with Running(swallow_stream, limits=limits) as running:
        async with running.connection(sent) as (reader, _), asyncio.timeout(60):
            answer = await reader.read()
        await running.until(lambda: not running.connections)

    assert answer == b""


async def test_a_stream_is_read_only_as_far_as_the_application_takes_it() -> None:
    most = 0

    @http_only
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal most
        scope["extensions"]["wats.stream"]["begin"]()
        more = True
        while more:
            message = await receive()
            most = max(most, len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    size = 40 * 1024 * 1024
    sent = head("POST /", f"content-length: {size}", "connection: close")
    async with Running(app) as running, running.connection(sent + bytes(size)) as (reader, _):
        line = await reader.readline()

    assert line == b"HTTP/1.1 200 OK\r\n"
    assert most < 1024 * 1024


@pytest.mark.parametrize("response", [Response(200, b"{}"), Response(204), RETRY_LATER])
@pytest.mark.parametrize(
    "sent",
    [GET * 2, CLOSE, b"GET / HTTP/1.0\r\n\r\n", head("POST /", "content-length: 9") + b"unread"],
)
async def test_a_whole_response_has_the_bytes_of_its_two_messages(
    response: Response, sent: bytes
) -> None:
    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        await scope["extensions"][RESPOND_EXTENSION]["send"](response)

    parts = start(response.status, *headers_of(response)), body(response.body)

    answer = await converse(site_of(app), [sent])

    assert answer == await converse(site_of(sends(*parts)), [sent])
    assert answer.startswith(b"HTTP/1.1 %d " % response.status)


async def test_a_broken_response_ends_the_connection_and_is_not_reported_again(
    reports: list[dict[str, Any]],
) -> None:
    @http_only
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [LENGTH]})
        await send({"type": "http.response.body", "body": b"on", "more_body": True})
        raise ResponseBroken

    answer = await answer_of(app, GET)

    assert answer.endswith(b"\r\n\r\non")
    assert reports == []
