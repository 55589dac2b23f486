"""Subscribers of a running service: real applications behind it, outages, crashes."""

import asyncio
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from pywa_async import WhatsApp
from pywa_async.types import Message, MessageStatus
from starlette.applications import Starlette

from tests.acceptance.conftest import OpenGateway, Serve, Until
from tests.acceptance.test_delivery import Sender
from tests.settings import NOBODY, NUMBER_ID, WABA_ID
from tests.subscribers.conftest import META_SECRET, SECRET, Endpoint, serving_endpoint
from wats.config import InboxConfig, SubscriberConfig, WhatsAppConfig
from wats.errors import ConfigError
from wats.privacy import Secret
from wats.service import create_wats_service_app
from wats.store.admin import DEAD_LETTERS, DeliveryFilter
from wats.subscribers.circuit import THRESHOLD
from wats.testing import example_profile, example_secrets, serving

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
FIRST_BODY = json.dumps(json.loads(CORPUS.read_text("utf-8").splitlines()[0])["body"])
MESSAGE = json.loads(
    FIRST_BODY.replace("200000000000002", NUMBER_ID).replace(
        '"wa_id":', '"user_id": "US.10000000000001", "wa_id":'
    )
)
"""A message in the present form of Meta, which has user ids."""
_CHANGE = MESSAGE["entry"][0]["changes"][0]
_DELIVERED = {
    "id": "wamid.SENT",
    "status": "delivered",
    "timestamp": "1790000000",
    "recipient_id": "15550002222",
    "recipient_user_id": "US.10000000000001",
}
_VALUE = {key: value for key, value in _CHANGE["value"].items() if key != "messages"}
_STATUS_CHANGE = {**_CHANGE, "value": {**_VALUE, "statuses": [_DELIVERED]}}
STATUS = {**MESSAGE, "entry": [{**MESSAGE["entry"][0], "changes": [_STATUS_CHANGE]}]}
CONVERSATIONS = int(os.environ.get("WATS_TEST_CONVERSATIONS", "1000"))
"""Ten thousand take some minutes."""
PATIENCE_SECONDS = 120 + CONVERSATIONS / 20
"""The time limit of each part of the test of these."""
CUSTOMERS = 12
ROUNDS = 10


def subscriber(name: str, url: str, **keys: Any) -> SubscriberConfig:
    given = {"allow_private_network": True, "timeout_seconds": 5.0, **keys}
    return SubscriberConfig(name=name, url=url, secrets=(), **given)


def options_for(*subscribers: SubscriberConfig) -> dict[str, Any]:
    """Return the options of a gateway with *subscribers*."""
    secrets = {
        each.name: (Secret(SECRET if each.format == "update" else META_SECRET),)
        for each in subscribers
    }
    return {
        "subscribers": subscribers,
        "app_options": {"secrets": example_secrets(subscribers=secrets)},
    }


