"""Deliveries per second to one local subscriber, compared with a loop of aiohttp.

A round stores webhooks while the subscriber is paused, then measures from the end of the pause
until all deliveries are settled. The loop posts signed requests of the same form, with as many
connections, and does nothing else. Both run in this process, in turns, and the receiver on the core
of the load.
"""

import asyncio
import gc
import secrets
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from bench.payloads import PHONE_NUMBER_ID, WABA_ID, Webhooks
from bench.posting import post_all
from wats.clock import utc_now
from wats.config import SubscriberConfig, WebhookConfig, WhatsAppConfig
from wats.inbound.envelope import parse
from wats.inbound.normalize import normalize
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.service import WatsApp, create_wats_service_app
from wats.store import Store
from wats.store.open import open_store
from wats.store.sqlite.bell import Bell, bells_of
from wats.subscribers.requests import SubscriberRequest, make_requests
from wats.testing import APP_SECRET, example_profile, example_secrets

HOOK: Final = "/webhook"
NAME: Final = "subscriber"
CONCURRENCY: Final = 64
KEY: Final = Secret("whsec_c29tZS1yYW5kb20tYnl0ZXMtZm9yLXRlc3RzLW9ubHk=")
LOOK_SECONDS: Final = 0.01
STORED_AT_A_TIME: Final = 64


class FanoutOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of the database, the URL of the receiver, and the size of the measurement."""

    folder: str
    url: str
    deliveries: int
    rounds: int


class FanoutRates(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries, and requests of the loop, per second in each round; processor time in us."""

    deliveries: int
    wats: list[float]
    loop: list[float]
    wats_cpu_us: list[float]
    loop_cpu_us: list[float]


class Bodies:
    """Makes webhooks, and the requests to the subscriber that follow from these."""

    def __init__(self, config: SubscriberConfig) -> None:
        self._webhooks = Webhooks(path=HOOK, app_secret=APP_SECRET)
        self._make_request = make_requests(config, [KEY], {})

    def webhook(self) -> tuple[Mapping[str, str], bytes]:
        """Return the headers and the body of a new webhook."""
        return parts_of(self._webhooks.make())

    def request(self) -> SubscriberRequest:
        """Return the request with the update of a new webhook."""
        update: Update = normalize(parse(self.webhook()[1]), received_at=utc_now()).updates[0]
        return self._make_request([update], utc_now())


def parts_of(request: bytes) -> tuple[Mapping[str, str], bytes]:
    """Return the headers and the body of *request*."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines), body


async def receive_webhook(app: WatsApp, headers: Mapping[str, str], body: bytes) -> None:
    """Pass a webhook to *app*, which must accept it."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": HOOK,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.append(message.get("status", 200))

    await app(scope, receive, send)
    if set(statuses) != {200}:
        sys.exit("A webhook was refused.")


async def _store(app: WatsApp, bodies: Bodies, count: int) -> None:
    for first in range(0, count, STORED_AT_A_TIME):
        number = min(STORED_AT_A_TIME, count - first)
        await asyncio.gather(*(receive_webhook(app, *bodies.webhook()) for _ in range(number)))


async def _drain(store: Store, bell: Bell) -> None:
    await store.pause(NAME, is_paused=False)
    bell.ring()  # otherwise the gateway notices the end of the pause up to half a second later
    while (await store.depth()).total.outstanding:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    if (await store.depth()).total.dead:
        sys.exit("A delivery is a dead letter.")


async def measure(order: FanoutOrder) -> FanoutRates:
    """Measure both in turns, after a round that is not counted."""
    config = SubscriberConfig(
        name=NAME, url=order.url, secrets=(), concurrency=CONCURRENCY, allow_private_network=True
    )
    bodies = Bodies(config)
    bell, operator_bell = bells_of(2)
    path = Path(order.folder) / f"fanout-{secrets.token_hex(4)}.db"
    store = open_store(f"sqlite:///{path}", bell=bell)
    app = create_wats_service_app(
        profile=example_profile(
            subscribers=(config,),
            webhook=WebhookConfig(path=HOOK),
            whatsapp=WhatsAppConfig(waba_id=WABA_ID, phone_number_id=PHONE_NUMBER_ID),
        ),
        secrets=example_secrets(subscribers={NAME: (KEY,)}),
        persistence=store,
    )
    rates = FanoutRates(
        deliveries=order.deliveries, wats=[], loop=[], wats_cpu_us=[], loop_cpu_us=[]
    )
    await app.start()
    try:
        for _ in range(order.rounds + 1):
            await store.pause(NAME, is_paused=True)
            await _store(app, bodies, order.deliveries)
            _note(order, rates.wats, rates.wats_cpu_us, *await _timed(_drain(store, operator_bell)))
            requests = iter([bodies.request() for _ in range(order.deliveries)])
            posting = post_all(order.url, requests, CONCURRENCY)
            _note(order, rates.loop, rates.loop_cpu_us, *await _timed(posting))
    finally:
        await app.stop()
    return FanoutRates(
        deliveries=order.deliveries,
        **{
            name: getattr(rates, name)[1:]
            for name in ("wats", "loop", "wats_cpu_us", "loop_cpu_us")
        },
    )


async def _timed(work: Any) -> tuple[float, float]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - wall, time.process_time() - cpu


def _note(
    order: FanoutOrder, rates: list[float], costs: list[float], wall: float, cpu: float
) -> None:
    rates.append(order.deliveries / wall)
    costs.append(cpu / order.deliveries * 1e6)


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=FanoutOrder)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measure(order))))


if __name__ == "__main__":
    main()
