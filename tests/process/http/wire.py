"""Conversations with a connection on a transport in memory, and the requests in them."""

import asyncio
import json
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from wats.process.http.admission import Admission, ConnectionLimits, State
from wats.process.http.protocol import GatewayProtocol
from wats.process.http.site import Site
from wats.service import WatsApp, create_wats_service_app
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, sign
from wats.web.webhooks import NO_HOOK, Hook

HOOK = "/webhooks/whatsapp"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nhost: smuggled\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport in memory: keeps written bytes, and passes an end on in the next turn."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading = True
        self.unsent = 0
        self._protocol: GatewayProtocol | None = None
        self._is_closing = False
        self._is_aborted = False

    def connect(self, protocol: GatewayProtocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_aborted:  # by the client, which the protocol learns in the next turn
            return
        assert not self._is_closing, "Written behind the end."
        self.written += data

    def write_eof(self) -> None:
        self._is_closing = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._protocol is None

    def close(self) -> None:
        self._is_closing = True
        if self._protocol is not None:
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
            self._protocol = None

    def abort(self) -> None:
        self._is_aborted = True
        self.close()

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    @property
    def has_ended(self) -> bool:
        return self._is_closing


class Server:
    """The parts of a server."""

    def __init__(self) -> None:
        self.total_requests = 0
        self.connections: set[Any] = set()
        self.tasks: set[Any] = set()
        self.default_headers: list[tuple[bytes, bytes]] = []


def site_of(app: Any, hook: Hook = NO_HOOK, **limits: Any) -> Site:
    state = Server()
    bounds = ConnectionLimits(**limits)
    return Site(
        app=app,
        server=state,
        limits=bounds,
        admission=Admission(state.connections, bounds),
        hook=hook,
    )


async def rest(site: Site, protocol: GatewayProtocol) -> None:
    """Return when the application has nothing to do for *protocol*."""
    for _ in range(3):
        await asyncio.sleep(0)
    while protocol.state is State.SERVING or (
        protocol.state is State.CLOSING and site.server.tasks
    ):
        await asyncio.sleep(0)


async def converse(site: Site, pieces: Iterable[bytes]) -> bytes:
    """Return the bytes that a connection writes to a client that sends *pieces* in sequence."""
    wire, protocol = Wire(), GatewayProtocol(site)
    wire.connect(protocol)
    for piece in pieces:
        if wire.is_closing():
            break
        protocol.data_received(piece)
        await rest(site, protocol)
    wire.abort()
    await rest(site, protocol)
    return wire.written


@asynccontextmanager
async def serving_site(**limits: Any) -> Any:
    app: WatsApp = create_wats_service_app(profile=example_profile(), secrets=example_secrets())
    await app.start()
    try:
        yield site_of(app, app.hook, **limits)
    finally:
        await app.stop()


class Asked(NamedTuple):
    """A request, the statuses of its responses, and whether it ends the connection."""

    sent: bytes
    statuses: tuple[int, ...]
    ends: bool = False


def update(number: int) -> bytes:
    change = {"field": "account_update", "value": {"event": f"EVENT_{number}"}}
    entry = {"id": "1", "time": 1_790_000_000, "changes": [change]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def post(body: bytes, *fields: str, path: str = HOOK, signature: str | None = None) -> bytes:
    signed = sign(body) if signature is None else signature
    lines = [f"POST {path} HTTP/1.1", "host: x", f"x-hub-signature-256: {signed}", *fields]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def chunked(body: bytes, *trailers: str, size: int = 64, extension: str = "") -> bytes:
    parts = [body[place : place + size] for place in range(0, len(body), size)]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(x), extension.encode(), x) for x in parts)
    return chunks + b"0\r\n" + "".join(f"{each}\r\n" for each in trailers).encode() + b"\r\n"


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "host: x", *fields, "", ""]).encode()


OFFERS = ("websocket", "h2c", "x", "h2c, websocket")
TOKEN = f"authorization: Bearer {BEARER_TOKEN}"


