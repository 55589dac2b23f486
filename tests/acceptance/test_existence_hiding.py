import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from wats.config import GroupsConfig
from wats.privacy import Secret
from wats.service import create_wats_service_app
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, serving

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"),
    "REPORT",
)
HIDDEN = ("/metrics", "/status", "/debug/diagnostics")
UNKNOWN = "/nothing-is-here"
STRANGERS = {
    "no-token": b"",
    "empty": b"authorization: \r\n",
    "wrong-scheme": b"authorization: Basic YTpi\r\n",
    "scheme-alone": b"authorization: Bearer\r\n",
    "wrong-token": b"authorization: Bearer not-the-token\r\n",
    "token-with-more": b"authorization: Bearer " + BEARER_TOKEN.encode() + b"2\r\n",
    "long-token": b"authorization: Bearer " + b"x" * 8192 + b"\r\n",
    "two-tokens": (b"authorization: Bearer " + BEARER_TOKEN.encode() + b"\r\n") * 2,
    "accept": b"accept: application/openmetrics-text; version=1.0.0\r\naccept-encoding: gzip\r\n",
}


@pytest.fixture(params=[False, True], ids=["groups-off", "groups-on"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    profile = example_profile(groups=GroupsConfig(enabled=request.param))
    secrets = example_secrets(telemetry_tokens=(Secret("a-scraper-token"),))
    async with serving(create_wats_service_app(profile=profile, secrets=secrets)) as url:
        yield url


async def exchange(url: str, method: str, path: str, headers: bytes, version: str) -> bytes:
    """Return the raw answer, but for the value of its date."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"{method} {path} HTTP/{version}\r\nhost: x\r\nconnection: close\r\n".encode()
    writer.write(head + headers + b"\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    lines = answer.split(b"\r\n")
    return b"\r\n".join(b"date: -" if line.startswith(b"date: ") else line for line in lines)


@pytest.mark.parametrize("method", METHODS)
async def test_telemetry_without_a_token_is_a_path_that_does_not_exist(
    url: str, method: str
) -> None:
    for stranger in STRANGERS.values():
        for version in ("1.1", "1.0"):
            unknown = await exchange(url, method, UNKNOWN, stranger, version)
            answers = [await exchange(url, method, path, stranger, version) for path in HIDDEN]

            assert unknown.startswith(b"HTTP/1.1 404 ")
            assert answers == [unknown] * len(HIDDEN)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"content-length: 5\r\n\r\nhello", id="with-a-length"),
        pytest.param(b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", id="chunked"),
    ],
)
async def test_a_body_makes_no_difference(url: str, body: bytes) -> None:
    unknown = await exchange(url, "POST", UNKNOWN, body, "1.1")

    assert [await exchange(url, "POST", path, body, "1.1") for path in HIDDEN] == [unknown] * 3


@pytest.mark.parametrize("token", [BEARER_TOKEN, "a-scraper-token"], ids=["service", "telemetry"])
async def test_with_a_token_telemetry_is_there(url: str, token: str) -> None:
    header = f"authorization: Bearer {token}\r\n".encode()

    for path in HIDDEN:
        assert (await exchange(url, "GET", path, header, "1.1")).startswith(b"HTTP/1.1 200 ")
        head = await exchange(url, "HEAD", path, header, "1.1")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert head.endswith(b"\r\n\r\n")
        refused = await exchange(url, "POST", path, header, "1.1")
        assert refused.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nallow: GET, HEAD\r\n" in refused


async def test_the_404_is_59_bytes_of_json(url: str) -> None:
    answer = await exchange(url, "GET", UNKNOWN, b"", "1.1")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b'{"error":{"code":"not_found","message":"Route not found."}}'
    assert b"\r\ncontent-length: 59\r\n" in head + b"\r\n"
    assert b"server:" not in head


async def test_the_api_is_closed_before_anything_is_said_about_methods(url: str) -> None:
    for path in ("/api/messages", "/api/messages/text", "/api/messages/x"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = await exchange(url, method, path, b"", "1.1")
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"\r\nwww-authenticate: Bearer\r\n" in answer


async def test_a_telemetry_token_does_not_open_the_api(url: str) -> None:
    header = b"authorization: Bearer a-scraper-token\r\n"

    assert (await exchange(url, "GET", "/api/messages", header, "1.1")).startswith(b"HTTP/1.1 401")


async def test_the_document_of_strangers_tells_of_nothing_that_is_hidden(url: str) -> None:
    document = await exchange(url, "GET", "/openapi.json", b"", "1.1")

    assert document.startswith(b"HTTP/1.1 200 ")
    for hidden in (*HIDDEN, "/webhooks/whatsapp"):
        assert hidden.encode() not in document


async def test_the_document_of_callers_is_complete(url: str) -> None:
    header = f"authorization: Bearer {BEARER_TOKEN}\r\n".encode()

    document = await exchange(url, "GET", "/openapi.json", header, "1.1")

    for hidden in (*HIDDEN, "/webhooks/whatsapp"):
        assert hidden.encode() in document


async def test_a_head_without_end_is_cut_off(url: str) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")

    with suppress(ConnectionError):
        for number in range(2000):
            writer.write(b"x-%d: %s\r\n" % (number, b"y" * 1000))
            await writer.drain()

    with suppress(ConnectionError):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
