"""The operations of a PostgreSQL store for the outbox and for pacing."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from typing_extensions import override

from wats.store.outbox import NewSend, OutboxStore, SendResult, SendView
from wats.store.pacing import Demand, Pace, PacingStore, Penalty, Permit
from wats.store.postgres import depths, outbox, pacing
from wats.store.postgres.connection import Connection, Undo
from wats.store.postgres.receive import ArrivalWriter
from wats.store.records import OUTBOX, Reservation, Settled
from wats.telemetry.contract.values import StoreOperation

R = TypeVar("R")


class PostgresOutbox(OutboxStore, PacingStore):
    """The operations for the outbox and its pace, by the reads and writes of `PostgresStore`."""

    _receiver: ArrivalWriter

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
    def _notify(self) -> None:
        """Announce claimable deliveries to other processes."""

    @override
    async def pace(self, demand: Demand) -> Permit:
        return await self._write(None, partial(pacing.pace, demand=demand))

    @override
    async def throttle(self, pace: Pace, penalty: Penalty) -> None:
        await self._write(None, partial(pacing.throttle, pace=pace, penalty=penalty))

    @override
    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        enqueue = partial(self._receiver.enqueue, send=send, max_waiting=max_waiting)
        undo = outbox.undo_enqueue
        reservation = await self._write(StoreOperation.RESERVE, enqueue, undo)
        self._notify()
        return reservation

    @override
    async def settle_sends(self, results: Sequence[SendResult]) -> Settled:
        settled = await self._write(StoreOperation.SETTLE, partial(outbox.settle, results=results))
        if settled.due:
            self._notify()
        return settled

    @override
    async def get_send(self, outbox_id: int) -> SendView | None:
        return await self._read(StoreOperation.GET, partial(outbox.get, outbox_id=outbox_id))

    @override
    async def due_numbers(self) -> Collection[str]:
        return await self._read(None, partial(depths.outstanding_numbers, consumer=OUTBOX))

    @override
    async def orphaned_sends(self, numbers: Collection[str]) -> int:
        return await self._read(None, partial(depths.waiting, consumer=OUTBOX, others=numbers))

    @override
    async def retry_sends(self, ids: Sequence[int], *, even_unknown: bool) -> int:
        retry = partial(outbox.retry, ids=ids, even_unknown=even_unknown)
        count = await self._write(None, retry)
        self._notify()
        return count

    @override
    async def discard_sends(self, ids: Sequence[int]) -> int:
        count = await self._write(None, partial(outbox.discard, ids=ids))
        self._notify()
        return count
