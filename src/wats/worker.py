"""The lease loop of one consumer: claim, handle, settle. Independent of messages and stores.

    reserve ─▸ offer ──┐
                       ├─▸ begin ── ended ─▸ settler
    claimer ── jobs ───┘   (as many at a time as there are slots)
       ▲                        │
       └── woken: new work, or a slot ┘

Every leased job has a slot and begins immediately. A reserved slot is kept free for a job that is
being stored or claimed.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from wats.cancellation import LastingTasks

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0

END_SECONDS: Final = 5.0
"""The time limit of a stop for cancelled jobs, for an open claim, and for the last settlement."""

LATE_RENEWALS: Final = 2
"""The number of renewal intervals without a renewal after which leases may soon expire."""

MAX_TURNS: Final = 16
"""The maximum number of turns of the event loop for which a claim waits for more free slots."""


Limit: TypeAlias = Callable[[], float]
"""Returns the number of jobs that a consumer can have at a time now."""


def unlimited() -> float:
    """Return the limit of a consumer that can have any number of jobs."""
    return math.inf


class Job(Protocol):
    """A leased delivery: a unit of work, and later its result."""

    def begin(self, on_end: "Callable[[Job], None]") -> None:
        """Begin the work; call *on_end* once with this job at its end, maybe before returning."""

    def cancel(self) -> None:
        """Cancel the work, which ends soon afterwards."""

    def release(self) -> None:
        """End a job that has not begun."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties(Generic[J]):
    """The functions that a worker calls.

    Attributes:
        claim: Leases at most the given number of jobs; also returns whether more could be leased.
        settle: Writes the results of jobs; returns whether that made other jobs claimable.
        renew: Extends the leases of jobs.
        trouble: Receives each exception of the other functions, which are retried after a pause.
        replaced: Receives the exception that ended a task of the worker. The task is replaced.
    """

    claim: Callable[[int], Awaitable[tuple[Sequence[J], bool]]]
    settle: Callable[[Sequence[J]], Awaitable[bool]]
    renew: Callable[[Sequence[J]], Awaitable[None]]
    trouble: Callable[[BaseException], None]
    replaced: Callable[[BaseException], None]


