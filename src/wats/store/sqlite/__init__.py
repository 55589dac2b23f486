"""The store on SQLite: one file, with separate threads for writes, reads and health checks.

In the leader, a fourth thread empties the write-ahead log.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from apsw import Connection
from typing_extensions import override

from wats.cancellation import resolve
from wats.clock import Now, to_ms, utc_now
from wats.errors import StoreClosed, StoreError, StoreUnavailable
from wats.store import NO_SLOTS, Observe, OnReceived, Slots, Store
from wats.store.group_commit import Report, Undo
from wats.store.migrate import is_usable, load_migrations
from wats.store.pacing import Demand, Pace
from wats.store.records import (
    ALL_MESSAGES,
    OUTBOX,
    Arrival,
    Claimed,
    Consumer,
    Delivery,
    InboxDepth,
    MessageFilter,
    MessagePage,
    MessageRecord,
    Reservation,
    Retention,
    Settled,
    Settlement,
    StatusRecord,
    StoreHealth,
)
from wats.store.sqlite import (
    admin,
    depths,
    inbox,
    leader,
    message_index,
    messages,
    outbox,
    pacing,
    requests,
    statuses,
)
from wats.store.sqlite import deliveries as delivery_rows
from wats.store.sqlite.admin_store import SQLiteAdmin
from wats.store.sqlite.bell import Bell
from wats.store.sqlite.checkpoint import LOCK_SECONDS, checkpoint
from wats.store.sqlite.clock import StoreClock
from wats.store.sqlite.connection import (
    MEMORY,
    Writer,
    connect_reader,
    connect_writer,
    migrate,
    schema_version,
)
from wats.store.sqlite.file_guard import FileGuard
from wats.store.sqlite.occupation import Occupation
from wats.store.sqlite.open_faults import explain
from wats.store.sqlite.outbox_store import SQLiteOutbox
from wats.store.sqlite.thread import TIMEOUT_SECONDS, ConnectionThread, commit, run_each
from wats.store.sqlite.walk import PURGE_ROWS, Walk
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

_RECEIVE: Final = StoreOperation.RECEIVE  # a look-up of 0.1 us in Python 3.11

SETTLE_PATIENCE_SECONDS = 0.02
"""How long a settlement waits to join the transaction of other requests, unless the previous
settlement made a delivery due. Measured: with 0.005, half of the transactions under load contain
settlements only."""

CHECKPOINT_TIMEOUTS: Final = 3.0
"""The time limit of a checkpoint, which copies up to 64 MB, in limits of an operation."""

R = TypeVar("R")
T = TypeVar("T")


class SQLiteStore(SQLiteAdmin, SQLiteOutbox, Store):
    """A store in the file *path*, or in memory if *path* is `:memory:`.

    Several processes can use one file. A read sees all writes that finished before it.

    Args:
        path: The file. A missing file is created with access for its owner only.
        timeout_seconds: The time limit of an operation. An operation that ends later has failed,
            and its leases and reservations are undone.
        busy_seconds: How long an operation waits for a writing process before it raises
            `StoreUnavailable`; by default a fifth less than the time limit, so that such an
            operation certainly has no effect.
        now: The wall clock, for retention. A clock other than `utc_now` is also used for leases.
        bell: Wakes the other processes on this file. Without a bell they find work by polling.
        index_batch: The number of messages added to the message index at a time.
    """

    def __init__(
        self,
        path: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        busy_seconds: float | None = None,
        now: Now = utc_now,
        bell: Bell | None = None,
        index_batch: int = message_index.INDEX_BATCH,
    ) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._busy_seconds = 0.8 * timeout_seconds if busy_seconds is None else busy_seconds
        self._now = now
        self._clock: Callable[[], int] = (
            StoreClock() if now is utc_now else lambda: to_ms(self._now())
        )
        self._bell = bell if bell is not None else Bell(-1, ())
        self._index_batch = index_batch
        self._occupation = Occupation(path)
        self._process = secrets.randbits(62)
        self._migrations = load_migrations("sqlite")
        self._writer: ConnectionThread[Writer] | None = None
        self._reader: ConnectionThread[Connection] | ConnectionThread[Writer] | None = None
        self._health: ConnectionThread[Connection] | ConnectionThread[Writer] | None = None
        self._checkpointer: ConnectionThread[Connection] | None = None
        self._configured: frozenset[str] = frozenset()
        self._guard: FileGuard | None = None  # none in memory
        self._leads = False
        self._has_queues = False  # conversations with more than one delivery
        self._threads = AsyncExitStack()
        self._changing = asyncio.Lock()
        self._updates = Walk("wats_inbox", "id", "received_at < ?2")
        self._messages = Walk("wats_messages", "row_id", "created_at < ?2", messages.CAN_GO)
        self._statuses = Walk("wats_statuses", "id", "occurred_at < ?2")
        self._early_statuses = Walk("wats_early_statuses", "id", "occurred_at < ?2")

    @property
    @override
    def adapter(self) -> Adapter:
        return Adapter.SQLITE

    @override
    def occupy(self) -> None:
        if self._path != MEMORY:
            self._occupation.acquire()

    @override
    async def open(self, observe: Observe | None = None) -> None:
        async with self._changing, AsyncExitStack() as threads:
            if self._writer is not None:
                return
            report = _report_nothing if observe is None else partial(observe, Adapter.SQLITE)
            writer = ConnectionThread[Writer](
                "wats-store-writer", commit, report, self._timeout_seconds
            )
            await writer.start(self._connect_writer)
            threads.push_async_callback(writer.stop)
            if self._path == MEMORY:  # other connections have other databases
                self._reader = self._health = writer
            else:
                limits = self._timeout_seconds, self._busy_seconds
                self._reader = await self._start("wats-store-reader", report, *limits, threads)
                self._health = await self._start("wats-store-health", report, *limits, threads)
            self._writer, self._threads = writer, threads.pop_all()

    async def _start(
        self,
        name: str,
        report: Report,
        timeout_seconds: float,
        busy_seconds: float,
        threads: AsyncExitStack,
    ) -> ConnectionThread[Connection]:
        """Start a thread with a connection that reads; *threads* stops it."""
        thread = ConnectionThread[Connection](name, run_each, report, timeout_seconds)
        await thread.start(partial(connect_reader, self._path, busy_seconds))
        threads.push_async_callback(thread.stop)
        return thread

    def _connect_writer(self) -> Writer:
        try:
            return self._open_writer()
        except Exception as error:
            raise explain(error, self._path) from error

    def _open_writer(self) -> Writer:
        writer = connect_writer(
            self._path, self._busy_seconds, self._clock, self._bell.ring, self._index_batch
        )
        try:
            migrate(writer, self._migrations)
            if isinstance(self._clock, StoreClock):
                writer.execute("BEGIN IMMEDIATE")
                self._clock.start(writer)
                writer.commit()
            if self._path != MEMORY:
                self._guard = writer.guard = FileGuard(writer, self._path)
        except BaseException:
            writer.close()
            raise
        return writer

    @override
    async def close(self) -> None:
        async with self._changing:
            self._bell.close()
            if self._leads and self._writer is not None:
                self._leads = False
                with suppress(StoreError):
                    await self._write(None, partial(leader.resign, process=self._process))
            self._writer = self._reader = self._health = self._checkpointer = None
            try:
                await self._threads.aclose()
            finally:
                self._occupation.release()

    @override
    async def _read(self, operation: StoreOperation | None, run: Callable[[Connection], R]) -> R:
        if self._reader is None:
            raise StoreClosed
        return await self._reader.submit(operation, run)

    @override
    async def _write(
        self,
        operation: StoreOperation | None,
        run: Callable[[Writer], R],
        *,
        patience_seconds: float = 0.0,
        undo: Undo | None = None,
        flushes: bool = True,
    ) -> R:
        if self._writer is None:
            raise StoreClosed
        return await self._writer.submit(
            operation, run, patience_seconds=patience_seconds, undo=undo, flushes=flushes
        )

    def _join(
        self,
        operation: StoreOperation,
        run: Callable[[Writer, Sequence[T]], Sequence[R]],
        item: T,
        undo: Undo | None = None,
    ) -> "asyncio.Future[R]":
        if self._writer is None:
            raise StoreClosed
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        finish = partial(resolve, future)
        self._writer.join(operation, run, item, finish, undo=undo, future=future)
        return future

    @override
    async def health(self) -> StoreHealth:
        if self._health is None or self._writer is None:
            raise StoreClosed
        # A checkpoint that hangs holds the lock that every write needs.
        if any(thread.is_overdue for thread in (self._writer, self._checkpointer) if thread):
            raise StoreUnavailable
        needed = self._migrations[-1].version

        def read(connection: Connection) -> tuple[int, int]:
            if self._guard is not None:
                self._guard.check()
            return schema_version(connection, needed)

        version, tolerated = await self._health.submit(StoreOperation.HEALTH, read)
        return StoreHealth(
            ok=is_usable(version, tolerated, needed),
            adapter=Adapter.SQLITE.value,
            schema_version=version,
        )

    @override
    async def lead(self) -> bool:
        def lead(writer: Writer) -> bool:
            delivery_rows.keep_registered(writer)
            return leader.lead(writer, self._process)

        self._leads = await self._write(None, lead)
        return self._leads

    @override
    def on_work(self, wake: Callable[[], None]) -> None:
        self._bell.listen(wake)

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
        undo = partial(_release, deliveries=deliveries) if is_final else None
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

    @override
    async def acknowledge(self, settlements: Sequence[Settlement]) -> Settled:
        acknowledge = partial(delivery_rows.acknowledge, settlements=settlements)
        return await self._write(StoreOperation.SETTLE, acknowledge)

    @override
    async def depth(self) -> InboxDepth:
        configured, now = self._configured, self._clock()
        read = partial(depths.read, configured=configured, now=now)
        return await self._read(StoreOperation.DEPTH, read)

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
        completion = requests.Completion((scope, key_hash), response, message)
        await self._join(StoreOperation.COMPLETE, requests.complete, completion)

    @override
    async def fail_request(self, *, scope: str, key_hash: bytes) -> None:
        fail = partial(requests.fail, key=(scope, key_hash))
        await self._write(StoreOperation.FAIL, fail)

    @override
    async def doubt_request(self, *, scope: str, key_hash: bytes) -> None:
        doubt = partial(requests.doubt, key=(scope, key_hash))
        await self._write(StoreOperation.DOUBT, doubt)

    @override
    async def record_sent(self, message: MessageRecord) -> None:
        await self._join(StoreOperation.RECORD, messages.record, message)

    @override
    async def list_messages(
        self, *, limit: int, cursor: str | None, wanted: MessageFilter = ALL_MESSAGES
    ) -> MessagePage:
        page = partial(messages.page, limit=limit, cursor=cursor, wanted=wanted)
        return await self._read(StoreOperation.LIST, page)

    @override
    async def get_message(
        self, wa_message_id: str, *, phone_number_id: str | None = None
    ) -> MessageRecord | None:
        get = partial(messages.get, wa_message_id=wa_message_id, phone_number_id=phone_number_id)
        return await self._read(StoreOperation.GET, get)

    @override
    async def list_statuses(self, wa_message_id: str) -> Sequence[StatusRecord]:
        history = partial(statuses.history, wa_message_id=wa_message_id)
        return await self._read(StoreOperation.STATUSES, history)

    @override
    async def last_inbound_at(self, *, phone_number_id: str, customer: str) -> datetime | None:
        last_inbound_at = partial(
            messages.last_inbound_at, phone_number_id=phone_number_id, customer=customer
        )
        return await self._read(StoreOperation.WINDOW, last_inbound_at)

    @override
    async def purge(self, retention: Retention) -> int:
        now = self._now()
        inbox_before = now - timedelta(seconds=retention.inbox)
        messages_before = now - timedelta(seconds=retention.messages)
        # Redeliveries of messages and statuses are identified by their records.
        records_before = min(messages_before, inbox_before)

        # The reader finds old rows, and the writer checks each row again before deleting it.
        def look(connection: Connection) -> tuple[Sequence[int], ...]:
            return (
                self._updates.next_rows(connection, inbox_before),
                self._messages.next_rows(connection, records_before),
                self._statuses.next_rows(connection, records_before),
                self._early_statuses.next_rows(connection, records_before),
                messages.old_windows(connection, messages_before, PURGE_ROWS),
            )

        old_updates, old_messages, old, old_early, old_windows = await self._read(None, look)

        def purge(writer: Writer) -> int:
            return (
                self._updates.delete(writer, old_updates, inbox_before)
                + admin.purge(writer, retention.dead, PURGE_ROWS)
                + messages.purge(writer, old_messages, records_before)
                + self._statuses.delete(writer, old, records_before)
                + self._early_statuses.delete(writer, old_early, records_before)
                + messages.purge_windows(writer, old_windows, messages_before)
                + requests.purge(writer, PURGE_ROWS)
                + outbox.purge(writer, PURGE_ROWS)
                + pacing.purge(writer, PURGE_ROWS)
                + message_index.merge(writer)
            )

        return await self._write(StoreOperation.PURGE, purge)

    @override
    async def checkpoint(self) -> bool:
        if self._writer is None:
            raise StoreClosed
        if self._guard is None:
            return True
        guard = self._guard

        def run(connection: Connection) -> bool:
            return guard.check() == 0 or checkpoint(connection)

        checkpointer = self._checkpointer or await self._start_checkpointer()
        return await checkpointer.submit(None, run)

    async def _start_checkpointer(self) -> ConnectionThread[Connection]:
        async with self._changing:
            if self._writer is None:
                raise StoreClosed
            if self._checkpointer is None:  # otherwise a concurrent call has started it
                limits = CHECKPOINT_TIMEOUTS * self._timeout_seconds, LOCK_SECONDS
                self._checkpointer = await self._start(
                    "wats-store-log", _report_nothing, *limits, self._threads
                )
            return self._checkpointer


def _release(writer: Writer, _lost: Sequence[object], *, deliveries: Sequence[Delivery]) -> None:
    """Release leases that were renewed too late: their callers have failed."""
    delivery_rows.release(writer, deliveries)


def _report_nothing(_: StoreOperation, __: Outcome, ___: float) -> None:
    """Ignore an operation that has no observer."""
