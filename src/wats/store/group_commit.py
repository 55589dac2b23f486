"""Group commit: requests that wait at the same moment share one transaction and one disk flush.

    request A ─┐              ┌─ BEGIN
    request B ─┼─▸ gathered ─▸┼─ A, B, C … up to 512 of them     ─▸ finish A, B, C
    request C ─┘              └─ COMMIT; if it fails, each alone

This half runs on the event loop and is the same for every database. The other half, which runs
the transaction, is a function that takes a batch.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import msgspec

from wats.telemetry.contract.values import Outcome, StoreOperation

MAX_BATCH = 512
"""The most requests in one transaction: a bound on how long the first one waits."""

MAX_ROUNDS = 32
"""How many turns of the event loop a request waits at most for others to join it."""

Finish: TypeAlias = Callable[[Any, Exception | None], None]
"""Called on the event loop with the result of a request, or with its error."""


class Request(msgspec.Struct, kw_only=True):
    """One operation on its way to the database and back.

    Attributes:
        run: The operation. Its first argument is the connection.
        item: If *is_joined*: all items of a batch with the same *run* are passed to one call,
            which returns one result for each.
        prepare: Returns the item, when the transaction is about to begin.
        is_patient: Whether the request waited for others. It runs before them: it frees what they
            need.
        operation: The name for telemetry; `None` if the request is not counted.
    """

    run: Callable[..., Any]
    item: Any = None
    prepare: Callable[[], Any] | None = None
    is_joined: bool = False
    is_patient: bool = False
    finish: Finish
    operation: StoreOperation | None = None
    loop: asyncio.AbstractEventLoop
    began: float
    result: Any = None
    error: Exception | None = None


class GroupCommit:
    """Gathers the requests of one event loop.

    Requests of other loops, which may end at any time, are handed over one by one.

    Args:
        hand_over: Takes a batch of requests; must not block.
    """

    def __init__(self, hand_over: Callable[[list[Request]], None]) -> None:
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Request] = []
        self._is_gathering = False

    def submit(self, request: Request, *, patience_seconds: float = 0.0) -> None:
        """Gather *request*, with up to *patience_seconds* for others to share its transaction."""
        if request.loop is not self._loop:
            if ready := prepared([request]):
                self._hand_over(ready)
            return
        self._waiting.append(request)
        if self._is_gathering:
            return
        if patience_seconds <= 0:
            self._begin()
        elif len(self._waiting) == 1:  # the first patient request takes the others along
            self._loop.call_later(patience_seconds, self._begin)

    def _begin(self) -> None:
        if self._waiting and not self._is_gathering:
            self._is_gathering = True
            self._loop.call_soon(self._gather, len(self._waiting), MAX_ROUNDS)

    def _gather(self, seen: int, rounds: int) -> None:
        """Hand over the batch, unless it grew since the last turn: then look again.

        The fewer transactions, the fewer pages are written twice. An idle loop looks once.
        """
        count = len(self._waiting)
        if seen < count < MAX_BATCH and rounds:
            self._loop.call_soon(self._gather, count, rounds - 1)
            return
        self._is_gathering = False
        batch, self._waiting = self._waiting, []
        if ready := prepared(batch):
            self._hand_over(ready)


def prepared(requests: list[Request]) -> list[Request]:
    """Give those of *requests* their item that have it only now; finish those that fail at it."""
    ready: list[Request] = []
    for request in requests:
        if request.prepare is not None:
            try:
                request.item = request.prepare()
            except Exception as error:
                request.finish(None, error)
                continue
        ready.append(request)
    return ready


def request_of(
    run: Callable[..., Any],
    operation: StoreOperation | None = None,
    *,
    is_patient: bool = False,
    item: Any = None,
    is_joined: bool = False,
) -> "tuple[Request, asyncio.Future[Any]]":
    """Return a request of the running loop, and the future of its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    request = Request(
        run=run,
        item=item,
        is_joined=is_joined,
        is_patient=is_patient,
        finish=partial(_resolve, future),
        operation=operation,
        loop=loop,
        began=perf_counter(),
    )
    return request, future


def _resolve(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():  # its caller was cancelled
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
        try:
            request.finish(request.result, request.error)
        except Exception as error:  # the others must be finished all the same
            context = {"message": "A finished request raised", "exception": error}
            request.loop.call_exception_handler(context)
    for request in requests:
        if request.operation is not None:
            outcome = Outcome.SUCCESS if request.error is None else Outcome.ERROR
            observe(request.operation, outcome, now - request.began)


def run_all(connection: Any, requests: Sequence[Request]) -> None:
    """Run *requests* in the open transaction of *connection*, in the order that saves most.

    Settlements first, so that arrivals use the pages that they free; claims last, so that they
    see what arrived.
    """
    joined: dict[Callable[..., Any], list[Request]] = {}
    others: list[Request] = []
    for request in requests:
        if request.is_joined:
            joined.setdefault(request.run, []).append(request)
        elif request.is_patient:
            request.result = request.run(connection)
        else:
            others.append(request)
    for run, together in joined.items():
        results = run(connection, [request.item for request in together])
        for request, result in zip(together, results, strict=True):
            request.result = result
    for request in others:
        request.result = request.run(connection)
