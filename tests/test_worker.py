import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from wats.worker import Duties, Job, Worker

Result = tuple[int, str]


class Work:
    """A job of a `Bench`, which is a number."""

    def __init__(self, bench: "Bench", item: int) -> None:
        self.bench = bench
        self.item = item
        self.result: Result = (item, "released")
        self.handling: asyncio.Future[None] | None = None

    def begin(self, on_end: Callable[[Job], None]) -> None:
        self.bench.begun.append(self.item)
        self.handling = asyncio.ensure_future(self.bench.handle(self.item))
        self.handling.add_done_callback(partial(self._end, on_end))

    def _end(self, on_end: Callable[[Job], None], handling: "asyncio.Future[None]") -> None:
        self.result = self.item, "cut off" if handling.cancelled() else "done"
        on_end(self)

    def cancel(self) -> None:
        assert self.handling is not None
        self.handling.cancel()

    def release(self) -> None:
        self.result = self.item, "released"


class Bench:
    """Work made of numbers, and a record of the worker's actions."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.claims: list[int] = []
        self.begun: list[int] = []
        self.settled: list[Result] = []
        self.renewed: list[int] = []
        self.troubles: list[str] = []
        self.replaced: list[str] = []
        self.handle: Callable[[int], Awaitable[None]] = self._immediately
        self.claim: Callable[[int], Awaitable[tuple[Sequence[int], bool]]] = self.claim_waiting
        self.settle: Callable[[Sequence[Result]], Awaitable[bool]] = self.record
        self.failing: set[str] = set()
        self.worker = self.make()

    def make(self, **changes: Any) -> Worker[Work]:
        options: dict[str, Any] = {
            "concurrency": 4,
            "poll_seconds": 0.01,
            "renew_seconds": 30.0,
        } | changes
        self.worker = Worker(
            Duties(
                claim=self._claim,
                settle=self._settle,
                renew=self._renew,
                trouble=lambda error: self.troubles.append(type(error).__name__),
                replaced=lambda error: self.replaced.append(type(error).__name__),
            ),
            **options,
        )
        return self.worker

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():
                await asyncio.sleep(0.001)

    async def until_asleep(self) -> None:
        """Wait until the claimer has found nothing and waits to be woken."""
        await self.until(lambda: self.claims != [])
        await asyncio.sleep(0.01)

    async def _claim(self, limit: int) -> tuple[Sequence[Work], bool]:
        items, more = await self.claim(limit)
        return [Work(self, item) for item in items], more

    async def _settle(self, jobs: Sequence[Work]) -> bool:
        return await self.settle([job.result for job in jobs])

    def offer(self, item: int) -> None:
        self.worker.offer(Work(self, item))

    async def _immediately(self, item: int) -> None:
        pass

    async def claim_waiting(self, limit: int) -> tuple[Sequence[int], bool]:
        self.claims.append(limit)
        if "claim" in self.failing:
            raise ConnectionError
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken, bool(self.waiting)

    async def record(self, results: Sequence[Result]) -> bool:
        if "settle" in self.failing:
            raise ConnectionError
        self.settled.extend(results)
        return False

    async def _renew(self, jobs: Sequence[Work]) -> None:
        if "renew" in self.failing:
            raise ConnectionError
        self.renewed.extend(job.item for job in jobs)


class Gate:
    """Holds up handlings until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def wait(self, item: int) -> None:
        await self.open.wait()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.worker.stop(0)


async def test_every_claimed_item_is_handled_and_settled_once(bench: Bench) -> None:
    bench.waiting = list(range(1000, 1100))

    bench.worker.start()
    await bench.until(lambda: len(bench.settled) == 100)

    assert sorted(bench.settled) == [(item, "done") for item in range(1000, 1100)]
    assert bench.begun == list(range(1000, 1100))
    assert max(bench.claims) <= 4


