"""The connections of a store on SQLite: separate threads for writes, reads and health checks.

In the leader, a fourth thread empties the write-ahead log.
"""

import asyncio
import os
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, suppress
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from apsw import Connection
from typing_extensions import override

from wats.cancellation import resolve
from wats.clock import Now, to_ms, utc_now
from wats.errors import StoreClosed, StoreError, StoreUnavailable
from wats.store import Lifecycle, Observe
from wats.store.group_commit import Report, Undo
from wats.store.migrate import is_usable, load_migrations
from wats.store.records import StoreHealth
from wats.store.sqlite import deliveries, leader, message_index
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
from wats.store.sqlite.occupation import lock
from wats.store.sqlite.open_faults import explain
from wats.store.sqlite.thread import TIMEOUT_SECONDS, ConnectionThread, commit, run_each
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

CHECKPOINT_TIMEOUTS: Final = 3.0
"""The time limit of a checkpoint, which copies up to 64 MB, in limits of an operation."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class SQLiteLifecycle(Lifecycle):
    """The connections to the file *path*, or to memory if *path* is `:memory:`.

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
        self._process = secrets.randbits(62)
        self._migrations = load_migrations("sqlite")
        self._lock: int | None = None
        self._writer: ConnectionThread[Writer] | None = None
        self._reader: ConnectionThread[Connection] | ConnectionThread[Writer] | None = None
        self._health: ConnectionThread[Connection] | ConnectionThread[Writer] | None = None
        self._checkpointer: ConnectionThread[Connection] | None = None
        self._guard: FileGuard | None = None  # none in memory
        self._leads = False
        self._threads = AsyncExitStack()
        self._changing = asyncio.Lock()

    @property
    @override
    def adapter(self) -> Adapter:
        return Adapter.SQLITE

    @override
    def occupy(self) -> None:
        if self._path != MEMORY and self._lock is None:
            self._lock = lock(self._path)

    @override
    async def open(self, observe: Observe | None = None) -> None:
        async with self._changing, AsyncExitStack() as threads:
            if self._writer is not None:
                return
            report = _report_nothing if observe is None else partial(observe, Adapter.SQLITE)
            writer = ConnectionThread[Writer](
                "wats-store-writer", commit, report, self._timeout_seconds
            )
            await writer.start(self._open_writer)
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

    def _open_writer(self) -> Writer:
        settings = self._busy_seconds, self._clock, self._bell.ring, self._index_batch
        try:
            with ExitStack() as stack:
                writer = stack.enter_context(closing(connect_writer(self._path, *settings)))
                migrate(writer, self._migrations)
                if isinstance(self._clock, StoreClock):
                    writer.execute("BEGIN IMMEDIATE")
                    self._clock.start(writer)
                    writer.commit()
                if self._path != MEMORY:
                    self._guard = writer.guard = FileGuard(writer, self._path)
                stack.pop_all()
        except Exception as error:
            raise explain(error, self._path) from error
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
                if self._lock is not None:
                    os.close(self._lock)
                    self._lock = None

    async def _read(self, operation: StoreOperation | None, run: Callable[[Connection], R]) -> R:
        """Run *run* in the thread that reads."""
        if self._reader is None:
            raise StoreClosed
        return await self._reader.submit(operation, run)

    async def _write(
        self,
        operation: StoreOperation | None,
        run: Callable[[Writer], R],
        *,
        patience_seconds: float = 0.0,
        undo: Undo | None = None,
        flushes: bool = True,
    ) -> R:
        """Run *run* in a transaction of the thread that writes."""
        if self._writer is None:
            raise StoreClosed
        written = self._writer.submit(
            operation, run, patience_seconds=patience_seconds, undo=undo, flushes=flushes
        )
        return await (written if undo is None else self._writer.result(written, undo))

    async def _join(
        self,
        operation: StoreOperation,
        run: Callable[[Writer, Sequence[T]], Sequence[R]],
        item: T,
        undo: Undo | None = None,
    ) -> R:
        """Run *run* once for *item* and those of the concurrent calls."""
        if self._writer is None:
            raise StoreClosed
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        finish = partial(resolve, future)
        self._writer.join(operation, run, item, finish, undo=undo, future=future)
        return await (future if undo is None else self._writer.result(future, undo))

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
            deliveries.keep_registered(writer)
            return leader.lead(writer, self._process)

        self._leads = await self._write(None, lead)
        return self._leads

    @override
    def on_work(self, wake: Callable[[], None]) -> None:
        self._bell.listen(wake)

    @override
    async def checkpoint(self) -> bool:
        if self._writer is None:
            raise StoreClosed
        if self._guard is None:
            return True
        guard = self._guard

        def run(connection: Connection) -> bool:
            is_empty = guard.check() == 0 or checkpoint(connection)
            guard.check()  # now, so that an older copy of the file is recognized from here on
            return is_empty

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


def reads(
    function: Callable[Concatenate[Connection, P], R], operation: StoreOperation | None = None
) -> Callable[Concatenate[SQLiteLifecycle, P], Coroutine[Any, Any, R]]:
    """Return a method that runs *function* in the thread that reads."""

    def read(self: SQLiteLifecycle, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._read(operation, lambda connection: function(connection, *args, **kwargs))

    return read


def writes(
    function: Callable[Concatenate[Writer, P], R],
    operation: StoreOperation | None = None,
    undo: Undo | None = None,
) -> Callable[Concatenate[SQLiteLifecycle, P], Coroutine[Any, Any, R]]:
    """Return a method that runs *function* in a transaction of the thread that writes."""

    def write(
        self: SQLiteLifecycle, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        return self._write(operation, lambda writer: function(writer, *args, **kwargs), undo=undo)

    return write


def _report_nothing(_: StoreOperation, __: Outcome, ___: float) -> None:
    """Ignore an operation that has no observer."""
