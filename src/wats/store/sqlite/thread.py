"""A thread that owns a connection and runs batches of requests on it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeAlias, TypeVar

import apsw

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
        run_batch: Gives each request its `result` or its `error`; never raises.
    """

    def __init__(
        self, name: str, run_batch: Callable[[C, Sequence[Request]], None], observe: Observe
    ) -> None:
        self._run_batch = run_batch
        self._observe = observe
        self._queue: SimpleQueue[list[Request]] = SimpleQueue()
        self._backlog: list[Request] = []  # taken from the queue; too many for one transaction
        self._group = GroupCommit(self._queue.put)
        self._thread = Thread(target=self._work, name=name, daemon=True)

    async def start(self, connect: Callable[[], C]) -> None:
        """Connect. If that fails, or its caller is cancelled, the thread ends."""
        request, connected = request_of(connect)
        self._queue.put([request])
        self._thread.start()
        try:
            await connected
        except BaseException:
            self._queue.put([request_of(_stop)[0]])
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

    def submit_joined(
        self, operation: StoreOperation, run: Callable[[C, Sequence[Any]], Sequence[Any]], item: Any
    ) -> "asyncio.Future[Any]":
        """Submit an operation that runs in one call with all others that have the same *run*."""
        request, future = request_of(run, operation, item=item, is_joined=True)
        self._group.submit(request)
        return future

    def submit_with(
        self,
        operation: StoreOperation,
        run: Callable[[C, Sequence[Any]], Sequence[Any]],
        prepare: Callable[[], Any],
        finish: Finish,
        *,
        loop: asyncio.AbstractEventLoop,
        began: float,
    ) -> None:
        """Like `submit_joined`, with callbacks for item and result: for thousands a second."""
        self._group.submit(
            Request(
                run=run,
                prepare=prepare,
                is_joined=True,
                finish=finish,
                operation=operation,
                loop=loop,
                began=began,
            )
        )

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
            requests = self._next_batch()
            if requests[-1].run is _stop:
                last = requests.pop()
            if requests:
                self._run_batch(connection, requests)
                self._finish(requests)
        with suppress(apsw.Error):  # everything is committed, and the caller waits
            connection.close()
        self._finish([last])

    def _next_batch(self) -> list[Request]:
        requests = self._backlog or self._queue.get()
        with suppress(Empty):
            while len(requests) < MAX_BATCH:
                requests += self._queue.get_nowait()
        self._backlog = requests[MAX_BATCH:]
        return requests[:MAX_BATCH]

    def _finish(self, requests: Sequence[Request]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
        for request in requests:
            by_loop.setdefault(request.loop, []).append(request)
        for loop, theirs in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed, so its callers are gone
                loop.call_soon_threadsafe(finish_all, theirs, self._observe)


def _stop() -> None:
    """Stand for the last request of a thread."""


def run_each(connection: apsw.Connection, requests: Sequence[Request]) -> None:
    """Run every request by itself, outside of any transaction: for reads."""
    for request in requests:
        try:
            request.result = request.run(connection)
        except Exception as error:
            request.error = translate(error)


def commit(writer: Writer, requests: Sequence[Request]) -> None:
    """Run all *requests* in one transaction.

    If one of them fails, each gets a transaction of its own: a bad request spoils no other.
    """
    try:
        writer.execute("BEGIN IMMEDIATE")
    except apsw.Error as error:
        # Nothing can be written now; to try each alone would be to wait as long for each.
        for request in requests:
            request.error = translate(error)
        return
    try:
        run_all(writer, requests)
        writer.commit()
    except Exception as error:
        writer.roll_back()
        if len(requests) == 1:
            requests[0].error = translate(error)
        else:
            for request in requests:
                commit(writer, [request])
