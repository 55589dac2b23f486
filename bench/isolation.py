"""`python -m bench.isolation`: the delay of a subscriber next to a failing and a sleeping one.

Two messages of each conversation arrive, the conversations in turn, at a constant rate or, with
`--random`, at random moments, which are the same in each run. In the first and in the last of three
runs, the gateway has the good subscriber only. In the second, it also has one that responds with
500 for a minute, and one that sleeps before each response. Each must receive every message, and
those of a conversation in order. The delay is measured from the webhook to the first request with
its message. The gateway has a core, and the subscribers, each a process, have another.
"""

import argparse
import asyncio
import math
import random
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import uvloop
from typing_extensions import override

from bench.fanout import HOOK, KEY, parts_of, receive_webhook
from bench.machine import choose_cores, on_core
from bench.payloads import PHONE_NUMBER_ID, WABA_ID, Webhooks
from bench.processes import ROOT, ChildFailed, Server
from bench.receivers import PATHS, ReceivedRequest
from wats.cli.serve import collect_garbage_less_often
from wats.config import SubscriberConfig, WebhookConfig, WhatsAppConfig
from wats.service import WatsApp, create_wats_service_app
from wats.store import Store
from wats.store.open import open_store
from wats.testing import APP_SECRET, example_profile, example_secrets

GOOD, FAILING, _ = PATHS
RUNS: Final = ((GOOD,), PATHS, (GOOD,))
MESSAGES: Final = 2
"""The number of messages of each conversation."""
LOOK_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 600.0


class Conversations(Webhooks):
    """Makes webhooks with messages of *count* customers in turn.

    Attributes:
        expected: The ids of the messages of each customer, in order.
        sent: The time at which each message was sent.
    """

    def __init__(self, count: int) -> None:
        super().__init__(path=HOOK, app_secret=APP_SECRET)
        self._varied.phones = cycle([b"1555%07d" % number for number in range(count)])
        self.sent: dict[str, float] = {}
        self.expected: dict[str, list[str]] = defaultdict(list)

    @override
    def make(self) -> bytes:
        """Return the next request, and expect its message."""
        request = super().make()
        message = _message_in(request)
        self.expected[message["from"]].append(message["id"])
        return request


def _message_in(request: bytes) -> Any:
    value = msgspec.json.decode(parts_of(request)[1])["entry"][0]["changes"][0]["value"]
    (message,) = value["messages"]
    return message


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """The delays of a subscriber in a run, in milliseconds."""

    title: str
    messages: int
    p50_ms: float
    p99_ms: float


def delays_of(
    path: str, requests: Sequence[ReceivedRequest], sent: Conversations
) -> Mapping[str, float]:
    """Return the delay of each message at *path*.

    Raises:
        ChildFailed: A message is missing, or one arrived before an earlier one was accepted.
    """
    received: dict[str, list[str]] = defaultdict(list)
    delays: dict[str, float] = {}
    for each in requests:
        if each.path == path:
            if received[each.customer][-1:] != [each.message]:  # not a retry
                received[each.customer].append(each.message)
            delays.setdefault(each.message, each.moment - sent.sent[each.message])
    if received != sent.expected:
        msg = f"The subscriber {path} has not received all messages in order."
        raise ChildFailed(msg)
    return delays


