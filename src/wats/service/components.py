"""The components of a service that run from its start to its stop."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from wats.errors import StoreError
from wats.graph.client import GraphClient
from wats.inbound.dispatch import Dispatcher
from wats.outbound.accept import Acceptor
from wats.outbound.outbox import Outbox
from wats.store import Store
from wats.subscribers.subscriber import Subscriber
from wats.telemetry import Telemetry

DRAIN_SECONDS: Final = 10.0
"""The time limit of running handlers when the service stops."""

CLOSE_SECONDS: Final = 5.0
"""How long the store may take to close."""


class Component(Protocol):
    """Runs from `start` to `stop`, and may be started again. A failed start leaves nothing open."""

    async def start(self) -> None:
        """Acquire the resources of the component, and begin its work."""

    async def stop(self) -> None:
        """End within bounds, and release everything."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """The sending side: the Graph client, the outbound transaction, and the outbox, if any."""

    graph: GraphClient
    acceptor: Acceptor
    outbox: Outbox | None = None

    async def start(self) -> None:
        """Open the connections to Graph."""
        await self.graph.start()

    async def stop(self) -> None:
        """Close them."""
        await self.graph.close()


@dataclass(frozen=True, slots=True)
class Storage:
    """The store, open while the service runs.

    Attributes:
        is_alone: Whether no other process shares the counters of this one.
    """

    store: Store
    telemetry: Telemetry
    is_alone: bool

    async def start(self) -> None:
        """Open the store, and migrate it if necessary."""
        if self.is_alone:
            self.store.occupy()
        try:
            await self.store.open(self.telemetry.store.operation)
        except BaseException:
            await self.store.close()
            raise

    async def stop(self) -> None:
        """Close the store, or abandon a disk that hangs; acknowledged updates are on it."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.store.close()
        except (TimeoutError, StoreError) as error:
            self.telemetry.errors.record(error)


@dataclass(frozen=True, slots=True)
class Subscribers:
    """The connections to the subscribers, open while updates are dispatched."""

    subscribers: Sequence[Subscriber]

    async def start(self) -> None:
        """Make the pools of connections."""
        for each in self.subscribers:
            await each.start()

    async def stop(self) -> None:
        """Close all connections."""
        for each in self.subscribers:
            await each.stop()


@dataclass(frozen=True, slots=True)
class Consumers:
    """The dispatcher, which registers all consumers, and the outbox, which is one of them.

    They stop at the same time, so that a stop waits for `drain_seconds` once.
    """

    dispatcher: Dispatcher
    outbox: Outbox
    drain_seconds: float

    async def start(self) -> None:
        """Begin to dispatch and to send, including deliveries of an earlier process."""
        try:
            await self.dispatcher.start()
            await self.outbox.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Claim nothing more; calls that run may finish within `drain_seconds`."""
        await asyncio.gather(
            self.dispatcher.stop(self.drain_seconds), self.outbox.stop(self.drain_seconds)
        )
