import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import jsonschema
import pytest
from aiohttp import web

from wats.config import GroupsConfig, MessagesConfig, OutboxConfig
from wats.service import WatsApp, create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import (
    BEARER_TOKEN,
    CapturingTelemetrySink,
    FakeClock,
    example_profile,
    example_secrets,
)
from wats.web.openapi import build_document
from wats.web.table import route_table


class Asked(NamedTuple):
    """One request to the fake Graph."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes


class FakeGraph:
    """Sends the configured response to every request, and keeps the requests."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.proofs: list[str | None] = []
        self.received_headers: dict[str, str] = {}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: Any = {"messages": [{"id": "wamid.A"}]}

    async def answer(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.proofs.append(query.pop("appsecret_proof", None))
        self.received_headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.method, request.path, query, await request.read()))
        if isinstance(self.body, str):
            return web.Response(status=self.status, text=self.body, content_type="text/html")
        return web.json_response(self.body, status=self.status, headers=self.headers)


class Answer(NamedTuple):
    """The response of the service."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code: str = self.json["error"]["code"]
        return code


async def call(
    app: WatsApp, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> Answer:
    """Send one request to *app* as an ASGI server does."""
    path, _, query = target.partition("?")
    if body is not None:
        headers = {**headers, "content-length": str(len(body))}
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    unread = [{"type": "http.request", "body": body or b""}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not unread:
            await asyncio.Event().wait()  # a client that stays connected
        return unread.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    received = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], b"".join(part["body"] for part in parts), received)


class Service:
    """A service in this process, without a server, and its fake Graph.

    Every response must be in its own document.
    """

    app: WatsApp

    def __init__(
        self, document: dict[str, Any], graph: FakeGraph, store: SQLiteStore | None
    ) -> None:
        self._document = document
        self.graph = graph
        self.store = store
        self.sink = CapturingTelemetrySink()
        self.clock = FakeClock()
        self.log: list[Mapping[str, object]] = []

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = BEARER_TOKEN,
        key: str | None = None,
        **fields: str,
    ) -> Answer:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        headers.update(fields)
        if key is not None:
            headers["idempotency-key"] = key
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        answer = await call(self.app, method, path, headers, data)
        self._check(method, path, answer)
        return answer

    def _check(self, method: str, path: str, answer: Answer) -> None:
        """Fail if the document does not describe *answer*."""
        operation = self._operation(method, path.partition("?")[0])
        if operation is None:
            assert answer.status in {401, 403, 404, 405}
            return
        content = operation["responses"][str(answer.status)]["content"]
        content_type = answer.headers["content-type"]
        (media_type,) = [each for each in content if content_type.startswith(each)]
        schema = {**content[media_type]["schema"], "components": self._document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json)

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for template, item in self._document["paths"].items():
            pattern = template.replace("{groupId}", "[^/]+")
            if re.fullmatch(re.sub(r"\{\w+\}", ".*", pattern), path):
                found: dict[str, Any] | None = item.get(method.lower())
                return found
        return None


@pytest.fixture
async def graph() -> AsyncIterator[tuple[FakeGraph, str]]:
    fake = FakeGraph()
    app = web.Application(client_max_size=32 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield fake, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def has_store() -> bool:
    return True


@pytest.fixture
def store_type() -> type[SQLiteStore]:
    return SQLiteStore


@pytest.fixture
def has_groups() -> bool:
    return True


@pytest.fixture
def has_guard() -> bool:
    return False


@pytest.fixture
def max_waiting() -> int:
    return 1000


@cache
def _document(*, has_groups: bool) -> Any:
    """Return the document of a service; its address is not that of any service."""
    profile = example_profile(groups=GroupsConfig(enabled=has_groups))
    table = route_table(profile, groups_enabled=has_groups)
    return json.loads(build_document(table, profile=profile, complete=True))


@pytest.fixture
async def service(
    graph: tuple[FakeGraph, str],
    tmp_path: Path,
    has_store: bool,
    store_type: type[SQLiteStore],
    has_groups: bool,
    has_guard: bool,
    max_waiting: int,
) -> AsyncIterator[Service]:
    fake, graph_url = graph
    profile = example_profile(
        graph_url=graph_url,
        groups=GroupsConfig(enabled=has_groups),
        messages=MessagesConfig(window_guard=has_guard),
        outbox=OutboxConfig(max_waiting=max_waiting),
    )
    store = store_type(str(tmp_path / "wats.db")) if has_store else None
    running = Service(_document(has_groups=has_groups), fake, store)
    running.app = create_wats_service_app(
        profile=profile,
        secrets=example_secrets(),
        persistence=store,
        telemetry_sink=running.sink,
        log=running.log.append,
        now=running.clock,
    )
    await running.app.start()
    yield running
    await running.app.stop()
