import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from wats.clock import utc_now
from wats.config import InboxConfig
from wats.errors import StoreUnavailable
from wats.inbound import updates
from wats.inbound.dispatch import Dispatcher, retry_delay
from wats.inbound.handlers import Handlers
from wats.inbound.receive import lane_of
from wats.inbound.updates import Update
from wats.store import Store
from wats.store.open import open_store
from wats.store.records import Arrival, Kept
from wats.telemetry import Adapter, RouteLabel, Telemetry, UpdateKind
from wats.testing import FakeClock


class Inbox:
    """A dispatcher on a store in memory, with a clock that makes retries due at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = FakeClock(utc_now())
        self.telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE)
        self.handlers = Handlers()
        self.logged: list[Mapping[str, object]] = []
        self.config = InboxConfig(
            concurrency=4, max_attempts=3, handler_timeout_seconds=5.0, lease_seconds=3600.0
        )

    @asynccontextmanager
    async def dispatching(self) -> AsyncIterator[Dispatcher]:
        dispatcher = Dispatcher(
            self.store,
            self.handlers,
            self.config,
            telemetry=self.telemetry,
            log=self.logged.append,
            now=self.clock,
            jitter=lambda: 0.0,
        )
        dispatcher.start()
        try:
            yield dispatcher
        finally:
            await dispatcher.stop(5)

    async def put(self, number: int, conversation: str = "one", payload: bytes = b"") -> None:
        update = Update(
            key=f"{number:032x}",
            kind=UpdateKind.MESSAGE,
            field="messages",
            waba_id="1",
            conversation=conversation,
            occurred_at=self.clock(),
            received_at=self.clock(),
            raw={"number": number},
        )
        arrival = Arrival(
            key=bytes.fromhex(update.key),
            occurred_at=update.occurred_at,
            received_at=update.received_at,
            kind=update.kind,
            phone_number_id=None,
            lane=lane_of(update),
            payload=payload or updates.encode(update),
            targets=self.handlers.targets(update.kind),
        )
        assert list(await self.store.receive([arrival])) == [Kept()]

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for *done*, while time flies, so that whatever is to be retried is due."""
        async with asyncio.timeout(10):
            while not done():
                self.clock.advance(30)
                await asyncio.sleep(0.01)

    def counted(self, outcome: str) -> int:
        line = f'webhook_normalization_total{{outcome="{outcome}",update_kind="message"}} '
        lines = self.telemetry.render().body.decode().splitlines()
        return next((int(text.removeprefix(line)) for text in lines if text.startswith(line)), 0)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    store = open_store("sqlite:///:memory:")
    await store.open()
    yield Inbox(store)
    await store.close()


async def test_an_update_is_handled_once_by_every_handler_and_then_erased(inbox: Inbox) -> None:
    handled: Counter[str] = Counter()

    async def first(update: Update) -> None:
        handled["first"] += 1

    async def second(update: Update) -> None:
        handled["second"] += 1

    inbox.handlers.add(first)
    inbox.handlers.add(second)
    await inbox.put(1)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 1)

    assert handled == {"first": 1, "second": 1}
    depth = await inbox.store.inbox_depth()
    assert (depth.pending, depth.leased, depth.retry, depth.dead) == (0, 0, 0, 0)


async def test_a_failing_handler_gets_it_again_and_the_one_that_returned_does_not(
    inbox: Inbox,
) -> None:
    handled: Counter[str] = Counter()

    async def good(update: Update) -> None:
        handled["good"] += 1

    async def bad_twice(update: Update) -> None:
        handled["bad"] += 1
        if handled["bad"] < 3:
            raise ConnectionError

    inbox.handlers.add(good)
    inbox.handlers.add(bad_twice)
    await inbox.put(1)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 1)

    assert handled == {"good": 1, "bad": 3}
    assert inbox.counted("error") == 2
    assert inbox.telemetry.errors.snapshot() == {"ConnectionError": 2}


async def test_one_conversation_keeps_its_order_while_others_go_on(inbox: Inbox) -> None:
    order: list[int] = []
    failed = False

    async def fail_on_first(update: Update) -> None:
        nonlocal failed
        if update.raw["number"] == 1 and not failed:
            failed = True
            raise ValueError
        order.append(update.raw["number"])

    inbox.handlers.add(fail_on_first)
    for number in (1, 2, 3):
        await inbox.put(number, "one")
    await inbox.put(10, "another")

    async with inbox.dispatching():
        await inbox.until(lambda: len(order) == 4)

    assert order[0] == 10
    assert order[1:] == [1, 2, 3]


