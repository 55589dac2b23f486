"""The operations of a SQLite store for operators."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from apsw import Connection
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
from wats.store.sqlite import admin, erasure
from wats.store.sqlite.connection import Writer
from wats.telemetry.contract.values import StoreOperation

R = TypeVar("R")


class SQLiteAdmin(AdminStore):
    """The operations for operators, by the reads and writes of `SQLiteStore`."""

    _clock: Callable[[], int]
    _configured: frozenset[str]

    @abstractmethod
    async def _read(self, operation: StoreOperation | None, run: Callable[[Connection], R]) -> R:
        """Run *run* in the thread that reads."""

    @abstractmethod
    async def _write(self, operation: StoreOperation | None, run: Callable[[Writer], R]) -> R:
        """Run *run* in a transaction of the thread that writes."""

    @abstractmethod
    async def checkpoint(self) -> bool:
        """Empty the log, as `Lifecycle.checkpoint`."""

    @override
    async def consumers(self) -> Sequence[ConsumerState]:
        read_all = partial(admin.consumers, configured=self._configured, now=self._clock())
        return await self._read(None, read_all)

    @override
    async def pause(self, consumer: str, *, is_paused: bool) -> bool:
        return await self._write(None, partial(admin.pause, consumer=consumer, is_paused=is_paused))

    @override
    async def list_deliveries(
        self, wanted: DeliveryFilter, *, limit: int, after: int = 0
    ) -> DeliveryPage:
        return await self._read(None, partial(admin.page, wanted=wanted, limit=limit, after=after))

    @override
    async def read_delivery(self, delivery_id: int) -> tuple[StoredDelivery, bytes] | None:
        return await self._read(None, partial(admin.read, delivery_id=delivery_id))

    @override
    async def retry_dead(self, ids: Sequence[int]) -> int:
        return await self._write(
            None, lambda writer: admin.retry_dead(writer, admin.of_updates(writer, ids))
        )

    @override
    async def expedite(self, ids: Sequence[int]) -> int:
        return await self._write(
            None, lambda writer: admin.expedite(writer, admin.of_updates(writer, ids))
        )

    @override
    async def replay(self, ids: Sequence[int], consumer: str) -> int | None:
        return await self._write(
            None, lambda writer: admin.replay(writer, admin.of_updates(writer, ids), consumer)
        )

    @override
    async def discard(self, ids: Sequence[int]) -> int:
        return await self._write(
            None, lambda writer: admin.discard(writer, admin.of_updates(writer, ids))
        )

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
        phase, after = erasure.phase_at(position)
        if phase == erasure.LOG and not is_trial:
            return erasure.emptied(after, is_empty=await self.checkpoint())
        if phase == erasure.LOG and not searches_files:
            return Erased()
        find = partial(erasure.find, phase=phase, after=after, person=person, numbers=numbers)
        found = await self._read(None, find)
        if not is_trial and (found.rows or found.windows):
            await self._write(None, partial(erasure.delete, phase=phase, found=found))
        return found.erased
