"""However a handler ends, it ends its own delivery and nothing else."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from apsw import Connection

from tests.settings import HOOK, NUMBER_ID, WABA_ID
from wats.config import InboxConfig, TelemetryConfig
from wats.inbound.updates import Update
from wats.inbound.watchdog import MAX_ABANDONED
from wats.process.server import Server, bind
from wats.service import create_wats_service_app
from wats.store.records import Claimed
from wats.store.sqlite import SQLiteStore
from wats.testing import example_profile, example_secrets, sign
from wats.web.webhooks import NO_HOOK

CONCURRENCY = 2
INBOX = InboxConfig(
    concurrency=CONCURRENCY, lease_seconds=60.0, handler_timeout_seconds=0.2, max_attempts=50
)
OPERATOR = TelemetryConfig(families="operator")
END = "no stock for 15550001234"
"""A text that no operator may ever read."""

Misbehave = Callable[[], Awaitable[object]]


async def close_the_generator() -> None:
    raise GeneratorExit


async def exit_the_process() -> None:
    raise SystemExit(END)


async def interrupt_the_process() -> None:
    raise KeyboardInterrupt(END)


async def raise_a_base_exception() -> None:
    raise BaseException(END)


async def cancel_its_own_task() -> None:
    cancel()
    await asyncio.sleep(1)


async def cancel_its_own_task_and_return() -> None:
    cancel()


async def forget_to_uncancel() -> None:
    asyncio.get_running_loop().call_later(0.01, current().cancel)
    await asyncio.sleep(1)


async def cancel_its_task_after_returning() -> None:
    asyncio.get_running_loop().call_later(0.05, current().cancel)


async def swallow_a_cancellation_and_await_something_cancelled() -> None:
    asyncio.get_running_loop().call_soon(current().cancel)
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(1)
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def swallow_the_timeout() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


async def swallow_every_cancellation() -> None:
    while not is_over.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)


def current() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    assert task is not None
    return task


def cancel() -> None:
    current().cancel()


is_over = asyncio.Event()

MISBEHAVIOR = [
    close_the_generator,
    exit_the_process,
    interrupt_the_process,
    raise_a_base_exception,
    cancel_its_own_task,
    cancel_its_own_task_and_return,
    forget_to_uncancel,
    cancel_its_task_after_returning,
    swallow_a_cancellation_and_await_something_cancelled,
    swallow_the_timeout,
    swallow_every_cancellation,
]


def webhook(*texts: str) -> bytes:
    """Return a webhook with one message for each of *texts*, each in its own conversation."""
    messages = [
        {
            "from": str(15550000000 + 1000 * sum(text.encode()) + place),
            "id": f"wamid.{text}",
            "timestamp": "1790000000",
            "type": "text",
            "text": {"body": text},
        }
        for place, text in enumerate(texts)
    ]
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"phone_number_id": NUMBER_ID},
        "messages": messages,
    }
    entry = {"id": WABA_ID, "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


class Handler:
    """Misbehaves on texts that begin with `bad`, and counts all calls by text."""

    def __init__(self, misbehave: Misbehave) -> None:
        self._misbehave = misbehave
        self.calls: Counter[str] = Counter()

    async def __call__(self, update: Update) -> None:
        text = update.raw["text"]["body"]
        self.calls[text] += 1
        if text.startswith("bad"):
            await self._misbehave()


@pytest.fixture(autouse=True)
async def end_stubborn_calls():
    """Let the handlers that swallow every cancellation end with the test.

    It is async, because the loop of a test closes before other fixtures end, and would wait.
    """
    is_over.clear()
    yield
    is_over.set()


@pytest.mark.parametrize("misbehave", MISBEHAVIOR, ids=lambda each: each.__name__)
async def test_other_updates_are_handled_after_as_many_misbehaving_calls_as_there_are_consumers(
    open_gateway, until, misbehave
) -> None:
    handler = Handler(misbehave)
    bad = [f"bad{number}" for number in range(CONCURRENCY + 1)]
    good = [f"good{number}" for number in range(10)]

    async with open_gateway(handlers=[handler], inbox=INBOX, telemetry=OPERATOR) as gateway:
        for text in bad:
            assert (await gateway.webhook(webhook(text))).status == 200
        await until(lambda: all(handler.calls[text] for text in bad))
        for text in good:
            assert (await gateway.webhook(webhook(text))).status == 200
        await until(lambda: all(handler.calls[text] for text in good))
        ready = await gateway.ask("GET", "/readyz")
        is_over.set()

    assert ready.status == 200
    assert {handler.calls[text] for text in good} == {1}


RETURNING = {cancel_its_own_task_and_return, cancel_its_task_after_returning}


@pytest.mark.parametrize(
    "misbehave",
    [each for each in MISBEHAVIOR if each not in RETURNING],
    ids=lambda each: each.__name__,
)
async def test_a_call_that_misbehaves_is_a_failure_that_is_counted_and_tried_again(
    open_gateway, until, misbehave
) -> None:
    handler = Handler(misbehave)

    async with open_gateway(handlers=[handler], inbox=INBOX, telemetry=OPERATOR) as gateway:
        await gateway.webhook(webhook("bad"))
        await until(lambda: handler.calls["bad"] >= 2)
        counted = await gateway.samples('wats_dispatch_total{outcome="error"')
        errors = (await gateway.ask("GET", "/debug/diagnostics")).json["recentErrors"]
        is_over.set()

    assert sum(counted.values()) >= 1
    assert errors
    assert END not in json.dumps(errors) + json.dumps([dict(line) for line in gateway.log])


@asynccontextmanager
async def serving(handler: Handler, *, short: bool, store: SQLiteStore | None = None):
    app = create_wats_service_app(
        profile=example_profile(inbox=INBOX),
        secrets=example_secrets(),
        persistence=store,
        handlers=[handler],
    )
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = Server(app, ready=ready.set_result, hook=app.hook if short else NO_HOOK)
    running = asyncio.create_task(server.serve(sockets=[bind("127.0.0.1", 0)]))
    yield await ready
    server.should_exit = True
    await running


async def answer_to(url: str, body: bytes) -> bytes:
    """Return the first response on a kept connection, without its date."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {HOOK} HTTP/1.1\r\nhost: x\r\nX-Hub-Signature-256: {sign(body)}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(60):
        lines = [await reader.readuntil(b"\r\n")]
        while lines[-1] != b"\r\n":
            lines.append(await reader.readuntil(b"\r\n"))
        length = next(line for line in lines if line.lower().startswith(b"content-length"))
        answer = await reader.readexactly(int(length.split(b":")[1]))
    writer.close()
    return b"".join(line for line in lines if not line.startswith(b"date")) + answer


