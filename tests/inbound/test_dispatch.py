import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from apsw import FullError

from tests.store.results import dead_letters
from wats.clock import utc_now
from wats.config import InboxConfig
from wats.errors import StoreUnavailable
from wats.inbound import updates
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Batch, Handlers, RetryLater
from wats.inbound.receive import ordering_key_of
from wats.inbound.updates import Update
from wats.store import Store, receive
from wats.store.open import open_store
from wats.store.records import Arrival, Claimed, Consumer, Depth
from wats.telemetry import Adapter, FamilySet, RouteLabel, Telemetry, UpdateKind
from wats.testing import FakeClock


class Inbox:
    """A dispatcher on a store in memory, with a clock that tests advance."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE)
        self.handlers = Handlers()
        self.logged: list[Mapping[str, object]] = []
        self.config = InboxConfig(
            concurrency=4, max_attempts=3, handler_timeout_seconds=60.0, lease_seconds=3600.0
        )

    @asynccontextmanager
    async def dispatching(self) -> AsyncIterator[Dispatcher]:
        dispatcher = Dispatcher(
            self.store,
            self.handlers,
            self.config,
            telemetry=self.telemetry,
            log=self.logged.append,
            jitter=lambda: 0.0,
        )
        await dispatcher.start()
        try:
            yield dispatcher
        finally:
            await dispatcher.stop(60)

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
            ordering_key=ordering_key_of(update),
            payload=payload or updates.encode(update),
            consumers=self.handlers.consumers(update),
        )
        await self.store.register([Consumer(name=name) for name in self.handlers.names])
        (received,) = await receive(self.store, [arrival])
        assert received is not None

    async def lose_every_attempt(self) -> None:
        """Claim one delivery as often as permitted, as processes do that die."""
        (name,) = self.handlers.names
        await self.store.register(
            [Consumer(name=name, lease_seconds=1.0, max_attempts=self.config.max_attempts)]
        )
        for _ in range(self.config.max_attempts):
            assert len((await self.store.claim(name, 1)).deliveries) == 1
            self.clock.advance(2)

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for *done*, and advance the clock, so that retries become due."""
        async with asyncio.timeout(60):
            while not done():
                self.clock.advance(30)
                await asyncio.sleep(0.01)

    def counted(self, outcome: str) -> int:
        line = f'webhook_normalization_total{{outcome="{outcome}",update_kind="message"}} '
        lines = self.telemetry.render().body.decode().splitlines()
        return next((int(text.removeprefix(line)) for text in lines if text.startswith(line)), 0)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    clock = FakeClock(utc_now())
    store = open_store("sqlite:///:memory:", now=clock)
    await store.open()
    yield Inbox(store, clock)
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
    assert (await inbox.store.depth()).total == Depth()


