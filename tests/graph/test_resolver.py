import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from wats.graph.resolver import ThreadPerNameResolver

Places = list[tuple[int, int, int, str, Any]]


class Names:
    """The resolver of the system, in which the name `hangs.example` has no name server.

    Attributes:
        is_answered: Ends the lookups that hang.
    """

    def __init__(self) -> None:
        self.is_answered = threading.Event()
        self.place: tuple[Any, ...] = ("192.0.2.1", 443)

    def __call__(self, host: str, *_: Any, **__: Any) -> Places:
        if host == "hangs.example":
            assert self.is_answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "")
        family = socket.AF_INET6 if ":" in self.place[0] else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", self.place)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The system's resolver is replaced, not ours."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.is_answered.set()


async def test_a_lookup_that_hangs_delays_no_other_lookup(names: Names) -> None:
    # The threads of the loop are few; here there is one.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    hanging = asyncio.create_task(ThreadPerNameResolver().resolve("hangs.example", 443))
    await asyncio.sleep(0)

    found = await ThreadPerNameResolver().resolve("responds.example", 443)

    assert [each["host"] for each in found] == ["192.0.2.1"]
    assert not hanging.done()
    names.is_answered.set()
    with pytest.raises(socket.gaierror):
        await hanging


async def test_a_cancelled_lookup_ends_without_a_result(names: Names) -> None:
    hanging = asyncio.create_task(ThreadPerNameResolver().resolve("hangs.example"))
    await asyncio.sleep(0)
    hanging.cancel()
    names.is_answered.set()

    with pytest.raises(asyncio.CancelledError):
        await hanging


async def test_a_link_local_address_keeps_its_scope(names: Names) -> None:
    names.place = ("fe80::1", 443, 0, socket.if_nametoindex("lo"))

    found = await ThreadPerNameResolver().resolve("responds.example", 443)

    assert [(each["host"], each["family"]) for each in found] == [("fe80::1%lo", socket.AF_INET6)]
