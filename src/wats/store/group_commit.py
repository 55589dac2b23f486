"""Group commit: concurrent operations share one transaction and one disk flush.

    operation A ─┐              ┌─ BEGIN
    operation B ─┼─▸ gathered ─▸┼─ A, B, C … up to about 512    ─▸ finish A, B, C
    operation C ─┘              └─ COMMIT; if it fails, each alone

This module runs on the event loop and is independent of the database. A function that takes a
batch of requests runs the transaction.

A batch has a deadline, unless the database itself limits its transactions. When it has passed, the
operations of the batch and all that wait for its end fail, and so do new ones until it has ended:
the disk hangs. If it is committed in the end, its callers have failed, so leases and reservations
are undone. So are those of a caller that was cancelled meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import msgspec

from wats.cancellation import resolve
from wats.errors import StoreUnavailable
from wats.store import NO_SLOTS, Slots
from wats.telemetry.contract.values import Outcome, StoreOperation

MAX_BATCH = 512
"""The size of a full transaction, in operations. It bounds how long the first operation waits."""

MAX_ROUNDS = 32
"""The maximum number of turns of the event loop for which a batch waits for more operations."""

REUNION_SECONDS = 0.001
"""How long a batch waits for the next requests of clients that have just received a response.
Measured with 64 clients: without this pause they split permanently into two groups, such as 60 and
4, with a flush for each group."""

FEWEST_TO_REUNITE = 8
"""The size of a batch from which on the next one waits. One flush more costs fewer clients less."""

R = TypeVar("R")

Finish: TypeAlias = Callable[[Any, Exception | None], None]
"""Called on the event loop with the result or the error of an operation."""

Report: TypeAlias = Callable[[StoreOperation, Outcome, float], None]
"""Called on the loop of the caller after every operation, with its outcome and duration (s)."""

Undo: TypeAlias = Callable[[Any, Sequence[Any]], None]
"""An operation that undoes late results; with the connection and these results."""


class Deadline:
    """The time limit of the requests that were handed over together."""

    __slots__ = ("has_passed", "timer")

    timer: asyncio.TimerHandle

    def __init__(self) -> None:
        self.has_passed = False


class StoreRequest(msgspec.Struct, kw_only=True):
    """An operation of the store with its result, or several operations that run as one call.

    Attributes:
        run: The function to call with the connection, with *items* unless they are `None`, and with
            *reserved* if there are *slots*. With items it returns a result for each item.
        items: The arguments of joined operations, one for each operation.
        finishes: A callback for each operation.
        began: The time at which each operation began.
        slots: Reserves slots for *items* just before the transaction begins.
        reserved: The reserved slots.
        operation: The name for telemetry; `None` if the request is not counted.
        undo: Undoes the results if no caller gets them.
        flushes: Whether the results must survive a power failure.
        deadline: The time limit, from the hand-over on.
        futures: The futures of the callers, if they can be cancelled: one for each operation.
        results: A result for each operation, unless there is an *error*.
    """

    run: Callable[..., Any]
    items: list[Any] | None = None
    finishes: list[Finish]
    began: list[float]
    slots: Slots = NO_SLOTS
    reserved: Mapping[str, int] = msgspec.field(default_factory=dict)
    operation: StoreOperation | None = None
    undo: Undo | None = None
    flushes: bool = True
    deadline: Deadline | None = None
    futures: "list[asyncio.Future[Any]]" = msgspec.field(default_factory=list)
    loop: asyncio.AbstractEventLoop
    results: Sequence[Any] = (None,)
    error: Exception | None = None

    @property
    def size(self) -> int:
        """The number of operations."""
        return len(self.finishes)

    @property
    def is_late(self) -> bool:
        """Whether its operations have failed already, because the deadline has passed."""
        return self.deadline is not None and self.deadline.has_passed

    @property
    def abandoned(self) -> Sequence[Any]:
        """The results that no caller gets: the caller has failed, or was cancelled."""
        if self.is_late:
            return self.results
        callers = zip(self.futures, self.results, strict=False)  # an error has no results
        return [result for future, result in callers if future.cancelled()]

    def perform(self, connection: Any) -> None:
        """Run the operations in the open transaction of *connection*."""
        if self.items is None:
            self.results = (self.run(connection),)
        elif self.slots is NO_SLOTS:
            self.results = self.run(connection, self.items)
        else:
            self.results = self.run(connection, self.items, self.reserved)

    def split(self) -> "list[StoreRequest]":
        """Return a request for each operation; the first request gets the reserved slots."""
        if self.items is None:
            return [self]
        parts = [
            msgspec.structs.replace(
                self,
                items=[item],
                finishes=[self.finishes[n]],
                began=[self.began[n]],
                futures=self.futures[n : n + 1],
                slots=NO_SLOTS,
                reserved={},
            )
            for n, item in enumerate(self.items)
        ]
        parts[0].slots, parts[0].reserved = self.slots, self.reserved
        return parts

    def reserve(self) -> bool:
        """Reserve the slots; on failure, finish the request and return False."""
        if self.slots is not NO_SLOTS and self.items is not None:
            try:
                self.reserved = self.slots.reserve([each for item in self.items for each in item])
            except Exception as error:
                self.error, self.slots = error, NO_SLOTS
                self.finish()
                return False
        return True

    def finish(self, failure: Exception | None = None) -> None:
        """Give back the slots and call every callback, with *failure* if there is one."""
        error = failure or self.error
        results = self.results if error is None else [None] * self.size
        try:
            self.slots.give_back(self.reserved)
        except Exception as failure:
            self._report(failure)
        for finish, result in zip(self.finishes, results, strict=True):
            try:
                finish(result, error)
            except Exception as failure:  # the other operations must be finished too
                self._report(failure)

    def _report(self, failure: Exception) -> None:
        context = {"message": "A finished request raised", "exception": failure}
        self.loop.call_exception_handler(context)


class GroupCommit:
    """Gathers operations of one event loop into batches while another batch runs.

    Operations of other loops are not gathered, because those loops may end at any time.

    Args:
        hand_over: Takes a batch of requests; must not block. `end` must follow.
        report: Called after every operation.
        timeout_seconds: The time limit of a batch; `None` if *hand_over* limits it.
        may_overtake: Whether a batch may begin while others are under way.
    """

    def __init__(
        self,
        hand_over: Callable[[list[StoreRequest]], None],
        report: Report,
        timeout_seconds: float | None,
        may_overtake: Callable[[], bool] = lambda: False,
    ) -> None:
        self._hand_over_batch = hand_over
        self._report = report
        self._timeout_seconds = timeout_seconds
        self._may_overtake = may_overtake
        self._overdue = 0  # batches under way whose deadline has passed
        self._loop = asyncio.get_running_loop()
        self._waiting: list[StoreRequest] = []
        self._joint: dict[Callable[..., Any], StoreRequest] = {}  # requests that others can join
        self._size = 0
        self._expected = 0  # operations of the last batch and those gathered at its end
        self._under_way = 0
        self._is_gathering = False
        self._is_urgent = False  # whether a gathered request is not patient
        self._patience: asyncio.TimerHandle | None = None

    def submit(self, request: StoreRequest, *, patience_seconds: float = 0.0) -> None:
        """Gather *request*; wait up to *patience_seconds* for others to share its transaction."""
        if self._overdue:
            request.loop.call_soon(self._refuse, [request])
            return
        if request.loop is not self._loop:
            if request.reserve():
                self._hand_over([request])
            return
        self._waiting.append(request)
        self._size += 1
        if patience_seconds <= 0:
            self._end_patience()
        elif self._patience is None:  # the first patient request takes the others along
            self._patience = self._loop.call_later(patience_seconds, self._end_patience)

    def join(
        self,
        operation: StoreOperation,
        run: Callable[..., Any],
        item: Any,
        finish: Finish,
        slots: Slots = NO_SLOTS,
        undo: Undo | None = None,
        future: "asyncio.Future[Any] | None" = None,
    ) -> None:
        """Gather an operation that runs in one call with all gathered operations of *run*.

        The result is passed to *finish*, because a future for each of thousands of operations a
        second would be slow.
        With *undo*, pass the *future* of a caller that can be cancelled.
        """
        joint = self._joint.get(run)
        loop = asyncio.get_running_loop()
        if joint is not None and joint.slots is slots and loop is self._loop:
            joint.items.append(item)  # type: ignore[union-attr]  # a joint request has items
            joint.finishes.append(finish)
            joint.began.append(perf_counter())
            if future is not None:
                joint.futures.append(future)
            self._size += 1
            if self._size >= MAX_BATCH:
                self.flush()
            return
        request = StoreRequest(
            run=run,
            items=[item],
            finishes=[finish],
            began=[perf_counter()],
            slots=slots,
            operation=operation,
            undo=undo,
            futures=[] if future is None else [future],
            loop=loop,
        )
        if loop is self._loop and not self._overdue:
            self._joint[run] = request
        self.submit(request)

    def submit_now(self, request: StoreRequest) -> None:
        """Hand over all that waits, then *request*, without a deadline: it opens or closes."""
        if request.loop is self._loop:
            self.flush()
            self._under_way += request.size
        self._hand_over_batch([request])

    @property
    def is_overdue(self) -> bool:
        """Whether the deadline of a batch has passed, and the batch has not ended."""
        return self._overdue > 0

    def end(self, requests: Sequence[StoreRequest]) -> None:
        """Finish, on their loop, all requests of some batches that were handed over."""
        self._finish([request for request in requests if not request.is_late])
        deadlines = {request.deadline for request in requests if request.deadline is not None}
        for deadline in deadlines:
            deadline.timer.cancel()
        if asyncio.get_running_loop() is self._loop:
            self._overdue -= sum(deadline.has_passed for deadline in deadlines)
            self._under_way -= sum(request.size for request in requests)
            if not self._under_way:
                self._expected += self._size
            self.begin()
        for request in requests:
            if request.undo is not None and request.error is None and (lost := request.abandoned):
                self._undo(request.undo, lost, request.loop)

    async def result(self, future: "asyncio.Future[R]", undo: Undo) -> R:
        """Return the result of *future*; undo it if its caller is cancelled before it reads it.

        A caller that was cancelled before the result was there is noticed by `end`.
        """
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                self._undo(undo, [future.result()], asyncio.get_running_loop())
            raise

    def _undo(self, undo: Undo, results: Sequence[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.submit(
            StoreRequest(
                run=lambda connection: undo(connection, results),
                finishes=[_ignore],
                began=[perf_counter()],
                loop=loop,
            )
        )

    def _hand_over(self, requests: list[StoreRequest]) -> None:
        if self._timeout_seconds is not None:
            deadline = Deadline()
            for request in requests:
                request.deadline = deadline
            # A copy: the function that takes the batch may add to its list.
            deadline.timer = requests[0].loop.call_later(
                self._timeout_seconds, self._expire, deadline, tuple(requests)
            )
        self._hand_over_batch(requests)

    def _expire(self, deadline: Deadline, requests: Sequence[StoreRequest]) -> None:
        deadline.has_passed = True
        if requests[0].loop is self._loop:
            self._overdue += 1
            requests = (*requests, *self._take_waiting())
        self._refuse(requests)

    def _refuse(self, requests: Sequence[StoreRequest]) -> None:
        self._finish(requests, StoreUnavailable())

    def _finish(self, requests: Sequence[StoreRequest], failure: Exception | None = None) -> None:
        """Finish and report *requests* on their loop, with *failure* if there is one."""
        now = perf_counter()
        for request in requests:
            request.finish(failure)
        for request in requests:
            if request.operation is not None:
                is_success = failure is None and request.error is None
                outcome = Outcome.SUCCESS if is_success else Outcome.ERROR
                for began in request.began:
                    self._report(request.operation, outcome, now - began)

    def _end_patience(self) -> None:
        self._is_urgent = True
        self.begin()

    def begin(self) -> None:
        """Gather the next batch, if there is one, and if none is under way or may be overtaken."""
        if not self._is_urgent or self._is_gathering:
            return
        if not self._under_way or self._may_overtake():
            self._is_gathering = True
            self._loop.call_soon(self._gather, self._size, MAX_ROUNDS)

    def _gather(self, seen: int, rounds: int) -> None:
        """Hand over the batch, or check again after a turn of the loop in which the batch grew.

        Fewer transactions write fewer pages twice. On an idle loop, the first check hands over.
        """
        size = self._size
        if seen < size and rounds > 0:
            self._loop.call_soon(self._gather, size, rounds - 1)
        elif self._is_small(size) and rounds >= 0:
            self._loop.call_later(REUNION_SECONDS, self._gather, 0, -1)
        else:
            self._is_gathering = False
            self.flush()

    def _is_small(self, size: int) -> bool:
        """Return whether less than three quarters of many expected operations have come."""
        return self._expected >= FEWEST_TO_REUNITE and size * 4 < self._expected * 3

    def flush(self) -> None:
        """Hand over what waits, also while a batch is under way."""
        if ready := [request for request in self._take_waiting() if request.reserve()]:
            self._under_way += sum(request.size for request in ready)
            self._hand_over(ready)

    def _take_waiting(self) -> list[StoreRequest]:
        waiting, self._waiting = self._waiting, []
        self._is_urgent = False
        self._expected, self._size = self._size, 0
        self._joint.clear()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        return waiting


def request_of(
    run: Callable[..., Any],
    operation: StoreOperation | None = None,
    *,
    undo: Undo | None = None,
    flushes: bool = True,
) -> "tuple[StoreRequest, asyncio.Future[Any]]":
    """Return a request of the running loop, and a future for its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    request = StoreRequest(
        run=run,
        finishes=[partial(resolve, future)],
        began=[perf_counter()],
        operation=operation,
        undo=undo,
        flushes=flushes,
        futures=[future],
        loop=loop,
    )
    return request, future


def _ignore(_result: Any, _error: Exception | None) -> None:
    """Stand in for a caller."""
