"""No subscriber connects to an address that is not public, however its URL spells the address."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.subscribers.conftest import Endpoint, Subscribe, failure_of
from wats.inbound.updates import Update
from wats.subscribers.addresses import AddressRefused, is_public, public_socket

REFUSED = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 169.254.169.254
    172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 192.168.0.1
    198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 224.0.1.1 239.255.255.255 240.0.0.1
    255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8
    64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1::1
    2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00::1 fe80::1
    fe80::1%lo fec0::1 ff02::1 ff0e::1 localhost
"""

PUBLIC = """
    8.8.8.8 1.1.1.1 93.184.215.14 2606:4700:4700::1111 2a00:1450:4001:830::200e
"""

SPELLINGS = """
    127.0.0.1 127.1 0 0.0.0.0 2130706433 017700000001 0x7f000001 0x7f.1 0177.0.0.1 localhost
    LOCALHOST localhost. [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:0:0:1]
    [::127.0.0.1] 169.254.169.254 [fe80::1] [fe80::1%25lo] [::1%25lo] 0x7f.0x0.0x0.0x1
    0177.0000.0000.0001 127.000.000.001 0x7f000001. 127.0.0.1. 0x00 00 [::0] [64:ff9b::7f00:1]
    [64:ff9b:1::7f00:1] [64:ff9b::a9fe:a9fe] [2002:7f00:1::1] [::ffff:0:7f00:1]
    [::ffff:169.254.169.254]
    [fd00:ec2::254] 100.100.100.200 ip6-localhost
"""


@pytest.mark.parametrize("address", REFUSED.split())
def test_an_address_of_a_special_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_no_socket_is_made_for_an_address_that_is_not_public(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    with pytest.raises(AddressRefused):
        public_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443)))


class Trap:
    """A listener on all local addresses that counts connections."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0

    async def take(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    trap = Trap()
    server = await asyncio.start_server(trap.take, None, 0, family=socket.AF_INET)
    trap.port = server.sockets[0].getsockname()[1]
    other = None
    if socket.has_ipv6:
        other = await asyncio.start_server(trap.take, "::", trap.port, family=socket.AF_INET6)
    yield trap
    server.close()
    if other is not None:
        other.close()


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_no_spelling_of_a_private_address_is_connected_to(
    trap: Trap,
    subscribe: Subscribe,
    updates: Iterator[Update],
    subtests: pytest.Subtests,
    scheme: str,
) -> None:
    for host in SPELLINGS.split():
        with subtests.test(host):
            url = f"{scheme}://{host}:{trap.port}/"
            async with subscribe(url, allow_private_network=False) as subscriber:
                assert await failure_of(subscriber, next(updates)) is not None

    assert trap.connections == 0


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "file://localhost/", "ftp://127.0.0.1/", "gopher://127.0.0.1/"]
)
async def test_no_other_scheme_is_used_even_if_private_addresses_are_permitted(
    subscribe: Subscribe, updates: Iterator[Update], url: str
) -> None:
    async with subscribe(url) as subscriber:
        assert await failure_of(subscriber, next(updates)) is not None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_to_no_connection(
    trap: Trap, endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update], status: int
) -> None:
    endpoint.respond(status, Location=f"http://127.0.0.1:{trap.port}/", Refresh="0")
    async with subscribe(endpoint.url) as subscriber:
        assert await failure_of(subscriber, next(updates)) is not None

    assert len(endpoint.requests) == 1
    assert trap.connections == 0


async def test_the_reason_of_a_refusal_is_its_class(
    trap: Trap, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    url = f"https://localhost:{trap.port}/"
    async with subscribe(url, allow_private_network=False) as subscriber:
        failure = await failure_of(subscriber, next(updates))

    assert isinstance(failure, AddressRefused)
    assert trap.connections == 0


async def test_a_name_that_resolves_to_another_address_later_is_refused_then(
    trap: Trap,
    subscribe: Subscribe,
    updates: Iterator[Update],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system's resolver is replaced, not ours: it gives a public address once."""
    looked_up = []

    def rebind(host: Any, port: int, *_: Any, **__: Any) -> list[Any]:
        looked_up.append(host)
        address = "192.0.2.1" if len(looked_up) == 1 else "127.0.0.1"
        place = (address, trap.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)]

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    url = f"https://rebinding.example:{trap.port}/"
    for _ in range(3):
        async with subscribe(url, allow_private_network=False) as subscriber:
            assert isinstance(await failure_of(subscriber, next(updates)), AddressRefused)

    assert len(looked_up) == 3
    assert trap.connections == 0


async def test_a_permitted_private_network_is_connected_to(
    trap: Trap, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    async with subscribe(f"http://127.0.0.1:{trap.port}/") as subscriber:
        await failure_of(subscriber, next(updates))

    assert trap.connections == 1
