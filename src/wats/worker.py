"""The lease loop: claim, handle, settle. It knows no message, no store and no handler.

Work is leased in batches, handled by a fixed number of consumers, and settled in batches while
the next ones are already under way, so one commit serves many. Whoever adds work calls `wake`.

    claimer ──items──▶ consumers ──results──▶ settler
       ▲                                         │
       └──── woken: new work, or room for it ────┘
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

LOOPS: Final = 3
"""The tasks of a worker besides its consumers: claimer, settler, renewer."""

END_SECONDS = 5.0
"""How long cancelled tasks, and the last settlement, may take to end."""


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
        replaced: Called with what ended a task of the worker that should not have ended.
    """

    claim: Callable[[int], Awaitable[Sequence[Item]]]
    handle: Callable[[Item], Awaitable[Result]]
    settle: Callable[[Sequence[Result]], Awaitable[None]]
    renew: Callable[[Sequence[Item]], Awaitable[None]]
    abandon: Callable[[Item], Result]
    trouble: Callable[[BaseException], None]
    replaced: Callable[[BaseException], None]


class Worker(Generic[Item, Result]):
    """Does its duties until it is stopped, whatever exceptions they raise.

    Only `stop` ends the tasks of a worker. One that ends in another way is replaced.

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
        self._ending = False
        self._is_claiming = False
        self._is_full = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, on the running loop. To be called once."""
        for step in (self._claim, self._settle, self._renew):
            self._spawn(partial(self._repeat, step))
        for _ in range(self._concurrency):
            self._spawn(self._consume)

    @property
    def is_alive(self) -> bool:
        """Whether the worker has started, has not begun to stop, and has all of its tasks."""
        return not self._stopping and len(self._tasks) == self._concurrency + LOOPS

    def _spawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(partial(self._replace, run))

    def _replace(
        self, run: Callable[[], Coroutine[Any, Any, None]], task: "asyncio.Task[None]"
    ) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._ending or error is None:
            return
        self._duties.trouble(error)
        self._duties.replaced(error)
        task.get_loop().call_later(FIRST_PAUSE_SECONDS, self._respawn, run)

    def _respawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._ending:
            self._spawn(run)

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
        self._give_up_queue()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                # A claim in progress may have leased items already, which are given back.
                while self._held or self._is_claiming:
                    self._finished.clear()
                    await self._finished.wait()
        self._ending = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_SECONDS)
        for item in list(self._held.values()):
            self._give_up(item)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._settle_results()
        except Exception as error:  # the leases run out instead
            self._duties.trouble(error)

    def _give_up_queue(self) -> None:
        while self._queue:
            self._give_up(self._queue.popleft())

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
                if self._ending:
                    raise
                self._held.pop(id(item), None)
                self._finished.set()
                if isinstance(error, asyncio.CancelledError | GeneratorExit):
                    raise
                self._duties.trouble(error)
            else:
                self._finish(item, result)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await step()
                pause = FIRST_PAUSE_SECONDS
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException as error:
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
            self._is_claiming = True
            try:
                items = await self._duties.claim(room)
            finally:
                self._is_claiming = False
                self._finished.set()
        for item in items:
            self.offer(item)
        if self._stopping:
            self._give_up_queue()
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
