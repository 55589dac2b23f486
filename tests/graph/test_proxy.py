"""Forward proxies of Graph calls: none unless the config names one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wats.config.checks import ENVIRONMENT
from wats.errors import ConfigError, GraphUnreachable
from wats.graph.client import GraphClient
from wats.graph.proxy import proxy_for
from wats.privacy import Secret
from wats.telemetry.contract.values import EndpointFamily

GRAPH = "https://graph.invalid"
TOKEN = "an-access-token"


class Nothing:
    """Telemetry that is not looked at."""

    def operation(self, *_: Any) -> None:
        pass

    def error(self, *_: Any) -> None:
        pass


@asynccontextmanager
async def refusing_proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a proxy that opens no tunnel; yield its URL, and the heads of its requests."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


async def send(proxy: str | None) -> None:
    client = GraphClient(
        base_url=GRAPH,
        version="v25.0",
        access_token=Secret(TOKEN),
        telemetry=Nothing(),
        proxy=proxy,
    )
    await client.start()
    try:
        await client.call(EndpointFamily.MESSAGES, "POST", ("1", "messages"), payload=b"{}")
    finally:
        await client.close()


async def test_a_call_uses_a_tunnel_of_the_proxy_which_never_sees_the_token() -> None:
    async with refusing_proxy() as (url, heads):
        with pytest.raises(GraphUnreachable):  # no tunnel, so nothing was sent
            await send(url)

    (head,) = heads
    assert head.startswith(b"CONNECT graph.invalid:443 HTTP/1.1\r\n")
    assert TOKEN.encode() not in head


async def test_the_proxies_of_the_environment_are_not_used_unless_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with refusing_proxy() as (url, heads):
        monkeypatch.setenv("https_proxy", url)
        with pytest.raises(GraphUnreachable):
            await send(proxy_for(GRAPH, None))
        assert heads == []
        with pytest.raises(GraphUnreachable):
            await send(proxy_for(GRAPH, ENVIRONMENT))

    assert len(heads) == 1


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({"https_proxy": "http://proxy.example:3128"}, "http://proxy.example:3128"),
        ({"https_proxy": "proxy.example:3128"}, "http://proxy.example:3128"),
        ({"http_proxy": "http://proxy.example:3128"}, None),
        ({"https_proxy": "http://proxy.example:3128", "no_proxy": ".invalid"}, None),
        ({}, None),
    ],
)
def test_the_environment_is_read_by_its_usual_rules(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert proxy_for(GRAPH, ENVIRONMENT) == proxy


def test_a_proxy_of_the_environment_that_is_no_http_proxy_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "socks5://proxy.example:1080")

    with pytest.raises(ConfigError, match=r"graph\.proxy"):
        proxy_for(GRAPH, ENVIRONMENT)


def test_a_configured_proxy_precedes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://other.example:3128")
    monkeypatch.setenv("no_proxy", "*")

    assert proxy_for(GRAPH, "http://proxy.example:3128") == "http://proxy.example:3128"
