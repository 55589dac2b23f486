import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import pytest

from wats.worker import Duties, Worker


class Bench:
    """Work made of numbers, and a record of what became of it."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.claims: list[int] = []
        self.handled: list[int] = []
        self.settled: list[tuple[int, str]] = []
        self.renewed: list[int] = []
        self.troubles: list[str] = []
        self.replaced: list[str] = []
        self.handle: Callable[[int], Awaitable[None]] = self._at_once
        self.claim: Callable[[int], Awaitable[Sequence[int]]] = self._claim
        self.failing: set[str] = set()
        self.worker = self.make()

    def make(self, **changes: float) -> Worker[int, tuple[int, str]]:
        options = {"concurrency": 4, "backlog": 8, "poll_seconds": 0.01, "renew_seconds": 30.0}
        options |= changes
        self.worker = Worker(
            Duties(
                claim=self._claim_as_told,
                handle=self._handle,
                settle=self._settle,
                renew=self._renew,
                abandon=lambda item: (item, "abandoned"),
                trouble=lambda error: self.troubles.append(type(error).__name__),
                replaced=lambda error: self.replaced.append(type(error).__name__),
            ),
            **options,  # type: ignore[arg-type]
        )
        return self.worker

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not done():
                await asyncio.sleep(0.001)

    async def _at_once(self, item: int) -> None:
        pass

    async def _claim_as_told(self, limit: int) -> Sequence[int]:
        return await self.claim(limit)

    async def _claim(self, limit: int) -> Sequence[int]:
        self.claims.append(limit)
        if "claim" in self.failing:
            raise ConnectionError
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    async def _handle(self, item: int) -> tuple[int, str]:
        await self.handle(item)
        self.handled.append(item)
        return item, "done"

    async def _settle(self, results: Sequence[tuple[int, str]]) -> None:
        if "settle" in self.failing:
            raise ConnectionError
        self.settled.extend(results)

    async def _renew(self, items: Sequence[int]) -> None:
        self.renewed.extend(items)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.worker.stop(0)


async def test_everything_that_is_claimed_is_handled_and_settled_once(bench: Bench) -> None:
    bench.waiting = list(range(1000, 1100))

    bench.worker.start()
    await bench.until(lambda: len(bench.settled) == 100)

    assert sorted(bench.settled) == [(item, "done") for item in range(1000, 1100)]
    assert max(bench.claims) <= 8


async def test_waking_is_faster_than_polling(bench: Bench) -> None:
    bench.make(poll_seconds=60).start()
    await bench.until(lambda: bench.claims != [])

    bench.waiting = [1001]
    bench.worker.wake()

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_without_being_woken_work_is_found_by_polling(bench: Bench) -> None:
    bench.worker.start()
    await bench.until(lambda: bench.claims != [])

    bench.waiting = [1001]

    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_a_slow_item_does_not_hold_up_the_others(bench: Bench) -> None:
    gate = asyncio.Event()

    async def slow_once(item: int) -> None:
        if item == 1001:
            await gate.wait()

    bench.handle = slow_once
    bench.waiting = [1001, 1002, 1003]

    bench.worker.start()
    await bench.until(lambda: len(bench.settled) == 2)

    assert sorted(bench.settled) == [(1002, "done"), (1003, "done")]
    gate.set()
    await bench.until(lambda: (1001, "done") in bench.settled)


async def test_no_more_is_handled_at_once_than_there_are_consumers(bench: Bench) -> None:
    running = most = 0

    async def count(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    bench.handle = count
    bench.waiting = list(range(1000, 1040))

    bench.worker.start()
    await bench.until(lambda: len(bench.settled) == 40)

    assert most == 4


async def test_a_claim_that_fails_is_told_and_tried_again(bench: Bench) -> None:
    bench.failing = {"claim"}
    bench.waiting = [1001]

    bench.worker.start()
    await bench.until(lambda: len(bench.troubles) >= 2)
    bench.failing = set()

    await bench.until(lambda: bench.settled == [(1001, "done")])
    assert set(bench.troubles) == {"ConnectionError"}


async def test_a_result_that_cannot_be_settled_is_kept_and_settled_later(bench: Bench) -> None:
    bench.failing = {"settle"}
    bench.waiting = [1001, 1002]

    bench.worker.start()
    await bench.until(lambda: len(bench.troubles) >= 2)
    bench.failing = set()

    await bench.until(lambda: len(bench.settled) == 2)
    assert bench.handled == [1001, 1002]


async def test_an_item_whose_handling_raises_is_left_to_its_lease(bench: Bench) -> None:
    async def fail(item: int) -> None:
        if item == 1001:
            raise ValueError

    bench.handle = fail
    bench.waiting = [1001, 1002]

    bench.worker.start()
    await bench.until(lambda: len(bench.settled) == 1)

    assert bench.settled == [(1002, "done")]
    assert bench.troubles == ["ValueError"]


async def test_leases_of_what_is_still_being_handled_are_renewed(bench: Bench) -> None:
    gate = asyncio.Event()

    async def wait(item: int) -> None:
        await gate.wait()

    bench.make(renew_seconds=0.005)
    bench.handle = wait
    bench.waiting = [1001]

    bench.worker.start()
    await bench.until(lambda: bench.renewed.count(1001) >= 2)

    gate.set()
    await bench.until(lambda: bench.settled == [(1001, "done")])


async def test_stopping_lets_what_was_begun_end_and_abandons_the_rest(bench: Bench) -> None:
    gate = asyncio.Event()

    async def wait(item: int) -> None:
        await gate.wait()

    bench.handle = wait
    bench.waiting = list(range(1000, 1008))
    bench.worker.start()
    await bench.until(lambda: bench.waiting == [])
    await asyncio.sleep(0.01)

    stopping = asyncio.create_task(bench.worker.stop(5))
    await asyncio.sleep(0.01)
    gate.set()
    await stopping

    assert sorted(bench.settled) == [
        *((item, "done") for item in range(1000, 1004)),
        *((item, "abandoned") for item in range(1004, 1008)),
    ]


async def test_stopping_waits_no_longer_than_it_was_told_to(bench: Bench) -> None:
    async def wait_for_ever(item: int) -> None:
        await asyncio.Event().wait()

    bench.handle = wait_for_ever
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.waiting == [])

    await bench.worker.stop(0.01)

    assert bench.settled == [(1001, "abandoned")]


async def test_every_call_of_stop_returns_when_the_worker_has_stopped(bench: Bench) -> None:
    gate = asyncio.Event()

    async def wait(item: int) -> None:
        await gate.wait()

    bench.handle = wait
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.waiting == [])

    first, second = (asyncio.create_task(bench.worker.stop(5)) for _ in range(2))
    await asyncio.sleep(0.01)
    assert not first.done()
    assert not second.done()
    gate.set()
    await asyncio.gather(first, second)

    assert bench.settled == [(1001, "done")]


async def test_what_cannot_be_settled_at_the_end_is_told(bench: Bench) -> None:
    bench.failing = {"settle"}
    bench.waiting = [1001]
    bench.worker.start()
    await bench.until(lambda: bench.handled == [1001])

    await bench.worker.stop(0.01)

    assert bench.settled == []
    assert "ConnectionError" in bench.troubles


async def test_a_task_of_a_worker_that_is_cancelled_by_others_is_replaced(bench: Bench) -> None:
    before = asyncio.all_tasks()
    bench.worker.start()
    await asyncio.sleep(0)
    assert bench.worker.is_alive

    for task in asyncio.all_tasks() - before:
        task.cancel()
    await bench.until(lambda: len(bench.replaced) == 7)
    await bench.until(lambda: bench.worker.is_alive)
    bench.waiting = [1001]

    await bench.until(lambda: bench.settled == [(1001, "done")])
    assert set(bench.replaced) == {"CancelledError"}


@pytest.mark.parametrize("error", [SystemExit("x"), KeyboardInterrupt(), GeneratorExit()])
async def test_whatever_a_duty_raises_ends_nothing(bench: Bench, error: BaseException) -> None:
    async def fail(item: int) -> None:
        if item == 1001:
            raise error

    bench.make(concurrency=1)
    bench.handle = fail
    bench.waiting = [1001, 1002]

    bench.worker.start()
    await bench.until(lambda: bench.settled == [(1002, "done")])

    assert bench.troubles == [type(error).__name__]


async def test_a_worker_is_alive_from_its_start_to_its_stop(bench: Bench) -> None:
    assert not bench.worker.is_alive

    bench.worker.start()
    assert bench.worker.is_alive

    await bench.worker.stop(0)
    assert not bench.worker.is_alive


async def test_what_a_claim_leases_during_a_stop_is_abandoned(bench: Bench) -> None:
    claiming, gate = asyncio.Event(), asyncio.Event()

    async def claim(limit: int) -> Sequence[int]:
        claiming.set()
        await gate.wait()
        return [1001]

    bench.claim = claim
    bench.worker.start()
    await claiming.wait()

    stopping = asyncio.create_task(bench.worker.stop(5))
    await asyncio.sleep(0.01)
    gate.set()
    await stopping

    assert bench.settled == [(1001, "abandoned")]


async def test_a_stop_ends_although_a_duty_swallows_its_cancellation(bench: Bench) -> None:
    gate = asyncio.Event()

    async def claim(limit: int) -> Sequence[int]:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()
        return []

    bench.claim = claim
    bench.worker.start()
    await asyncio.sleep(0.01)

    async with asyncio.timeout(20):
        await bench.worker.stop(0.01)
    gate.set()