async def test_an_update_is_retried_by_the_handler_that_failed_and_not_by_the_one_that_returned(
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


async def test_a_failed_update_holds_its_conversation_and_no_other(inbox: Inbox) -> None:
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


async def test_an_update_that_always_fails_becomes_a_dead_letter_and_blocks_nothing(
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

    assert (await inbox.store.depth()).total.dead == 1
    assert inbox.counted("error") == 3
    assert [each["event"] for each in inbox.logged] == ["wats.handler.failed", "wats.inbox.dead"]
    assert inbox.logged[1] == {
        "event": "wats.inbox.dead",
        "consumer": inbox.logged[0]["handler"],
        "kind": "message",
        "errorName": "ValueError",
    }


async def test_a_handler_that_takes_too_long_has_failed(inbox: Inbox) -> None:
    async def slow(update: Update) -> None:
        await asyncio.Event().wait()

    inbox.config = InboxConfig(max_attempts=1, handler_timeout_seconds=0.01, lease_seconds=3600.0)
    inbox.handlers.add(slow)
    await inbox.put(1)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("error") == 1)

    assert inbox.telemetry.errors.snapshot() == {"TimeoutError": 1}


@pytest.mark.parametrize(
    "raised",
    [asyncio.CancelledError, GeneratorExit, SystemExit, type("Odd", (BaseException,), {})],
)
async def test_an_exception_of_any_class_is_the_failure_of_its_delivery(
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
        await dispatcher.stop(60)
        await inbox.put(1)
        await dispatcher.start()
        await inbox.until(lambda: handled == [1])


async def test_an_update_that_cannot_be_decoded_becomes_a_dead_letter(inbox: Inbox) -> None:
    async def never(update: Update) -> None:
        raise AssertionError

    inbox.handlers.add(never)
    await inbox.put(1, payload=b"{not json")

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.logged != [])

    assert inbox.logged[0]["errorName"] == "DecodeError"
    assert (await inbox.store.depth()).total.dead == 1


async def test_a_handler_with_a_schedule_is_retried_by_it(inbox: Inbox) -> None:
    calls = []

    async def fail(update: Update) -> None:
        calls.append(inbox.clock())
        raise ValueError

    inbox.handlers.add(fail, name="own", schedule=(3600.0, 60.0))
    await inbox.put(1)

    async with inbox.dispatching() as dispatcher:
        await inbox.until(lambda: len(calls) == 3)

        pauses = [dispatcher.retry_seconds("own", attempt) for attempt in (1, 2, 3)]
    (dead,) = await dead_letters(inbox.store)
    first, second, third = calls
    assert (second - first).total_seconds() >= 3600
    assert 60 <= (third - second).total_seconds() < 3600
    assert pauses == [3600.0, 60.0, None]
    assert dead.attempts == 3


async def test_an_update_whose_every_attempt_ended_with_its_process_becomes_a_dead_letter(
    inbox: Inbox,
) -> None:
    async def never(update: Update) -> None:
        raise AssertionError

    inbox.handlers.add(never)
    await inbox.put(1)
    await inbox.lose_every_attempt()

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.logged != [])

    assert inbox.logged[0]["errorName"] == "LeaseExpired"


async def test_deliveries_not_begun_before_a_stop_are_handled_by_the_next_process(
    inbox: Inbox,
) -> None:
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
        stopping = asyncio.create_task(dispatcher.stop(60))
        await asyncio.sleep(0.01)
        gate.set()
        await stopping

    assert len(begun) == 4
    assert (await inbox.store.depth()).total == Depth(pending=4)


