"""Group commit: operations that wait at the same moment share one transaction and one disk flush.

    operation A ─┐              ┌─ BEGIN
    operation B ─┼─▸ gathered ─▸┼─ A, B, C … up to about 512    ─▸ finish A, B, C
    operation C ─┘              └─ COMMIT; if it fails, each alone

This half runs on the event loop and is the same for every database. The other half, which runs
the transaction, is a function that takes a batch.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import msgspec

from wats.store import NO_SLOTS, Slots
from wats.telemetry.contract.values import Outcome, StoreOperation

MAX_BATCH = 512
"""How many operations fill a transaction: a bound on how long the first one waits."""

MAX_ROUNDS = 32
"""How many turns of the event loop an operation waits at most for others to join it."""

REUNION_SECONDS = 0.001
"""How long a batch waits for clients that were just answered. Measured with 64 clients: without it
they split in two groups for good, such as 60 and 4, and each pays a flush."""

Finish: TypeAlias = Callable[[Any, Exception | None], None]
"""Called on the event loop with the result of an operation, or with its error."""


class Request(msgspec.Struct, kw_only=True):
    """One operation on its way to the database and back, or several that run in one call.

    Attributes:
        run: The operation. Its arguments are the connection, *items* if there are any, and what is
            *reserved* for these if there are *slots*. With items it returns a result for each.
        finishes: A callback for each operation.
        began: When each operation began.
        slots: What is reserved for *items* when the transaction is about to begin.
        is_patient: Whether the request waited for others. It runs before them: it frees what they
            need.
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
        """How many operations this is."""
        return len(self.finishes)

    def perform(self, connection: Any) -> None:
        """Run in the open transaction of *connection*."""
        if self.items is None:
            self.results = (self.run(connection),)
        elif self.slots is NO_SLOTS:
            self.results = self.run(connection, self.items)
        else:
            self.results = self.run(connection, self.items, self.reserved)

    def split(self) -> "list[Request]":
        """Return a request for each operation; the first of them gets what is reserved."""
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
        """Reserve the slots; finish the request and return False if that fails."""
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
            except Exception as failure:  # the others must be finished all the same
                self._report(failure)

    def _report(self, failure: Exception) -> None:
        context = {"message": "A finished request raised", "exception": failure}
        self.loop.call_exception_handler(context)


class GroupCommit:
    """Gathers the operations of one event loop while a batch of them is under way.

    Operations of other loops, which may end at any time, are handed over one by one.

    Args:
        hand_over: Takes a batch of requests; must not block. `ended` must follow.
        may_overtake: Whether a batch may begin while others are under way.
    """

    def __init__(
        self,
        hand_over: Callable[[list[Request]], None],
        may_overtake: Callable[[], bool] = lambda: False,
    ) -> None:
        self._hand_over = hand_over
        self._may_overtake = may_overtake
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Request] = []
        self._joint: dict[Callable[..., Any], Request] = {}  # those of them that can be joined
        self._size = 0
        self._expected = 0  # the operations of the last batch, and those that waited for its end
        self._under_way = 0
        self._is_gathering = False
        self._is_urgent = False  # a request waits that is not patient
        self._patience: asyncio.TimerHandle | None = None

    def submit(self, request: Request, *, patience_seconds: float = 0.0) -> None:
        """Gather *request*, with up to *patience_seconds* for others to share its transaction."""
        if request.loop is not self._loop:
            if request.reserve():
                self._hand_over([request])
            return
        self._waiting.append(request)
        self._size += 1
        if patience_seconds <= 0:
            self._is_urgent = True
            self.begin()
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
        """Gather an operation that runs in one call with all others of the same *run*."""
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
        request = Request(
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

    def ended(self, requests: Sequence[Request]) -> None:
        """Note, on their loop, that some requests that were handed over have ended."""
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
        """Hand over the batch, unless it grew since the last turn: then look again.

        The fewer transactions, the fewer pages are written twice. An idle loop looks once.
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
) -> "tuple[Request, asyncio.Future[Any]]":
    """Return a request of the running loop, and the future of its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    request = Request(
        run=run,
        finishes=[partial(resolve, future)],
        began=[perf_counter()],
        is_patient=is_patient,
        operation=operation,
        loop=loop,
    )
    return request, future


def resolve(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    """Pass the end of an operation to *future*, unless its caller was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def finish_all(
    requests: Sequence[Request], observe: Callable[[StoreOperation, Outcome, float], None]
) -> None:
    """Finish *requests*, on their loop, and report each operation to *observe*."""
    now = perf_counter()
    for request in requests:
        request.finish()
    for request in requests:
        if request.operation is not None:
            outcome = Outcome.SUCCESS if request.error is None else Outcome.ERROR
            for began in request.began:
                observe(request.operation, outcome, now - began)


def run_all(connection: Any, requests: Sequence[Request]) -> None:
    """Run *requests* in the open transaction of *connection*, in the order that saves most.

    Settlements first, so that arrivals use the pages that they free. Claims before arrivals, so
    that these are leased at once if nothing older is left.
    """
    for request in sorted(requests, key=_rank):
        request.perform(connection)


def _rank(request: Request) -> int:
    if request.is_patient:
        return 0
    return 1 if request.items is None else 2
