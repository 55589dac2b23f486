"""Resolution of host names in threads of its own."""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from wats.cancellation import resolve

_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class ThreadPerNameResolver(AbstractResolver):
    """Resolves each name in a thread of its own, so that a slow lookup delays no other one.

    The threads of the event loop are few and shared by the whole process: uvloop uses two for
    names. A name server that does not respond occupies a thread for many seconds. A pool of
    connections starts one lookup of a name at a time.
    """

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def run() -> None:
            result: list[ResolveResult] | None = None
            failure: Exception | None = None
            try:
                result = _look_up(host, port, family)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(resolve, found, result, failure)

        # A daemon, because the end of the process must not wait for it.
        threading.Thread(target=run, name="wats-name", daemon=True).start()
        return await found

    @override
    async def close(self) -> None:
        pass


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    flags = socket.AI_ADDRCONFIG
    try:
        infos: list[Any] = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
    except UnicodeError:  # a part of the name is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "The name is invalid.") from None
    return [
        ResolveResult(
            hostname=host,
            host=_address_of(place),
            port=place[1],
            family=each,
            proto=protocol,
            flags=_NUMERIC,
        )
        for each, _, protocol, _, place in infos
    ]


def _address_of(place: Any) -> str:
    """Return the address of *place*, for a link-local one with its scope."""
    is_scoped = len(place) > 3 and place[3]
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return str(socket.getnameinfo(place, numeric)[0] if is_scoped else place[0])
