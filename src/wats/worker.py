"""The lease loop of one consumer: claim, handle, settle. It knows no message and no store.

    reserve ─▸ offer ─┐
                      ├─▸ queue ─▸ runners ── results ─▸ settler
    claimer ──items───┘   (as many at a time as there are slots)
       ▲                              │
       └── woken: new work, or a slot ┘

Every leased item has a slot, so its handling begins at once. A slot that is reserved belongs to an
item that is being stored, and may be leased on arrival.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

CANCEL_SECONDS = 1.0
"""How long a cancelled handling may take to end before it is left behind."""

SETTLE_SECONDS = 5.0
"""How long a stop tries to settle the last results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties(Generic[Item, Result]):
    """The work of a worker.

    Attributes:
        claim: Leases up to so many items; also returns whether more could be leased.
        handle: Handles one item and returns its result.
        fail: Returns the result of an item whose `handle` raised, or was cut off by a stop.
        release: Returns the result of an item whose handling never began.
        settle: Writes results; returns whether more can be claimed because of them.
        renew: Extends the leases of items.
        trouble: Receives every exception of the others. They are tried again, after a pause.
    """

    claim: Callable[[int], Awaitable[tuple[Sequence[Item], bool]]]
    handle: Callable[[Item], Awaitable[Result]]
    fail: Callable[[Item, BaseException], Result]
    release: Callable[[Item], Result]
    settle: Callable[[Sequence[Result]], Awaitable[bool]]
    renew: Callable[[Sequence[Item]], Awaitable[None]]
    trouble: Callable[[BaseException], None]


class Stopped(Exception):
    """The handling of an item was cut off by a stop."""