class SlowClaims:
    """A store whose claims return later than they lease."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.has_leased = asyncio.Event()
        self.may_return = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def claim(self, consumer: str, limit: int) -> Claimed:
        claimed = await self._store.claim(consumer, limit)
        self.has_leased.set()
        await self.may_return.wait()
        return claimed


async def stop_during_a_claim(inbox: Inbox) -> None:
    store = inbox.store
    slow = SlowClaims(store)
    inbox.store = slow  # type: ignore[assignment]
    async with inbox.dispatching() as dispatcher:
        await slow.has_leased.wait()
        stopping = asyncio.create_task(dispatcher.stop(60))
        await asyncio.sleep(0.01)
        slow.may_return.set()
        await stopping
    inbox.store = store


async def test_an_exhausted_update_is_not_handled_again_after_a_stop(
    inbox: Inbox,
) -> None:
    async def never(update: Update) -> None:
        raise AssertionError

    inbox.config = InboxConfig(max_attempts=1, lease_seconds=3600.0)
    inbox.handlers.add(never)
    await inbox.put(1)
    await inbox.lose_every_attempt()
    await stop_during_a_claim(inbox)

    assert (await inbox.store.depth()).total == Depth(dead=1)
    assert [letter.attempts for letter in await dead_letters(inbox.store)] == [1]


async def test_a_claim_that_ends_during_a_stop_counts_no_attempt(inbox: Inbox) -> None:
    handled: list[int] = []

    async def handle(update: Update) -> None:
        handled.append(update.raw["number"])

    inbox.config = InboxConfig(max_attempts=1, lease_seconds=3600.0)
    inbox.handlers.add(handle)
    await inbox.put(1)
    await stop_during_a_claim(inbox)
    assert (handled, (await inbox.store.depth()).total) == ([], Depth(pending=1))

    async with inbox.dispatching():
        await inbox.until(lambda: handled == [1])


async def test_a_call_that_a_stop_cuts_off_is_an_attempt_that_failed(inbox: Inbox) -> None:
    began = asyncio.Event()

    async def wait(update: Update) -> None:
        began.set()
        await asyncio.Event().wait()

    inbox.handlers.add(wait)
    await inbox.put(1)
    async with inbox.dispatching() as dispatcher:
        await began.wait()
        await dispatcher.stop(0.01)

    assert (await inbox.store.depth()).total == Depth(retry=1)
    assert inbox.counted("error") == 1


async def test_a_handler_that_is_slow_delays_no_other_handler(inbox: Inbox) -> None:
    handled: list[int] = []
    gate = asyncio.Event()

    async def slow(update: Update) -> None:
        await gate.wait()

    async def quick(update: Update) -> None:
        handled.append(update.raw["number"])

    inbox.handlers.add(slow)
    inbox.handlers.add(quick)
    for number in range(50):
        await inbox.put(number, f"conversation {number}")

    async with inbox.dispatching():
        await inbox.until(lambda: len(handled) == 50)
        while (await inbox.store.depth()).total != Depth(leased=4, pending=46):
            await asyncio.sleep(0.001)
        gate.set()

    assert handled == list(range(50))


async def test_a_store_that_fails_for_a_while_does_not_end_the_dispatching(inbox: Inbox) -> None:
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
    (line,) = [each for each in inbox.logged if each["event"] == "wats.store.error"]
    assert (line["method"], line["errorName"]) == ("dispatch", "FullError")


class Flaky:
    """A store whose first few claims and settlements fail."""

    def __init__(self, store: Store, failures: int) -> None:
        self._store = store
        self._failures = failures

    def __getattr__(self, name: str) -> object:
        if name in {"claim", "settle"} and self._failures:
            self._failures -= 1
            return self._fail
        return getattr(self._store, name)

    async def _fail(self, *args: object, **options: object) -> None:
        raise StoreUnavailable from FullError("wats.db")


async def test_a_postponed_update_is_handled_later_without_losing_an_attempt(inbox: Inbox) -> None:
    calls = 0

    async def busy(update: Update) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2 * inbox.config.max_attempts:
            raise RetryLater(20)

    inbox.handlers.add(busy)
    await inbox.put(1)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 1)

    assert (await inbox.store.depth()).total == Depth()
    assert inbox.counted("error") == 0
    assert inbox.logged == []


async def test_the_attempts_and_the_lag_of_a_handler_are_counted(inbox: Inbox) -> None:
    calls = 0

    async def busy(_: Update) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RetryLater(20)
        if calls == 2:
            raise ValueError

    inbox.handlers.add(busy, name="busy")
    inbox.telemetry = Telemetry(
        routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE, families=FamilySet.OPERATOR
    )
    inbox.telemetry.use_targets(inbox.handlers.names)
    async with inbox.dispatching() as dispatcher:
        dispatcher.now = inbox.clock
        await inbox.put(1)
        dispatcher.wake()
        await inbox.until(lambda: inbox.counted("success") == 1)

    lines = inbox.telemetry.render().body.decode().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if "busy" in line)
    for outcome in ("success", "error", "skipped"):
        assert samples[f'wats_dispatch_total{{outcome="{outcome}",target="busy"}}'] == "1"
    assert samples['wats_consumer_lag_seconds_count{target="busy"}'] == "1"
    assert float(samples['wats_consumer_lag_seconds_sum{target="busy"}']) >= 20


async def test_a_conversation_waits_in_order_for_its_postponed_update(inbox: Inbox) -> None:
    handled = []
    has_waited = False

    async def busy_once(update: Update) -> None:
        nonlocal has_waited
        if not has_waited:
            has_waited = True
            raise RetryLater(20)
        handled.append(update.raw["number"])

    inbox.handlers.add(busy_once)
    for number in (1, 2, 3):
        await inbox.put(number)

    async with inbox.dispatching():
        await inbox.until(lambda: len(handled) == 3)

    assert handled == [1, 2, 3]


async def test_a_handler_has_at_most_its_own_number_of_concurrent_calls(inbox: Inbox) -> None:
    running, most = 0, 0

    async def narrow(update: Update) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    inbox.handlers.add(narrow, concurrency=2)
    for number in range(8):
        await inbox.put(number, conversation=str(number))

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 8)

    assert most == 2


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_an_update_cannot_be_postponed_to_a_time_that_does_not_exist(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        RetryLater(seconds)


class Batches:
    """A handler of several updates at a time. It fails if one of these is in *poisoned*.

    Attributes:
        calls: The numbers of the updates of each call.
    """

    def __init__(self, inbox: Inbox, *, size: int = 10, poisoned: Collection[int] = ()) -> None:
        self.calls: list[list[int]] = []
        self.poisoned = frozenset(poisoned)
        inbox.config = InboxConfig(
            concurrency=4, max_attempts=3, handler_timeout_seconds=60.0, lease_seconds=3600.0
        )
        inbox.handlers.add(self, name="batches", batch=Batch(size, self.several))

    async def __call__(self, update: Update) -> None:
        await self.several([update])

    async def several(self, found: Sequence[Update]) -> None:
        self.calls.append([each.raw["number"] for each in found])
        if not self.poisoned.isdisjoint(self.calls[-1]):
            raise ValueError


async def test_waiting_updates_of_a_conversation_are_handled_in_one_call(inbox: Inbox) -> None:
    batches = Batches(inbox, size=3)
    for number in range(5):
        await inbox.put(number, "one")
    await inbox.put(9, "another")

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 6)

    assert sorted(batches.calls[:2]) == [[0, 1, 2], [9]]
    assert batches.calls[2:] == [[3, 4]]
    assert (await inbox.store.depth()).total == Depth()


async def test_every_update_of_a_call_is_counted_as_an_attempt_that_succeeded(inbox: Inbox) -> None:
    Batches(inbox)
    inbox.telemetry = Telemetry(
        routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE, families=FamilySet.OPERATOR
    )
    inbox.telemetry.use_targets(inbox.handlers.names)
    for number in range(5):
        await inbox.put(number)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 5)

    text = inbox.telemetry.render().body.decode()
    assert 'wats_dispatch_total{outcome="success",target="batches"} 5' in text
    assert 'wats_consumer_lag_seconds_count{target="batches"} 5' in text


async def test_an_update_that_always_fails_kills_none_of_the_updates_it_was_sent_with(
    inbox: Inbox,
) -> None:
    batches = Batches(inbox, poisoned={2})
    for number in range(6):
        await inbox.put(number)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 5)

    # Each call before that of the update alone has failed; then it is a dead letter.
    assert batches.calls == [
        [0, 1, 2, 3, 4, 5],
        [0],
        [1, 2, 3, 4, 5],
        [1],
        [2, 3, 4, 5],
        [2],
        [2],
        [3],
        [4, 5],
    ]
    (dead,) = await dead_letters(inbox.store)
    assert dead.attempts == 3
    assert inbox.counted("error") == 5


async def test_after_a_failure_each_call_has_one_update_until_one_succeeds(inbox: Inbox) -> None:
    batches = Batches(inbox, poisoned={0, 10, 20})
    for first in (0, 10, 20):
        await inbox.put(first, f"conversation {first}")
        await inbox.put(first + 1, f"conversation {first}")
    inbox.config = InboxConfig(concurrency=1, max_attempts=3, lease_seconds=3600.0)

    async with inbox.dispatching():
        await inbox.until(lambda: len(batches.calls) >= 3)
        batches.poisoned = frozenset()
        await inbox.until(lambda: inbox.counted("success") == 6)

    assert batches.calls[:3] == [[0, 1], [10], [20]]


async def test_a_follower_that_cannot_be_decoded_is_not_part_of_a_call(inbox: Inbox) -> None:
    batches = Batches(inbox)
    await inbox.put(0)
    await inbox.put(1)
    await inbox.put(2, payload=b"{not json")
    await inbox.put(3)

    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 3)

    assert batches.calls == [[0, 1], [3]]
    assert (await inbox.store.depth()).total == Depth(dead=1)


async def test_a_stop_during_a_call_repeats_its_updates_only(inbox: Inbox) -> None:
    batches = Batches(inbox, size=2)
    gate = asyncio.Event()
    handle = batches.several

    async def wait(found: Sequence[Update]) -> None:
        await handle(found)
        await gate.wait()

    inbox.handlers = Handlers()
    inbox.handlers.add(batches, name="batches", batch=Batch(2, wait))
    for number in range(4):
        await inbox.put(number)

    async with inbox.dispatching() as dispatcher:
        await inbox.until(lambda: batches.calls == [[0, 1]])
        await dispatcher.stop(0)
    gate.set()
    async with inbox.dispatching():
        await inbox.until(lambda: inbox.counted("success") == 4)

    assert batches.calls[1] == [0]
    assert [number for call in batches.calls[1:] for number in call] == [0, 1, 2, 3]
