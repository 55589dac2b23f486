"""A thread that owns a connection and runs batches of requests on it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Generic, TypeVar

import apsw

from wats.errors import StoreUnavailable
from wats.store.group_commit import (
    MAX_BATCH,
    GroupCommit,
    Report,
    StoreRequest,
    Undo,
    request_of,
)
from wats.store.sqlite.connection import Writer, translate
from wats.telemetry.contract.values import StoreOperation

TIMEOUT_SECONDS: Final = 5.0
"""The time limit of an operation."""

STOP_SECONDS: Final = 5.0
"""The time limit of the end of a thread."""

C = TypeVar("C", bound=apsw.Connection)
R = TypeVar("R")


class ConnectionThread(Generic[C]):
    """Runs requests on one connection, so that no event loop waits for a disk.

    Attributes:
        join: `GroupCommit.join`.
        result: `GroupCommit.result`.

    Args:
        name: The name of the thread.
        run_batch: Sets the `results` or the `error` of each request; never raises. Returns the
            requests to finish: a joint request may be split after a failure.
        report: Called after every operation.
        timeout_seconds: The time limit of a batch, after which its requests have failed.
    """

    def __init__(
        self,
        name: str,
        run_batch: Callable[[C, Sequence[StoreRequest]], Sequence[StoreRequest]],
        report: Report,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._run_batch = run_batch
        self._queue: SimpleQueue[list[StoreRequest]] = SimpleQueue()
        self._group = GroupCommit(self._queue.put, report, timeout_seconds)
        self.join = self._group.join
        self.result = self._group.result
        self._thread = Thread(target=self._work, name=name, daemon=True)

    async def start(self, connect: Callable[[], C]) -> None:
        """Connect. The thread ends if the connection fails or the caller is cancelled."""
        request, connected = request_of(connect)
        self._group.submit_now(request)
        self._thread.start()
        try:
            await connected
        except BaseException:
            self._group.submit_now(request_of(_stop)[0])
            raise

    async def stop(self) -> None:
        """Run the submitted requests, close the connection and end the thread.

        Raises:
            StoreUnavailable: The disk hangs; the thread ends if the disk recovers.
        """
        request, stopped = request_of(_stop)
        self._group.submit_now(request)
        if self.is_overdue:
            raise StoreUnavailable
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await stopped
        except TimeoutError:
            raise StoreUnavailable from None
        self._thread.join()

    @property
    def is_overdue(self) -> bool:
        """Whether a batch has taken longer than permitted and has not ended: the disk hangs."""
        return self._group.is_overdue

    def submit(
        self,
        operation: StoreOperation | None,
        run: Callable[[C], R],
        *,
        patience_seconds: float = 0.0,
        undo: Undo | None = None,
        flushes: bool = True,
    ) -> "asyncio.Future[R]":
        """Submit an operation; its future is done when its transaction is durable.

        Without *flushes*, it is done when the transaction is committed, and a power failure may
        undo it.
        """
        request, future = request_of(run, operation, undo=undo, flushes=flushes)
        self._group.submit(request, patience_seconds=patience_seconds)
        return future

    def _work(self) -> None:
        (connecting,) = self._queue.get()
        try:
            connection: C = connecting.run()
        except Exception as error:
            connecting.error = translate(error)
            self._finish([connecting])
            return
        self._finish([connecting])
        last: StoreRequest | None = None
        while last is None:
            last = self._run_next_batch(connection)
        with suppress(apsw.Error):  # everything is committed, and the caller waits for the end
            connection.close()
        self._finish([last])

    def _run_next_batch(self, connection: C) -> StoreRequest | None:
        """Run and finish the next batch; return the request to stop, if it is the last request.

        It is a function, since a variable in a loop would keep the batch, with its webhook bodies,
        in memory until the next batch arrives.
        """
        requests = self._next_batch()
        last = requests.pop() if requests[-1].run is _stop else None
        if requests:
            self._finish(self._run_batch(connection, requests))
        return last

    def _next_batch(self) -> list[StoreRequest]:
        """Return what waits, at most to the stop: another loop may add a request after it."""
        requests = self._queue.get()
        with suppress(Empty):
            while (
                requests[-1].run is not _stop
                and sum(request.size for request in requests) < MAX_BATCH
            ):
                requests += self._queue.get_nowait()
        return requests

    def _finish(self, requests: Sequence[StoreRequest]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[StoreRequest]] = {}
        for request in requests:
            by_loop.setdefault(request.loop, []).append(request)
        for loop, theirs in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed, so its callers are gone
                loop.call_soon_threadsafe(self._group.end, theirs)


def _stop() -> None:
    """Mark the last request of a thread; never called."""


def run_each(
    connection: apsw.Connection, requests: Sequence[StoreRequest]
) -> Sequence[StoreRequest]:
    """Run each request outside of a transaction, for reads."""
    for request in requests:
        try:
            request.perform(connection)
        except Exception as error:
            request.error = translate(error)
    return requests


def commit(writer: Writer, requests: Sequence[StoreRequest]) -> Sequence[StoreRequest]:
    """Run all *requests* in one transaction.

    If an operation fails, each operation is repeated in a transaction of its own, so that a failing
    operation does not affect others.
    """
    try:
        writer.begin(flushes=any(request.flushes for request in requests))
    except apsw.Error as error:
        # The database cannot be written now: each further attempt would wait as long.
        for request in requests:
            request.error = translate(error)
        return requests
    try:
        for request in sorted(requests, key=_rank):
            request.perform(writer)
        writer.commit()
    except Exception as error:
        writer.roll_back()
        parts = [part for request in requests for part in request.split()]
        if len(parts) > 1:
            return [ended for part in parts for ended in commit(writer, [part])]
        parts[0].error = translate(error)
        return parts
    return requests


def _rank(request: StoreRequest) -> int:
    """Return the place of *request* in the order of its transaction.

    Settlements run first, because arrivals reuse the pages of deleted deliveries. Renewals run
    before claims: leases that expired while the database hung are renewed before a claim of the
    same process can take their deliveries. Claims run before arrivals: arrivals are leased on
    arrival if no older delivery is left.
    """
    match request.operation:
        case StoreOperation.SETTLE:
            return 0
        case StoreOperation.RENEW:
            return 1
        case _:
            return 2 if request.items is None else 3