async def test_a_woken_worker_claims_before_its_next_poll(bench: Bench) -> None:
    bench.make(poll_seconds=3600).start()
    await bench.until_asleep()

    bench.waiting = [1001]
    bench.worker.wake()

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_stored_work_is_claimed_before_the_next_poll(bench: Bench) -> None:
    bench.make(poll_seconds=3600).start()
    await bench.until_asleep()

    bench.waiting = [1001]
    bench.worker.note_work()

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_a_wake_during_a_claim_leads_to_another_claim(bench: Bench) -> None:
    claiming, gate = asyncio.Event(), asyncio.Event()

    async def claim(limit: int) -> tuple[Sequence[int], bool]:
        found = await bench.claim_waiting(limit)
        claiming.set()
        await gate.wait()
        return found

    bench.make(poll_seconds=3600)
    bench.claim = claim
    bench.worker.start()
    await claiming.wait()

    bench.waiting = [1001]
    bench.worker.wake()
    gate.set()

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_work_that_a_settlement_made_due_is_claimed_before_the_next_poll(
    bench: Bench,
) -> None:
    async def settle(results: Sequence[Result]) -> bool:
        bench.settled.extend(results)
        if len(bench.settled) == 1:
            bench.waiting = [1002]
        return len(bench.settled) == 1

    bench.make(poll_seconds=3600)
    bench.settle = settle
    bench.waiting = [1001]
    bench.worker.start()

    await bench.until(lambda: bench.settled == [(1001, "done"), (1002, "done")])


async def test_without_being_woken_a_worker_finds_work_by_polling(bench: Bench) -> None:
    bench.worker.start()
    await bench.until_asleep()

    bench.waiting = [1001]

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_a_slow_item_does_not_delay_the_others(bench: Bench) -> None:
    gate = Gate()

    async def slow_once(item: int) -> None:
        if item == 1001:
            await gate.wait(item)

    bench.handle = slow_once
    bench.waiting = [1001, 1002, 1003]

    bench.worker.start()
    await bench.until(lambda: len(bench.settled) == 2)

    assert sorted(bench.settled) == [(1002, "done"), (1003, "done")]
    gate.open.set()
    await bench.until(lambda: (1001, "done") in bench.settled)


async def test_no_more_items_are_leased_than_there_are_slots(bench: Bench) -> None:
    gate = Gate()
    bench.handle = gate.wait
    bench.waiting = list(range(1000, 1040))

    bench.worker.start()
    await bench.until(lambda: len(bench.begun) == 4)
    await asyncio.sleep(0.05)

    assert (len(bench.begun), len(bench.waiting)) == (4, 36)
    gate.open.set()
    await bench.until(lambda: len(bench.settled) == 40)


async def test_the_slots_of_items_that_end_in_successive_turns_of_the_loop_share_a_claim(
    bench: Bench,
) -> None:
    gate = Gate()

    async def end_in_turn(item: int) -> None:
        await gate.wait(item)
        for _ in range(item % 4):
            await asyncio.sleep(0)

    bench.make(poll_seconds=60)
    bench.handle = end_in_turn
    bench.waiting = list(range(1000, 1008))
    bench.worker.start()
    await bench.until(lambda: len(bench.begun) == 4)

    before = len(bench.claims)
    gate.open.set()
    await bench.until(lambda: len(bench.settled) == 8)

    assert bench.claims[before] == 4


async def test_a_claim_that_fails_is_reported_and_tried_again(bench: Bench) -> None:
    bench.failing = {"claim"}
    bench.waiting = [1001]

    bench.worker.start()
    await bench.until(lambda: len(bench.troubles) >= 2)
    bench.failing = set()

    await bench.until(lambda: bench.settled == [(1001, "done")])
    assert set(bench.troubles) == {"ConnectionError"}


async def test_a_claim_that_fails_uses_no_slot(bench: Bench) -> None:
    bench.failing = {"claim"}
    bench.worker.start()
    await bench.until(lambda: len(bench.troubles) >= 2)

    assert bench.worker.reserve(5) == 4

    bench.worker.give_back(4)


async def test_results_that_cannot_be_settled_are_kept_and_settled_later(bench: Bench) -> None:
    bench.failing = {"settle"}
    bench.waiting = [1001, 1002]

    bench.worker.start()
    await bench.until(lambda: len(bench.troubles) >= 2)
    bench.failing = set()

    await bench.until(lambda: len(bench.settled) == 2)
    assert bench.begun == [1001, 1002]