class Worker(Generic[J]):
    """Claims, runs and settles jobs until it is stopped. No exception of its duties ends it.

    Ended jobs are kept until they are settled. If settling never succeeds, their leases expire and
    the next process that claims the jobs begins anew. A worker does not claim its own jobs: if
    renewals were late, because the store was unavailable or the process suspended, it first renews
    the leases of all jobs that are not settled. Only `stop` ends the tasks of a worker; a
    task that ends for another reason is replaced.

    Args:
        concurrency: The maximum number of leased jobs. All leased jobs have begun.
        limit: The number of jobs that the consumer can have at a time now, if it is less than
            *concurrency*. A higher limit is noticed when a job ends, or after *poll_seconds*.
        poll_seconds: The longest pause between claims. Due retries, and jobs of a process that
            died, are found after this pause.
        renew_seconds: The interval of lease renewals.
        end_seconds: The time limit of cancelled jobs and of the last settlement at a stop.
    """

    def __init__(
        self,
        duties: Duties[J],
        *,
        concurrency: int,
        limit: Limit = unlimited,
        poll_seconds: float,
        renew_seconds: float,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self._duties = duties
        self._concurrency = concurrency
        self._limit = limit
        self._poll_seconds = poll_seconds
        self._renew_seconds = renew_seconds
        self._end_seconds = end_seconds
        self._held: set[J] = set()
        self._ended: list[J] = []
        self._reserved = 0
        self._is_claiming = False
        self._some = (concurrency + 1) // 2  # leaves slots for jobs stored during a claim
        self._claimable = self._some  # an estimate of the number of claimable jobs
        self._renewed_at = monotonic()
        self._stopping = False
        self._claim_now = asyncio.Event()
        self._settle_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._on_end: Callable[[Any], None] = self._end_job
        self._steps = (self._claim, self._settle, self._renew)
        self._tasks = LastingTasks(FIRST_PAUSE_SECONDS)
        self._claiming: asyncio.Task[BaseException | None] | None = None
        self._stop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the tasks on the running loop. Call it once."""
        for step in self._steps:
            self._tasks.start(partial(self._repeat, step), self._note_end)

    @property
    def is_alive(self) -> bool:
        """Whether all tasks run and no stop was requested."""
        return not self._stopping and len(self._tasks) == len(self._steps)

    def wake(self) -> None:
        """Note that another process stored claimable jobs."""
        self.note_work(self._some)

    def note_work(self, jobs: int = 1) -> None:
        """Note that this process stored *jobs* claimable jobs."""
        self._claimable += jobs
        self._claim_now.set()

    def reserve(self, wanted: int) -> int:
        """Reserve at most *wanted* free slots; return their number, for `give_back`."""
        slots = max(min(wanted, self._free_slots), 0) if self.is_alive else 0
        self._reserved += slots
        return slots

    def give_back(self, slots: int) -> None:
        """Free *slots* reserved slots. Call it just before `offer` for the jobs that need them."""
        self._reserved -= slots
        self._slot_is_free()

    @property
    def _free_slots(self) -> int:
        return int(min(self._concurrency, self._limit())) - len(self._held) - self._reserved

    def offer(self, job: J) -> None:
        """Begin *job*, which was leased for a slot that was reserved until now."""
        self._held.add(job)
        if self._stopping:
            job.release()
            self._end_job(job)
        else:
            job.begin(self._on_end)

    def _end_job(self, job: J) -> None:
        self._held.discard(job)
        if not self._ended:
            self._settle_now.set()
        self._ended.append(job)
        self._slot_is_free()

    def _slot_is_free(self) -> None:
        if self._stopping:
            self._changed.set()
        if self._claimable:
            self._claim_now.set()

    async def stop(self, drain_seconds: float) -> None:
        """Stop claiming, drain running jobs for *drain_seconds*, settle, and return.

        Jobs that are leased from now on are released, also those of an open claim. Jobs that exceed
        the drain are cancelled; their attempt has failed. Repeated and concurrent calls are
        allowed; each returns when the worker has stopped.
        """
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop(drain_seconds))
        await asyncio.shield(self._stop_task)

    async def _stop(self, drain_seconds: float) -> None:
        self._stopping = True
        self._claim_now.set()
        await self._until(lambda: not (self._held or self._reserved), drain_seconds)
        for job in list(self._held):
            job.cancel()
        await self._until(
            lambda: not (self._held or self._ended or self._is_claiming or self._reserved),
            self._end_seconds,
        )
        await self._tasks.cancel(self._end_seconds)

    async def _until(self, is_reached: Callable[[], bool], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_reached():
                    self._changed.clear()
                    await self._changed.wait()

    def _note_end(self, error: BaseException) -> None:
        self._duties.trouble(error)
        self._duties.replaced(error)

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
        await self._gather_slots()
        if self._can_claim and monotonic() - self._renewed_at > LATE_RENEWALS * self._renew_seconds:
            await self._renew_all()
        if self._can_claim:
            # Not cancelled with this task: the leases of an abandoned claim would have to expire.
            claiming = self._claim_up_to(min(self._claimable, self._free_slots))
            self._claiming = asyncio.create_task(claiming)
            if (error := await asyncio.shield(self._claiming)) is not None:
                raise error
        if not self._can_claim:
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._claim_now.wait()
            except TimeoutError:
                self._claimable = max(self._claimable, self._some)

    async def _gather_slots(self) -> None:
        """Wait while jobs end in each turn of the loop, if more jobs are claimable than slots free.

        A backlog needs fewer transactions this way. On an idle loop, the first turn is the last.
        """
        free = turns = 0
        while self._can_claim and free < self._free_slots < self._claimable and turns < MAX_TURNS:
            free = self._free_slots
            turns += 1
            await asyncio.sleep(0)

    @property
    def _can_claim(self) -> bool:
        return (
            self._claimable > 0
            and self._free_slots > 0
            and not self._stopping
            and not self._is_claiming
        )

    async def _claim_up_to(self, limit: int) -> BaseException | None:
        """Claim and begin at most *limit* jobs; return an exception instead of raising it.

        A task that raises `SystemExit` would end the process.
        """
        self._claimable = 0
        self._is_claiming = True
        self._reserved += limit
        try:
            jobs, more = await self._duties.claim(limit)
            if more:
                self._claimable = self._concurrency
            self._reserved -= limit
            limit = 0
            for job in jobs:
                self.offer(job)
        except BaseException as error:
            self._claimable = self._some
            return error
        finally:
            self._reserved -= limit
            self._is_claiming = False
            self._changed.set()
        return None

    async def _settle(self) -> None:
        if not self._ended:
            self._settle_now.clear()
            await self._settle_now.wait()
        ended = self._ended[:]  # removed after the settlement, for which a stop waits
        if ended and await self._duties.settle(ended):
            self.note_work()
        del self._ended[: len(ended)]
        self._changed.set()

    async def _renew(self) -> None:
        await asyncio.sleep(self._renew_seconds)
        await self._renew_all()

    async def _renew_all(self) -> None:
        began = monotonic()
        if jobs := [*self._held, *self._ended]:
            await self._duties.renew(jobs)
        self._renewed_at = began