def by_customer(documents: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the numbers of the messages of each customer, in order of their first request."""
    found: dict[str, dict[int, None]] = defaultdict(dict)
    for each in documents:
        found[each["raw"]["from"]][int(each["raw"]["id"].removeprefix("wamid."))] = None
    return {customer: list(numbers) for customer, numbers in found.items()}


async def send_interleaved(session: ClientSession, url: str) -> dict[str, list[int]]:
    """Send messages of all customers in turn; return what each subscriber must receive."""
    sender = Sender(session, url)
    expected: dict[str, list[int]] = defaultdict(list)
    for number in range(CUSTOMERS * ROUNDS):
        customer = f"1555000{number % CUSTOMERS:04d}"
        expected[customer].append(number)
        await sender.send(number, customer=customer)
    return expected


@pytest.mark.long
async def test_each_subscriber_gets_all_updates_in_order_while_others_fail_and_sleep(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with AsyncExitStack() as stack:
        good, failing, sleeping = [
            await stack.enter_async_context(serving_endpoint()) for _ in range(3)
        ]
        failing.respond(500)
        sleeping.respond_after(0.05)
        options = options_for(
            subscriber("good", good.url),
            subscriber("failing", failing.url),
            subscriber("sleeping", sleeping.url, concurrency=3),
        )
        gateway = await stack.enter_async_context(open_gateway(**options))
        session = await stack.enter_async_context(ClientSession())

        expected = await send_interleaved(session, gateway.url)
        await until(lambda: len(good.requests) >= CUSTOMERS * ROUNDS)
        failing.answer = failing.accept
        await until(lambda: gateway.rows()["wats_outstanding"] == 0, 60)

        assert by_customer(good.documents) == expected
        assert by_customer(failing.documents) == expected
        assert by_customer(sleeping.documents) == expected
        assert len(good.requests) == len(sleeping.requests) == CUSTOMERS * ROUNDS
        assert gateway.rows()["wats_dead_deliveries"] == 0
        events = [each["event"] for each in gateway.log]
        assert events.count("wats.subscriber.unreachable") == 1
        assert events.count("wats.subscriber.recovered") == 1


class Receiver:
    """A subscriber that notes when each message arrived, before it responds."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.arrived: list[float] = []
        self.pause_seconds = 0.0
        self.status = 200
        endpoint.answer = self.respond

    async def respond(self, _: web.Request) -> web.StreamResponse:
        self.arrived.append(time.monotonic())
        if self.pause_seconds:
            await asyncio.sleep(self.pause_seconds)
        return web.Response(status=self.status)

    def p99_ms(self, sent: Sequence[float]) -> float:
        """Return the 99th percentile of the time from the webhook to the first request with it."""
        first: dict[int, float] = {}
        for document, moment in zip(self.endpoint.documents, self.arrived, strict=True):
            first.setdefault(number_of(document), moment)
        begin = min(first)
        delays = sorted(first[begin + number] - moment for number, moment in enumerate(sent))
        return delays[len(delays) * 99 // 100] * 1000


def number_of(document: dict[str, Any]) -> int:
    return int(document["raw"]["id"].removeprefix("wamid."))


def in_turn(documents: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Return the numbers of the requests of each customer, of repeated requests in a row the first.

    A message that is sent before an earlier one was accepted is followed by the earlier one.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for each in documents:
        numbers, number = found[each["raw"]["from"]], number_of(each)
        if numbers[-1:] != [number]:
            numbers.append(number)
    return sorted(found.values())


async def send_conversations(url: str, begin: int) -> list[float]:
    """Send a message of each conversation, then another one of each; return the times."""
    sent: list[float] = []
    async with ClientSession() as session:
        sender = Sender(session, url)
        for number in range(2 * CONVERSATIONS):
            sent.append(time.monotonic())
            await sender.send(begin + number, customer=f"1555{number % CONVERSATIONS:07d}")
    return sent


@pytest.mark.long
@pytest.mark.timeout(4 * PATIENCE_SECONDS)
async def test_many_conversations_stay_in_order_at_each_of_three_subscribers(
    open_gateway: OpenGateway, until: Until
) -> None:
    names = "good", "failing", "sleeping"
    total = 2 * CONVERSATIONS
    expected = [[total + n, total + n + CONVERSATIONS] for n in range(CONVERSATIONS)]
    async with AsyncExitStack() as stack:
        alone, *together = [
            Receiver(await stack.enter_async_context(serving_endpoint())) for _ in range(4)
        ]
        good, failing, sleeping = together
        async with open_gateway(**options_for(subscriber("good", alone.endpoint.url))) as gateway:
            sent_alone = await send_conversations(gateway.url, 0)
            await until(lambda: gateway.rows()["wats_outstanding"] == 0, PATIENCE_SECONDS)
        failing.status, sleeping.pause_seconds = 500, 0.05
        options = options_for(
            *(
                subscriber(name, each.endpoint.url)
                for name, each in zip(names, together, strict=True)
            )
        )
        gateway = await stack.enter_async_context(open_gateway(**options))

        sent = await send_conversations(gateway.url, total)
        await until(lambda: len(good.arrived) >= total, PATIENCE_SECONDS)
        failing.status = 200
        await until(lambda: gateway.rows()["wats_outstanding"] == 0, PATIENCE_SECONDS)

        for each in together:
            assert in_turn(each.endpoint.documents) == expected
        assert len(good.arrived) == len(sleeping.arrived) == total
        assert gateway.rows()["wats_dead_deliveries"] == 0
        print(
            f"99th percentile alone {alone.p99_ms(sent_alone):.0f} ms,"
            f" next to a failing and a sleeping subscriber {good.p99_ms(sent):.0f} ms"
        )


@pytest.mark.long
async def test_a_long_outage_uses_up_no_attempts(open_gateway: OpenGateway, until: Until) -> None:
    async with serving_endpoint() as endpoint:
        endpoint.respond(503, **{"Retry-After": "0"})
        options = options_for(subscriber("crm", endpoint.url))
        async with open_gateway(**options) as gateway, ClientSession() as session:
            await Sender(session, gateway.url).send(1)
            await until(lambda: len(endpoint.requests) > 3)
            endpoint.answer = endpoint.accept
            await until(lambda: gateway.rows()["wats_outstanding"] == 0)

        assert "wats.handler.failed" not in [each["event"] for each in gateway.log]


@pytest.mark.long
async def test_an_outage_leaves_the_waiting_updates_as_they_are(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with serving_endpoint() as endpoint:
        endpoint.respond(503)
        options = options_for(subscriber("crm", endpoint.url, concurrency=1))
        async with open_gateway(**options) as gateway, ClientSession() as session:
            sender = Sender(session, gateway.url)
            for number in range(50):
                await sender.send(number, customer=f"1555000{number:04d}")
            await until(lambda: len(endpoint.requests) > THRESHOLD)
            assert gateway.store is not None
            page = await gateway.store.list_deliveries(DeliveryFilter(), limit=100)
            asked = len(endpoint.requests)
            endpoint.answer = endpoint.accept
            await until(lambda: gateway.rows()["wats_outstanding"] == 0)

    untouched = [each for each in page.items if each.due_at == each.arrived_at]
    assert len(untouched) >= 50 - asked - 1
    found = [each["raw"]["from"] for each in endpoint.documents[asked:]]
    later = [f"1555000{number:04d}" for number in range(asked + 1, 50)]
    assert [each for each in found if each in later] == later


@pytest.mark.long
async def test_after_an_outage_a_subscriber_gets_one_request_at_a_time_at_first(
    open_gateway: OpenGateway, until: Until
) -> None:
    running, begun = 0, list[tuple[float, int]]()

    async def accept_later(_: web.Request) -> web.StreamResponse:
        nonlocal running
        running += 1
        begun.append((time.monotonic(), running))
        await asyncio.sleep(0.05)
        running -= 1
        return web.Response()

    async with serving_endpoint() as endpoint:
        endpoint.respond(503)
        options = options_for(subscriber("crm", endpoint.url))
        async with open_gateway(**options) as gateway, ClientSession() as session:
            sender = Sender(session, gateway.url)
            for number in range(50):
                await sender.send(number, customer=f"1555000{number:04d}")
            await until(lambda: len(endpoint.requests) > THRESHOLD)
            endpoint.answer = accept_later
            await until(lambda: gateway.rows()["wats_outstanding"] == 0)

    # The outage lasted for a second or more, so the limit doubled a quarter of a second after the
    # first response, or later.
    first_at, _ = begun[0]
    assert {count for at, count in begun if at < first_at + 0.25} == {1}
    assert max(count for _, count in begun) > 1


async def test_a_subscriber_that_is_gone_is_paused_and_keeps_its_updates(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with serving_endpoint() as endpoint:
        endpoint.respond(410)
        options = options_for(subscriber("crm", endpoint.url))
        async with open_gateway(**options) as gateway, ClientSession() as session:
            sender = Sender(session, gateway.url)
            await sender.send(1)
            paused = {"event": "wats.subscriber.paused", "errorName": "SubscriberGone"}
            await until(lambda: any(paused.items() <= each.items() for each in gateway.log))
            endpoint.answer = endpoint.accept
            await sender.send(2)
            await asyncio.sleep(1)
            during = len(endpoint.requests)
            assert gateway.store is not None
            assert await gateway.store.pause("crm", is_paused=False)
            await until(lambda: gateway.rows()["wats_outstanding"] == 0)

        assert during == 1
        assert len(endpoint.requests) == 3


async def test_a_subscriber_gets_its_kinds_only(open_gateway: OpenGateway, until: Until) -> None:
    async with serving_endpoint() as messages, serving_endpoint() as statuses:
        options = options_for(
            subscriber("messages", messages.url, kinds=("message",)),
            subscriber("statuses", statuses.url, kinds=("status",)),
        )
        async with open_gateway(**options) as gateway, ClientSession() as session:
            await Sender(session, gateway.url).send(1)
            await gateway.send_text("15550001234")
            await until(lambda: messages.requests and len(statuses.requests) >= 2)

        assert {each["kind"] for each in messages.documents} == {"message"}
        assert {each["kind"] for each in statuses.documents} == {"status"}


async def test_an_unmodified_application_of_pywa_runs_behind_wats(
    open_gateway: OpenGateway, until: Until
) -> None:
    application = Starlette()
    client = WhatsApp(
        phone_id=NUMBER_ID,
        token="unused",
        server=application,
        webhook_endpoint="/webhook",
        verify_token="unused",
        app_secret=META_SECRET,
        validate_updates=True,
    )
    received: list[Any] = []

    @client.on_message
    async def on_message(_: WhatsApp, message: Message) -> None:
        received.append((message.text, message.from_user.wa_id, message.metadata))

    @client.on_message_status
    async def on_status(_: WhatsApp, status: MessageStatus) -> None:
        received.append(status.status.value)

    async with serving(application) as url:
        options = options_for(subscriber("bot", f"{url}/webhook", format="meta"))
        number = WhatsAppConfig(
            waba_id=WABA_ID, phone_number_id=NUMBER_ID, display_phone_number="15551112222"
        )
        async with open_gateway(**options, whatsapp=number) as gateway:
            await gateway.webhook(MESSAGE)
            await until(lambda: len(received) == 1)
            await gateway.webhook(STATUS)
            await until(lambda: received[1:] == ["delivered"])

    text, customer, metadata = received[0]
    assert (text, customer) == ("Hello from the fake corpus", "15550002222")
    assert metadata.display_phone_number == "15550001111"


@pytest.mark.long
async def test_no_update_is_lost_or_reordered_by_kills(
    serve: Serve, tmp_path: Path, until: Until
) -> None:
    sections = {
        "persistence": {"url": f"sqlite:///{tmp_path}/wats.db"},
        "inbox": {"leaseSeconds": 1, "handlerTimeoutSeconds": 5},
    }
    environ = {"WATS_CRM_SECRET": SECRET}
    async with serving_endpoint() as endpoint, ClientSession() as session:
        endpoint.respond_after(0.15)
        section = {
            "name": "crm",
            "url": endpoint.url,
            "secret": {"env": "WATS_CRM_SECRET"},
            "timeoutSeconds": 2,
            "concurrency": 4,
            "allowPrivateNetwork": True,
        }
        expected: dict[str, list[int]] = {}
        for _ in range(3):
            async with serve(NOBODY, environ, subscribers=[section], **sections) as process:
                if not expected:
                    expected = await send_interleaved(session, process.url)
                before = len(endpoint.requests)
                await until(lambda before=before: len(endpoint.requests) > before + 8)
                await process.kill()
        async with serve(NOBODY, environ, subscribers=[section], **sections) as process:
            await until(lambda: by_customer(endpoint.documents) == expected)

    assert len(endpoint.requests) <= CUSTOMERS * ROUNDS + 3 * 4


def ids_of(envelopes: Sequence[Any]) -> list[list[tuple[str, int]]]:
    """Return the customer and the number of each message of each request."""
    return [
        [
            (message["from"], int(message["id"].removeprefix("wamid.")))
            for entry in envelope["entry"]
            for change in entry["changes"]
            for message in change["value"]["messages"]
        ]
        for envelope in envelopes
    ]


async def test_waiting_updates_of_a_conversation_share_requests_and_arrive_once_in_order(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with serving_endpoint() as endpoint, ClientSession() as session:
        received = asyncio.Event()

        async def wait(_: web.Request) -> web.StreamResponse:
            await received.wait()
            return web.Response()

        endpoint.answer = wait
        options = options_for(subscriber("bot", endpoint.url, format="meta", batch=4))
        async with open_gateway(**options) as gateway:
            expected = await send_interleaved(session, gateway.url)
            received.set()
            await until(lambda: gateway.rows()["wats_outstanding"] == 0)

    requests = ids_of(endpoint.documents)
    arrived: dict[str, list[int]] = defaultdict(list)
    for customer, number in itertools.chain.from_iterable(requests):
        arrived[customer].append(number)
    assert arrived == expected
    assert {len({customer for customer, _ in request}) for request in requests} == {1}
    assert max(map(len, requests)) == 4


@pytest.mark.long
async def test_a_kill_repeats_only_the_requests_with_several_updates_that_it_ended(
    serve: Serve, tmp_path: Path, until: Until
) -> None:
    sections = {
        "persistence": {"url": f"sqlite:///{tmp_path}/wats.db"},
        "inbox": {"leaseSeconds": 5, "handlerTimeoutSeconds": 30},
    }
    environ = {"WATS_BOT_SECRET": META_SECRET}
    batch, concurrency, kills = 3, 4, 2
    async with serving_endpoint() as endpoint, ClientSession() as session:
        endpoint.respond_after(0.15)
        section = {
            "name": "bot",
            "url": endpoint.url,
            "secret": {"env": "WATS_BOT_SECRET"},
            "format": "meta",
            "batch": batch,
            "timeoutSeconds": 20,
            "concurrency": concurrency,
            "allowPrivateNetwork": True,
        }
        expected: dict[str, list[int]] = {}
        for _ in range(kills):
            async with serve(NOBODY, environ, subscribers=[section], **sections) as process:
                if not expected:
                    expected = await send_interleaved(session, process.url)
                before = len(endpoint.requests)
                await until(lambda before=before: len(endpoint.requests) > before + 5)
                await process.kill()

        def first_arrivals() -> dict[str, list[int]]:
            found: dict[str, dict[int, None]] = defaultdict(dict)
            for customer, number in itertools.chain(*ids_of(endpoint.documents)):
                found[customer][number] = None
            return {customer: list(numbers) for customer, numbers in found.items()}

        async with serve(NOBODY, environ, subscribers=[section], **sections):
            await until(lambda: first_arrivals() == expected)

    count = sum(map(len, ids_of(endpoint.documents)))
    assert count <= CUSTOMERS * ROUNDS + kills * concurrency * batch
    assert max(map(len, ids_of(endpoint.documents))) == batch


def test_subscribers_without_a_database_are_refused() -> None:
    options = options_for(subscriber("crm", "https://crm.example/"))

    with pytest.raises(ConfigError, match="database"):
        create_wats_service_app(
            profile=example_profile(subscribers=options["subscribers"]),
            **options["app_options"],
        )


async def test_a_refused_request_is_logged_with_its_status_and_no_position(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with serving_endpoint() as endpoint:
        endpoint.respond(400)
        options = options_for(subscriber("crm", endpoint.url))
        async with open_gateway(**options) as gateway, ClientSession() as session:
            await Sender(session, gateway.url).send(1)
            await until(lambda: len(endpoint.requests) > 0)
            failed = {"event": "wats.handler.failed", "errorName": "SubscriberRefused"}
            failed |= {"handler": "crm", "status": 400, "file": None, "line": None}
            await until(lambda: any(failed.items() <= each.items() for each in gateway.log))


async def test_a_dead_letter_has_the_status_of_the_last_response(
    open_gateway: OpenGateway, until: Until
) -> None:
    async with serving_endpoint() as endpoint:
        endpoint.respond(413)
        options = options_for(subscriber("crm", endpoint.url))
        options["inbox"] = InboxConfig(max_attempts=1)
        async with open_gateway(**options) as gateway, ClientSession() as session:
            await Sender(session, gateway.url).send(1)
            await until(lambda: gateway.rows()["wats_dead_deliveries"] == 1)
            assert gateway.store is not None
            page = await gateway.store.list_deliveries(DEAD_LETTERS, limit=10)

    assert [each.error for each in page.items] == ["SubscriberRefused 413"]


async def test_neither_url_nor_content_of_a_failing_subscriber_is_logged(
    open_gateway: OpenGateway, until: Until
) -> None:
    url = "http://127.0.0.1:9/canary-path?token=canary-token"
    options = options_for(subscriber("crm", url))
    async with open_gateway(**options) as gateway, ClientSession() as session:
        sender = Sender(session, gateway.url)
        for number in range(8):
            await sender.send(number)
        events = {"wats.subscriber.unreachable", "wats.handler.failed"}
        await until(lambda: events <= {each["event"] for each in gateway.log})
        metrics = (await gateway.ask("GET", "/metrics")).body.decode()

    written = json.dumps([dict(each) for each in gateway.log]) + metrics
    assert "canary" not in written
    assert "127.0.0.1" not in written
    assert "Message" not in json.dumps([dict(each) for each in gateway.log])