def some_request(choose: random.Random) -> Asked:
    """Return a request of any kind."""
    body = update(choose.randrange(1000))
    offer = ("connection: upgrade", f"upgrade: {choose.choice(OFFERS)}")
    signed = f"x-hub-signature-256: {sign(body)}"
    te = "transfer-encoding: chunked"
    size, extension = choose.choice((1, 7, 64, 1000)), choose.choice(("", ";a=b", ';x="y;z"'))
    good = chunked(body, size=size, extension=extension)
    trailed = chunked(body, signed, "authorization: x", "content-length: 3", size=size)
    wrong = "sha256=" + "0" * 64
    kinds = (
        lambda: Asked(post(body), (200,)),
        lambda: Asked(post(body), (200,)),
        lambda: Asked(post(body, signature=f" \t{sign(body)} \t"), (200,)),
        lambda: Asked(post(body, signature=wrong), (401,)),
        lambda: Asked(post(body, path=HOOK + "?x"), (200,)),
        lambda: Asked(post(body, *offer), (200,)),
        lambda: Asked(post(body, *offer, path=HOOK + "?x"), (200,)),
        lambda: Asked(post(SMUGGLED, *offer, signature=wrong), (401,)),
        lambda: Asked(head(f"POST {HOOK}", signed, te) + good, (200,)),
        lambda: Asked(head(f"POST {HOOK}", signed, te, *offer) + good, (200,)),
        lambda: Asked(head(f"POST {HOOK}", te) + trailed, (401,)),
        lambda: Asked(post(body, "expect: 100-continue"), (100, 200)),
        lambda: Asked(b"\r\n" + head("GET /healthz"), (200,)),
        lambda: Asked(head("GET /healthz", *offer), (200,)),
        lambda: Asked(head("HEAD /healthz"), (200,)),
        lambda: Asked(head("GET /api/messages/wamid.x"), (401,)),
        lambda: Asked(head("POST /api/messages/text", TOKEN, "content-length: 2") + b"{}", (400,)),
        lambda: Asked(head("GET http://x"), (404,)),
        lambda: Asked(post(SMUGGLED, *offer, path="/nothing"), (404,), ends=True),
        lambda: Asked(head("GET /status", te, *offer) + chunked(b"x", TOKEN), (404,), ends=True),
        lambda: Asked(head("CONNECT x:443") + SMUGGLED, (400,), ends=True),
        lambda: Asked(head("CONNECT /x", "content-length: 9"), (404,), ends=True),
        lambda: Asked(head("GET /healthz", "connection: x, Close"), (200,), ends=True),
        lambda: Asked(head("GET /healthz", "host: x"), (400,), ends=True),
        lambda: Asked(
            head(f"POST {HOOK}", signed, te) + b"5\nhello\r\n0\r\n\r\n", (400,), ends=True
        ),
        lambda: Asked(head("POST /x", "transfer-encoding: gzip, chunked"), (400,), ends=True),
        lambda: Asked(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,), ends=True),
        lambda: Asked(b"garbage\r\n\r\n", (400,), ends=True),
        lambda: Asked(b"\x16\x03\x01\x02", (400,), ends=True),
    )
    return choose.choice(kinds)()


def conversation(choose: random.Random) -> tuple[bytes, list[int]]:
    """Return the bytes of a few pipelined requests, and the statuses of all responses."""
    sent, statuses, has_ended = b"", [], False
    for _ in range(choose.randint(1, 6)):
        asked = some_request(choose)
        sent += asked.sent
        if not has_ended:
            statuses += asked.statuses
        has_ended = has_ended or asked.ends
    return sent, statuses


def cuts(choose: random.Random, data: bytes) -> Iterator[bytes]:
    """Cut *data* into pieces: at a few positions, or at many."""
    count = choose.choice((1, 2, 5, 20, len(data) // 3))
    places = sorted({0, *(choose.randrange(len(data)) for _ in range(count)), len(data)})
    for start, end in pairwise(places):
        yield data[start:end]


def statuses_of(written: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", written)]
