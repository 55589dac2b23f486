"""The operations of a SQLite store for the outbox and for pacing."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from apsw import Connection
from typing_extensions import override

from wats.store.group_commit import Undo
from wats.store.outbox import NewSend, OutboxStore, SendResult, SendView
from wats.store.pacing import Demand, Pace, PacingStore, Penalty, Permit
from wats.store.records import Reservation, Settled
from wats.store.sqlite import outbox, pacing
from wats.store.sqlite.connection import Writer
from wats.telemetry.contract.values import StoreOperation

R = TypeVar("R")


class SQLiteOutbox(OutboxStore, PacingStore):
    """The operations for the outbox and its pace, by the reads and writes of `SQLiteStore`."""

    _clock: Callable[[], int]

    @abstractmethod
    async def _read(self, operation: StoreOperation | None, run: Callable[[Connection], R]) -> R:
        """Run *run* in the thread that reads."""

    @abstractmethod
    async def _write(
        self,
        operation: StoreOperation | None,
        run: Callable[[Writer], R],
        *,
        undo: Undo | None = None,
    ) -> R:
        """Run *run* in a transaction of the thread that writes."""

    @override
    async def pace(self, demand: Demand) -> Permit:
        return await self._write(None, partial(pacing.pace, demand=demand))

    @override
    async def throttle(self, pace: Pace, penalty: Penalty) -> None:
        await self._write(None, partial(pacing.throttle, pace=pace, penalty=penalty))

    @override
    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        enqueue = partial(outbox.enqueue, send=send, max_waiting=max_waiting)
        return await self._write(StoreOperation.RESERVE, enqueue, undo=outbox.undo_enqueue)

    @override
    async def settle_sends(self, results: Sequence[SendResult]) -> Settled:
        return await self._write(StoreOperation.SETTLE, partial(outbox.settle, results=results))

    @override
    async def get_send(self, outbox_id: int) -> SendView | None:
        return await self._read(StoreOperation.GET, partial(outbox.get, outbox_id=outbox_id))

    @override
    async def due_numbers(self) -> Collection[str]:
        return await self._read(None, partial(outbox.due_numbers, now=self._clock()))

    @override
    async def orphaned_sends(self, numbers: Collection[str]) -> int:
        return await self._read(None, partial(outbox.orphaned, configured=numbers))

    @override
    async def retry_sends(self, ids: Sequence[int], *, even_unknown: bool) -> int:
        return await self._write(None, partial(outbox.retry, ids=ids, even_unknown=even_unknown))

    @override
    async def discard_sends(self, ids: Sequence[int]) -> int:
        return await self._write(None, partial(outbox.discard, ids=ids))
