"""What a store brings with it besides webhooks: work that waits in it, and its upkeep."""

import asyncio
from collections.abc import Awaitable, Callable

from wats.config import InboxConfig, MessagesConfig
from wats.errors import StoreError
from wats.inbound.dispatch import Dispatcher
from wats.store import Store
from wats.store.records import Retention
from wats.telemetry import Telemetry
from wats.telemetry.vocabulary import InboxState

DRAIN_SECONDS = 10.0
"""How long handlers that run may take to finish when the service stops."""

DAY_SECONDS = 86_400

PURGE_EVERY_SECONDS = 600.0

MEASURE_EVERY_SECONDS = 10.0
"""How often the depth of the inbox is measured: it counts all that is outstanding, so a scrape
shows what was measured last. While the store is lost, that is what was measured before."""


class Keeper:
    """Runs the dispatcher, deletes what is old, and measures how much waits."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        *,
        telemetry: Telemetry,
        inbox: InboxConfig,
        messages: MessagesConfig,
        chores: bool,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._telemetry = telemetry
        self._retention = Retention(
            inbox=inbox.retention_days * DAY_SECONDS,
            dead=inbox.dead_retention_days * DAY_SECONDS,
            messages=messages.retention_days * DAY_SECONDS,
        )
        self._chores: dict[Callable[[], Awaitable[None]], float] = {}
        if chores:
            self._chores[self._purge] = PURGE_EVERY_SECONDS
            if telemetry.shows_inbox:
                self._chores[self._measure] = MEASURE_EVERY_SECONDS
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the store, then dispatch what is in it."""
        await self._store.open(self._telemetry.store_operation)
        await self._dispatcher.start()
        self._running = [
            asyncio.create_task(self._repeat(chore, seconds))
            for chore, seconds in self._chores.items()
        ]

    async def stop(self) -> None:
        """Stop dispatching, then close the store."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._dispatcher.stop(DRAIN_SECONDS)
        await self._store.close()

    async def _repeat(self, chore: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await chore()
            except StoreError as error:
                self._telemetry.errors.record(error)
            await asyncio.sleep(seconds)

    async def _purge(self) -> None:
        if not await self._store.lead():  # another process on this database does it
            return
        while await self._store.purge(self._retention):
            pass  # a bounded number of rows at a time, with room for others in between

    async def _measure(self) -> None:
        depth = await self._store.depth()
        total = depth.total
        self._telemetry.inbox_depth(InboxState.PENDING, total.pending)
        self._telemetry.inbox_depth(InboxState.LEASED, total.leased)
        self._telemetry.inbox_depth(InboxState.RETRY, total.retry)
        self._telemetry.inbox_depth(InboxState.DEAD, total.dead)
        self._telemetry.inbox_oldest_age(depth.oldest_seconds)
