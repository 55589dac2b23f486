import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from apsw import Connection, Cursor

from wats.errors import StoreUnavailable
from wats.store.migrate import load_migrations
from wats.store.records import Arrival, DeliveryState, Kept, Settled, Settlement
from wats.store.sqlite import inbox
from wats.store.sqlite.connection import connect_reader, connect_writer, migrate
from wats.store.sqlite.thread import (
    MAX_BATCH,
    MAX_ROUNDS,
    ConnectionThread,
    answer_each,
    commit_together,
)
from wats.telemetry.vocabulary import Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]

Answer: TypeAlias = Sequence[Kept | None]

RECEIVE = StoreOperation.RECEIVE
SETTLE = StoreOperation.SETTLE


class Writer:
    """A writer thread whose transactions can be counted, and held up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []
        self.told: list[tuple[StoreOperation, Outcome]] = []
        self.may_go_on = threading.Event()
        self.thread = ConnectionThread(
            "writer", commit_together, lambda operation, outcome, _: self._tell(operation, outcome)
        )

    def _tell(self, operation: StoreOperation, outcome: Outcome) -> None:
        self.told.append((operation, outcome))

    def connect(self) -> Connection:
        connection = connect_writer(str(self.path), 0.1)
        migrate(connection, load_migrations("sqlite"))
        connection.set_exec_trace(self._trace)
        return connection

    def _trace(self, _: Cursor, statement: str, __: object) -> bool:
        self.statements.append(statement)
        return True

    async def hold(self) -> "asyncio.Future[bool]":
        is_held = threading.Event()

        def wait(_: Connection) -> bool:
            is_held.set()
            return self.may_go_on.wait()

        held = self.thread.ask(SETTLE, wait)
        await asyncio.to_thread(is_held.wait)
        return held

    def receive(self, *arrivals: Arrival) -> "asyncio.Future[Answer]":
        return self.thread.ask_together(RECEIVE, inbox.receive, arrivals)

    def count(self, statement: str) -> int:
        return self.statements.count(statement)


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    writer = Writer(tmp_path / "wats.db")
    await writer.thread.start(writer.connect)
    yield writer
    writer.may_go_on.set()
    await writer.thread.stop()


async def release(writer: Writer, *waiting: "asyncio.Future[object]") -> list[object]:
    writer.statements.clear()
    writer.may_go_on.set()
    return await asyncio.gather(*waiting, return_exceptions=True)


def fail(_: Connection) -> None:
    raise ZeroDivisionError


async def test_questions_that_wait_together_share_one_transaction(
    writer: Writer, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    waiting = [writer.receive(arrival(), arrival()) for _ in range(100)]

    answers = await release(writer, *waiting)
    await held

    assert answers == [[Kept(), Kept()]] * 100
    assert writer.count("COMMIT") == 2  # that of the one that held them up, and theirs
    assert writer.told == [(SETTLE, Outcome.SUCCESS)] + [(RECEIVE, Outcome.SUCCESS)] * 100


async def test_a_transaction_has_a_bounded_number_of_questions(
    writer: Writer, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    waiting = [writer.receive(arrival()) for _ in range(MAX_BATCH + 1)]

    await release(writer, held, *waiting)

    assert writer.count("COMMIT") == 3


async def test_what_is_asked_in_several_turns_of_the_loop_gathers_into_one_transaction(
    writer: Writer, arrival: MakeArrival
) -> None:
    writer.statements.clear()
    waiting = [writer.receive(arrival()), writer.receive(arrival())]
    for _ in range(MAX_ROUNDS // 2):
        await asyncio.sleep(0)
        waiting.append(writer.receive(arrival()))

    assert await asyncio.gather(*waiting) == [[Kept()]] * len(waiting)
    assert writer.count("COMMIT") == 1


async def test_a_question_waits_a_bounded_number_of_turns_for_others(
    writer: Writer, arrival: MakeArrival
) -> None:
    first, *rest = writer.receive(arrival()), writer.receive(arrival())
    while not first.done():
        rest.append(writer.receive(arrival()))
        await asyncio.sleep(0)

    assert await first == [Kept()]
    assert await asyncio.gather(*rest) == [[Kept()]] * len(rest)
    assert writer.count("COMMIT") > 1


async def test_a_patient_question_joins_the_next_transaction(
    writer: Writer, arrival: MakeArrival
) -> None:
    writer.statements.clear()
    patient = writer.thread.ask(SETTLE, total_changes, patience_seconds=60)
    await asyncio.sleep(0.02)
    assert not patient.done()

    await asyncio.wait_for(asyncio.gather(writer.receive(arrival()), patient), timeout=5)

    assert writer.count("COMMIT") == 1


async def test_patient_questions_alone_are_answered_together_after_the_patience_of_the_first(
    writer: Writer,
) -> None:
    writer.statements.clear()
    asked_at = asyncio.get_running_loop().time()
    first = writer.thread.ask(SETTLE, total_changes, patience_seconds=0.05)
    second = writer.thread.ask(SETTLE, total_changes, patience_seconds=60)

    await asyncio.wait_for(asyncio.gather(first, second), timeout=5)

    assert asyncio.get_running_loop().time() - asked_at >= 0.05
    assert writer.count("COMMIT") == 1


async def test_a_patient_question_is_answered_before_a_thread_stops(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "wats.db")
    await writer.thread.start(writer.connect)
    patient = writer.thread.ask(SETTLE, total_changes, patience_seconds=60)

    await asyncio.wait_for(writer.thread.stop(), timeout=5)

    assert patient.done()


def total_changes(connection: Connection) -> int:
    return connection.total_changes()


async def test_what_is_settled_makes_room_for_what_arrives_in_the_same_transaction(
    writer: Writer, arrival: MakeArrival
) -> None:
    (kept,) = await writer.receive(arrival(lane=7, lease_seconds=60.0))
    assert kept is not None
    (first,) = kept.leased
    done = Settlement(
        delivery=first,
        state=DeliveryState.DONE,
    )
    settle = partial(inbox.settle, settlements=[done], now=arrival().received_at)

    receiving = writer.receive(arrival(lane=7, lease_seconds=60.0))
    settling = writer.thread.ask(SETTLE, settle, patience_seconds=60)

    (kept,) = await receiving
    assert kept is not None
    (second,) = kept.leased
    assert (second.lane, second.attempt) == (7, 1)
    assert await settling == Settled(done=(first.update_id,), more=False)


async def test_what_is_claimed_in_one_transaction_with_its_arrival_is_seen(
    writer: Writer, arrival: MakeArrival, noon_claim: Callable[[Connection], Sequence[object]]
) -> None:
    held = await writer.hold()
    claiming = writer.thread.ask(StoreOperation.CLAIM, noon_claim)
    receiving = writer.receive(arrival())

    await release(writer, held, receiving)

    assert len(await claiming) == 1
    assert writer.count("COMMIT") == 2


@pytest.fixture
def noon_claim(arrival: MakeArrival) -> Callable[[Connection], Sequence[object]]:
    return partial(
        inbox.claim,
        targets=["handlers"],
        limit=10,
        lease_seconds=60,
        now=arrival().received_at,
    )


async def test_a_question_that_fails_spoils_no_other(writer: Writer, arrival: MakeArrival) -> None:
    held = await writer.hold()
    good = [writer.receive(arrival()) for _ in range(3)]
    bad = writer.receive(arrival(lane=2**70))
    worse = writer.thread.ask(SETTLE, fail)

    answers = await release(writer, held, *good, bad, worse)

    assert answers[:4] == [True, [Kept()], [Kept()], [Kept()]]
    assert [type(error) for error in answers[4:]] == [OverflowError, ZeroDivisionError]
    assert writer.told.count((RECEIVE, Outcome.SUCCESS)) == 3
    assert writer.told.count((RECEIVE, Outcome.ERROR)) == 1


async def test_a_question_that_fails_changes_nothing(writer: Writer, arrival: MakeArrival) -> None:
    def receive_and_fail(connection: Connection) -> None:
        inbox.receive(connection, [first])
        raise ZeroDivisionError

    first = arrival()
    with pytest.raises(ZeroDivisionError):
        await writer.thread.ask(SETTLE, receive_and_fail)

    assert await writer.receive(first) == [Kept()]


async def test_a_locked_database_fails_everything_that_waits_after_one_wait(
    writer: Writer, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    waiting = [writer.receive(arrival()) for _ in range(50)]
    writer.may_go_on.set()
    await held
    other = Connection(str(writer.path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")
    waiting += [writer.receive(arrival()) for _ in range(50)]

    answers = await asyncio.wait_for(
        asyncio.gather(*waiting[50:], return_exceptions=True), timeout=2
    )

    assert {type(answer) for answer in answers} == {StoreUnavailable}
    other.execute("ROLLBACK")
    assert await writer.receive(arrival()) == [Kept()]
    other.close()


async def test_a_cancelled_asker_is_passed_over_and_still_counted(
    writer: Writer, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    leaving, staying = writer.receive(arrival()), writer.receive(arrival())
    leaving.cancel()

    assert await release(writer, held, staying) == [True, [Kept()]]

    assert writer.told.count((RECEIVE, Outcome.SUCCESS)) == 2


async def test_a_question_of_a_loop_that_is_gone_does_not_stop_the_thread(
    writer: Writer, arrival: MakeArrival
) -> None:
    held = await writer.hold()

    async def leave_at_once() -> None:
        writer.receive(arrival())
        writer.thread.ask(SETTLE, fail, patience_seconds=0.001)

    await asyncio.to_thread(asyncio.run, leave_at_once())

    assert await release(writer, held, writer.receive(arrival())) == [True, [Kept()]]


async def test_a_question_can_come_from_another_loop(writer: Writer, arrival: MakeArrival) -> None:
    async def receive() -> Answer:
        return await writer.receive(arrival())

    assert await asyncio.to_thread(asyncio.run, receive()) == [Kept()]


async def test_a_thread_that_cannot_connect_ends(tmp_path: Path) -> None:
    thread = ConnectionThread("lost", answer_each, lambda *_: None)

    with pytest.raises(StoreUnavailable):
        await thread.start(partial(connect_writer, str(tmp_path / "none" / "wats.db"), 0.1))

    await ended("lost")


async def test_a_thread_whose_starter_was_cancelled_ends(tmp_path: Path) -> None:
    may_connect = threading.Event()

    def connect() -> Connection:
        may_connect.wait()
        return Connection(str(tmp_path / "wats.db"))

    thread = ConnectionThread("left", answer_each, lambda *_: None)
    starting = asyncio.create_task(thread.start(connect))
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    may_connect.set()

    await ended("left")


async def ended(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


async def test_a_read_that_fails_spoils_no_other(writer: Writer) -> None:
    reader = ConnectionThread("reader", answer_each, lambda *_: None)
    await reader.start(partial(connect_reader, str(writer.path), 0.1))

    bad = reader.ask(StoreOperation.GET, fail)
    good = reader.ask(StoreOperation.DEPTH, inbox.depth)

    with pytest.raises(ZeroDivisionError):
        await bad
    assert (await good).pending == 0
    await reader.stop()


async def test_a_reader_cannot_write(writer: Writer, arrival: MakeArrival) -> None:
    reader = ConnectionThread("reader", answer_each, lambda *_: None)
    await reader.start(partial(connect_reader, str(writer.path), 0.1))

    with pytest.raises(StoreUnavailable):
        await reader.ask(RECEIVE, partial(inbox.receive, arrivals=[arrival()]))

    await reader.stop()
