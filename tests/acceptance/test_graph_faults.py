import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.pages import PAGES
from tests.settings import NUMBER_ID
from tests.web.conftest import Answer, call
from wats.config import GraphConfig
from wats.service import WatsApp, create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, example_profile, example_secrets

OK: Final = b'{"messages":[{"id":"wamid.A"}]}'
PAGE: Final = b"<html>Try again later.</html>"
MESSAGE: Final = {"messaging_product": "whatsapp", "to": "15550001234", "type": "text"}
SMALL: Final = {**MESSAGE, "text": {"body": "Hello"}}
LARGE: Final = {**SMALL, "biz_opaque_callback_data": "x" * 900_000}
"""More than the buffers of a socket hold, so that a fault meets a request that is being written."""

Fault = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FaultyMeta:
    """Accepts every message, and has a fault for the first request.

    Attributes:
        received: The requests that arrived completely.
    """

    fault: Fault
    received: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        fault = self.fault if self.connections == 1 else answer(200, OK)
        try:
            await fault(self.counted(reader), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    def counted(self, reader: asyncio.StreamReader) -> Any:
        return _Counted(reader, self.received)


class _Counted:
    """A reader whose `readuntil` reads a whole request and counts it."""

    def __init__(self, reader: asyncio.StreamReader, received: list[bytes]) -> None:
        self.reader = reader
        self.received = received

    async def readuntil(self, separator: bytes) -> None:
        head = await self.reader.readuntil(separator)
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        self.received.append(await self.reader.readexactly(int(length[1])))

    async def read(self, size: int) -> bytes:
        return await self.reader.read(size)


def answer(
    status: int, body: bytes, headers: str = "", *, cut: int = 0, forever: bool = False
) -> Fault:
    """Respond after the request; *cut* bytes of the body are missing, or it does not end."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = len(body) if not forever else 1_000_000
        kind = "text/html" if body.startswith(b"<") else "application/json"
        writer.write(
            f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-type: {kind}\r\n{headers}"
            f"content-length: {length}\r\n\r\n".encode()
        )
        writer.write(body[: len(body) - cut])
        await writer.drain()
        while forever:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    return respond


def error(status: int, code: int, headers: str = "") -> Fault:
    body = {"error": {"message": "15550001234", "type": "OAuthException", "code": code}}
    return answer(status, json.dumps(body).encode(), headers)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def reset_unread(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _reset(writer)


async def reset_while_written(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1000)
    _reset(writer)


async def reset_after(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    _reset(writer)


async def close_after(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def no_response(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(60)


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def not_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"this is not HTTP\r\n\r\n")


LONG_BODY: Final = b'{"error":{"code":131047,"message":"' + b"x" * 10_000_000 + b'"}}'

FAULTS: Final[Mapping[str, Fault | None]] = {
    "connection refused": None,
    "reset before the request is read": reset_unread,
    "reset while the request is written": reset_while_written,
    "reset after the request": reset_after,
    "closed after the request": close_after,
    "no response": no_response,
    "headers that never end": endless_headers,
    "a response that is not HTTP": not_http,
    "200, a body that never ends": answer(200, OK, forever=True),
    "200, a body that is cut off": answer(200, OK, cut=10),
    "200, JSON that is cut off": answer(200, OK[:-10]),
    "200, a page of HTML": answer(200, PAGE),
    "302": answer(302, b"", "location: http://127.0.0.1:9/\r\n"),
    "400, Graph's error": error(400, 131047),
    "400, a page of HTML": answer(400, PAGE),
    "400, a body of 10 MB": answer(400, LONG_BODY),
    "429 with Retry-After": error(429, 130429, "retry-after: 7\r\n"),
    "429 without Retry-After": error(429, 130429),
    "429, a page of HTML": answer(429, PAGE),
    "500, Graph's error without a reason": error(500, 1),
    "500, Graph's error with a reason": error(500, 131047),
    "502, a page of HTML": answer(502, PAGE),
    "500, a body of 10 MB": answer(500, LONG_BODY),
    "503, a body that never ends": answer(503, PAGE, forever=True),
}


@dataclass(frozen=True)
class Documented:
    """A row of the table in docs/errors.md."""

    status: int
    outcome: str
    cause: str
    again: str


def documented() -> dict[str, Documented]:
    _, _, after = PAGES["docs/errors.md"].partition("<!-- faults-of-graph")
    rows = {}
    for line in after.split("\n\n")[1].splitlines()[2:]:
        name, status, *rest = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        rows[name] = Documented(int(status), *rest)
    return rows


@dataclass
class Attempts:
    """A service with a faulty Meta, and its log."""

    app: WatsApp
    meta: FaultyMeta
    log: list[Mapping[str, object]]

    async def send(self, body: Mapping[str, object], key: str) -> Answer:
        headers = {"authorization": f"Bearer {BEARER_TOKEN}", "idempotency-key": key}
        return await call(self.app, "POST", "/api/messages", headers, json.dumps(body).encode())

    @property
    def cause(self) -> str:
        causes = [each["cause"] for each in self.log if each["event"] == "wats.graph.failure"]
        return str(causes[0] or "") if causes else ""


@contextlib.asynccontextmanager
async def attempts(fault: Fault | None) -> AsyncIterator[Attempts]:
    meta = FaultyMeta(fault or close_after)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(meta.serve(reader, writer)))

    if fault is None:
        listener.close()
    log: list[Mapping[str, object]] = []
    times = GraphConfig(
        api_version="v25.0",
        base_url=f"http://127.0.0.1:{port}",
        connect_seconds=1.0,
        read_seconds=1.0,
        timeout_seconds=1.5,
    )
    app = create_wats_service_app(
        profile=example_profile(graph=times),
        secrets=example_secrets(),
        persistence=SQLiteStore(":memory:"),
        log=log.append,
    )
    await app.start()
    server = None if fault is None else await asyncio.start_server(connected, sock=listener)
    try:
        yield Attempts(app, meta, log)
    finally:
        if server is not None:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.stop()


def test_every_fault_is_documented() -> None:
    assert list(documented()) == list(FAULTS)


async def test_every_fault_has_its_documented_outcome(subtests: pytest.Subtests) -> None:
    for name, expected in documented().items():
        fault = FAULTS[name]
        body = LARGE if fault is reset_while_written else SMALL
        with subtests.test(name):
            async with attempts(fault) as service:
                first = await service.send(body, "k")
                found = first.json.get("error", {})
                assert (first.status, service.cause) == (expected.status, expected.cause)
                assert found.get("outcome", "") == expected.outcome
                assert "15550001234" not in first.body.decode()
                if fault is not None:
                    written = len(service.meta.received)
                    again = await service.send(body, "k")
                    assert again_as(again) == expected.again
                    is_sent = expected.again == "sent"
                    assert len(service.meta.received) == written + is_sent


def again_as(answer: Answer) -> str:
    if answer.status != 200:
        return answer.code
    return "replayed" if "idempotency-replayed" in answer.headers else "sent"


async def test_a_caller_resolves_an_unknown_outcome_with_a_new_key() -> None:
    async with attempts(reset_after) as service:
        await service.send(SMALL, "k")
        resolved = [await service.send(SMALL, "another") for _ in range(2)]

        assert [each.status for each in resolved] == [200, 200]
        assert len(service.meta.received) == 2


async def test_retry_after_is_passed_on_if_meta_sends_it() -> None:
    for name, expected in (("429 with Retry-After", "7"), ("429 without Retry-After", None)):
        async with attempts(FAULTS[name]) as service:
            answered = await service.send(SMALL, "k")

            assert answered.headers.get("retry-after") == expected


async def test_a_message_is_sent_once_the_connection_is_possible_again() -> None:
    async with attempts(None) as service:
        refused = [await service.send(SMALL, "k") for _ in range(2)]

        assert [(each.status, each.json["error"]["outcome"]) for each in refused] == [
            (502, "not_sent")
        ] * 2


async def test_a_client_of_graph_gets_the_same_outcomes(subtests: pytest.Subtests) -> None:
    path = f"/api/graph/v25.0/{NUMBER_ID}/whatsapp_business_profile"
    headers = {"authorization": f"Bearer {BEARER_TOKEN}", "content-type": "application/json"}
    for name, expected in documented().items():
        if name in ("reset while the request is written", "200, a body that never ends"):
            continue  # Graph knows the length, so it did not carry the request out; and below
        with subtests.test(name):
            async with attempts(FAULTS[name]) as service:
                answered = await relayed(service.app, path, headers)
                if answered is None or answered.status == 200:
                    assert expected.status == 200
                else:
                    assert answered.json["error"]["wats"]["outcome"] == expected.outcome
                    assert "15550001234" not in answered.body.decode()


async def relayed(app: WatsApp, path: str, headers: Mapping[str, str]) -> Answer | None:
    """Return the response, or `None` if its body ended before its end."""
    try:
        return await call(app, "POST", path, headers, b'{"about": "Open"}')
    except Exception:
        return None
