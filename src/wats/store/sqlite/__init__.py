"""The store on SQLite: one file, a thread that writes to it and a thread that reads it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import TypeVar

from apsw import Connection
from typing_extensions import override

from wats.errors import StoreClosed
from wats.store import Observe, Store
from wats.store.migrate import load_migrations
from wats.store.records import (
    Arrival,
    Delivery,
    InboxDepth,
    Kept,
    MessagePage,
    MessageRecord,
    Reservation,
    Settled,
    Settlement,
    StatusRecord,
    StoreHealth,
)
from wats.store.sqlite import inbox, message_index, messages, requests, statuses
from wats.store.sqlite.connection import (
    MEMORY,
    connect_reader,
    connect_writer,
    migrate,
    schema_version,
)
from wats.store.sqlite.thread import ConnectionThread, answer_each, commit_together
from wats.store.sqlite.walk import Walk
from wats.telemetry.vocabulary import Adapter, Outcome, StoreOperation

SETTLE_PATIENCE_SECONDS = 0.005
"""How long a settlement waits for a transaction that is made for something else."""

PURGE_ROWS = 500
"""The most rows that one call of `purge` deletes from each table."""

R = TypeVar("R")
T = TypeVar("T")


class SQLiteStore(Store):
    """A store in the file *path*, or in memory if that is `:memory:`.

    Several processes may use one file. A read sees every write that was answered before it.

    Args:
        path: The file; made, readable by its owner alone, if there is none.
        busy_seconds: How long a question waits for another process that writes, before the store
            counts as unavailable.
    """

    def __init__(self, path: str, *, busy_seconds: float = 5.0) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._migrations = load_migrations("sqlite")
        self._writer: ConnectionThread | None = None
        self._reader: ConnectionThread | None = None
        self._threads = AsyncExitStack()
        self._changing = asyncio.Lock()
        self._updates = Walk(inbox.OLD_UPDATES, PURGE_ROWS)
        self._messages = Walk(messages.OLD_MESSAGES, PURGE_ROWS)
        self._statuses = Walk(statuses.OLD_STATUSES, PURGE_ROWS)
        self._early_statuses = Walk(statuses.OLD_EARLY_STATUSES, PURGE_ROWS)

    @property
    @override
    def adapter(self) -> Adapter:
        return Adapter.SQLITE

    @override
    async def open(self, observe: Observe | None = None) -> None:
        async with self._changing, AsyncExitStack() as threads:
            if self._writer is not None:
                return
            tell = _tell_nobody if observe is None else partial(observe, Adapter.SQLITE)
            writer = ConnectionThread("wats-store-writer", commit_together, tell)
            await writer.start(self._connect_writer)
            threads.push_async_callback(writer.stop)
            reader = writer  # what is in memory belongs to one connection
            if self._path != MEMORY:
                reader = ConnectionThread("wats-store-reader", answer_each, tell)
                await reader.start(partial(connect_reader, self._path, self._busy_seconds))
                threads.push_async_callback(reader.stop)
            self._writer, self._reader, self._threads = writer, reader, threads.pop_all()

    def _connect_writer(self) -> Connection:
        connection = connect_writer(self._path, self._busy_seconds)
        try:
            migrate(connection, self._migrations)
        except BaseException:
            connection.close()
            raise
        return connection

    @override
    async def close(self) -> None:
        async with self._changing:
            self._writer = self._reader = None
            await self._threads.aclose()

    async def _read(self, operation: StoreOperation | None, run: Callable[[Connection], R]) -> R:
        if self._reader is None:
            raise StoreClosed
        return await self._reader.ask(operation, run)

    async def _write(
        self,
        operation: StoreOperation,
        run: Callable[[Connection], R],
        *,
        patience_seconds: float = 0.0,
    ) -> R:
        if self._writer is None:
            raise StoreClosed
        return await self._writer.ask(operation, run, patience_seconds=patience_seconds)

    def _write_together(
        self,
        operation: StoreOperation,
        run: Callable[[Connection, Sequence[T]], Sequence[R]],
        items: Sequence[T],
    ) -> asyncio.Future[Sequence[R]]:
        if self._writer is None:
            raise StoreClosed
        return self._writer.ask_together(operation, run, items)

    @override
    async def health(self) -> StoreHealth:
        version = await self._read(StoreOperation.HEALTH, schema_version)
        return StoreHealth(
            ok=version == self._migrations[-1].version,
            adapter=Adapter.SQLITE.value,
            schema_version=version,
        )

    @override
    def receive(self, arrivals: Sequence[Arrival]) -> asyncio.Future[Sequence[Kept | None]]:
        return self._write_together(StoreOperation.RECEIVE, inbox.receive, arrivals)

    @override
    async def claim_deliveries(
        self, *, targets: Sequence[str], limit: int, lease_seconds: float, now: datetime
    ) -> Sequence[Delivery]:
        claim = partial(
            inbox.claim, targets=targets, limit=limit, lease_seconds=lease_seconds, now=now
        )
        return await self._write(StoreOperation.CLAIM, claim)

    @override
    async def renew_deliveries(
        self, deliveries: Sequence[Delivery], *, lease_seconds: float, now: datetime
    ) -> None:
        renew = partial(inbox.renew, deliveries=deliveries, lease_seconds=lease_seconds, now=now)
        await self._write(StoreOperation.RENEW, renew)

    @override
    async def settle_deliveries(
        self, settlements: Sequence[Settlement], *, now: datetime
    ) -> Settled:
        settle = partial(inbox.settle, settlements=settlements, now=now)
        # Nobody waits for it, so it need not have a wait for the disk of its own.
        return await self._write(
            StoreOperation.SETTLE, settle, patience_seconds=SETTLE_PATIENCE_SECONDS
        )

    @override
    async def inbox_depth(self) -> InboxDepth:
        return await self._read(StoreOperation.DEPTH, inbox.depth)

    @override
    async def reserve_request(
        self,
        *,
        scope: str,
        key_hash: bytes,
        request_hash: bytes,
        now: datetime,
        reserved_until: datetime,
        expires_at: datetime,
    ) -> Reservation:
        reserve = partial(
            requests.reserve,
            key=(scope, key_hash),
            request_hash=request_hash,
            now=now,
            reserved_until=reserved_until,
            expires_at=expires_at,
        )
        return await self._write(StoreOperation.RESERVE, reserve)

    @override
    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        completion = requests.Completion((scope, key_hash), response, message)
        await self._write_together(StoreOperation.COMPLETE, requests.complete, [completion])

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
        await self._write_together(StoreOperation.RECORD, messages.record, [message])

    @override
    async def list_messages(self, *, limit: int, cursor: str | None) -> MessagePage:
        page = partial(messages.page, limit=limit, cursor=cursor)
        return await self._read(StoreOperation.LIST, page)

    @override
    async def get_message(self, wa_message_id: str) -> MessageRecord | None:
        get = partial(messages.get, wa_message_id=wa_message_id)
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
    async def purge(
        self,
        *,
        now: datetime,
        inbox_before: datetime,
        dead_before: datetime,
        messages_before: datetime,
    ) -> int:
        # By its record a message is known when Meta sends it again.
        records_before = min(messages_before, inbox_before)

        # What is old is looked for beside the writer; the writer looks at each row once more.
        def look(connection: Connection) -> tuple[Sequence[int], ...]:
            return (
                self._updates.next_rows(connection, inbox_before),
                self._messages.next_rows(connection, records_before),
                self._statuses.next_rows(connection, messages_before),
                self._early_statuses.next_rows(connection, messages_before),
                messages.old_windows(connection, messages_before, PURGE_ROWS),
            )

        old_updates, old_messages, old, old_early, old_windows = await self._read(None, look)

        def purge(connection: Connection) -> int:
            return (
                inbox.purge(connection, old_updates, inbox_before)
                + inbox.purge_dead(connection, dead_before, PURGE_ROWS)
                + messages.purge(connection, old_messages, records_before)
                + statuses.purge(connection, old, messages_before)
                + statuses.purge_early(connection, old_early, messages_before)
                + messages.purge_windows(connection, old_windows, messages_before)
                + message_index.merge(connection)
                + requests.purge(connection, now, PURGE_ROWS)
            )

        return await self._write(StoreOperation.PURGE, purge)


def _tell_nobody(_: StoreOperation, __: Outcome, ___: float) -> None:
    """Stand where nobody observes the store."""
