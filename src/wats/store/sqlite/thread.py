"""A thread that owns a connection and runs batches of requests on it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeAlias, TypeVar

import apsw

from wats.store import NO_SLOTS, Slots
from wats.store.group_commit import (
    MAX_BATCH,
    Finish,
    GroupCommit,
    Request,
    finish_all,
    request_of,
    run_all,
)
from wats.store.sqlite.connection import Writer, translate
from wats.telemetry.contract.values import Outcome, StoreOperation

C = TypeVar("C", bound=apsw.Connection)

Observe: TypeAlias = Callable[[StoreOperation, Outcome, float], None]
"""Called for every finished operation, on the loop of its caller."""


class ConnectionThread(Generic[C]):
    """Runs requests on one connection, so that no event loop waits for a disk.

    Args:
        run_batch: Gives each request its `results` or its `error`; never raises. Returns the
            requests to finish: those that failed together come back one by one.
    """

    def __init__(
        self,
        name: str,
        run_batch: Callable[[C, Sequence[Request]], Sequence[Request]],
        observe: Observe,
    ) -> None:
        self._run_batch = run_batch
        self._observe = observe
        self._queue: SimpleQueue[list[Request]] = SimpleQueue()
        self._group = GroupCommit(self._queue.put)
        self._thread = Thread(target=self._work, name=name, daemon=True)

    async def start(self, connect: Callable[[], C]) -> None:
        """Connect. If that fails, or its caller is cancelled, the thread ends."""
        request, connected = request_of(connect)
        self._group.submit(request)
        self._thread.start()
        try:
            await connected
        except BaseException:
            self._group.submit(request_of(_stop)[0])
            raise

    async def stop(self) -> None:
        """Run what was submitted, close the connection and end the thread."""
        request, stopped = request_of(_stop)
        self._group.submit(request)
        await stopped
        self._thread.join()

    def submit(
        self,
        operation: StoreOperation | None,
        run: Callable[[C], Any],
        *,
        patience_seconds: float = 0.0,
    ) -> "asyncio.Future[Any]":
        """Submit an operation; its future is done when its transaction is durable."""
        request, future = request_of(run, operation, is_patient=patience_seconds > 0)
        self._group.submit(request, patience_seconds=patience_seconds)
        return future

    def join(
        self,
        operation: StoreOperation,
        run: Callable[..., Sequence[Any]],
        item: Any,
        finish: Finish,
        slots: Slots = NO_SLOTS,
    ) -> None:
        """Submit an operation that runs in one call with all others that have the same *run*.

        With a callback for its result: there are thousands of them a second.
        """
        self._group.join(operation, run, item, finish, slots)

    def _work(self) -> None:
        (connecting,) = self._queue.get()
        try:
            connection: C = connecting.run()
        except Exception as error:
            connecting.error = translate(error)
            self._finish([connecting])
            return
        self._finish([connecting])
        last: Request | None = None
        while last is None:
            last = self._run_next_batch(connection)
        with suppress(apsw.Error):  # everything is committed, and the caller waits
            connection.close()
        self._finish([last])

    def _run_next_batch(self, connection: C) -> Request | None:
        """Run and finish the next batch; return the request to stop, if that was its last one.

        In a function of its own: a variable of the loop would keep the batch, and the webhook
        bodies that it refers to, until the next one arrives.
        """
        requests = self._next_batch()
        last = requests.pop() if requests[-1].run is _stop else None
        if requests:
            self._finish(self._run_batch(connection, requests))
        return last

    def _next_batch(self) -> list[Request]:
        requests = self._queue.get()
        with suppress(Empty):
            while sum(request.size for request in requests) < MAX_BATCH:
                requests += self._queue.get_nowait()
        return requests

    def _finish(self, requests: Sequence[Request]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
        for request in requests:
            by_loop.setdefault(request.loop, []).append(request)
        for loop, theirs in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed, so its callers are gone
                loop.call_soon_threadsafe(self._end, theirs)

    def _end(self, requests: Sequence[Request]) -> None:
        finish_all(requests, self._observe)
        self._group.ended(requests)


def _stop() -> None:
    """Stand for the last request of a thread."""


def run_each(connection: apsw.Connection, requests: Sequence[Request]) -> Sequence[Request]:
    """Run every request by itself, outside of any transaction: for reads."""
    for request in requests:
        try:
            request.perform(connection)
        except Exception as error:
            request.error = translate(error)
    return requests


def commit(writer: Writer, requests: Sequence[Request]) -> Sequence[Request]:
    """Run all *requests* in one transaction.

    If one of them fails, each operation gets a transaction of its own: a bad one spoils no other.
    """
    try:
        writer.execute("BEGIN IMMEDIATE")
    except apsw.Error as error:
        # Nothing can be written now; to try each alone would be to wait as long for each.
        for request in requests:
            request.error = translate(error)
        return requests
    try:
        run_all(writer, requests)
        writer.commit()
    except Exception as error:
        writer.roll_back()
        parts = [part for request in requests for part in request.split()]
        if len(parts) > 1:
            return [ended for part in parts for ended in commit(writer, [part])]
        parts[0].error = translate(error)
        return parts
    return requests
