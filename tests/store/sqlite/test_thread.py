import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from apsw import Connection, Cursor

from tests.store.results import leased, waiting
from tests.store.sqlite.writers import Milliseconds, ignore, open_writer
from wats.cancellation import resolve
from wats.errors import StoreUnavailable
from wats.store import NO_SLOTS, FixedSlots
from wats.store.group_commit import MAX_BATCH, MAX_ROUNDS
from wats.store.records import Arrival, DeliveryState, Received, Settlement
from wats.store.sqlite import admin, deliveries, inbox
from wats.store.sqlite.connection import Writer, connect_reader, connect_writer
from wats.store.sqlite.thread import ConnectionThread, commit, run_each
from wats.telemetry.contract.values import Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]

Results: TypeAlias = Sequence[Received | None]

RECEIVE = StoreOperation.RECEIVE
SETTLE = StoreOperation.SETTLE


class HeldWriter:
    """A writer thread whose transactions can be counted, and delayed."""

    def __init__(self, path: Path, timeout_seconds: float = 5.0) -> None:
        self.path = path
        self.statements: list[str] = []
        self.observed: list[tuple[StoreOperation, Outcome]] = []
        self.may_go_on = threading.Event()
        self.thread = ConnectionThread[Writer](
            "writer",
            commit,
            lambda operation, outcome, _: self._observe(operation, outcome),
            timeout_seconds,
        )

    def _observe(self, operation: StoreOperation, outcome: Outcome) -> None:
        self.observed.append((operation, outcome))

    def connect(self) -> Writer:
        writer = open_writer(str(self.path))
        writer.set_exec_trace(self._trace)
        return writer

    def _trace(self, _: Cursor, statement: str, __: object) -> bool:
        self.statements.append(statement)
        return True

    async def hold(self) -> "asyncio.Future[bool]":
        is_held = threading.Event()

        def wait(_: Connection) -> bool:
            is_held.set()
            return self.may_go_on.wait()

        held = self.thread.submit(SETTLE, wait)
        await asyncio.to_thread(is_held.wait)
        return held

    def receive(self, *arrivals: Arrival, **slots: int) -> "asyncio.Future[Results]":
        received: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
        fixed = FixedSlots(slots) if slots else NO_SLOTS
        self.thread.join(RECEIVE, inbox.receive, arrivals, partial(resolve, received), fixed)
        return received

    def count(self, statement: str) -> int:
        return self.statements.count(statement)


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[HeldWriter]:
    writer = HeldWriter(tmp_path / "wats.db")
    await writer.thread.start(writer.connect)
    yield writer
    writer.may_go_on.set()
    await writer.thread.stop()


async def release(writer: HeldWriter, *submitted: "asyncio.Future[object]") -> list[object]:
    writer.statements.clear()
    writer.may_go_on.set()
    return await asyncio.gather(*submitted, return_exceptions=True)


def fail(_: Connection) -> None:
    raise ZeroDivisionError


