"""The lease loop of one consumer: claim, handle, settle. It knows no message and no store.

    reserve ─▸ offer ──┐
                       ├─▸ begin ── results ─▸ settler
    claimer ── items ──┘   (as many at a time as there are slots)
       ▲                        │
       └── woken: new work, or a slot ┘

Every leased item has a slot, and its handling begins at once. A slot that is reserved belongs to
an item that is being stored, and may be leased on arrival.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

RECHECK_SECONDS: Final = 0.04
"""How soon a claim follows one during which this process stored more."""

END_SECONDS: Final = 5.0
"""How long cancelled handlings, a claim that is under way, and the last settlement may take."""

Cancel: TypeAlias = Callable[[], None]
"""Cancels the handling of an item, which then ends soon, with a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties(Generic[Item, Result]):
    """The work of a worker.

    Attributes:
        claim: Leases up to so many items; also returns whether more could be leased.
        begin: Begins to handle an item; passes its result to the callback, once, maybe at once.
        release: Returns the result of an item whose handling never began.
        settle: Writes results; returns whether more can be claimed because of them.
        renew: Extends the leases of items.
        trouble: Receives every exception of the others. They are tried again, after a pause.
        replaced: Called with the exception that ended a task of the worker, which is replaced.
    """

    claim: Callable[[int], Awaitable[tuple[Sequence[Item], bool]]]
    begin: Callable[[Item, Callable[[Result], None]], Cancel]
    release: Callable[[Item], Result]
    settle: Callable[[Sequence[Result]], Awaitable[bool]]
    renew: Callable[[Sequence[Item]], Awaitable[None]]
    trouble: Callable[[BaseException], None]
    replaced: Callable[[BaseException], None]


class Worker(Generic[Item, Result]):
    """Does its duties until it is stopped, whatever they raise.

    Results are kept until they are settled. If that never succeeds the leases expire, and the
    items are handled again by the process that claims them then. Only `stop` ends the tasks of a
    worker; one that ends in another way is replaced.

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
        self._cancels: dict[int, Cancel] = {}
        self._results: list[Result] = []
        self._reserved = 0
        self._is_claiming = False
        self._has_work = True  # there may be something to claim
        self._was_woken = False  # … by another process, since the last claim began
        self._was_noted = False  # … by this process, while the last claim was under way
        self._is_backlogged = False  # the last claim left something
        self._stopping = False
        self._ending = False
        self._claim_now = asyncio.Event()
        self._settle_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._steps = (self._claim, self._settle, self._renew)
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Task[BaseException | None] | None = None
        self._end: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, on the running loop. To be called once."""
        for step in self._steps:
            self._spawn(step)

    @property
    def is_alive(self) -> bool:
        """Whether items are claimed, handled and settled."""
        return not self._stopping and len(self._tasks) == len(self._steps)

    def wake(self) -> None:
        """Note that another process stored something to claim."""
        self._was_woken = True
        self.note_work()

    def note_work(self) -> None:
        """Note that this process stored something to claim.

        A claim that is under way has seen it, as a rule: it is part of the same transaction or of
        a later one. In case it has not, another one follows soon.
        """
        self._has_work = True
        self._was_noted = self._is_claiming
        self._claim_now.set()

    def reserve(self) -> bool:
        """Reserve a slot if one is free; it is used by `offer` or given back."""
        if not self.is_alive or self._free_slots <= 0:
            return False
        self._reserved += 1
        return True

    def give_back(self, slots: int) -> None:
        """Give back *slots* reserved slots."""
        self._reserved -= slots
        self._slot_is_free()

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
        cancel = self._duties.begin(item, partial(self._finish, item))
        if id(item) in self._held:
            self._cancels[id(item)] = cancel

    def _finish(self, item: Item, result: Result) -> None:
        del self._held[id(item)]
        self._cancels.pop(id(item), None)
        self._results.append(result)
        self._settle_now.set()
        self._slot_is_free()

    def _slot_is_free(self) -> None:
        self._changed.set()
        if self._has_work:
            self._claim_now.set()

    async def stop(self, drain_seconds: float) -> None:
        """Claim no more, give what was begun *drain_seconds* to end, settle, and return.

        What is leased from now on is released, a claim that is under way included. What takes
        longer is cancelled, and is an attempt that failed. May be called again, also meanwhile;
        every call returns when the worker has stopped.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._stop(drain_seconds))
        await asyncio.shield(self._end)

    async def _stop(self, drain_seconds: float) -> None:
        self._stopping = True
        self._claim_now.set()
        await self._until(lambda: not (self._held or self._reserved), drain_seconds)
        for cancel in list(self._cancels.values()):
            cancel()
        await self._until(
            lambda: not (self._held or self._results or self._is_claiming or self._reserved),
            END_SECONDS,
        )
        self._ending = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_SECONDS)

    async def _until(self, is_reached: Callable[[], bool], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_reached():
                    self._changed.clear()
                    await self._changed.wait()

    def _spawn(self, step: Callable[[], Awaitable[None]]) -> None:
        if not self._ending:
            task = asyncio.create_task(self._repeat(step))
            self._tasks.add(task)
            task.add_done_callback(partial(self._replace, step))

    def _replace(self, step: Callable[[], Awaitable[None]], ended: "asyncio.Task[None]") -> None:
        """Go on with *step*: any code in the process can cancel a task, or end one."""
        self._tasks.discard(ended)
        error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
        if self._ending or error is None:
            return
        self._duties.trouble(error)
        self._duties.replaced(error)
        ended.get_loop().call_later(FIRST_PAUSE_SECONDS, self._spawn, step)

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
        self._claim_now.clear()
        if self._can_claim:
            free = self._free_slots
            # What is stored while a claim is under way needs slots too, to be leased on arrival.
            limit = free if self._is_backlogged else (free + 1) // 2
            # Not cancelled with this task: a claim that nobody waits for leaves leases behind.
            self._claiming = asyncio.create_task(self._claim_up_to(limit))
            if (error := await asyncio.shield(self._claiming)) is not None:
                raise error
        if not self._can_claim:
            pause = min(RECHECK_SECONDS, self._poll_seconds) if self._was_noted else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause or self._poll_seconds):
                    await self._claim_now.wait()
            self._has_work = True

    @property
    def _can_claim(self) -> bool:
        return (
            self._has_work and self._free_slots > 0 and not self._stopping and not self._is_claiming
        )

    async def _claim_up_to(self, limit: int) -> BaseException | None:
        """Claim and take up to *limit* items; return what went wrong.

        Not raised: a task that raises `SystemExit` would end the process.
        """
        self._was_woken = self._was_noted = False
        self._is_claiming = True
        self._reserved += limit
        try:
            items, self._is_backlogged = await self._duties.claim(limit)
            self._has_work = self._is_backlogged or self._was_woken
            self._reserved -= limit
            limit = 0
            for item in items:
                self._take(item)
        except BaseException as error:
            return error
        finally:
            self._reserved -= limit
            self._is_claiming = False
            self._changed.set()
        return None

    async def _settle(self) -> None:
        if not self._results:
            self._settle_now.clear()
            await self._settle_now.wait()
        results = self._results[:]  # they stay there until they are settled: a stop awaits that
        if results and await self._duties.settle(results):
            self.note_work()
        del self._results[: len(results)]
        self._changed.set()

    async def _renew(self) -> None:
        await asyncio.sleep(self._renew_seconds)
        if self._held:
            await self._duties.renew(list(self._held.values()))
