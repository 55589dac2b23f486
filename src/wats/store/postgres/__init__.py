"""The store on PostgreSQL: any number of processes, with a few connections each."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeVar

from typing_extensions import override

from wats.errors import StoreClosed, StoreError, StoreUnavailable
from wats.store import NO_SLOTS, Observe, OnReceived, Slots, Store
from wats.store.group_commit import StoreRequest
from wats.store.migrate import is_usable, load_migrations
from wats.store.pacing import Demand, Pace
from wats.store.postgres import deliveries as leases
from wats.store.postgres import depths, messages, requests, upkeep
from wats.store.postgres.admin_store import PostgresAdmin
from wats.store.postgres.arrivals import Arrivals
from wats.store.postgres.connection import (
    Connection,
    Connector,
    Database,
    Limits,
    Undo,
    close,
    translated,
)
from wats.store.postgres.control import Control
from wats.store.postgres.migrations import SCHEMA_VERSION, migrate
from wats.store.postgres.open_faults import explained
from wats.store.postgres.outbox_store import PostgresOutbox
from wats.store.postgres.receive import ArrivalWriter
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
    Received,
    Reservation,
    ReservationOutcome,
    Retention,
    Settled,
    Settlement,
    StatusRecord,
    StoreHealth,
)
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

R = TypeVar("R")

_NOW = "SELECT wats_now()"

_SEE_CONSUMERS = """
INSERT INTO wats_consumers (name, seen_at)
SELECT name, (SELECT wats_now()) FROM unnest($1::text[]) AS seen (name)
ON CONFLICT (name) DO UPDATE SET seen_at = greatest(wats_consumers.seen_at, excluded.seen_at)
"""

NONCE_BYTES: Final = 8

UNDO_PAUSE_SECONDS: Final = 1.0

_DEFAULT_LIMITS = Limits()


def limits_of(timeout_seconds: float) -> Limits:
    """Return the limits for operations of *timeout_seconds*; a lock is waited for a fifth less."""
    return Limits(operation_seconds=timeout_seconds, lock_seconds=0.8 * timeout_seconds)


class PostgresStore(PostgresAdmin, PostgresOutbox, Store):
    """A store in a PostgreSQL database, in the first schema of the search path.

    Any number of processes can use one database. A store belongs to the event loop that opens it.

    Args:
        url: A connection URL: `postgresql://user@host:5432/name?sslmode=verify-full`, or
            `postgresql:///name?host=/run/postgresql` for a socket.
        password: Replaces the password of the URL.
        limits: Bounds in time and number.
    """

    def __init__(
        self, url: str, *, password: str | None = None, limits: Limits = _DEFAULT_LIMITS
    ) -> None:
        self._url = url
        self._connector = Connector(url, password, limits)
        self._migrations = load_migrations("postgres")
        self._consumers: dict[str, Consumer] = {}
        self._wakers: list[Callable[[], None]] = []
        self._observe: Observe | None = None
        self._database: Database | None = None
        self._control: Control | None = None
        self._receiver = ArrivalWriter(self._consumers)
        self._arrivals: Arrivals | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reservations: dict[tuple[str, bytes], Undo[Reservation]] = {}

    @property
    @override
    def adapter(self) -> Adapter:
        return Adapter.POSTGRES

    @override
    def occupy(self) -> None:
        """Do nothing: each replica has an address of its own, at which its counters are read."""

    @override
    async def open(self, observe: Observe | None = None) -> None:
        async with self._changing:
            if self._database is not None:
                return
            control = Control(self._connector, self._wake)
            with explained(self._url):
                await self._migrate()
                await control.start()
            self._observe = observe
            self._loop = asyncio.get_running_loop()
            self._control = control
            self._database = database = Database(self._connector)
            self._arrivals = Arrivals(partial(self._store, database, control), self._report)

    async def _migrate(self) -> None:
        connection = await self._connector.connect()
        try:
            with translated():
                await migrate(connection, self._migrations)
        finally:
            await close(connection)

    @override
    async def close(self) -> None:
        async with self._changing:
            database, self._database = self._database, None
            control, arrivals = self._control, self._arrivals
            if database is None or control is None or arrivals is None:
                return
            await arrivals.close()
            while self._tasks:  # the end of one may begin another
                await asyncio.wait(self._tasks)
            await database.close()
            await control.stop()

    def _wake(self) -> None:
        for wake in self._wakers:
            wake()

    def _report(self, operation: StoreOperation | None, outcome: Outcome, seconds: float) -> None:
        if self._observe is not None and operation is not None:
            self._observe(Adapter.POSTGRES, operation, outcome, seconds)

    @override
    async def _read(
        self,
        operation: StoreOperation | None,
        work: Callable[[Connection], Awaitable[R]],
        undo: Undo[R] | None = None,
    ) -> R:
        return await self._run(operation, lambda database: database.read(work), undo)

    @override
    async def _write(
        self,
        operation: StoreOperation | None,
        work: Callable[[Connection], Awaitable[R]],
        undo: Undo[R] | None = None,
        *,
        undo_unknown: bool = False,
    ) -> R:
        """Run *work* in a transaction.

        Args:
            operation: The name for telemetry.
            work: The statements.
            undo: Undoes the result if the caller is cancelled.
            undo_unknown: Whether *undo* is also called if the outcome of the commit is unknown.
        """

        def write(database: Database) -> Coroutine[Any, Any, R]:
            undo_lost = undo if undo_unknown else None
            return database.write(work, on_unknown=partial(self._undo_soon, database, undo_lost))

        return await self._run(operation, write, undo)

    async def _run(
        self,
        operation: StoreOperation | None,
        begin: Callable[[Database], Coroutine[Any, Any, R]],
        undo: Undo[R] | None = None,
    ) -> R:
        """Run what *begin* returns to its end, even if the caller is cancelled: it may commit now.

        Its result is then passed to *undo*, in another transaction.
        """
        if self._database is None:
            raise StoreClosed
        work = begin(self._database)
        if asyncio.get_running_loop() is not self._loop:
            assert self._loop is not None  # noqa: S101  # for mypy: the store is open
            elsewhere = asyncio.run_coroutine_threadsafe(self._timed(operation, work), self._loop)
            return await asyncio.wrap_future(elsewhere)
        task = self._spawn(self._timed(operation, work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and caller is not None and not caller.cancelling():
                raise StoreUnavailable from None  # any code in the process can cancel the task
            task.add_done_callback(partial(self._undo, self._database, undo))
            raise

    def _spawn(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _undo(
        self,
        database: Database | None,
        undo: Undo[R] | None,
        ended: "asyncio.Task[R]",
    ) -> None:
        """Undo what *ended* has written: no caller gets its result, and asyncio logs no error."""
        if ended.cancelled() or ended.exception() is not None or database is None or undo is None:
            return
        self._undo_soon(database, undo, ended.result())

    def _undo_soon(self, database: Database, undo: Undo[R] | None, result: R) -> None:
        if undo is not None:
            self._spawn(self._undo_result(database, undo, result))

    async def _undo_result(self, database: Database, undo: Undo[R], result: R) -> None:
        """Undo *result* when the server responds again: its connection may have been lost."""
        while True:
            with suppress(StoreError):
                await database.write(lambda connection: undo(connection, result))
                self._notify()
                return
            if database is not self._database:  # the store is being closed
                return
            await asyncio.sleep(UNDO_PAUSE_SECONDS)

    async def _timed(self, operation: StoreOperation | None, work: Awaitable[R]) -> R:
        began = perf_counter()
        try:
            result = await work
        except Exception:
            self._report(operation, Outcome.ERROR, perf_counter() - began)
            raise
        self._report(operation, Outcome.SUCCESS, perf_counter() - began)
        return result

    @override
    async def health(self) -> StoreHealth:
        if self._control is None:
            raise StoreClosed
        needed = self._migrations[-1].version
        read = partial(self._control.value, SCHEMA_VERSION, needed)
        version, tolerated = await self._run(StoreOperation.HEALTH, lambda _: read())
        return StoreHealth(
            ok=is_usable(version, tolerated, needed),
            adapter=Adapter.POSTGRES.value,
            schema_version=version,
        )

    @override
    async def lead(self) -> bool:
        if self._control is None or self._database is None:
            raise StoreClosed
        leads = await self._control.lead()
        await self._see_consumers()
        return leads

    @override
    async def checkpoint(self) -> bool:
        try:
            return await self._read(None, upkeep.vacuum)
        except StoreUnavailable:  # it exceeds the time limit
            return False

    @override
    def on_work(self, wake: Callable[[], None]) -> None:
        self._wakers.append(wake)

    @override
    async def register(self, consumers: Sequence[Consumer]) -> None:
        self._consumers.clear()  # the mapping is shared with the receiver
        self._consumers.update((each.name, each) for each in consumers)
        await self._see_consumers()

    async def _see_consumers(self) -> None:
        names = sorted(self._consumers)
        await self._write(None, lambda c: c.execute(_SEE_CONSUMERS, names))

    @override
    def receive(
        self,
        arrivals: Sequence[Arrival],
        on_received: OnReceived,
        slots: Slots = NO_SLOTS,
    ) -> None:
        if self._database is None or self._arrivals is None:
            raise StoreClosed
        self._arrivals.put(arrivals, slots, on_received)

    async def _store(
        self, database: Database, control: Control, request: StoreRequest
    ) -> Sequence[Sequence[Received | None]]:
        calls = request.items or ()
        results = await database.write(
            partial(self._receiver.receive, calls=calls, slots=request.reserved),
            waited_seconds=perf_counter() - request.began[0],
            on_unknown=lambda results: self._undo_soon(database, leases.undo_receive, results),
        )
        self._receiver.remember(calls)
        if any(each is not None and each.waiting for result in results for each in result):
            control.notify()
        return results

    @override
    async def claim(
        self,
        consumer: str,
        limit: int,
        marks: Sequence[bytes] = (),
        pace: Pace | None = None,
    ) -> Claimed:
        known = self._consumers.get(consumer) or Consumer(name=consumer)
        claim: Callable[[Connection], Awaitable[Claimed]] = (
            partial(leases.claim, consumer=known, limit=limit, marks=marks)
            if pace is None
            else partial(leases.claim_paced, consumer=known, limit=limit, pace=pace)
        )
        if consumer == OUTBOX:  # nothing is sent before the lease is renewed
            claim = partial(leases.claim_unflushed, claim=claim)
        return await self._write(StoreOperation.CLAIM, claim, leases.undo_claim, undo_unknown=True)

    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        renew = partial(
            leases.renew, deliveries=deliveries, consumers=self._consumers, is_final=is_final
        )
        undo = partial(_release, deliveries=deliveries) if is_final else None
        return await self._write(StoreOperation.RENEW, renew, undo)

    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        return await self._settle(partial(leases.settle_in, settlements=settlements))

    @override
    async def acknowledge(self, settlements: Sequence[Settlement]) -> Settled:
        acknowledge = partial(leases.acknowledge, settlements=settlements)
        return await self._settle(lambda database: database.write(acknowledge))

    async def _settle(self, settle: Callable[[Database], Coroutine[Any, Any, Settled]]) -> Settled:
        settled = await self._run(StoreOperation.SETTLE, settle)
        if settled.due:
            self._notify()
        return settled

    @override
    async def depth(self) -> InboxDepth:
        read = partial(depths.read, configured=sorted(self._consumers))
        return await self._read(StoreOperation.DEPTH, read)

    @override
    async def purge(self, retention: Retention) -> int:
        await self._see_consumers()

        async def purge(connection: Connection) -> int:
            now = await connection.fetchval(_NOW)
            unseen = await upkeep.purge_unseen(connection, retention, now)
            return unseen + await upkeep.purge(connection, retention, now)

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
        nonce = secrets.token_bytes(NONCE_BYTES)
        reserve = partial(
            requests.reserve,
            scope=scope,
            key_hash=key_hash,
            request_hash=request_hash,
            nonce=nonce,
            reserve_seconds=reserve_seconds,
            keep_seconds=keep_seconds,
            demand=demand,
        )
        undo = partial(requests.undo_reserve, scope=scope, key_hash=key_hash, nonce=nonce)
        reservation: Reservation = await self._write(
            StoreOperation.RESERVE, reserve, undo, undo_unknown=True
        )
        if reservation.outcome is ReservationOutcome.RESERVED:
            self._reservations[scope, key_hash] = undo
        return reservation

    @override
    async def complete_request(
        self, *, scope: str, key_hash: bytes, response: bytes, message: MessageRecord | None
    ) -> None:
        async def complete(connection: Connection) -> None:
            await requests.complete(connection, scope, key_hash, response)
            if message is not None:
                await messages.record(connection, message)

        self._reservations.pop((scope, key_hash), None)
        await self._write(StoreOperation.COMPLETE, complete)

    @override
    async def fail_request(self, *, scope: str, key_hash: bytes) -> None:
        fail = partial(requests.fail, scope=scope, key_hash=key_hash)
        undo, database = self._reservations.pop((scope, key_hash), None), self._database
        try:
            await self._write(StoreOperation.FAIL, fail)
        except StoreUnavailable:
            if database is not None:  # the caller is told to repeat the request with this key
                reservation = Reservation(outcome=ReservationOutcome.RESERVED)
                self._undo_soon(database, undo, reservation)
            raise

    @override
    async def doubt_request(self, *, scope: str, key_hash: bytes) -> None:
        self._reservations.pop((scope, key_hash), None)
        doubt = partial(requests.doubt, scope=scope, key_hash=key_hash)
        await self._write(StoreOperation.DOUBT, doubt)

    @override
    async def record_sent(self, message: MessageRecord) -> None:
        record = partial(messages.record, message=message)
        await self._write(StoreOperation.RECORD, record)

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
        statuses = partial(messages.statuses, wa_message_id=wa_message_id)
        return await self._read(StoreOperation.STATUSES, statuses)

    @override
    async def last_inbound_at(self, *, phone_number_id: str, customer: str) -> datetime | None:
        last_inbound_at = partial(
            messages.last_inbound_at, phone_number_id=phone_number_id, customer=customer
        )
        return await self._read(StoreOperation.WINDOW, last_inbound_at)


async def _release(
    connection: Connection, _lost: Sequence[Delivery], *, deliveries: Sequence[Delivery]
) -> None:
    """Release leases that were renewed for a caller that has been cancelled."""
    await leases.release(connection, deliveries)
