"""The connection for health checks, leadership and notifications, separate from the pool.

It never runs a transaction, so health checks do not wait for transactions. Its session holds the
lock of the leader and the subscription to notifications, which must end with the process.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg

from wats.cancellation import LastingTasks
from wats.errors import StoreError, StoreUnavailable
from wats.store.postgres.connection import Connection, Connector, close, translated

BEAT_SECONDS: Final = 5.0
"""The interval at which the connection is used, to detect a lost connection."""

RETRY_SECONDS: Final = 0.5
"""The shortest interval of attempts to connect again. A standby accepts connections, then refuses
to listen."""

NOTIFY_SECONDS: Final = 0.01
"""The delay of notifications. One notification covers all new work of this time."""

_CHANNEL: Final = "wats_work"

_NOTIFY = "SELECT pg_notify('wats_work', '')"

_LEAD = "SELECT pg_try_advisory_lock(hashtext('wats leader'), hashtext(current_schema()))"

_ALIVE = "SELECT 1"

_USE = "SELECT pg_try_advisory_lock_shared(hashtext('wats use'), hashtext(current_schema()))"

USE_ALONE = "SELECT pg_try_advisory_lock(hashtext('wats use'), hashtext(current_schema()))"
"""Excludes services until the session ends; false while a service uses the database."""

# At most one process writes in one beat. If the clock of the server has gone back, the shift
# increases by the difference. A process that waited for another one computes the time again, from
# the new shift: `wats_now()` would have the former one.
KEEP_CLOCK = """
UPDATE wats_clock SET (shift, latest) = (
    SELECT shift + greatest(latest - now, 0), greatest(latest, now)
    FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + shift) AS clock (now)
)
WHERE floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + shift
    NOT BETWEEN latest - 1000 AND latest + 2500
"""


class Control:
    """Keeps one connection open, and replaces it when it is lost.

    Args:
        connector: Makes the connections.
        wake: Called when another process has stored work, and when a notification may be lost.
    """

    def __init__(self, connector: Connector, wake: Callable[[], None]) -> None:
        self._connector = connector
        self._wake = wake
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._lost = asyncio.Event()
        self._leads = False
        self._has_news = asyncio.Event()
        self._tasks = LastingTasks(RETRY_SECONDS)

    async def start(self) -> None:
        """Connect and begin to listen.

        Raises:
            StoreUnavailable: The server cannot be reached.
        """
        await self._connect()
        self._tasks.start(self._keep)
        self._tasks.start(self._notify)

    async def stop(self) -> None:
        """Disconnect."""
        await self._tasks.cancel()
        if self._connection is not None:
            await close(self._connection)
            self._connection = None

    def notify(self) -> None:
        """Notify the other processes of new work, after `NOTIFY_SECONDS`."""
        self._has_news.set()

    async def value(self, query: str, *arguments: object) -> Any:
        """Return the single value of *query*.

        Raises:
            StoreUnavailable: The connection is lost, or the server does not respond in time.
        """
        with translated():
            try:
                async with asyncio.timeout(self._connector.limits.connect_seconds), self._turn:
                    if self._connection is None or self._connection.is_closed():
                        raise StoreUnavailable
                    return await self._connection.fetchval(query, *arguments)
            except (TimeoutError, asyncpg.ReadOnlySQLTransactionError):
                self._drop()
                raise

    async def lead(self) -> bool:
        """Take or confirm the lock of the leader, which the end of the connection releases."""
        query = _ALIVE if self._leads else _LEAD
        self._leads = bool(await self.value(query)) and self._connection is not None
        return self._leads

    async def _connect(self) -> None:
        connection = await self._connector.connect()
        with translated():
            try:
                async with asyncio.timeout(self._connector.limits.connect_seconds):
                    await connection.add_listener(_CHANNEL, self._on_notification)
                    if not await connection.fetchval(_USE):  # the database is being copied
                        raise StoreUnavailable
                    await connection.execute(KEEP_CLOCK)  # fails if the server is read-only
            except BaseException:
                connection.terminate()
                raise
        connection.add_termination_listener(self._on_termination)
        self._lost.clear()
        self._leads = False
        self._connection = connection

    def _on_notification(self, _: object, sender: int, *__: object) -> None:
        if self._connection is None or sender != self._connection.get_server_pid():
            self._wake()

    def _on_termination(self, connection: object) -> None:
        if connection is self._connection:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._leads = False
        self._lost.set()
        if connection is not None:
            connection.terminate()

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._lost.wait()
            if self._connection is None:
                await self._reconnect()
            with suppress(StoreError):
                await self.value(KEEP_CLOCK)

    async def _reconnect(self) -> None:
        pause = 0.0
        while self._connection is None:
            await asyncio.sleep(max(pause, self._connector.pause_seconds))
            pause = RETRY_SECONDS
            with suppress(StoreError):
                await self._connect()
        self._wake()

    async def _notify(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            with suppress(StoreError):
                await self.value(_NOTIFY)
            await asyncio.sleep(NOTIFY_SECONDS)
