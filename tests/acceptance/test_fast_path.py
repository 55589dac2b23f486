"""The fast path of `wats serve` for usual webhooks cannot be distinguished from the slow path.

Nor can either be distinguished from uvicorn's connections, apart from listed differences.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvicorn

from tests.settings import HOOK
from wats.config import TelemetryConfig, WebhookConfig
from wats.process.server import Server, bind, url_of
from wats.service import WatsApp, create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, sign

CAP = 4096


def post(body: bytes, signature: str | None = None, more: str = "", path: str = HOOK) -> bytes:
    """Return a webhook as sent on the wire, signed unless another *signature* is given."""
    signed = sign(body) if signature is None else signature
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nX-Hub-Signature-256: {signed}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def update(number: int) -> bytes:
    change = {"field": "account_update", "value": {"event": f"EVENT_{number}"}}
    entry = {"id": "1", "time": 1_790_000_000, "changes": [change]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
BARE = f"POST {HOOK} HTTP/1.1\r\nhost: x\r\n".encode()
CONVERSATIONS: dict[str, list[bytes]] = {
    "one": [post(update(1))],
    "the-same-again": [post(update(1)), post(update(1))],
    "many-in-a-row": [post(update(number)) for number in range(5)],
    "pipelined": [b"".join(post(update(number)) for number in range(5))],
    "pipelined-with-others": [post(update(1)) + GET + post(update(2)) + GET],
    "in-small-pieces": [post(update(1))[place : place + 7] for place in range(0, 400, 7)],
    "head-and-body-apart": list(post(update(1)).partition(b"\r\n\r\n")),
    "not-signed": [BARE + b"content-length: 2\r\n\r\n{}"],
    "signed-twice": [post(update(1), more=f"x-hub-signature-256: {sign(b'')}\r\n")],
    "wrong-signature": [post(update(1), "sha256=" + "0" * 64)],
    "malformed-signature": [post(update(1), "\xe9")],
    "not-json": [post(b"{")],
    "no-envelope": [post(b"[]")],
    "another-object": [post(b'{"object":"page","entry":[]}')],
    "empty": [post(b"")],
    "as-large-as-the-cap": [post(update(1).ljust(CAP))],
    "larger-than-the-cap": [post(b" " * (CAP + 1))],
    "a-query": [post(update(1), path=HOOK + "?x=1")],
    "dot-segments": [post(update(1), path="/x/.." + HOOK)],
    "a-slash-more": [post(update(1), path=HOOK + "/")],
    "connection-close": [post(update(1), more="connection: close\r\n")],
    "http-1.0": [post(update(1)).replace(b"HTTP/1.1", b"HTTP/1.0", 1)],
    "http-1.0-kept": [
        post(update(1), more="connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    ],
    "http-1.1-kept": [post(update(1), more="connection: keep-alive\r\n")],
    "expect": [post(update(1), more="expect: 100-continue\r\n")],
    "upgrade": [post(update(1), more="connection: upgrade\r\nupgrade: h2c\r\n")],
    "chunked": [
        BARE
        + f"x-hub-signature-256: {sign(update(1))}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(update(1)), update(1))
    ],
    "chunked-and-with-a-length": [post(update(1), more="transfer-encoding: chunked\r\n")],
    "two-lengths": [post(update(1), more="content-length: 3\r\n")],
    "a-length-that-is-none": [BARE + b"content-length: x\r\n\r\n"],
    "a-token": [post(update(1), more="authorization: Bearer x\r\n")],
    "a-long-head": [post(update(1), more=f"x: {'y' * 70_000}\r\n")],
    "another-method": [post(update(1)).replace(b"POST", b"PUT", 1)],
}


UNREAD = "the rest of a body that the application does not read is discarded without limit"
OWN_ERROR = "the response is plain text, and is not counted"
DIFFERS_FROM_UVICORN = {
    "larger-than-the-cap": UNREAD,
    "a-slash-more": UNREAD,
    "another-method": UNREAD,
    "upgrade": "the body is lost, and read as the next request",
    "chunked-and-with-a-length": OWN_ERROR,
    "two-lengths": OWN_ERROR,
    "a-length-that-is-none": OWN_ERROR,
    "a-long-head": "a head has no limit if it arrives in one read",
}
"""The conversations that uvicorn's connections would serve in another way, and how."""


def app_in(folder: Path) -> WatsApp:
    return create_wats_service_app(
        profile=example_profile(
            webhook=WebhookConfig(path=HOOK, max_body_bytes=CAP),
            telemetry=TelemetryConfig(families="operator"),
        ),
        secrets=example_secrets(),
        persistence=SQLiteStore(str(folder / "wats.db")),
    )


@asynccontextmanager
async def serving(folder: Path, *, short: bool) -> AsyncIterator[str]:
    app = app_in(folder)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    hook = app.hook if short else replace(app.hook, path=b"")  # no target is empty
    server = Server(app, ready=ready.set_result, hook=hook)
    running = asyncio.create_task(server.serve(sockets=[bind("127.0.0.1", 0)]))
    yield await ready
    server.should_exit = True
    await running


@asynccontextmanager
async def serving_by_uvicorn(folder: Path) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app_in(folder), http="httptools", ws="none", log_config=None, server_header=False
    )
    server, listener = uvicorn.Server(config), bind("127.0.0.1", 0)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield url_of(listener)
    server.should_exit = True
    await running


async def converse(url: str, pieces: Iterable[bytes]) -> bytes:
    """Send *pieces* one by one, then a last request; return all responses without dates."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for piece in (*pieces, LAST):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    try:
        answers = await reader.read()
    except ConnectionError:
        answers = b"reset"
    writer.close()
    return re.sub(rb"\r\ndate: [^\r]+", b"", answers)


async def counted(url: str) -> list[str]:
    async with aiohttp.ClientSession() as session:
        token = {"authorization": f"Bearer {BEARER_TOKEN}"}
        async with session.get(f"{url}/metrics", headers=token) as answer:
            lines = (await answer.text()).splitlines()
    shown = (
        *("http_requests_total{", "webhook_normalization_total{"),
        *("wats_webhook_rejections_total{", "wats_auth_failures_total{"),
    )
    return [line for line in lines if line.startswith(shown) and not line.endswith(" 0")]


@pytest.fixture(scope="module")
async def both_ways(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Run a service of each kind. Both end in the same state after one conversation."""
    folders = [tmp_path_factory.mktemp("long"), tmp_path_factory.mktemp("short")]
    async with (
        serving(folders[0], short=False) as long_way,
        serving(folders[1], short=True) as short_way,
    ):
        yield [long_way, short_way]


@pytest.mark.parametrize("pieces", CONVERSATIONS.values(), ids=CONVERSATIONS)
async def test_both_ways_give_the_same_bytes_and_the_same_counts(both_ways, pieces) -> None:
    long_way, short_way = [(await converse(url, pieces), await counted(url)) for url in both_ways]

    assert short_way == long_way
    assert short_way[0]


async def test_the_connections_of_uvicorn_give_the_same_bytes_and_counts(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    folders = [tmp_path / "uvicorn", tmp_path / "ours"]
    for folder in folders:
        folder.mkdir()
    async with serving_by_uvicorn(folders[0]) as theirs, serving(folders[1], short=True) as ours:
        for name in CONVERSATIONS.keys() - DIFFERS_FROM_UVICORN.keys():
            with subtests.test(name):
                pieces = CONVERSATIONS[name]
                assert await converse(ours, pieces) == await converse(theirs, pieces)
                assert await counted(ours) == await counted(theirs)
