import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest
from apsw import Connection
from yarl import URL

from tests.acceptance.collector import Receiver
from tests.acceptance.replicas import DEADLINE_SECONDS, HANDLERS, Journal, NotStarted
from tests.settings import HOOK, NUMBER_ID, SECRETS, WABA_ID, config_of
from tests.store.postgres.server import Server
from wats.config import GroupsConfig, MessagesConfig, WebhookConfig
from wats.inbound.handlers import Handler
from wats.privacy import Secret
from wats.service import WatsApp, create_wats_service_app
from wats.simulator import Simulator, SimulatorSettings
from wats.store import Store
from wats.store.sqlite import SQLiteStore
from wats.testing import (
    APP_SECRET,
    BEARER_TOKEN,
    VERIFY_TOKEN,
    example_profile,
    example_secrets,
    serving,
    sign,
)

SMALL_CAP = 2048
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run on the loop that `wats serve` runs on."""
    return "asyncio", {"use_uvloop": True}


class Answer(NamedTuple):
    """The status, headers and body of a response."""

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


@dataclass(frozen=True)
class Wire:
    """A response as read from a socket."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.headers]

    def __getitem__(self, name: str) -> str | None:
        return dict(self.headers).get(name)


Exchange = Callable[..., Awaitable[Wire]]


@pytest.fixture(scope="session")
def exchange() -> Exchange:
    """Sends a request just as it is written, which no HTTP client would do."""

    async def exchanged(
        url: str,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Wire:
        sent = {"host": "x", "connection": "close", **(headers or {})}
        if body is not None and "transfer-encoding" not in sent:
            sent["content-length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {sent[name]}" for name in sent), "", ""]
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write("\r\n".join(lines).encode("latin-1") + (body or b""))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *others = head.decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in others]
        return Wire(int(first.split(" ")[1]), [(n.lower(), v) for n, v in pairs], rest)

    return exchanged


