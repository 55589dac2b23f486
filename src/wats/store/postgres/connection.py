"""Connections to PostgreSQL: settings, errors, a small pool, transactions with a deadline."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Final, TypeAlias, TypeVar

import asyncpg
import msgspec

from wats.errors import StoreOutcomeUnknown, StoreUnavailable

R = TypeVar("R")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

Undo: TypeAlias = Callable[[Connection, R], Awaitable[object]]
"""Undoes, in another transaction, a result that no caller gets."""

MAX_TRIES: Final = 5
"""How often a transaction is tried if PostgreSQL aborts it because of a concurrent one."""

BACKOFF_SECONDS: Final = 0.05
MAX_BACKOFF_SECONDS: Final = 2.0

_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_CONFLICTS = asyncpg.SerializationError, asyncpg.DeadlockDetectedError

SETTINGS: Final = {
    "application_name": "wats",
    "timezone": "UTC",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    # Releases the locks of a peer that vanished, for example because its machine lost power.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # Each statement looks up rows by an index. The tables may grow to millions of rows and shrink
    # again within minutes, so a plan made from outdated statistics must not scan a table.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds in time and number.

    Attributes:
        connections: The maximum number of connections of one process, in addition to `Control`'s.
        connect_seconds: How long connecting may take.
        operation_seconds: How long an operation may take, including waiting for a connection.
        lock_seconds: How long a statement may wait for another transaction.
    """

    connections: int = 4
    connect_seconds: float = 3.0
    operation_seconds: float = 10.0
    lock_seconds: float = 5.0


def translate(error: Exception) -> Exception:
    """Convert errors of asyncpg, network and deadline to `StoreUnavailable`; keep others."""
    if not isinstance(error, _ERRORS):
        return error
    unavailable = StoreUnavailable()
    unavailable.__cause__ = error
    return unavailable


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of the block with `translate`."""
    try:
        yield
    except _ERRORS as error:
        raise StoreUnavailable from error


class Connector:
    """Makes connections, with an exponential backoff after failures.

    Args:
        url: A connection URL of PostgreSQL.
        password: Replaces the password of the URL.
        limits: The bounds.
    """

    def __init__(self, url: str, password: str | None, limits: Limits) -> None:
        self.limits = limits
        self._url = url
        self._password = password
        self._failures = 0
        self._retry_at = 0.0

    @property
    def pause_seconds(self) -> float:
        """The remaining pause before the next attempt."""
        return max(0.0, self._retry_at - monotonic())

    async def connect(self) -> Connection:
        """Connect, or raise immediately during the pause after a failure.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        if self.pause_seconds:
            raise StoreUnavailable
        with translated():
            try:
                connection = await self._connect()
            except _ERRORS:
                self._back_off()
                raise
        self._failures = 0
        return connection

    def _back_off(self) -> None:
        pause = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._retry_at = monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311  # jitter

    async def _connect(self) -> Connection:
        limits = self.limits
        lock_ms, statement_ms = limits.lock_seconds * 1000, limits.operation_seconds * 1000
        settings = {
            **SETTINGS,
            "lock_timeout": str(round(lock_ms)),
            "statement_timeout": str(round(statement_ms)),
            "idle_in_transaction_session_timeout": str(round(statement_ms)),
        }
        connection = await asyncpg.connect(
            self._url, password=self._password, timeout=limits.connect_seconds
        )
        try:  # a pooler such as PgBouncer refuses connections whose startup message has settings
            statements = [f"SET {name} = '{value}'" for name, value in settings.items()]
            await connection.execute("; ".join(statements), timeout=limits.connect_seconds)
        except BaseException:
            connection.terminate()
            raise
        return connection


class Pool:
    """A few connections, made on demand and reused."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._free = asyncio.Semaphore(connector.limits.connections)
        self._idle: list[Connection] = []
        self._lent = 0
        self._returned = asyncio.Event()
        self._is_closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. It is reused unless an error other than a failed statement occurs.

        After a failover, the server of an open connection may be a standby, so a connection that
        cannot write is replaced.
        """
        async with self._free:
            connection = await self._take()
            self._lent += 1
            try:
                yield connection
            except asyncpg.PostgresError as error:
                if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    connection.terminate()
                raise
            except BaseException:
                connection.terminate()
                raise
            finally:
                self._give_back(connection)

    async def _take(self) -> Connection:
        """Return an idle connection, or a new one; if neither is possible, the next one returned.

        A server that is out of connections does not end those that are open.
        """
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            self._returned.clear()
            try:
                return await self._connector.connect()
            except StoreUnavailable:
                if not (self._lent or self._idle):
                    raise
            await self._returned.wait()

    def _give_back(self, connection: Connection) -> None:
        self._lent -= 1
        self._returned.set()
        if self._is_closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Close idle connections now, and lent connections when they are returned."""
        self._is_closed = True
        while self._idle:
            await close(self._idle.pop())


async def close(connection: Connection) -> None:
    """Close *connection* in an orderly way if the server still responds."""
    try:
        await connection.close(timeout=1.0)
    except _ERRORS:
        connection.terminate()


class Database:
    """Runs work on pooled connections, within the deadline, and translates its errors."""

    def __init__(self, connector: Connector) -> None:
        self._pool = Pool(connector)
        self._seconds = connector.limits.operation_seconds

    async def read(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        """Run *work*. Each of its statements sees all transactions that were committed before."""
        return await self._run(work)

    async def write(
        self,
        work: Callable[[Connection], Awaitable[R]],
        *,
        waited_seconds: float = 0.0,
        on_unknown: Callable[[R], None] = lambda _: None,
    ) -> R:
        """Run *work* in a transaction; retry if PostgreSQL aborts it because of a concurrent one.

        Args:
            work: The statements.
            waited_seconds: How long the operation has already waited; part of the time limit.
            on_unknown: Called with the result of *work* if the commit fails: it may have happened.

        Raises:
            StoreUnavailable: Nothing was written.
            StoreOutcomeUnknown: The commit failed.
        """
        is_unknown = False

        async def in_transaction(connection: Connection) -> R:
            nonlocal is_unknown
            is_unknown = False
            transaction = connection.transaction()
            await transaction.start()
            try:
                result = await work(connection)
            except Exception:  # not at the deadline: a rollback would wait for the network again
                if not connection.is_closed():
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except BaseException:
                is_unknown = True
                on_unknown(result)
                raise
            return result

        try:
            return await self._run(in_transaction, waited_seconds)
        except StoreUnavailable as error:
            if is_unknown:
                raise StoreOutcomeUnknown from error.__cause__
            raise

    async def _run(
        self, work: Callable[[Connection], Awaitable[R]], waited_seconds: float = 0.0
    ) -> R:
        with translated():
            async with asyncio.timeout(self._seconds - waited_seconds):
                return await self._with_retries(work)

    async def _with_retries(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        for _ in range(MAX_TRIES - 1):
            try:
                async with self._pool.connection() as connection:
                    return await work(connection)
            except _CONFLICTS:
                await asyncio.sleep(random.uniform(0.0, 0.02))  # noqa: S311  # jitter
        async with self._pool.connection() as connection:
            return await work(connection)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()
