"""Refuses and records every attempt to connect anywhere but to the one permitted address.

Python imports it at its start, since the folder is on its path. Python's own sockets and processes
are seen by an audit hook. uvloop has sockets of its own, so its loop is replaced by one that looks
at every address first.
"""

import ipaddress
import os
import sys
from typing import Any

import uvloop

RECORD = os.open(os.environ["GUARD_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
ALLOWED = os.environ["GUARD_ALLOWED"]

TO_AN_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
OTHERS = {
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"),
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"),
    *("os.fork", "os.forkpty"),
}


def note(event: str, target: object) -> None:
    """Record an attempt to connect to *target*, and refuse it unless it is permitted."""
    place = f"{target[0]}:{target[1]}" if isinstance(target, tuple) else str(target)
    os.write(RECORD, f"{event} {place}\n".encode())
    if place != ALLOWED:
        raise PermissionError(place)


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Check an audited event of Python."""
    if event in TO_AN_ADDRESS and arguments[1] is not None:
        note(event, arguments[1])
    elif event in OTHERS:
        note(event, arguments[0] if arguments else "a child")


def is_address(host: object) -> bool:
    """Return whether *host* needs no lookup: uvloop resolves addresses as well."""
    try:
        return bool(ipaddress.ip_address(str(host)))
    except ValueError:
        return False


class GuardedLoop(uvloop.Loop):
    """A loop that looks at every address first."""

    async def create_connection(
        self, factory: Any, host: Any = None, *more: Any, **how: Any
    ) -> Any:
        if host is not None:
            note("uvloop.create_connection", (host, more[0] if more else how.get("port")))
        return await super().create_connection(factory, host, *more, **how)

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:
        if not is_address(host):
            note("uvloop.getaddrinfo", host)
        return await super().getaddrinfo(host, port, **how)


def refused(name: str) -> Any:
    """Return a method that is not to be used at all."""

    async def method(self: Any, *_: Any, **__: Any) -> None:
        note(f"uvloop.{name}", "anybody")

    return method


for _name in (
    *("create_datagram_endpoint", "create_unix_connection", "getnameinfo"),
    *("subprocess_exec", "subprocess_shell"),
):
    setattr(GuardedLoop, _name, refused(_name))

uvloop.Loop = GuardedLoop
sys.addaudithook(hook)
