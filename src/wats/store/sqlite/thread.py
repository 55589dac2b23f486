"""A thread that owns a connection, and answers whatever questions wait for it at once."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, islice
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import apsw
import msgspec
from apsw import Connection

from wats.store.sqlite.connection import roll_back, translate
from wats.telemetry.vocabulary import Outcome, StoreOperation

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 512
"""The most questions in one transaction: a bound on how long the first of them waits."""

MAX_ROUNDS = 32
"""How many turns of its loop a question waits at the most for others to join it."""


class Question(msgspec.Struct):
    """One question on its way to the database and back.

    Attributes:
        run: What to do with the connection.
        items: If *run* answers many questions at once: what this one adds to the sequence that it
            takes besides the connection. It returns one result for each item.
        is_patient: Whether it waited for others. It is answered before them: it gives back what
            they need.
        future: Where the asker waits. Touched by the loop that it belongs to, never by the thread.
        operation: What telemetry calls the question; `None` if it does not count it.
    """

    run: Callable[..., Any]
    items: Sequence[Any] | None
    is_patient: bool
    future: asyncio.Future[Any]
    operation: StoreOperation | None
    asked_at: float
    result: Any = None
    error: Exception | None = None


Answer: TypeAlias = Callable[[Connection, Sequence[Question]], None]
"""Gives each of some questions its `result` or its `error`; never raises."""

Tell: TypeAlias = Callable[[StoreOperation, Outcome, float], None]
"""Told of every question that was answered, on the loop of its asker."""


class ConnectionThread:
    """Answers questions on one connection, in a thread, so that no event loop waits for a disk.

    Questions of the loop that it was started on gather before they are handed over. Those of
    other loops, which may end at any time, are handed over one by one.
    """

    def __init__(self, name: str, answer: Answer, tell: Tell) -> None:
        self._answer = answer
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Question] = []  # of this loop, and not handed over yet
        self._gathering = False
        self._queue: SimpleQueue[list[Question]] = SimpleQueue()
        self._backlog: list[Question] = []  # taken from the queue, and too many for one transaction
        self._thread = Thread(target=self._work, name=name, daemon=True)

    async def start(self, connect: Callable[[], Connection]) -> None:
        """Connect. When that fails, or nobody waits for it any more, the thread ends."""
        connected = self._put(connect)
        self._thread.start()
        try:
            await connected
        except BaseException:
            self._put(_stop)
            raise

    async def stop(self) -> None:
        """Answer what was asked, close the connection and end the thread."""
        await self._put(_stop)
        self._thread.join()

    def ask(
        self,
        operation: StoreOperation | None,
        run: Callable[[Connection], R],
        *,
        patience_seconds: float = 0.0,
    ) -> asyncio.Future[R]:
        """Put a question; its future is done when its transaction is.

        With *patience_seconds* it waits so long for others to share their transaction with it.
        """
        return self._put(run, operation, patience_seconds=patience_seconds)

    def ask_together(
        self,
        operation: StoreOperation,
        run: Callable[[Connection, Sequence[T]], Sequence[R]],
        items: Sequence[T],
    ) -> asyncio.Future[Sequence[R]]:
        """Put a question that is answered in one call with all others that have the same *run*."""
        return self._put(run, operation, items)

    def _put(
        self,
        run: Callable[..., Any],
        operation: StoreOperation | None = None,
        items: Sequence[Any] | None = None,
        *,
        patience_seconds: float = 0.0,
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        is_patient = patience_seconds > 0
        question = Question(run, items, is_patient, future, operation, perf_counter())
        if loop is not self._loop:
            self._queue.put([question])
            return future
        self._waiting.append(question)
        if self._gathering:  # then it is taken along
            return future
        if not is_patient:
            self._begin_to_gather()
        elif len(self._waiting) == 1:  # else the first of them takes it along
            loop.call_later(patience_seconds, self._begin_to_gather)
        return future

    def _begin_to_gather(self) -> None:
        if self._waiting and not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gather, len(self._waiting), MAX_ROUNDS)

    def _gather(self, seen: int, rounds: int) -> None:
        """Hand over what waits, unless more came since the last look: then look again soon.

        The fewer transactions, the fewer pages are written twice. A loop that is idle looks once.
        """
        count = len(self._waiting)
        if seen < count < MAX_BATCH and rounds:
            self._loop.call_soon(self._gather, count, rounds - 1)
            return
        self._gathering = False
        questions, self._waiting = self._waiting, []
        self._queue.put(questions)

    def _work(self) -> None:
        (connecting,) = self._queue.get()
        try:
            connection = connecting.run()
        except Exception as error:
            connecting.error = translate(error)
            self._hand_over([connecting])
            return
        self._hand_over([connecting])
        last: Question | None = None
        while last is None:
            questions = self._next_batch()
            if questions[-1].run is _stop:
                last = questions.pop()
            self._answer(connection, questions)
            self._hand_over(questions)
        with suppress(apsw.Error):  # everything is committed, and somebody waits for the end
            connection.close()
        self._hand_over([last])

    def _next_batch(self) -> list[Question]:
        questions = self._backlog or self._queue.get()
        with suppress(Empty):
            while len(questions) < MAX_BATCH:
                questions += self._queue.get_nowait()
        self._backlog = questions[MAX_BATCH:]
        return questions[:MAX_BATCH]

    def _hand_over(self, questions: Sequence[Question]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Question]] = {}
        for question in questions:
            by_loop.setdefault(question.future.get_loop(), []).append(question)
        for loop, theirs in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(self._resolve, theirs)

    def _resolve(self, questions: Sequence[Question]) -> None:
        now = perf_counter()
        for question in questions:
            if question.future.done():  # its asker was cancelled
                continue
            if question.error is None:
                question.future.set_result(question.result)
            else:
                question.future.set_exception(question.error)
        for question in questions:
            if question.operation is not None:
                outcome = Outcome.SUCCESS if question.error is None else Outcome.ERROR
                self._tell(question.operation, outcome, now - question.asked_at)


def _stop() -> None:
    """Stand for the last question that a thread is asked."""


def answer_each(connection: Connection, questions: Sequence[Question]) -> None:
    """Answer every question for itself, outside of any transaction: for reads."""
    for question in questions:
        try:
            question.result = question.run(connection)
        except Exception as error:
            question.error = translate(error)


def commit_together(connection: Connection, questions: Sequence[Question]) -> None:
    """Answer all *questions* in one transaction, so that they share one wait for the disk.

    If one of them fails, each gets a transaction of its own: a bad question spoils no other.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except apsw.Error as error:
        # Nobody can write now; to try each alone would be to wait as long for each.
        for question in questions:
            question.error = translate(error)
        return
    try:
        _run_all(connection, questions)
        connection.execute("COMMIT")
    except Exception as error:
        roll_back(connection)
        if len(questions) == 1:
            questions[0].error = translate(error)
        else:
            for question in questions:
                commit_together(connection, [question])


def _run_all(connection: Connection, questions: Sequence[Question]) -> None:
    together: dict[Callable[..., Any], list[Question]] = {}
    alone: list[Question] = []
    for question in questions:
        if question.items is not None:
            together.setdefault(question.run, []).append(question)
        elif question.is_patient:
            # Before what arrives, which takes the pages that it empties: each is written once.
            question.result = question.run(connection)
        else:
            alone.append(question)
    # Before what is left, so that a claim in the same transaction sees what arrives with it.
    for run, joined in together.items():
        _run_together(connection, run, joined)
    for question in alone:
        question.result = question.run(connection)


def _run_together(
    connection: Connection, run: Callable[..., Any], questions: Sequence[Question]
) -> None:
    shares = [question.items or () for question in questions]
    results = iter(run(connection, list(chain.from_iterable(shares))))
    for question, share in zip(questions, shares, strict=True):
        question.result = list(islice(results, len(share)))
