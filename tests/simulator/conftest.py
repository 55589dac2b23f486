import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wats.privacy import Secret
from wats.simulator import Simulator, SimulatorSettings

APP_SECRET = "app secret"
VERIFY_TOKEN = "verify & token"
NUMBER = "200000000000002"


@dataclass
class Receiver:
    """A webhook endpoint that keeps requests and sends the configured responses."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    envelopes: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    on_post: Callable[[], None] = lambda: None

    async def post(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.envelopes.append(json.loads(body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.on_post()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    async def get(self, request: web.Request) -> web.Response:
        if request.query["hub.verify_token"] != VERIFY_TOKEN:
            return web.Response(status=403)
        assert request.query["hub.mode"] == "subscribe"
        return web.Response(text=request.query["hub.challenge"])

    def values(self, name: str = "messages") -> list[dict[str, Any]]:
        """Every value of the changes whose field is *name*, in the order of arrival."""
        return [
            change["value"]
            for envelope in self.envelopes
            for entry in envelope["entry"]
            for change in entry["changes"]
            if change["field"] == name
        ]

    def items(self, list_key: str, name: str = "messages") -> list[dict[str, Any]]:
        return [item for value in self.values(name) for item in value.get(list_key, [])]

    def statuses_of(self, wamid: str) -> list[str]:
        return [item["status"] for item in self.items("statuses") if item["id"] == wamid]


def signature_of(body: bytes) -> str:
    return "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.add_routes([web.post("/hook", one.post), web.get("/hook", one.get)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield one
    await runner.cleanup()


@dataclass
class Graph:
    """A client of a simulator over HTTP."""

    session: aiohttp.ClientSession
    url: str
    token: str = "token"

    async def call(
        self, method: str, path: str, payload: object = None, **options: Any
    ) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = self.url + path
        data = None if payload is None else json.dumps(payload)
        async with self.session.request(
            method, url, data=data, headers=headers, **options
        ) as response:
            body = await response.read()
            self.last_headers = dict(response.headers)
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, body

    async def send(self, to: str, **changes: Any) -> tuple[int, Any]:
        message = {
            "messaging_product": "whatsapp",
            "to": to,
            "type": "text",
            "text": {"body": "Hello"},
            **changes,
        }
        return await self.call("POST", f"/v25.0/{NUMBER}/messages", message)


@dataclass
class Meta:
    simulator: Simulator
    graph: Graph


Started = Callable[..., contextlib.AbstractAsyncContextManager[Meta]]


@contextlib.asynccontextmanager
async def _started(**settings: Any) -> AsyncIterator[Meta]:
    fast = {"status_delay_seconds": 0.01, "time_factor": 0.001, "slow_answer_seconds": 0.2}
    chosen = SimulatorSettings(
        app_secret=Secret(APP_SECRET), verify_token=Secret(VERIFY_TOKEN), **{**fast, **settings}
    )
    async with Simulator(chosen) as simulator, aiohttp.ClientSession() as session:
        yield Meta(simulator, Graph(session, simulator.url))


@pytest.fixture
def started() -> Started:
    """Starts a simulator with other settings than the usual ones."""
    return _started


@pytest.fixture
async def meta(receiver: Receiver) -> AsyncIterator[Meta]:
    """A simulator whose webhooks go to the receiver."""
    async with _started(webhook_url=receiver.url) as one:
        yield one