async def test_leases_of_items_that_are_being_handled_are_renewed(bench: Bench) -> None:
    gate = Gate()
    bench.make(renew_seconds=0.005)
    bench.handle = gate.wait
    bench.waiting = [1001]

    bench.worker.start()
    await bench.until(lambda: bench.renewed.count(1001) >= 2)

    gate.open.set()
    await bench.until(lambda: bench.settled == [(1001, "done")])


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "not-settled"])
async def test_after_an_outage_all_leases_are_renewed_before_the_next_claim(
    bench: Bench, is_running: bool
) -> None:
    gate = Gate()
    bench.handle = gate.wait if is_running else bench.handle
    bench.make(renew_seconds=0.005).start()
    bench.failing = {"claim", "renew", "settle"}
    bench.offer(1001)
    await bench.until(lambda: len(bench.troubles) >= 3)
    await asyncio.sleep(0.02)  # longer than two intervals
    renewed: list[list[int]] = []

    async def claim(limit: int) -> tuple[Sequence[int], bool]:
        renewed.append(list(bench.renewed))
        return [], False

    bench.claim = claim
    bench.failing = {"settle"}

    await bench.until(lambda: renewed != [])
    assert 1001 in renewed[0]
    gate.open.set()
    bench.failing = set()
    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_items_wait_unclaimed_while_the_limit_permits_none(bench: Bench) -> None:
    limit, bench.waiting = 0, [1, 2, 3]
    bench.make(limit=lambda: limit).start()
    await asyncio.sleep(0.05)
    reserved = bench.worker.reserve(1)
    claims = list(bench.claims)

    limit = 1
    await bench.until(lambda: len(bench.settled) == 3)

    assert (reserved, claims) == (0, [])
    assert set(bench.claims) == {1}


async def test_an_item_leased_on_arrival_is_handled_in_its_reserved_slot(bench: Bench) -> None:
    gate = Gate()
    bench.handle = gate.wait
    bench.make(poll_seconds=3600).start()
    await bench.until_asleep()
    assert bench.worker.reserve(5) == 4

    bench.worker.give_back(3)
    for item in (1001, 1002):
        bench.offer(item)

    assert bench.begun == [1001, 1002]
    assert bench.worker.reserve(2) == 1
    bench.worker.give_back(2)
    gate.open.set()
    await bench.until(lambda: len(bench.settled) == 2)


async def test_a_slot_that_is_given_back_is_used_by_the_next_claim(bench: Bench) -> None:
    bench.make(poll_seconds=3600, concurrency=1).start()
    await bench.until_asleep()
    assert bench.worker.reserve(1) == 1
    bench.waiting = [1001]
    bench.worker.note_work()
    await asyncio.sleep(0.01)
    assert bench.begun == []

    bench.worker.give_back(1)

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_no_slot_is_reserved_before_the_start_or_after_the_stop(bench: Bench) -> None:
    assert bench.worker.reserve(1) == 0
    bench.worker.start()
    assert bench.worker.reserve(1) == 1
    bench.worker.give_back(1)

    await bench.worker.stop(0)

    assert bench.worker.reserve(1) == 0


async def test_a_stop_finishes_begun_items_and_claims_no_others(bench: Bench) -> None:
    gate = Gate()
    bench.handle = gate.wait
    bench.waiting = list(range(1000, 1008))
    bench.worker.start()
    await bench.until(lambda: len(bench.begun) == 4)

    stopping = asyncio.create_task(bench.worker.stop(60))
    await asyncio.sleep(0.01)
    gate.open.set()
    await stopping

    assert sorted(bench.settled) == [(item, "done") for item in range(1000, 1004)]
    assert bench.waiting == list(range(1004, 1008))


async def test_a_stop_cuts_off_items_that_exceed_the_drain_time(bench: Bench) -> None:
    bench.handle = Gate().wait
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.begun == [1001])

    await bench.worker.stop(0.01)

    assert bench.settled == [(1001, "cut off")]


async def test_an_item_that_is_leased_on_arrival_during_a_stop_is_released(bench: Bench) -> None:
    bench.worker.start()
    await bench.until_asleep()
    assert bench.worker.reserve(1) == 1
    stopping = asyncio.create_task(bench.worker.stop(60))
    await asyncio.sleep(0.01)
    assert not stopping.done()

    bench.worker.give_back(1)
    bench.offer(1001)
    await stopping

    assert (bench.begun, bench.settled) == ([], [(1001, "released")])


async def test_items_of_a_claim_that_ends_during_a_stop_are_released(bench: Bench) -> None:
    claiming, gate = asyncio.Event(), asyncio.Event()

    async def claim(limit: int) -> tuple[Sequence[int], bool]:
        claiming.set()
        await gate.wait()
        return [1001], False

    bench.claim = claim
    bench.worker.start()
    await claiming.wait()

    stopping = asyncio.create_task(bench.worker.stop(60))
    await asyncio.sleep(0.01)
    gate.set()
    await stopping

    assert (bench.begun, bench.settled) == ([], [(1001, "released")])


async def test_a_settlement_that_is_under_way_is_awaited_by_a_stop(bench: Bench) -> None:
    settling, gate = asyncio.Event(), asyncio.Event()

    async def settle(results: Sequence[Result]) -> bool:
        settling.set()
        await gate.wait()
        return await bench.record(results)

    bench.settle = settle
    bench.waiting = [1001]
    bench.worker.start()
    await settling.wait()

    stopping = asyncio.create_task(bench.worker.stop(60))
    await asyncio.sleep(0.01)
    gate.set()
    await stopping

    assert bench.settled == [(1001, "done")]