class Worker(Generic[Item, Result]):
    """Does its duties until it is stopped, whatever they raise.

    Results are kept until they are settled. If that never succeeds the leases expire, and the
    items are handled again by the process that claims them then.

    Args:
        concurrency: How many items are leased at the same time; all of them are being handled.
        poll_seconds: How long to sleep without being woken. Retries that become due, and items of
            a process that died, are found at the end of it.
        renew_seconds: How often leases are renewed.
    """

    def __init__(
        self,
        duties: Duties[Item, Result],
        *,
        concurrency: int,
        poll_seconds: float,
        renew_seconds: float,
    ) -> None:
        self._duties = duties
        self._concurrency = concurrency
        self._poll_seconds = poll_seconds
        self._renew_seconds = renew_seconds
        self._held: dict[int, Item] = {}
        self._queue: deque[Item] = deque()
        self._results: list[Result] = []
        self._reserved = 0
        self._is_starting = False  # a runner was made and has not begun
        self._has_work = True  # there may be something to claim
        self._was_woken = False  # … by another process, since the last claim began
        self._is_backlogged = False  # the last claim left something
        self._stopping = False
        self._cutting_off = False
        self._claim_now = asyncio.Event()
        self._settle_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._runners: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._end: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, on the running loop. To be called once."""
        steps = (self._claim, self._settle, self._renew)
        self._loops = [asyncio.create_task(self._repeat(step)) for step in steps]

    @property
    def is_alive(self) -> bool:
        """Whether items are claimed, handled and settled."""
        return bool(self._loops) and not any(loop.done() for loop in self._loops)

    def wake(self) -> None:
        """Note that another process stored something to claim."""
        self._was_woken = True
        self.note_work()

    def note_work(self) -> None:
        """Note that this process stored something to claim.

        Called before the result of a claim that was part of the same transaction or of a later one
        arrives, so that claim has seen it.
        """
        self._has_work = True
        self._claim_now.set()

    def reserve(self) -> bool:
        """Reserve a slot if one is free; it is used by `offer` or given back."""
        if self._stopping or not self._loops or self._free_slots <= 0:
            return False
        self._reserved += 1
        return True

    def give_back(self, slots: int) -> None:
        """Give back *slots* reserved slots."""
        self._reserved -= slots
        self._changed.set()
        if self._has_work:
            self._claim_now.set()

    def offer(self, item: Item) -> None:
        """Handle *item*, which was leased on arrival, in a reserved slot."""
        self._reserved -= 1
        self._take(item)

    @property
    def _free_slots(self) -> int:
        return self._concurrency - len(self._held) - self._reserved

    def _take(self, item: Item) -> None:
        self._held[id(item)] = item
        if self._stopping:
            self._finish(item, self._duties.release(item))
            return
        self._queue.append(item)
        self._run_another()

    async def stop(self, drain_seconds: float) -> None:
        """Claim no more, give what was begun *drain_seconds* to end, settle, and return.

        What was not begun is released. What takes longer is cancelled and has failed. May be called
        again, also meanwhile; every call returns when the worker has stopped.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._stop(drain_seconds))
        await asyncio.shield(self._end)

    async def _stop(self, drain_seconds: float) -> None:
        self._stopping = True
        self._claim_now.set()
        while self._queue:
            item = self._queue.popleft()
            self._finish(item, self._duties.release(item))
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                while self._held or self._reserved:
                    self._changed.clear()
                    await self._changed.wait()
        await self._cut_off()
        await self._settle_the_last()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def _cut_off(self) -> None:
        self._cutting_off = True
        for runner in self._runners:
            runner.cancel()
        if self._runners:
            await asyncio.wait(self._runners, timeout=CANCEL_SECONDS)
        for item in list(self._held.values()):  # those that cancelling did not end
            self._finish(item, self._duties.fail(item, Stopped()))

    async def _settle_the_last(self) -> None:
        # A claim that is under way is awaited: what it leased is released and settled with this.
        claimer = self._loops[0] if self._loops else None
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                if claimer is not None:
                    await asyncio.wait([claimer])
                while self._results:
                    self._settle_now.set()
                    self._changed.clear()
                    await self._changed.wait()

    def _run_another(self) -> None:
        """Make one runner, unless one is about to begin: that makes the next if it leaves work.

        So items that are handled without a pause are handled by one of them, and only those whose
        handling waits cost a task each.
        """
        if self._queue and not self._is_starting:
            self._is_starting = True
            runner = asyncio.get_running_loop().create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._ended)

    def _ended(self, runner: "asyncio.Task[None]") -> None:
        self._runners.discard(runner)
        if not runner.cancelled() and (error := runner.exception()) is not None:
            self._duties.trouble(error)
        self._run_another()

    async def _run(self) -> None:
        self._is_starting = False
        task = asyncio.current_task()
        while self._queue and not self._stopping:
            item = self._queue.popleft()
            if self._queue:
                self._run_another()
            try:
                result = await self._duties.handle(item)
            except BaseException as error:  # whatever it is, it is the failure of this item
                if not self._cutting_off:
                    self._duties.trouble(error)
                result = self._duties.fail(item, Stopped() if self._cutting_off else error)
            if id(item) in self._held:  # else it was cut off already
                self._finish(item, result)
            if task is not None and task.cancelling():
                return  # a cancellation that was left behind must not reach the next item

    def _finish(self, item: Item, result: Result) -> None:
        del self._held[id(item)]
        self._results.append(result)
        self._settle_now.set()
        self._changed.set()
        if self._has_work:
            self._claim_now.set()

    async def _repeat(self, step: Callable[[], Awaitable[bool]]) -> None:
        pause = FIRST_PAUSE_SECONDS
        goes_on = True
        while goes_on:
            try:
                goes_on = await step()
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:
                self._duties.trouble(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _claim(self) -> bool:
        if self._stopping:
            return False
        free = self._free_slots
        self._claim_now.clear()
        if free > 0:
            # What is stored while a claim is under way needs slots too, to be leased on arrival.
            await self._claim_up_to(free if self._is_backlogged else (free + 1) // 2)
        if not (self._has_work and self._free_slots > 0):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._claim_now.wait()
            self._has_work = True
        return True

    async def _claim_up_to(self, limit: int) -> None:
        self._was_woken = False
        self._reserved += limit
        try:
            items, self._is_backlogged = await self._duties.claim(limit)
        finally:
            self._reserved -= limit
            self._changed.set()
        self._has_work = self._is_backlogged or self._was_woken
        for item in items:
            self._take(item)

    async def _settle(self) -> bool:
        if not self._results:
            self._settle_now.clear()
            await self._settle_now.wait()
        results, self._results = self._results, []
        try:
            if results and await self._duties.settle(results):
                self.note_work()
        except BaseException:
            self._results = results + self._results
            raise
        self._changed.set()
        return True

    async def _renew(self) -> bool:
        await asyncio.sleep(self._renew_seconds)
        if self._held:
            await self._duties.renew(list(self._held.values()))
        return True
