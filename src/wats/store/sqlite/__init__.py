"""The store on SQLite: each operation is a function on a connection, in the thread that has it."""

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import cached_property, partial
from typing import Final

from apsw import Connection
from typing_extensions import override

from wats.errors import StoreClosed
from wats.store import NO_SLOTS, OnReceived, Slots, Store
from wats.store.admin import ConsumerState, Erased
from wats.store.pacing import Demand, Pace
from wats.store.person import Person
from wats.store.records import (
    OUTBOX,
    Arrival,
    Claimed,
    Consumer,
    Delivery,
    InboxDepth,
    MessageRecord,
    Reservation,
    Retention,
    Settled,
    Settlement,
)
from wats.store.sqlite import (
    admin,
    erasure,
    inbox,
    message_index,
    messages,
    outbox,
    pacing,
    requests,
    statuses,
)
from wats.store.sqlite import deliveries as delivery_rows
from wats.store.sqlite.connection import Writer
from wats.store.sqlite.lifecycle import SQLiteLifecycle, reads, writes
from wats.store.sqlite.walk import PURGE_ROWS, Walk
from wats.telemetry.contract.values import StoreOperation

_RECEIVE: Final = StoreOperation.RECEIVE  # a look-up of 0.1 us in Python 3.11

SETTLE_PATIENCE_SECONDS = 0.02
"""How long a settlement waits to join the transaction of other requests, unless the previous
settlement made a delivery due. Measured: with 0.005, half of the transactions under load contain
settlements only."""