async def test_a_settlement_that_fails_during_a_stop_is_tried_again(bench: Bench) -> None:
    bench.failing = {"settle"}
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.troubles != [])

    stopping = asyncio.create_task(bench.worker.stop(60))
    await asyncio.sleep(0.01)
    bench.failing = set()
    await stopping

    assert bench.settled == [(1001, "done")]


async def test_a_stop_is_bounded_although_settling_fails(
    bench: Bench,
) -> None:
    bench.make(end_seconds=0.1)
    bench.failing = {"settle"}
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.begun == [1001])

    await bench.worker.stop(0.01)

    assert bench.settled == []
    assert "ConnectionError" in bench.troubles


async def test_every_call_of_stop_returns_when_the_worker_has_stopped(bench: Bench) -> None:
    gate = Gate()
    bench.handle = gate.wait
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.begun == [1001])

    first, second = (asyncio.create_task(bench.worker.stop(60)) for _ in range(2))
    await asyncio.sleep(0.01)
    assert not first.done()
    assert not second.done()
    gate.open.set()
    await asyncio.gather(first, second)

    assert bench.settled == [(1001, "done")]


async def test_a_cancelled_call_of_stop_does_not_end_the_stop(bench: Bench) -> None:
    gate = Gate()
    bench.handle = gate.wait
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.begun == [1001])
    stopping = asyncio.create_task(bench.worker.stop(60))
    await asyncio.sleep(0.01)

    stopping.cancel()
    gate.open.set()
    await bench.worker.stop(60)

    assert bench.settled == [(1001, "done")]


async def test_a_task_of_a_worker_that_is_cancelled_by_others_is_replaced(bench: Bench) -> None:
    before = asyncio.all_tasks()
    bench.worker.start()
    await asyncio.sleep(0)
    assert bench.worker.is_alive

    for task in asyncio.all_tasks() - before:
        task.cancel()
    await bench.until(lambda: len(bench.replaced) == 3)
    await bench.until(lambda: bench.worker.is_alive)
    bench.waiting = [1001]

    await bench.until(lambda: bench.settled == [(1001, "done")])
    assert set(bench.replaced) == {"CancelledError"}


async def test_results_of_a_settler_that_is_cancelled_by_others_are_settled_by_the_next(
    bench: Bench,
) -> None:
    settler: list[asyncio.Task[object]] = []

    async def settle(results: Sequence[Result]) -> bool:
        if not settler:
            task = asyncio.current_task()
            assert task is not None
            settler.append(task)
            await asyncio.Event().wait()
        return await bench.record(results)

    bench.settle = settle
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: settler != [])

    settler[0].cancel()

    await bench.until(lambda: bench.settled == [(1001, "done")])


@pytest.mark.parametrize("error", [SystemExit("x"), KeyboardInterrupt(), GeneratorExit()])
async def test_an_exception_of_any_class_in_a_duty_does_not_end_the_worker(
    bench: Bench, error: BaseException
) -> None:
    async def fail_once(limit: int) -> tuple[Sequence[int], bool]:
        bench.claim = bench.claim_waiting
        raise error

    bench.claim = fail_once
    bench.waiting = [1001]

    bench.worker.start()
    await bench.until(lambda: bench.settled == [(1001, "done")])

    assert bench.troubles == [type(error).__name__]


async def test_a_worker_is_alive_from_its_start_to_its_stop(bench: Bench) -> None:
    assert not bench.worker.is_alive

    bench.worker.start()
    assert bench.worker.is_alive

    await bench.worker.stop(0)
    assert not bench.worker.is_alive


async def test_a_stop_ends_although_a_duty_swallows_its_cancellation(
    bench: Bench,
) -> None:
    bench.make(end_seconds=0.1)
    gate = asyncio.Event()

    async def claim(limit: int) -> tuple[Sequence[int], bool]:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()
        return [], False

    bench.claim = claim
    bench.worker.start()
    await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await bench.worker.stop(0.01)
    gate.set()


async def test_a_stop_ends_although_a_handling_swallows_its_cancellation(
    bench: Bench,
) -> None:
    bench.make(end_seconds=0.1)
    gate = asyncio.Event()

    async def stubborn(item: int) -> None:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    bench.handle = stubborn
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.begun == [1001])

    async with asyncio.timeout(60):
        await bench.worker.stop(0.01)

    assert bench.settled == []
    gate.set()
