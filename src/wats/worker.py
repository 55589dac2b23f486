"""The lease loop: claim, handle, settle. It knows no message, no store and no handler.

Work is leased in batches, handled by a fixed number of consumers, and settled in batches while
the next ones are already under way, so one commit serves many. Whoever adds work calls `wake`.

    claimer ──items──▶ consumers ──results──▶ settler
       ▲                                         │
       └──── woken: new work, or room for it ────┘
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from wats.cancellation import is_for_this_task

Item = TypeVar("Item")
Result = TypeVar("Result")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties(Generic[Item, Result]):
    """What a worker does with its items.

    Attributes:
        claim: Leases up to so many items.
        handle: Does the work of one item. An item whose `handle` raises is left to its lease.
        settle: Writes down what became of items.
        renew: Extends the leases of items that are still being worked on.
        abandon: Says what becomes of an item that was leased and not handled before the end.
        trouble: Is told of every exception of the others. They are tried again, after a pause.
    """

    claim: Callable[[int], Awaitable[Sequence[Item]]]
    handle: Callable[[Item], Awaitable[Result]]
    settle: Callable[[Sequence[Result]], Awaitable[None]]
    renew: Callable[[Sequence[Item]], Awaitable[None]]
    abandon: Callable[[Item], Result]
    trouble: Callable[[BaseException], None]


class Worker(Generic[Item, Result]):
    """Does its duties until it is stopped, whatever exceptions they raise.

    Results are kept until they are settled. If that never succeeds the leases run out, and the
    work is done again by whoever claims it then.

    Args:
        duties: What to do.
        concurrency: How many items are handled at once.
        backlog: How many items are leased at once, handled or waiting for a consumer.
        poll_seconds: How long to sleep without being woken; what is due by then, or was left by
            another process, is found at the end of it.
        renew_seconds: How often leases are renewed.
    """

    def __init__(
        self,
        duties: Duties[Item, Result],
        *,
        concurrency: int,
        backlog: int,
        poll_seconds: float,
        renew_seconds: float,
    ) -> None:
        self._duties = duties
        self._concurrency = concurrency
        self._backlog = backlog
        self._poll_seconds = poll_seconds
        self._renew_seconds = renew_seconds
        self._held: dict[int, Item] = {}
        self._results: list[Result] = []
        self._queue: deque[Item] = deque()
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._is_waking = False
        self._awake = asyncio.Event()
        self._finished = asyncio.Event()
        self._stopping = False
        self._is_full = False
        self._consumers: list[asyncio.Task[None]] = []
        self._loops: list[asyncio.Task[None]] = []
        self._end: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, on the running loop. To be called once."""
        steps = (self._claim, self._settle, self._renew)
        self._loops = [asyncio.create_task(self._repeat(step)) for step in steps]
        self._consumers = [asyncio.create_task(self._consume()) for _ in range(self._concurrency)]

    def wake(self) -> None:
        """Say that there may be work."""
        self._awake.set()

    @property
    def has_room(self) -> bool:
        """Whether items can be offered now."""
        return len(self._held) < self._backlog and not self._stopping

    def offer(self, item: Item) -> None:
        """Add an item that is leased already; it is handled as if it had been claimed."""
        self._held[id(item)] = item
        self._queue.append(item)
        self._wake_consumer()

    async def stop(self, drain_seconds: float) -> None:
        """Claim no more, give what was begun *drain_seconds* to end, settle, and leave.

        What nobody has begun is abandoned at once, what takes longer is cancelled and abandoned.
        May be called again, also meanwhile; every call returns when the worker has stopped.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._stop(drain_seconds))
        await asyncio.shield(self._end)

    async def _stop(self, drain_seconds: float) -> None:
        self._stopping = True
        while self._queue:
            self._give_up(self._queue.popleft())
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                while self._held:
                    self._finished.clear()
                    await self._finished.wait()
        await _cancel(self._consumers)
        await _cancel(self._loops)
        for item in list(self._held.values()):
            self._give_up(item)
        try:
            await self._settle_results()
        except Exception as error:  # the leases run out instead
            self._duties.trouble(error)

    def _give_up(self, item: Item) -> None:
        self._finish(item, self._duties.abandon(item))

    def _finish(self, item: Item, result: Result) -> None:
        del self._held[id(item)]
        self._results.append(result)
        self._finished.set()

    def _wake_consumer(self) -> None:
        """Wake one consumer, unless one is waking: it wakes the next if it leaves work behind.

        So a batch that is handled without a pause is handled by one of them, and only those whose
        handling waits cost a wake-up each.
        """
        while self._sleepers and not self._is_waking:
            sleeper = self._sleepers.popleft()
            if not sleeper.done():
                self._is_waking = True
                sleeper.set_result(None)

    async def _sleep(self) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        try:
            await sleeper
        finally:
            self._is_waking = False

    async def _consume(self) -> None:
        while True:
            while not self._queue:
                await self._sleep()
            item = self._queue.popleft()
            if self._queue:
                self._wake_consumer()
            try:
                result = await self._duties.handle(item)
            except BaseException as error:
                if is_for_this_task(error):
                    raise
                del self._held[id(item)]
                self._duties.trouble(error)
            else:
                self._finish(item, result)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await step()
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:
                self._duties.trouble(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _claim(self) -> None:
        # Cleared before the claim: work that is added during it must lead to another one.
        self._awake.clear()
        room = self._backlog - len(self._held)
        # Half a backlog at a time: a claim for every item that ends would be a commit for each.
        self._is_full = room * 2 < self._backlog
        items: Sequence[Item] = ()
        if not self._stopping and not self._is_full:
            items = await self._duties.claim(room)
        for item in items:
            self.offer(item)
        if not items:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._awake.wait()

    async def _settle(self) -> None:
        if not self._results:
            self._finished.clear()
            await self._finished.wait()
        await self._settle_results()
        if self._is_full:  # not so full any more
            self._awake.set()

    async def _settle_results(self) -> None:
        results, self._results = self._results, []
        if not results:
            return
        try:
            await self._duties.settle(results)
        except BaseException:
            self._results = results + self._results
            raise

    async def _renew(self) -> None:
        await asyncio.sleep(self._renew_seconds)
        if self._held:
            await self._duties.renew(list(self._held.values()))


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