def summary(title: str, delays: Collection[float]) -> Delays:
    """Return the percentiles of *delays*, in seconds."""
    ordered = [1000 * each for each in sorted(delays)] or [math.nan]
    return Delays(
        title=title,
        messages=len(delays),
        p50_ms=ordered[len(ordered) // 2],
        p99_ms=ordered[len(ordered) * 99 // 100],
    )


def judge(
    paths: Sequence[str], requests: Sequence[ReceivedRequest], sent: Conversations
) -> Iterator[Delays]:
    """Yield the delays of each of *paths*; of the good one also those during and after the outage.

    Raises:
        ChildFailed: See `delays_of`.
    """
    for path in paths:
        others = " and ".join(each for each in paths if each != path) or "alone"
        delays = delays_of(path, requests, sent)
        yield summary(f"{path}, {others}", delays.values())
        if path == GOOD and len(paths) > 1:
            ends = [each.moment for each in requests if each.path == FAILING and each.is_accepted]
            parts: dict[bool, list[float]] = {True: [], False: []}
            for message, delay in delays.items():
                parts[sent.sent[message] < min(ends)].append(delay)
            yield summary("  during the outage", parts[True])
            yield summary("  after the outage", parts[False])


def _app(urls: Mapping[str, str], store: Store) -> WatsApp:
    subscribers = tuple(
        SubscriberConfig(name=path, url=f"{url}/{path}", secrets=(), allow_private_network=True)
        for path, url in urls.items()
    )
    return create_wats_service_app(
        profile=example_profile(
            subscribers=subscribers,
            webhook=WebhookConfig(path=HOOK),
            whatsapp=WhatsAppConfig(waba_id=WABA_ID, phone_number_id=PHONE_NUMBER_ID),
        ),
        secrets=example_secrets(subscribers=dict.fromkeys(urls, (KEY,))),
        persistence=store,
        log=lambda _: None,
    )


def _pauses(rate: float, *, at_random: bool) -> Iterator[float]:
    """Yield the pauses between webhooks, in seconds: all equal, or those of a Poisson process."""
    chance = random.Random(0)
    while True:
        yield chance.expovariate(rate) if at_random else 1 / rate


async def _send(
    app: WatsApp, webhooks: Conversations, requests: Iterable[bytes], pauses: Iterator[float]
) -> None:
    due_at = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            message, parts = _message_in(request)["id"], parts_of(request)
            due_at += next(pauses)
            await asyncio.sleep(due_at - time.monotonic())
            webhooks.sent[message] = time.monotonic()
            tasks.create_task(receive_webhook(app, *parts))


async def _settled(store: Store) -> None:
    async with asyncio.timeout(SETTLE_SECONDS):
        while (await store.depth()).total.outstanding:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)


async def measure(
    folder: Path, urls: Mapping[str, str], options: argparse.Namespace
) -> Sequence[Delays]:
    """Deliver all messages to the subscribers at *urls*, by their paths; return their delays."""
    store = open_store(f"sqlite:///{folder}/{secrets.token_hex(4)}.db")
    app = _app(urls, store)
    webhooks = Conversations(options.conversations)
    made = [webhooks.make() for _ in range(MESSAGES * options.conversations)]
    await app.start()
    collect_garbage_less_often()  # as `wats serve` does
    try:
        await _send(app, webhooks, made, _pauses(options.rate, at_random=options.random))
        await _settled(store)
    finally:
        await app.stop()
    requests: list[ReceivedRequest] = []
    async with aiohttp.ClientSession() as session:
        for url in urls.values():
            async with session.get(f"{url}/requests") as response:
                body = await response.read()
            requests += msgspec.json.decode(body, type=list[ReceivedRequest])
    return list(judge([*urls], requests, webhooks))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.isolation", description=__doc__)
    parser.add_argument("--conversations", type=int, default=10_000, help="two messages of each")
    parser.add_argument("--rate", type=float, default=100.0, help="mean webhooks per second")
    parser.add_argument("--random", action="store_true", help="webhooks arrive at random moments")
    parser.add_argument("--fail", type=float, default=60.0, help="the seconds of the outage")
    parser.add_argument("--sleep", type=float, default=0.05, help="the seconds of each response")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark that the command line describes."""
    options = _options()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    cores = choose_cores()
    row = "{:28} {:>10} {:>10} {:>10}"
    print(f"{MESSAGES * options.conversations:,} webhooks, {options.rate:g} per second")
    print(row.format("subscriber, and the others", "messages", "p50 ms", "p99 ms"))
    arguments = ["bench.receivers", str(options.fail), str(options.sleep)]
    niceness = dict.fromkeys(PATHS, "19") | {GOOD: "0"}  # others must not delay it on their core
    try:
        with tempfile.TemporaryDirectory(prefix="isolation-", dir=build) as folder:
            for paths in RUNS:
                with ExitStack() as stack:
                    urls = {
                        path: stack.enter_context(
                            Server([*arguments, niceness[path]], core=cores.load, environ={})
                        ).url
                        for path in paths
                    }
                    work: Any = measure(Path(folder), urls, options)
                    with on_core(cores.server):
                        results = uvloop.run(work)
                for each in results:
                    times = f"{each.p50_ms:.1f}", f"{each.p99_ms:.1f}"
                    print(row.format(each.title, f"{each.messages:,}", *times), flush=True)
    except ChildFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