async def test_requests_that_wait_together_share_one_transaction(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    submitted = [writer.receive(arrival(), arrival()) for _ in range(100)]

    results = await release(writer, *submitted)
    await held

    assert [waiting(each) for each in results] == [[1, 1]] * 100
    assert writer.count("COMMIT") == 2  # that of the request which delayed them, and theirs
    assert writer.observed == [(SETTLE, Outcome.SUCCESS)] + [(RECEIVE, Outcome.SUCCESS)] * 100


async def test_a_transaction_has_a_bounded_number_of_requests(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    submitted = [writer.receive(arrival()) for _ in range(MAX_BATCH + 1)]

    await release(writer, held, *submitted)

    assert writer.count("COMMIT") == 3


async def test_requests_of_several_turns_of_the_loop_share_one_transaction(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    writer.statements.clear()
    submitted = [writer.receive(arrival()), writer.receive(arrival())]
    for _ in range(MAX_ROUNDS // 2):
        await asyncio.sleep(0)
        submitted.append(writer.receive(arrival()))

    results = await asyncio.gather(*submitted)

    assert [waiting(each) for each in results] == [[1]] * len(submitted)
    assert writer.count("COMMIT") == 1


async def test_a_request_waits_a_bounded_number_of_turns_for_others(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    first, *rest = writer.receive(arrival()), writer.receive(arrival())
    while not first.done():
        rest.append(writer.receive(arrival()))
        await asyncio.sleep(0)

    assert waiting(await first) == [1]
    assert [waiting(each) for each in await asyncio.gather(*rest)] == [[1]] * len(rest)
    assert writer.count("COMMIT") > 1


async def test_a_patient_request_joins_the_next_transaction(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    writer.statements.clear()
    patient = writer.thread.submit(SETTLE, total_changes, patience_seconds=3600)
    await asyncio.sleep(0.02)
    assert not patient.done()

    await asyncio.wait_for(asyncio.gather(writer.receive(arrival()), patient), timeout=60)

    assert writer.count("COMMIT") == 1


async def test_patient_requests_alone_are_run_together_after_the_patience_of_the_first(
    writer: HeldWriter,
) -> None:
    writer.statements.clear()
    first = writer.thread.submit(SETTLE, total_changes, patience_seconds=0.05)
    second = writer.thread.submit(SETTLE, total_changes, patience_seconds=3600)

    await asyncio.wait_for(asyncio.gather(first, second), timeout=60)

    assert writer.count("COMMIT") == 1


async def test_a_patient_request_is_run_before_a_thread_stops(tmp_path: Path) -> None:
    writer = HeldWriter(tmp_path / "wats.db")
    await writer.thread.start(writer.connect)
    patient = writer.thread.submit(SETTLE, total_changes, patience_seconds=3600)

    await asyncio.wait_for(writer.thread.stop(), timeout=60)

    assert patient.done()


def total_changes(connection: Connection) -> int:
    return connection.total_changes()


async def test_a_settlement_frees_an_ordering_key_for_an_arrival_of_the_same_transaction(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    (first,) = leased(await writer.receive(arrival(ordering_key=7), handlers=1))
    settle = partial(deliveries.settle, settlements=[Settlement(first, DeliveryState.DONE)])
    writer.statements.clear()

    receiving = writer.receive(arrival(ordering_key=7), handlers=1)
    settling = writer.thread.submit(SETTLE, settle, patience_seconds=60)

    (second,) = leased(await receiving)
    assert (second.ordering_key, second.attempt) == (7, 1)
    assert (await settling).done == [first.update_id]
    assert writer.count("COMMIT") == 1


@pytest.mark.parametrize("operation", [StoreOperation.SETTLE, StoreOperation.RENEW])
async def test_settlements_and_renewals_run_before_the_claims_of_their_transaction(
    writer: HeldWriter, operation: StoreOperation
) -> None:
    order: list[StoreOperation] = []
    held = await writer.hold()
    submitted = [
        writer.thread.submit(each, lambda _, each=each: order.append(each))
        for each in (StoreOperation.CLAIM, operation)
    ]

    await release(writer, held, *submitted)

    assert order == [operation, StoreOperation.CLAIM]


async def test_a_claim_leaves_nothing_older_before_the_arrivals_of_its_transaction(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    await writer.receive(arrival())
    held = await writer.hold()
    receiving = writer.receive(arrival(), handlers=1)
    claiming = writer.thread.submit(
        StoreOperation.CLAIM, partial(deliveries.claim, name="handlers", limit=10)
    )

    results, claimed = await release(writer, receiving, claiming)
    await held

    assert len(claimed.deliveries) == 1
    assert len(leased(results)) == 1
    assert writer.count("COMMIT") == 2


async def test_a_request_that_fails_spoils_no_other(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    good = [writer.receive(arrival()) for _ in range(3)]
    bad = writer.receive(arrival(ordering_key=2**70))
    worse = writer.thread.submit(SETTLE, fail)

    _, *results = await release(writer, held, *good, bad, worse)

    assert [waiting(each) for each in results[:3]] == [[1]] * 3
    assert [type(error) for error in results[3:]] == [OverflowError, ZeroDivisionError]
    assert writer.observed.count((RECEIVE, Outcome.SUCCESS)) == 3
    assert writer.observed.count((RECEIVE, Outcome.ERROR)) == 1


async def test_a_request_that_fails_changes_nothing(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    def receive_and_fail(connection: Writer) -> None:
        inbox.receive(connection, [[first]], {"handlers": 1})
        raise ZeroDivisionError

    first = arrival()
    with pytest.raises(ZeroDivisionError):
        await writer.thread.submit(SETTLE, receive_and_fail)

    assert waiting(await writer.receive(first)) == [1]
    depth = await writer.thread.submit(
        None, partial(admin.depth, configured=frozenset({"handlers"}), now=0)
    )
    assert (depth.total.pending, depth.total.leased) == (1, 0)


async def test_a_callback_that_raises_does_not_keep_others_from_their_results(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    finished = asyncio.Event()

    def submit(finish: Callable[[object, Exception | None], None]) -> None:
        writer.thread.join(RECEIVE, inbox.receive, [arrival()], finish)

    held = await writer.hold()
    submit(lambda *_: 1 // 0)
    submit(lambda *_: finished.set())
    other = writer.receive(arrival())

    _, results = await release(writer, held, other)

    await asyncio.wait_for(finished.wait(), timeout=60)
    assert waiting(results) == [1]
    assert [type(error) for error in reported] == [ZeroDivisionError]
    assert writer.observed.count((RECEIVE, Outcome.SUCCESS)) == 3
    loop.set_exception_handler(None)


async def test_a_locked_database_fails_every_waiting_request_after_one_wait(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    first = [writer.receive(arrival()) for _ in range(50)]
    writer.may_go_on.set()
    await held
    other = Connection(str(writer.path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")
    second = [writer.receive(arrival()) for _ in range(50)]

    results = await asyncio.wait_for(asyncio.gather(*second, return_exceptions=True), timeout=60)

    assert {type(each) for each in results} == {StoreUnavailable}
    other.execute("ROLLBACK")
    assert waiting(await writer.receive(arrival())) == [1]
    await asyncio.gather(*first, return_exceptions=True)
    other.close()


async def test_a_cancelled_caller_is_skipped_and_its_operation_still_counted(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    held = await writer.hold()
    leaving, staying = writer.receive(arrival()), writer.receive(arrival())
    leaving.cancel()

    _, results = await release(writer, held, staying)

    assert waiting(results) == [1]
    assert writer.observed.count((RECEIVE, Outcome.SUCCESS)) == 2


async def test_a_request_of_a_closed_loop_does_not_stop_the_thread(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    held = await writer.hold()

    async def leave() -> None:
        writer.receive(arrival())
        writer.thread.submit(SETTLE, fail, patience_seconds=0.001)

    await asyncio.to_thread(asyncio.run, leave())

    _, results = await release(writer, held, writer.receive(arrival()))
    assert waiting(results) == [1]


async def test_a_request_may_be_made_from_another_loop(
    writer: HeldWriter, arrival: MakeArrival
) -> None:
    async def receive() -> Results:
        return await writer.receive(arrival())

    assert waiting(await asyncio.to_thread(asyncio.run, receive())) == [1]


async def test_a_thread_that_cannot_connect_ends(tmp_path: Path) -> None:
    thread = ConnectionThread[Writer]("lost", run_each, lambda *_: None)
    path = str(tmp_path / "none" / "wats.db")

    with pytest.raises(StoreUnavailable):
        await thread.start(partial(connect_writer, path, 0.1, Milliseconds(), ignore))

    await ended("lost")


async def test_a_thread_whose_start_was_cancelled_ends(tmp_path: Path) -> None:
    may_connect = threading.Event()

    def connect() -> Connection:
        may_connect.wait()
        return Connection(str(tmp_path / "wats.db"))

    thread = ConnectionThread[Connection]("left", run_each, lambda *_: None)
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
            await asyncio.to_thread(thread.join, 60)
            assert not thread.is_alive()


async def test_a_thread_that_waits_keeps_nothing_of_its_last_batch(writer: HeldWriter) -> None:
    class Body:
        """Something of which a reference can be observed."""

    body = Body()
    reference = weakref.ref(body)

    def run(_: Writer, bodies: Sequence[Body]) -> Sequence[None]:
        return [None for _ in bodies]

    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    writer.thread.join(RECEIVE, run, body, partial(resolve, done))
    await done

    del body
    for _ in range(6000):
        if reference() is None:
            break
        await asyncio.sleep(0.01)
    assert reference() is None


async def test_a_read_that_fails_spoils_no_other(writer: HeldWriter) -> None:
    reader = ConnectionThread[Connection]("reader", run_each, lambda *_: None)
    await reader.start(partial(connect_reader, str(writer.path), 0.1))

    bad = reader.submit(StoreOperation.GET, fail)
    good = reader.submit(
        StoreOperation.DEPTH, partial(admin.depth, configured=frozenset({"handlers"}), now=0)
    )

    with pytest.raises(ZeroDivisionError):
        await bad
    assert (await good).total.pending == 0
    await reader.stop()


async def test_a_reader_cannot_write(writer: HeldWriter) -> None:
    reader = ConnectionThread[Connection]("reader", run_each, lambda *_: None)
    await reader.start(partial(connect_reader, str(writer.path), 0.1))

    with pytest.raises(StoreUnavailable):
        await reader.submit(None, lambda connection: connection.execute("DELETE FROM wats_inbox"))

    await reader.stop()


async def test_a_request_from_another_loop_after_the_stop_does_not_prevent_it(
    tmp_path: Path,
) -> None:
    writer = HeldWriter(tmp_path / "wats.db", timeout_seconds=0.2)
    await writer.thread.start(writer.connect)
    held = await writer.hold()
    stopping = asyncio.create_task(writer.thread.stop())
    await asyncio.sleep(0)

    async def submit() -> None:
        await writer.thread.submit(SETTLE, lambda _: None)

    late = asyncio.create_task(asyncio.to_thread(asyncio.run, submit()))
    await asyncio.sleep(0.1)
    await release(writer, held)

    await stopping
    with pytest.raises(StoreUnavailable):
        await late
