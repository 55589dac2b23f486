"""Unmodified applications of three libraries behind one gateway, and pywa inside of it."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from pywa_async import WhatsApp, filters
from pywa_async.types import Message, MessageStatus
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette

from tests.acceptance.conftest import OpenGateway, Until
from tests.acceptance.test_subscribers import MESSAGE, STATUS, options_for, subscriber
from tests.pages import blocks
from tests.settings import NUMBER_ID
from tests.subscribers.conftest import META_SECRET, SECRET, Endpoint, serving_endpoint
from tests.walk import free_port
from wats import Update
from wats.adapters.pywa import feed, reply_key
from wats.testing import BEARER_TOKEN, serving, sign

NODE = Path(__file__).parent / "node"


def message_of(number: int, text: str) -> dict[str, Any]:
    """Return a webhook with a text of the customer."""
    body = json.dumps(MESSAGE).replace("wamid.FAKE00000001", f"wamid.IN{number}")
    return json.loads(body.replace("Hello from the fake corpus", text))


def location_of(number: int) -> dict[str, Any]:
    """Return a webhook with a location of the customer."""
    webhook = message_of(number, "")
    item = webhook["entry"][0]["changes"][0]["value"]["messages"][0]
    del item["text"]
    item.update(type="location", location={"latitude": 0, "longitude": 0})
    return webhook


class Bot:
    """A client of pywa that replies to texts through a gateway.

    Attributes:
        seen: The texts and statuses, in order of arrival.
        failures: The number of calls that are still to fail, after their reply.
        url: The gateway.
    """

    def __init__(self, session: httpx.AsyncClient, **options: Any) -> None:
        self.seen: list[str] = []
        self.failures = 0
        self.url = ""
        self._session = session
        session.event_hooks = {"request": [self._add_key]}
        self.client = WhatsApp(phone_id=NUMBER_ID, token=BEARER_TOKEN, session=session, **options)
        self.client.on_message(filters.text)(self._on_text)
        self.client.on_message_status()(self._on_status)

    def send_through(self, url: str) -> None:
        self.url = url
        self._session.base_url = f"{url}/api/graph/v25.0"

    async def _add_key(self, request: httpx.Request) -> None:
        assert request.url.path.endswith(f"/{NUMBER_ID}/messages")
        if key := reply_key():
            request.headers["idempotency-key"] = key

    async def _on_text(self, _: WhatsApp, message: Message) -> None:
        self.seen.append(str(message.text))
        await message.reply(f"pywa: {message.text}")
        if self.failures:
            self.failures -= 1
            raise ConnectionError

    async def _on_status(self, _: WhatsApp, status: MessageStatus) -> None:
        self.seen.append(status.status.value)


async def test_a_client_of_pywa_has_the_promises_of_a_handler(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with httpx.AsyncClient() as session:
        bot = Bot(session)
        bot.failures = 1

        async def on_update(update: Update) -> None:
            await feed(bot.client, update)

        async with open_gateway(handlers=[on_update]) as gateway:
            bot.send_through(gateway.url)
            for number, text in enumerate(["one", "two", "three"]):
                await gateway.webhook(message_of(number, text))
            await until(lambda: len(gateway.simulator.accepted) == 3)
            await until(lambda: gateway.rows()["wats_outstanding"] == 0)

    texts = [each for each in bot.seen if each in {"one", "two", "three"}]
    assert texts == ["one", "one", "two", "three"]
    sent = [each.payload["text"]["body"] for each in gateway.simulator.accepted]
    assert sent == ["pywa: one", "pywa: two", "pywa: three"]
    failed = [each for each in gateway.log if each["event"] == "wats.handler.failed"]
    assert [each["errorName"] for each in failed] == ["ConnectionError"]


@asynccontextmanager
async def standard_receiver(gateway_url: Callable[[], str]) -> AsyncIterator[Endpoint]:
    """Run a receiver that verifies with `standardwebhooks`, and replies through the gateway."""
    webhook = Webhook(SECRET)
    async with serving_endpoint() as endpoint, aiohttp.ClientSession() as session:

        async def receive(request: web.Request) -> web.StreamResponse:
            try:
                update = webhook.verify(await request.read(), dict(request.headers))
            except WebhookVerificationError:
                return web.Response(status=401)
            if update["kind"] == "message":
                headers = {
                    "authorization": f"Bearer {BEARER_TOKEN}",
                    "idempotency-key": update["key"],
                }
                body = {"to": update["raw"]["from"], "text": "standard: Hi"}
                url = f"{gateway_url()}/api/messages/text"
                async with session.post(url, json=body, headers=headers) as answer:
                    return web.Response(status=answer.status)
            return web.Response(status=204)

        endpoint.answer = receive
        yield endpoint


class Script:
    """A running receiver of Node.

    Attributes:
        lines: What it printed after its port.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self.url = ""

    async def start(self) -> None:
        self.url = f"http://127.0.0.1:{(await self._line()).removeprefix('listening ')}/"

    async def read(self) -> None:
        while line := await self._line():
            self.lines.append(line)

    async def _line(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def node_receiver(folder: Path, port: int, gateway_url: str) -> AsyncIterator[Script]:
    """Run the receiver of the documentation, which uses whatsapp-api-js."""
    (example,) = blocks("docs/libraries.md", "js")
    (folder / "receiver.mjs").write_text(example)
    (folder / "node_modules").symlink_to(NODE / "node_modules")
    process = await asyncio.create_subprocess_exec(
        *("node", "receiver.mjs"),
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PORT": str(port),
            "BOT_SECRET": META_SECRET,
            "WATS_URL": gateway_url,
            "WATS_SERVICE_BEARER_TOKEN": BEARER_TOKEN,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    script = Script(process)
    try:
        await script.start()
        reading = asyncio.create_task(script.read())
        yield script
        process.terminate()
        await reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def refused(url: str) -> int:
    """Return the status of the response to a webhook with a signature of another secret."""
    body = json.dumps(message_of(2, "Forged")).encode()
    headers = {
        "x-hub-signature-256": sign(body),
        "webhook-id": "1",
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": "v1,AAAA",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as answer,
    ):
        return answer.status


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="needs node, and: npm ci --prefix tests/acceptance/node",
)
async def test_unmodified_applications_of_three_libraries_reply_through_one_gateway(
    open_gateway: OpenGateway, until: Until, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        server = Starlette()
        bot = Bot(
            await stack.enter_async_context(httpx.AsyncClient()),
            server=server,
            webhook_endpoint="/webhook",
            verify_token="unused",
            app_secret=META_SECRET,
            validate_updates=True,
        )
        bot_url = await stack.enter_async_context(serving(server)) + "/webhook"
        standard = await stack.enter_async_context(standard_receiver(lambda: bot.url))
        port = free_port()
        kinds = ("message", "status")
        options = options_for(
            subscriber("standard", standard.url, kinds=("message",)),
            subscriber("pywa", bot_url, format="meta", kinds=kinds),
            subscriber("node", f"http://127.0.0.1:{port}/", format="meta", kinds=kinds),
        )
        gateway = await stack.enter_async_context(open_gateway(**options))
        bot.send_through(gateway.url)
        script = await stack.enter_async_context(node_receiver(tmp_path, port, gateway.url))

        await gateway.webhook(message_of(1, "Hello"))
        await gateway.webhook(location_of(2))
        await gateway.webhook(STATUS)
        await until(lambda: len(gateway.simulator.accepted) == 4)
        await until(lambda: "delivered" in bot.seen and "status delivered" in script.lines)
        await until(lambda: gateway.rows()["wats_outstanding"] == 0)
        answers = [await refused(url) for url in (standard.url, bot_url, script.url)]
        listed = [each["direction"] for each in await gateway.messages()]

    replies = {str(each.payload["text"]["body"]) for each in gateway.simulator.accepted}
    assert replies == {"standard: Hi", "pywa: Hello", "You wrote: Hello"}
    assert sorted(listed) == ["inbound"] * 2 + ["outbound"] * 4
    assert all(status in (401, 403) for status in answers)
    assert {each["kind"] for each in standard.documents[:-1]} == {"message"}
    assert [each for each in bot.seen if each == "Hello"] == ["Hello"]
    messages = [each for each in script.lines if each.startswith("message")]
    assert messages == ["message text", "message location"]
    assert gateway.rows()["wats_dead_deliveries"] == 0