async def test_what_always_fails_is_given_up_on_and_kept_and_holds_up_nobody(
    inbox: Inbox,
) -> None:
    handled: list[int] = []

    async def poisoned(update: Update) -> None:
        if update.raw["number"] == 1:
            raise ValueError
        handled.append(update.raw["number"])

    inbox.handlers.add(poisoned)
    await inbox.put(1)
    await inbox.put(2)

    async with inbox.dispatching():
        await inbox.until(lambda: handled == [2])

    assert (await inbox.store.inbox_depth()).dead == 1
    assert inbox.counted("error") == 3
    assert inbox.logged == [
        {"event": "wats.inbox.dead", "kind": "message", "errorName": "ValueError"}
    ]


async def test_a_handler_that_takes_too_long_has_failed(inbox: Inbox) -> None:
    async def slow(update: Update) -> None:
        await asyncio.Event().wait()

    inbox.config = InboxConfig(max_attempts=1, handler_timeout_seconds=0.01, lease_seconds=3600.0)
    inbox.handlers.add(slow)
    await inbox.put(1)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("error") == 1)

    assert inbox.telemetry.errors.snapshot() == {"TimeoutError": 1}


@pytest.mark.parametrize("raised", [asyncio.CancelledError, type("Odd", (BaseException,), {})])
async def test_whatever_a_handler_raises_is_its_failure_and_stops_nobody(
    inbox: Inbox, raised: type[BaseException]
) -> None:
    handled: list[int] = []

    async def odd_once(update: Update) -> None:
        handled.append(update.raw["number"])
        if len(handled) == 1:
            raise raised

    inbox.config = InboxConfig(concurrency=1, lease_seconds=3600.0)
    inbox.handlers.add(odd_once)
    await inbox.put(1, "one")
    await inbox.put(2, "another")

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 2)

    assert sorted(handled) == [1, 1, 2]
    assert inbox.counted("error") == 1


async def test_a_dispatcher_can_be_started_again(inbox: Inbox) -> None:
    handled: list[int] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["number"])

    inbox.handlers.add(handle)
    async with inbox.dispatching() as dispatcher:
        await dispatcher.stop(5)
        await inbox.put(1)
        dispatcher.start()
        await inbox.until(lambda: handled == [1])


async def test_an_update_that_cannot_be_read_is_given_up_on(inbox: Inbox) -> None:
    async def never(update: Update) -> None:
        raise AssertionError

    inbox.handlers.add(never)
    await inbox.put(1, payload=b"{not json")

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.logged != [])

    assert inbox.logged[0]["errorName"] == "DecodeError"
    assert (await inbox.store.inbox_depth()).dead == 1


async def test_an_update_that_kills_its_processes_is_given_up_on(inbox: Inbox) -> None:
    async def never(update: Update) -> None:
        raise AssertionError

    inbox.handlers.add(never)
    await inbox.put(1)
    for _ in range(inbox.config.max_attempts):
        leased = await inbox.store.claim_deliveries(
            targets=inbox.handlers.names, limit=1, lease_seconds=1, now=inbox.clock()
        )
        assert len(leased) == 1
        inbox.clock.advance(2)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.logged != [])

    assert inbox.logged[0]["errorName"] == "LeaseExpired"


async def test_what_was_not_begun_at_the_end_is_left_for_the_next_process(inbox: Inbox) -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def wait(update: Update) -> None:
        begun.append(update.raw["number"])
        await gate.wait()

    inbox.handlers.add(wait)
    for number in range(8):
        await inbox.put(number, f"conversation {number}")

    async with inbox.dispatching() as dispatcher:
        await inbox.until(lambda: len(begun) == 4)
        stopping = asyncio.create_task(dispatcher.stop(5))
        await asyncio.sleep(0.01)
        gate.set()
        await stopping

    assert len(begun) == 4
    depth = await inbox.store.inbox_depth()
    assert (depth.pending, depth.leased) == (4, 0)


async def test_a_store_that_fails_for_a_while_stops_nothing(inbox: Inbox) -> None:
    handled: list[int] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["number"])

    inbox.handlers.add(handle)
    await inbox.put(1)
    inbox.store = Flaky(inbox.store, failures=3)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 1)

    assert handled == [1]
    assert inbox.telemetry.errors.snapshot() == {"StoreUnavailable": 3}


class Flaky:
    """A store whose first few claims and settlements fail."""

    def __init__(self, store: Store, failures: int) -> None:
        self._store = store
        self._failures = failures

    def __getattr__(self, name: str) -> object:
        if name in {"claim_deliveries", "settle_deliveries"} and self._failures:
            self._failures -= 1
            return self._fail
        return getattr(self._store, name)

    async def _fail(self, *args: object, **options: object) -> None:
        raise StoreUnavailable


def test_retries_come_ever_later_and_never_later_than_an_hour() -> None:
    delays = [retry_delay(attempt, 0.0) for attempt in range(1, 60)]

    assert delays[:4] == [timedelta(seconds=seconds) for seconds in (1, 3, 9, 27)]
    assert delays == sorted(delays)
    assert delays[-1] == timedelta(hours=1)
    assert retry_delay(1, 1.0) == timedelta(seconds=0.8)
