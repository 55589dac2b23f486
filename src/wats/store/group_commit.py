"""Group commit: concurrent operations share one transaction and one disk flush.

    operation A ─┐              ┌─ BEGIN
    operation B ─┼─▸ gathered ─▸┼─ A, B, C … up to about 512    ─▸ finish A, B, C
    operation C ─┘              └─ COMMIT; if it fails, each alone

This module runs on the event loop and is independent of the database. A function that takes a
batch of requests runs the transaction.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import msgspec

from wats.cancellation import resolve
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

Finish: TypeAlias = Callable[[Any, Exception | None], None]
"""Called on the event loop with the result or the error of an operation."""

Report: TypeAlias = Callable[[StoreOperation, Outcome, float], None]
"""Called on the loop of the caller after every operation, with its outcome and duration (s)."""


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
        is_patient: Whether the request waited for others to join. Patient requests run first,
            because they free pages and ordering keys.
        operation: The name for telemetry; `None` if the request is not counted.
        results: A result for each operation, unless there is an *error*.
    """

    run: Callable[..., Any]
    items: list[Any] | None = None
    finishes: list[Finish]
    began: list[float]
    slots: Slots = NO_SLOTS
    reserved: Mapping[str, int] = msgspec.field(default_factory=dict)
    is_patient: bool = False
    operation: StoreOperation | None = None
    loop: asyncio.AbstractEventLoop
    results: Sequence[Any] = (None,)
    error: Exception | None = None

    @property
    def size(self) -> int:
        """The number of operations."""
        return len(self.finishes)

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
                self, items=[item], finishes=[finish], began=[began], slots=NO_SLOTS, reserved={}
            )
            for item, finish, began in zip(self.items, self.finishes, self.began, strict=True)
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

    def finish(self) -> None:
        """Give back the slots and call every callback."""
        error = self.error
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
        may_overtake: Whether a batch may begin while others are under way.
    """

    def __init__(
        self,
        hand_over: Callable[[list[StoreRequest]], None],
        report: Report,
        may_overtake: Callable[[], bool] = lambda: False,
    ) -> None:
        self._hand_over = hand_over
        self._report = report
        self._may_overtake = may_overtake
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
    ) -> None:
        """Gather an operation that runs in one call with all gathered operations of *run*."""
        joint = self._joint.get(run)
        loop = asyncio.get_running_loop()
        if joint is not None and joint.slots is slots and loop is self._loop:
            joint.items.append(item)  # type: ignore[union-attr]  # a joint request has items
            joint.finishes.append(finish)
            joint.began.append(perf_counter())
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
            loop=loop,
        )
        if loop is self._loop:
            self._joint[run] = request
        self.submit(request)

    def end(self, requests: Sequence[StoreRequest]) -> None:
        """Finish and report *requests*, which were handed over. Called on their loop."""
        now = perf_counter()
        for request in requests:
            request.finish()
        for request in requests:
            if request.operation is not None:
                outcome = Outcome.SUCCESS if request.error is None else Outcome.ERROR
                for began in request.began:
                    self._report(request.operation, outcome, now - began)
        if asyncio.get_running_loop() is not self._loop:
            return
        self._under_way -= sum(request.size for request in requests)
        if not self._under_way:
            self._expected += self._size
        self.begin()

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
        elif size * 4 < self._expected * 3 and rounds >= 0:
            self._loop.call_later(REUNION_SECONDS, self._gather, 0, -1)
        else:
            self._is_gathering = False
            self.flush()

    def flush(self) -> None:
        """Hand over what waits, also while a batch is under way."""
        batch, self._waiting = self._waiting, []
        self._is_urgent = False
        self._expected, self._size = self._size, 0
        self._joint.clear()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if ready := [request for request in batch if request.reserve()]:
            self._under_way += sum(request.size for request in ready)
            self._hand_over(ready)


def request_of(
    run: Callable[..., Any], operation: StoreOperation | None = None, *, is_patient: bool = False
) -> "tuple[StoreRequest, asyncio.Future[Any]]":
    """Return a request of the running loop, and a future for its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    request = StoreRequest(
        run=run,
        finishes=[partial(resolve, future)],
        began=[perf_counter()],
        is_patient=is_patient,
        operation=operation,
        loop=loop,
    )
    return request, future


def run_all(connection: Any, requests: Sequence[StoreRequest]) -> None:
    """Run *requests* in the open transaction of *connection*, in the order of the least work.

    Settlements run first, because arrivals reuse the pages of deleted deliveries. Claims run before
    arrivals: arrivals are leased on arrival if no older delivery is left.
    """
    for request in sorted(requests, key=_rank):
        request.perform(connection)


def _rank(request: StoreRequest) -> int:
    if request.is_patient:
        return 0
    return 1 if request.items is None else 2
