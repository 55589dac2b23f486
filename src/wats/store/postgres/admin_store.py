"""The operations of a PostgreSQL store for operators."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from typing_extensions import override

from wats.store.admin import (
    AdminStore,
    ConsumerState,
    DeliveryFilter,
    DeliveryPage,
    Erased,
    StoredDelivery,
)
from wats.store.person import Person
from wats.store.postgres import admin, erasure
from wats.store.postgres.connection import Connection, Undo
from wats.store.postgres.control import Control
from wats.store.records import Consumer
from wats.telemetry.contract.values import StoreOperation

R = TypeVar("R")


class PostgresAdmin(AdminStore):
    """The operations for operators, by the reads and writes of `PostgresStore`."""

    _consumers: Mapping[str, Consumer]
    _control: Control | None

    @abstractmethod
    async def _read(
        self, operation: StoreOperation | None, work: Callable[[Connection], Awaitable[R]]
    ) -> R:
        """Run *work*."""

    @abstractmethod
    async def _write(
        self,
        operation: StoreOperation | None,
        work: Callable[[Connection], Awaitable[R]],
        undo: Undo[R] | None = None,
    ) -> R:
        """Run *work* in a transaction; undo its result if the caller is cancelled."""

    @abstractmethod
    async def checkpoint(self) -> bool:
        """Remove deleted rows, as `Lifecycle.checkpoint`."""

    def _notify(self) -> None:
        if self._control is not None:
            self._control.notify()

    @override
    async def consumers(self) -> Sequence[ConsumerState]:
        return await self._read(None, partial(admin.consumers, configured=self._consumers))

    @override
    async def pause(self, consumer: str, *, is_paused: bool) -> bool:
        pause = partial(admin.pause, consumer=consumer, is_paused=is_paused)
        is_known = await self._write(None, pause)
        self._notify()
        return is_known

    @override
    async def list_deliveries(
        self, wanted: DeliveryFilter, *, limit: int, after: int = 0
    ) -> DeliveryPage:
        return await self._read(None, partial(admin.page, wanted=wanted, limit=limit, after=after))

    @override
    async def read_delivery(self, delivery_id: int) -> tuple[StoredDelivery, bytes] | None:
        return await self._read(None, partial(admin.read, delivery_id=delivery_id))

    async def _alone(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        """Run *work* in a transaction, while no other one runs in this way."""

        async def alone(connection: Connection) -> R:
            await admin.lock(connection)
            return await work(connection)

        return await self._write(None, alone)

    @override
    async def retry_dead(self, ids: Sequence[int]) -> int:
        async def retry(connection: Connection) -> int:
            return await admin.retry_dead(
                connection, ids, await admin.names_of_handlers(connection)
            )

        count = await self._alone(retry)
        self._notify()
        return count

    @override
    async def expedite(self, ids: Sequence[int]) -> int:
        count = await self._write(None, partial(admin.expedite, ids=ids))
        self._notify()
        return count

    @override
    async def replay(self, ids: Sequence[int], consumer: str) -> int | None:
        count = await self._alone(partial(admin.replay, ids=ids, consumer=consumer))
        self._notify()
        return count

    @override
    async def discard(self, ids: Sequence[int]) -> int:
        async def discard(connection: Connection) -> int:
            names = await admin.names_of_handlers(connection)
            return await admin.discard(connection, ids, names)

        count = await self._alone(discard)
        self._notify()
        return count

    @override
    async def erase(
        self,
        person: Person,
        numbers: Sequence[str],
        *,
        position: str | None,
        is_trial: bool,
        searches_files: bool = False,
    ) -> Erased:
        place = erasure.place_at(position)
        if place.phase == erasure.LOG:
            if not is_trial:
                await self.checkpoint()
            return Erased()
        find = partial(erasure.find, place=place, person=person, own=numbers)
        found = await self._read(None, find)
        if found.rows and not is_trial:
            # A replay may be copying an update.
            await self._alone(partial(erasure.delete, place=place, found=found))
        return found.erased
