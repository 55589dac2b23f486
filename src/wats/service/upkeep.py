"""The upkeep of a store: purging, emptying its log, and measuring the inbox."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from wats.cancellation import LastingTasks
from wats.clock import Now
from wats.config import InboxConfig, MessagesConfig, OutboxConfig
from wats.log import Log
from wats.store import Store
from wats.store.records import OUTBOX, Retention
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import InboxState, OutboxState, UpkeepTask
from wats.telemetry.sinks.isolation import FailureLog

CLOSE_SECONDS: Final = 5.0
"""How long upkeep may take to end."""

DAY_SECONDS: Final = 86_400

UNSEEN_DAYS: Final = 1
"""How long deliveries of a consumer that no process has registered are kept at least. Another
replica may have the consumer, and register it only every ten minutes, or be stopped for a while."""

PURGE_EVERY_SECONDS: Final = 600.0

MEASURE_EVERY_SECONDS: Final = 10.0
"""How often the depth of the inbox is read. While the store is unavailable, a scrape shows the last
values."""

CHECKPOINT_EVERY_SECONDS: Final = 15.0
"""How often the log of the store is emptied. With the attempts below, erased content is in no file
of the database a minute later."""

REPLACE_SECONDS: Final = 0.05
"""The pause before a cancelled task of the upkeep is replaced."""

CHECKPOINT_ATTEMPTS: Final = 20
CHECKPOINT_PAUSE_SECONDS: Final = 1.0

Work: TypeAlias = Callable[[], Awaitable[bool]]
"""A task of the upkeep; returns whether it succeeded."""


class Upkeep:
    """Purges old data, empties the log of the store, and measures the inbox.

    Args:
        leads: Whether this process purges and empties the log; one of several suffices.
        consumers: Returns the names of the consumers, in the order that telemetry has.
        checkpoint_seconds: How often the log of the store is emptied.
        purge_seconds: How often expired rows are deleted.
        measure_seconds: How often the depth of the inbox is read.
    """

    def __init__(
        self,
        store: Store,
        *,
        telemetry: Telemetry,
        inbox: InboxConfig,
        messages: MessagesConfig,
        outbox: OutboxConfig,
        leads: bool,
        log: Log,
        now: Now,
        consumers: Callable[[], Sequence[str]] = tuple,
        checkpoint_seconds: float = CHECKPOINT_EVERY_SECONDS,
        purge_seconds: float = PURGE_EVERY_SECONDS,
        measure_seconds: float = MEASURE_EVERY_SECONDS,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._retention = Retention(
            inbox=inbox.retention_days * DAY_SECONDS,
            dead=inbox.dead_retention_days * DAY_SECONDS,
            unseen=max(inbox.dead_retention_days, UNSEEN_DAYS) * DAY_SECONDS,
            messages=messages.retention_days * DAY_SECONDS,
        )
        self._upkeep: dict[UpkeepTask, tuple[Work, float]] = {}
        if leads:
            self._upkeep = {
                UpkeepTask.PURGE: (self._purge, purge_seconds),
                UpkeepTask.CHECKPOINT: (self._checkpoint, checkpoint_seconds),
            }
            self._upkeep[UpkeepTask.MEASURE] = self._measure, measure_seconds
        self._failures = FailureLog("wats.upkeep.error", log=log, now=now)
        self._now = now
        self._outbox = outbox
        self._consumers = consumers
        self._tasks = LastingTasks(REPLACE_SECONDS)

    async def start(self) -> None:
        """Begin, if this process does the upkeep. The store must be open."""
        self._tasks = LastingTasks(REPLACE_SECONDS)
        for task in self._upkeep:
            self._telemetry.service.upkeep(task, 0.0)
            self._tasks.start(partial(self._repeat, task), partial(self._failed, task))

    async def stop(self) -> None:
        """Cancel the running tasks. The store must still be open."""
        await self._tasks.cancel(CLOSE_SECONDS)

    def _failed(self, task: UpkeepTask, error: BaseException) -> None:
        self._telemetry.errors.record(error)
        self._failures.report(task, error)

    async def _repeat(self, task: UpkeepTask) -> None:
        """Run *task* repeatedly, despite any exception."""
        run, seconds = self._upkeep[task]
        while True:
            try:
                if await run():
                    self._telemetry.service.upkeep(task, self._now().timestamp())
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException as error:
                self._failed(task, error)
            await asyncio.sleep(seconds)

    async def _purge(self) -> bool:
        # One process on a database suffices; the others succeed if that process does the work.
        if await self._store.lead():
            while await self._store.purge(self._retention):
                pass  # a bounded number of rows at a time, with pauses for other operations
        return True

    async def _checkpoint(self) -> bool:
        for _ in range(CHECKPOINT_ATTEMPTS):
            if await self._store.checkpoint():
                return True
            await asyncio.sleep(CHECKPOINT_PAUSE_SECONDS)
        return False

    async def _measure(self) -> bool:
        depth = await self._store.depth()
        total = depth.total
        self._telemetry.store.inbox_depth(InboxState.PENDING, total.pending)
        self._telemetry.store.inbox_depth(InboxState.LEASED, total.leased)
        self._telemetry.store.inbox_depth(InboxState.RETRY, total.retry)
        self._telemetry.store.inbox_depth(InboxState.DEAD, total.dead)
        self._telemetry.store.inbox_depth(InboxState.ORPHANED, sum(depth.orphaned.values()))
        self._telemetry.store.inbox_oldest_age(depth.oldest_seconds)
        outbox, adapter = depth.outbox, self._store.adapter
        waiting = outbox.pending + outbox.retry
        self._telemetry.store.outbox_depth(adapter, OutboxState.PENDING, waiting)
        self._telemetry.store.outbox_depth(adapter, OutboxState.PROCESSING, outbox.leased)
        self._telemetry.store.outbox_depth(adapter, OutboxState.DEAD, outbox.dead)
        self._telemetry.store.outbox_oldest_age(depth.outbox_seconds)
        self._telemetry.store.outbox_fill(waiting / self._outbox.max_waiting)
        await self._measure_consumers()
        return True

    async def _measure_consumers(self) -> None:
        places = {name: place for place, name in enumerate(self._consumers())}
        # Those without a name in telemetry share a series, which shows the oldest of them.
        ages: dict[int, float] = {}
        for each in await self._store.consumers():
            if each.name == OUTBOX:
                self._telemetry.store.outbox_paused(int(each.is_paused))
            elif each.name in places:
                place = self._telemetry.first_of_series(places[each.name])
                ages[place] = max(ages.get(place, 0.0), each.oldest_seconds)
        for place, seconds in ages.items():
            self._telemetry.webhooks.consumer_oldest_age(place, seconds)
