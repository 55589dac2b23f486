"""The worker of a handler keeps the promises of the queue while its store fails and others claim.

A process dispatches updates from a store that may be down, or lose the result of an operation.
Another process claims deliveries in between. Each call must have a valid lease when it begins, so
no delivery is called twice unless its lease was lost, and each delivery is done in the end, or has
used up its attempts.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Coroutine, Sequence
from time import monotonic
from typing import Any, TypeVar

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from typing_extensions import override

from tests.folders import in_memory
from tests.store.machines import hold
from tests.store.model import NOON
from wats.config import InboxConfig
from wats.errors import StoreUnavailable
from wats.inbound import updates
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Handlers
from wats.inbound.updates import Update
from wats.store.admin import DEAD_LETTERS
from wats.store.records import (
    Arrival,
    Claimed,
    Consumer,
    Delivery,
    DeliveryState,
    Received,
    Settled,
    Settlement,
)
from wats.store.sqlite import SQLiteStore
from wats.telemetry import Adapter, RouteLabel, Telemetry, UpdateKind
from wats.testing import FakeClock

R = TypeVar("R")

NAME = "handler"
LEASE_SECONDS = 0.3
PAUSE_SECONDS = 0.01
MAX_ATTEMPTS = 3


def number_of(payload: bytes) -> int:
    return int(updates.decode(payload).key, 16)


class FailingStore(SQLiteStore):
    """A store that is down, or does not report what it has done, from time to time."""

    is_down = False
    loses_results = False
    running = 0

    async def _maybe(self, operation: Awaitable[R]) -> R:
        if self.is_down:
            asyncio.ensure_future(operation).cancel()
            raise StoreUnavailable
        self.running += 1
        try:
            result = await operation
        finally:
            self.running -= 1
        if self.loses_results:
            self.loses_results = False
            raise StoreUnavailable
        return result

    @override
    async def claim(self, consumer: str, limit: int, *_: Any, **__: Any) -> Claimed:
        return await self._maybe(super().claim(consumer, limit))

    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        return await self._maybe(super().settle(settlements))

    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        return await self._maybe(super().renew(deliveries, is_final=is_final))


class WorkerMachine(RuleBasedStateMachine):
    """One process with a handler, whose calls end when the test wants, and another process."""

    store_class: type[FailingStore] = FailingStore

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.mkdtemp(prefix="wats-worker-", dir=in_memory())
        self.clock = FakeClock(NOON)
        path = f"{self.folder}/wats.db"
        self.store = self.store_class(path, now=self.clock)
        self.other = SQLiteStore(path, now=self.clock)
        self.held: list[Delivery] = []  # by the other process
        self.keys: dict[int, int] = {}
        self.calls: dict[int, asyncio.Future[None]] = {}
        self.begun: list[int] = []
        self.attempts: Counter[int] = Counter()
        self.may_repeat: set[int] = set()  # calls whose lease was lost, or that failed
        self.faults: list[str] = []
        handlers = Handlers()
        handlers.add(self._handle, name=NAME, schedule=(PAUSE_SECONDS,) * (MAX_ATTEMPTS - 1))
        self.dispatcher = Dispatcher(
            self.store,
            handlers,
            InboxConfig(concurrency=3, lease_seconds=LEASE_SECONDS, handler_timeout_seconds=60.0),
            telemetry=Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE),
            log=lambda _: None,
            jitter=lambda: 0.0,
        )

    def run(self, operation: Coroutine[Any, Any, R]) -> R:
        return self.loop.run_until_complete(operation)

    async def _handle(self, update: Update) -> None:
        number = int(update.key, 16)
        key = self.keys[number]
        if number in self.calls:
            if number not in self.may_repeat:
                self.faults.append("a delivery is called twice")
        elif any(self.keys[other] == key and other not in self.may_repeat for other in self.calls):
            self.faults.append("two deliveries of an ordering key are called")
        first = [other for other in self.begun if self.keys[other] == key]
        if number not in first and any(other > number for other in first):
            self.faults.append("a delivery is called before an earlier one")
        self.begun.append(number)
        self.attempts[number] += 1
        self.may_repeat.discard(number)
        call = self.calls[number] = self.loop.create_future()
        try:
            await call
        finally:
            if self.calls.get(number) is call:
                del self.calls[number]

    @initialize()
    def start(self) -> None:
        consumer = Consumer(name=NAME, lease_seconds=LEASE_SECONDS, max_attempts=MAX_ATTEMPTS)

        async def start() -> None:
            await self.store.open()
            await self.other.open()
            await self.other.register([consumer])
            await self.dispatcher.start()

        self.run(start())

    @rule(key=st.integers(1, 3))
    def arrive(self, key: int) -> None:
        number = len(self.keys) + 1
        self.keys[number] = key
        update = Update(
            key=f"{number:032x}",
            kind=UpdateKind.MESSAGE,
            field="messages",
            waba_id="1",
            conversation="one",
            occurred_at=NOON,
            received_at=NOON,
            raw={},
        )
        arrival = Arrival(
            key=number.to_bytes(16, "big"),
            occurred_at=NOON,
            received_at=NOON,
            kind="message",
            phone_number_id="1",
            ordering_key=key,
            payload=updates.encode(update),
            consumers=(NAME,),
        )
        received = self.loop.create_future()
        began = monotonic()

        def take(results: Sequence[Received | None] | None, error: Exception | None) -> None:
            assert results is not None
            assert results[0] is not None
            self.dispatcher.take(update, results[0], (NAME,), began)
            received.set_result(None)

        async def store() -> None:
            self.store.receive([arrival], take, self.dispatcher)
            await received
            await asyncio.sleep(0.005)

        self.run(store())

    @rule(place=st.integers(0, 2), fails=st.booleans(), loses=st.booleans())
    def end_a_call(self, place: int, fails: bool, loses: bool) -> None:
        """A call ends. The result of the next operation, often its settlement, may be lost."""
        if not self.calls:
            return
        number = sorted(self.calls)[place % len(self.calls)]
        self.store.loses_results = loses
        if fails:
            self.may_repeat.add(number)
            self.calls[number].set_exception(ConnectionError())
        else:
            self.calls[number].set_result(None)
        self.run(asyncio.sleep(0.02))

    @rule(is_long=st.booleans(), claims=st.booleans())
    def fail(self, is_long: bool, claims: bool) -> None:
        """The store is down for this process, maybe for longer than a lease."""

        async def fail() -> None:
            self.store.is_down = True
            while self.store.running:
                await asyncio.sleep(0.001)
            seconds = 1.2 * LEASE_SECONDS if is_long else 0.1 * LEASE_SECONDS
            await asyncio.sleep(seconds)
            self.clock.advance(seconds)
            if claims:
                await self._claim_as_another()
            self.store.is_down = False
            self.dispatcher.wake()
            await asyncio.sleep(0.03)

        self.run(fail())

    async def _claim_as_another(self) -> None:
        claimed = (await self.other.claim(NAME, 2)).deliveries
        for each in claimed:
            number = number_of(each.payload)
            self.may_repeat.add(number)
            self.begun.append(number)
            self.attempts[number] += not each.is_exhausted
        ids = {each.id for each in claimed}
        self.held = [each for each in self.held if each.id not in ids] + list(claimed)

    @rule(state=st.sampled_from((DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.PENDING)))
    def end_as_another(self, state: DeliveryState) -> None:
        if self.held:
            each = self.held.pop()
            state = DeliveryState.DEAD if each.is_exhausted else state
            self.run(self.other.settle([Settlement(each, state)]))
            self.dispatcher.wake()
            self.run(asyncio.sleep(0.005))

    @invariant()
    def each_call_had_a_lease(self) -> None:
        assert not self.faults

    @override
    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.run(self.dispatcher.stop(1))
            self.run(self.store.close())
            self.run(self.other.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _end(self) -> None:
        """End every call; each delivery is done, or a dead letter after its last attempt."""
        async with asyncio.timeout(10):
            while (await self.store.depth()).total.outstanding:
                for call in [*self.calls.values()]:
                    if not call.done():
                        call.set_result(None)
                self.clock.advance(PAUSE_SECONDS)
                self.dispatcher.wake()
                await asyncio.sleep(PAUSE_SECONDS)
        for letter in (await self.store.list_deliveries(DEAD_LETTERS, limit=1000)).items:
            found = await self.store.read_delivery(letter.id)
            assert found is not None
            assert self.attempts[number_of(found[1])] >= MAX_ATTEMPTS


@pytest.mark.parametrize("steps", [100, pytest.param(600, marks=pytest.mark.long)])
def test_a_worker_keeps_every_promise_of_the_queue(steps: int) -> None:
    hold(WorkerMachine, steps=steps)


class NeverRenews(FailingStore):
    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        await self._maybe(self.depth())
        return ()


class SettlesNoFailure(FailingStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        return await super().settle(
            [each for each in settlements if each.state is DeliveryState.DONE]
        )


class HandlesOnce(FailingStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        is_retry = DeliveryState.RETRY
        return await super().settle(
            [
                replace(each, state=DeliveryState.DEAD) if each.state is is_retry else each
                for each in settlements
            ]
        )


@pytest.mark.long
@pytest.mark.parametrize("broken", [NeverRenews, SettlesNoFailure, HandlesOnce])
def test_the_model_finds_a_worker_that_is_broken(broken: type[FailingStore]) -> None:
    machine = type(broken.__name__, (WorkerMachine,), {"store_class": broken})

    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(machine, steps=5000, phases=(Phase.generate,))