@pytest.mark.parametrize("misbehave", MISBEHAVIOR, ids=lambda each: each.__name__)
async def test_without_a_store_both_paths_give_the_same_response_to_a_webhook(
    misbehave,
) -> None:
    answers = []
    for short in (False, True):
        is_over.clear()
        async with serving(Handler(misbehave), short=short) as url:
            answers.append(await answer_to(url, webhook("bad")))
            is_over.set()

    assert answers[0].startswith(b"HTTP/1.1 200")
    assert answers[1] == answers[0]


async def test_a_stop_ends_although_a_handler_swallows_every_cancellation(
    open_gateway, until, tmp_path: Path
) -> None:
    handler = Handler(swallow_every_cancellation)
    inbox = InboxConfig(lease_seconds=60.0, handler_timeout_seconds=30.0)
    options = {"drain_seconds": 0.1}

    async with open_gateway(handlers=[handler], inbox=inbox, app_options=options) as gateway:
        await gateway.webhook(webhook("bad"))
        await until(lambda: handler.calls["bad"])
        async with asyncio.timeout(60):
            await gateway.app.stop()
        rows = gateway.rows()
        is_over.set()

    assert rows["wats_outstanding"] == 1


async def test_the_readiness_probe_fails_while_calls_that_never_end_block_every_consumer(
    open_gateway,
) -> None:
    inbox = InboxConfig(concurrency=MAX_ABANDONED, handler_timeout_seconds=0.2, max_attempts=1)
    handler = Handler(swallow_every_cancellation)

    async def probe() -> int:
        return (await gateway.ask("GET", "/readyz")).status

    async with open_gateway(handlers=[handler], inbox=inbox) as gateway:
        assert await probe() == 200
        await gateway.webhook(webhook(*(f"bad {number}" for number in range(MAX_ABANDONED))))
        async with asyncio.timeout(60):
            while await probe() != 503:
                await asyncio.sleep(0.05)
        is_over.set()
        async with asyncio.timeout(60):
            while await probe() != 200:
                await asyncio.sleep(0.05)


class SlowDisk(SQLiteStore):
    """Reports a claim when that is permitted, after its commit."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.claimed, self.may_report = asyncio.Event(), asyncio.Event()

    async def claim(self, consumer: str, limit: int) -> Claimed:
        claimed = await super().claim(consumer, limit)
        if claimed.deliveries:
            self.claimed.set()
            await self.may_report.wait()
        return claimed


async def test_deliveries_that_are_claimed_during_a_stop_are_given_back(
    open_gateway, until, tmp_path: Path
) -> None:
    handled: list[str] = []

    async def handle(update: Update) -> None:
        await asyncio.sleep(0.05)
        handled.append(update.raw["id"])

    store = SlowDisk(str(tmp_path / "wats.db"))
    inbox = InboxConfig(concurrency=1, max_attempts=1)
    async with open_gateway(handlers=[handle], inbox=inbox, store=store) as gateway:
        for _ in range(2):  # of one conversation, so the second has to be claimed
            body = json.loads(webhook("same"))
            message = body["entry"][0]["changes"][0]["value"]["messages"][0]
            message["id"] = f"wamid.{time.monotonic_ns()}"
            await gateway.webhook(body)
        await store.claimed.wait()
        stopping = asyncio.create_task(gateway.app.stop())
        for _ in range(10):  # turns of the loop, in which the stop begins
            await asyncio.sleep(0.005)
        store.may_report.set()
        await stopping
        with closing(Connection(str(gateway.database))) as connection:
            states = connection.execute("SELECT state, attempts FROM wats_outstanding").fetchall()

    # The first one may have been claimed too, if it arrived during the claim of the start.
    assert len(handled) + len(states) == 2
    assert set(states) == {("pending", 0)}