class SQLiteStore(SQLiteLifecycle, Store):
    """A store in a file, or in memory; see `SQLiteLifecycle`."""

    _configured: frozenset[str] = frozenset()
    _has_queues = False  # conversations with more than one delivery

    @override
    async def register(self, consumers: Sequence[Consumer]) -> None:
        await self._write(None, partial(delivery_rows.register, consumers=consumers))
        self._configured = frozenset(consumer.name for consumer in consumers)

    @override
    def receive(
        self,
        arrivals: Sequence[Arrival],
        on_received: OnReceived,
        slots: Slots = NO_SLOTS,
    ) -> None:
        if self._writer is None:
            raise StoreClosed
        self._writer.join(_RECEIVE, inbox.receive, arrivals, on_received, slots, inbox.undo_receive)

    @override
    async def claim(
        self,
        consumer: str,
        limit: int,
        marks: Sequence[bytes] = (),
        pace: Pace | None = None,
    ) -> Claimed:
        claim: Callable[[Writer], Claimed] = (
            partial(delivery_rows.claim, name=consumer, limit=limit, marks=marks)
            if pace is None
            else partial(pacing.claim, name=consumer, limit=limit, pace=pace)
        )
        return await self._write(
            StoreOperation.CLAIM,
            claim,
            undo=delivery_rows.undo_claim,
            flushes=consumer != OUTBOX,  # nothing is sent before the lease is renewed
        )

    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        renew = partial(delivery_rows.renew, deliveries=deliveries, is_final=is_final)
        undo = partial(_release, leased=deliveries) if is_final else None
        return await self._write(StoreOperation.RENEW, renew, undo=undo)

    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        settle = partial(delivery_rows.settle, settlements=settlements)
        # Usually nothing waits for a settlement, so it needs no disk flush of its own.
        patience_seconds = 0.0 if self._has_queues else SETTLE_PATIENCE_SECONDS
        settled = await self._write(
            StoreOperation.SETTLE, settle, patience_seconds=patience_seconds
        )
        self._has_queues = bool(settled.due)
        return settled

    acknowledge = writes(delivery_rows.acknowledge, StoreOperation.SETTLE)

    @override
    async def depth(self) -> InboxDepth:
        read = partial(admin.depth, configured=self._configured, now=self._clock())
        return await self._read(StoreOperation.DEPTH, read)

    @cached_property
    def _walks(self) -> tuple[Walk, Walk, Walk, Walk]:
        return (
            Walk("wats_inbox", "id", "received_at < ?2"),
            Walk("wats_messages", "row_id", "created_at < ?2", messages.CAN_GO),
            Walk("wats_statuses", "id", "occurred_at < ?2"),
            Walk("wats_early_statuses", "id", "occurred_at < ?2"),
        )

    @override
    async def purge(self, retention: Retention) -> int:
        now = self._now()
        inbox_before = now - timedelta(seconds=retention.inbox)
        messages_before = now - timedelta(seconds=retention.messages)
        # Redeliveries of messages and statuses are identified by their records.
        records_before = min(messages_before, inbox_before)
        updates, records, transitions, early = self._walks

        # The reader finds old rows, and the writer checks each row again before deleting it.
        def look(connection: Connection) -> tuple[Sequence[int], ...]:
            return (
                updates.next_rows(connection, inbox_before),
                records.next_rows(connection, records_before),
                transitions.next_rows(connection, records_before),
                early.next_rows(connection, records_before),
                messages.old_windows(connection, messages_before, PURGE_ROWS),
            )

        old_updates, old_messages, old, old_early, old_windows = await self._read(None, look)

        def purge(writer: Writer) -> int:
            return (
                updates.delete(writer, old_updates, inbox_before)
                + admin.purge(writer, retention, PURGE_ROWS)
                + messages.purge(writer, old_messages, records_before)
                + transitions.delete(writer, old, records_before)
                + early.delete(writer, old_early, records_before)
                + messages.purge_windows(writer, old_windows, messages_before)
                + requests.purge(writer, PURGE_ROWS)
                + outbox.purge(writer, PURGE_ROWS)
                + pacing.purge(writer, PURGE_ROWS)
                + message_index.merge(writer)
            )

        return await self._write(StoreOperation.PURGE, purge)

    @override
    async def reserve_request(
        self,
        *,
        scope: str,
        key_hash: bytes,
        request_hash: bytes,
        reserve_seconds: float,
        keep_seconds: float,
        demand: Demand | None = None,
    ) -> Reservation:
        key = requests.NewKey(
            key=(scope, key_hash),
            request_hash=request_hash,
            reserve_seconds=reserve_seconds,
            keep_seconds=keep_seconds,
            demand=demand,
        )
        _, reservation = await self._join(
            StoreOperation.RESERVE, requests.reserve_all, key, requests.undo_reserve
        )
        return reservation

    @override
    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        completion = (scope, key_hash), response, message
        await self._join(StoreOperation.COMPLETE, requests.complete, completion)

    fail_request = writes(requests.fail, StoreOperation.FAIL)
    doubt_request = writes(requests.doubt, StoreOperation.DOUBT)

    @override
    async def record_sent(self, message: MessageRecord) -> None:
        await self._join(StoreOperation.RECORD, messages.record, message)

    list_messages = reads(messages.page, StoreOperation.LIST)
    get_message = reads(messages.get, StoreOperation.GET)
    list_statuses = reads(statuses.history, StoreOperation.STATUSES)
    last_inbound_at = reads(messages.last_inbound_at, StoreOperation.WINDOW)

    enqueue = writes(outbox.enqueue, StoreOperation.RESERVE, outbox.undo_enqueue)
    settle_sends = writes(outbox.settle, StoreOperation.SETTLE)
    get_send = reads(outbox.get, StoreOperation.GET)
    orphaned_sends = reads(outbox.orphaned)
    retry_sends = writes(outbox.retry)
    discard_sends = writes(outbox.discard)

    @override
    async def due_numbers(self) -> Collection[str]:
        return await self._read(None, partial(outbox.due_numbers, now=self._clock()))

    pace = writes(pacing.pace)
    throttle = writes(pacing.throttle)

    @override
    async def consumers(self) -> Sequence[ConsumerState]:
        read_all = partial(admin.consumers, configured=self._configured, now=self._clock())
        return await self._read(None, read_all)

    pause = writes(admin.pause)
    list_deliveries = reads(admin.page)
    read_delivery = reads(admin.read)
    retry_dead = writes(admin.retry_dead)
    expedite = writes(admin.expedite)
    replay = writes(admin.replay)
    discard = writes(admin.discard)

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


def _release(writer: Writer, _lost: Sequence[object], *, leased: Sequence[Delivery]) -> None:
    """Release leases that were renewed too late: their callers have failed."""
    delivery_rows.release(writer, leased)
