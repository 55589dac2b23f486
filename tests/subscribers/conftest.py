"""A real HTTP endpoint for subscribers, and the subscribers that post to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from wats.clock import utc_now
from wats.config import SubscriberConfig
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.subscribers.circuit import Circuit
from wats.subscribers.requests import make_requests
from wats.subscribers.subscriber import Subscriber
from wats.telemetry.contract.values import UpdateKind

SECRET = "whsec_c29tZS1yYW5kb20tYnl0ZXMtZm9yLXRlc3RzLW9ubHk="
META_SECRET = "a-secret-for-tests-of-subscribers"
DISPLAYED = {"200000000000002": "15550001111"}


class Endpoint:
    """An HTTP server that records requests, and responds as its test says.

    Attributes:
        answer: Makes the response to a request.
        requests: The headers and the body of each request.
        targets: The path and the query of each request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.targets: list[str] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.accept

    async def accept(self, _: web.Request) -> web.StreamResponse:
        return web.Response()

    def respond(self, status: int, **headers: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers=headers)

        self.answer = answer

    def respond_after(self, seconds: float) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            await asyncio.sleep(seconds)
            return web.Response()

        self.answer = answer

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.targets.append(request.raw_path)
        self.requests.append((dict(request.headers), await request.read()))
        return await self.answer(request)

    @property
    def documents(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]


@asynccontextmanager
async def serving_endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", endpoint.serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving_endpoint() as endpoint:
        yield endpoint


class Clock:
    """A monotonic clock that tests advance."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logged() -> list[Any]:
    return []


async def nothing() -> None: ...


Subscribe = Callable[..., AbstractAsyncContextManager[Subscriber]]


@pytest.fixture
def circuits() -> list[int]:
    """The states of the circuit that were reported."""
    return []


@pytest.fixture
def subscribe(clock: Clock, logged: list[Any], circuits: list[int]) -> Subscribe:
    """Starts a subscriber with the given keys of its section."""

    @asynccontextmanager
    async def subscribing(
        url: str, pause: Callable[[], Awaitable[object]] = nothing, **keys: Any
    ) -> AsyncIterator[Subscriber]:
        given = {"allow_private_network": True, "timeout_seconds": 5.0, **keys}
        config = SubscriberConfig(name="crm", url=url, secrets=(), **given)
        secret = SECRET if config.format == "update" else META_SECRET
        subscriber = Subscriber(
            config,
            make_requests(config, [Secret(secret)], DISPLAYED),
            log=logged.append,
            monotonic=clock,
            pause=pause,
            circuit=Circuit(monotonic=clock, jitter=lambda: 0.0),
            on_circuit=circuits.append,
        )
        await subscriber.start()
        try:
            yield subscriber
        finally:
            await subscriber.stop()

    return subscribing


@pytest.fixture
def updates() -> Iterator[Update]:
    """An endless number of different messages."""
    return (
        Update(
            key=f"{number:032x}",
            kind=UpdateKind.MESSAGE,
            field="messages",
            waba_id="1",
            phone_number_id="2",
            conversation="2|3",
            occurred_at=utc_now(),
            received_at=utc_now(),
            raw={"id": f"wamid.{number}", "from": "15550002222", "type": "text"},
        )
        for number in range(10**9)
    )


async def failure_of(subscriber: Subscriber, update: Update) -> BaseException | None:
    """Return the exception of a call."""
    (result,) = await asyncio.gather(subscriber(update), return_exceptions=True)
    return result