Until = Callable[..., Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits for a condition that no event signals, up to a limit."""

    async def waited(is_so: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while not is_so():
                await asyncio.sleep(0.01)

    return waited


class Client:
    """Sends requests to a service at *url* as Meta, as an application and as a scraper."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    def at(self, url: str) -> "Client":
        """Return a client of another service."""
        return Client(self._session, url)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = BEARER_TOKEN,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {} if token is None else {"authorization": f"Bearer {token}"}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        url = URL(self.url + path, encoded=True)
        async with self._session.request(
            method, url, data=data, headers={**sent, **(headers or {})}
        ) as response:
            return Answer(response.status, await response.read(), response.headers)

    async def webhook(self, envelope: Any, *, signature: str | None = None) -> Answer:
        """Deliver *envelope*, signed as Meta signs unless another *signature* is given."""
        body = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
        signed = {"x-hub-signature-256": signature if signature is not None else sign(body)}
        return await self.ask("POST", HOOK, body, token=None, headers=signed)

    async def send_text(self, to: str, text: str = "Hello", *, key: str | None = None) -> Answer:
        headers = {} if key is None else {"idempotency-key": key}
        body = {"to": to, "text": text}
        return await self.ask("POST", "/api/messages/text", body, headers=headers)

    async def samples(self, family: str = "") -> dict[str, float]:
        """Return the samples of `/metrics` whose names begin with *family*."""
        text = (await self.ask("GET", "/metrics")).body.decode()
        lines = [line for line in text.splitlines() if line.startswith(family or "")]
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {series: float(value) for series, value in pairs}

    async def messages(self) -> list[dict[str, Any]]:
        """Return every message that the service lists, page by page."""
        items: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            query = "?limit=100" + (f"&cursor={cursor}" if cursor else "")
            page = (await self.ask("GET", f"/api/messages{query}")).json
            items += page["items"]
            cursor = page["nextCursor"]
        return items


class Gateway(Client):
    """A running service in this process, between a simulated Meta and a database file."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        app: WatsApp,
        simulator: Simulator,
        store: Store | None,
        database: Path,
        log: list[Mapping[str, object]],
    ) -> None:
        super().__init__(session, url)
        self.app = app
        self.simulator = simulator
        self.store = store
        self.database = database
        self.log = log

    def rows(self) -> dict[str, int]:
        """Count the rows of every table and view that holds updates or messages."""
        with closing(Connection(str(self.database))) as connection:
            tables = connection.execute(
                "SELECT name FROM sqlite_schema"
                " WHERE type IN ('table', 'view')"
                " AND name NOT LIKE '%migrations' AND name NOT LIKE 'sqlite%'"
            ).fetchall()
            return {
                # The names are the database's own.
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for (table,) in tables
            }

    async def normalized(self) -> dict[str, float]:
        """Return the counts of updates, without zeros."""
        samples = await self.samples("webhook_normalization_total")
        return {series: value for series, value in samples.items() if value}


@asynccontextmanager
async def running_gateway(
    folder: Path,
    *,
    has_store: bool = True,
    store: Store | None = None,
    handlers: Iterable[Handler] = (),
    simulated: Mapping[str, Any] | None = None,
    app_options: Mapping[str, Any] | None = None,
    **sections: Any,
) -> AsyncIterator[Gateway]:
    fast = {"status_delay_seconds": 0.01, "time_factor": 0.001, "slow_answer_seconds": 0.3}
    settings = SimulatorSettings(
        app_secret=Secret(APP_SECRET),
        verify_token=Secret(VERIFY_TOKEN),
        waba_id=WABA_ID,
        phone_number_id=NUMBER_ID,
        **{**fast, **(simulated or {})},
    )
    database = folder / "wats.db"
    if store is None and has_store:
        store = SQLiteStore(str(database))
    log: list[Mapping[str, object]] = []
    async with Simulator(settings) as simulator:
        options: dict[str, Any] = {"log": log.append, "secrets": example_secrets()}
        app = create_wats_service_app(
            profile=example_profile(
                graph_url=simulator.url, **{"messages": MessagesConfig(throughput=0), **sections}
            ),
            persistence=store,
            handlers=handlers,
            **options | dict(app_options or {}),
        )
        async with serving(app) as url, aiohttp.ClientSession() as session:
            simulator.set_webhook(url + HOOK)
            yield Gateway(
                session, url, app=app, simulator=simulator, store=store, database=database, log=log
            )


OpenGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def open_gateway(tmp_path: Path) -> OpenGateway:
    """Runs a gateway; sections of its profile, its simulator and its parts can be replaced."""
    return partial(running_gateway, tmp_path)


@pytest.fixture(scope="module")
def open_another_gateway(tmp_path_factory: pytest.TempPathFactory) -> OpenGateway:
    """Do the same in a folder of its own each time, also for fixtures that many tests share."""
    return lambda **options: running_gateway(tmp_path_factory.mktemp("gateway"), **options)


@pytest.fixture(scope="module")
async def shared_urls(open_another_gateway: OpenGateway) -> AsyncIterator[dict[bool, str]]:
    """Run two gateways, without groups and with them, for tests that leave them as they were."""
    urls = {}
    async with AsyncExitStack() as stack:
        for groups in (False, True):
            opened = open_another_gateway(
                webhook=WebhookConfig(path=HOOK, max_body_bytes=SMALL_CAP),
                groups=GroupsConfig(enabled=groups),
            )
            urls[groups] = (await stack.enter_async_context(opened)).url
        yield urls


@pytest.fixture
def url(shared_urls: dict[bool, str]) -> str:
    return shared_urls[False]


@pytest.fixture
def groups_url(shared_urls: dict[bool, str]) -> str:
    return shared_urls[True]


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway() as running:
        yield running


@dataclass
class Process:
    """A running `wats serve` and its output."""

    process: asyncio.subprocess.Process
    url: str
    ready_line: bytes
    errors: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    async def kill(self) -> None:
        """End all of its processes as a power cut would, and return when they are gone."""
        os.killpg(self.pid, signal.SIGKILL)
        await self.process.wait()

    async def terminate(self) -> tuple[int, bytes]:
        """Ask it to end; return its exit code and the rest of its stdout."""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, rest


Serve = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Runs `wats serve` on a free port, in a directory of its own, until the end of the block."""

    @asynccontextmanager
    async def served(
        graph_url: str,
        environ: Mapping[str, str] | None = None,
        options: Iterable[str] = (),
        **sections: Any,
    ) -> AsyncIterator[Process]:
        config = tmp_path / "wats.config.json"
        written = tmp_path / "written.json"
        written.write_text(json.dumps(config_of(graph_url, **sections)))
        written.replace(config)  # another process may be reading the file
        errors = tmp_path / "stderr"
        with errors.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "wats", "serve", "--config", str(config), "--port", "0", *options),
                cwd=tmp_path,
                env={**os.environ, **SECRETS, **(environ or {})},
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # so that a signal can reach all of its processes
            )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                line = await process.stdout.readline()
            if not line:
                raise NotStarted(errors.read_text())
            yield Process(process, json.loads(line)["url"], line, errors)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()

    return served


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    (tmp_path / "replica_handlers.py").write_text(HANDLERS)
    (tmp_path / "journal").touch()
    return Journal(tmp_path / "journal")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    return monkeypatch
