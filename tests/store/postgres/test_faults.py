"""The PostgreSQL store while its server, the network or another session misbehaves."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
import pytest
from typing_extensions import override

from tests.store.postgres.network import LosesCommits, Loss, Network, through
from tests.store.postgres.server import Server, as_role, execute
from wats.errors import StoreClosed, StoreOutcomeUnknown, StoreUnavailable
from wats.store import Store, receive
from wats.store.postgres import PostgresStore, requests
from wats.store.postgres.connection import Limits, translate
from wats.store.postgres.control import KEEP_CLOCK, RETRY_SECONDS, USE_ALONE
from wats.store.records import (
    Arrival,
    Consumer,
    DeliveryState,
    Depth,
    Reservation,
    ReservationOutcome,
    Settlement,
)
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]
MakeStore = Callable[..., Awaitable[Store]]

IMPATIENT = Limits(connect_seconds=0.5, operation_seconds=1.0, lock_seconds=0.3)


END_SESSIONS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def eventually(operation: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat *operation* until the store is available again."""
    while True:
        with suppress(StoreUnavailable):
            return await operation()
        await asyncio.sleep(0.02)


def errors_of_asyncpg() -> Iterator[type[Exception]]:
    for _, member in inspect.getmembers(asyncpg.exceptions, inspect.isclass):
        if issubclass(member, Exception) and not issubclass(member, Warning):
            yield member


def test_every_error_of_the_driver_and_the_network_means_unavailable() -> None:
    others = [OSError(), ConnectionResetError(), TimeoutError(), BrokenPipeError()]
    errors = [*(each.__new__(each) for each in errors_of_asyncpg()), *others]

    assert len(errors) > 200
    assert {type(translate(error)) for error in errors} == {StoreUnavailable}
    assert str(translate(OSError("a secret"))) == StoreUnavailable.text
    assert isinstance(translate(KeyError()), KeyError)


@pytest.fixture
async def impatient(database: str) -> AsyncIterator[Store]:
    store = PostgresStore(database, limits=IMPATIENT)
    await store.open()
    await store.register([Consumer(name="handlers")])
    yield store
    await store.close()


async def test_a_server_that_ends_all_connections_is_connected_to_again(
    impatient: Store, arrival: MakeArrival, sql: Any
) -> None:
    woken = asyncio.Event()
    impatient.on_work(woken.set)
    assert await eventually(impatient.lead)

    await sql.execute(END_SESSIONS)

    await woken.wait()
    await eventually(lambda: receive(impatient, [arrival()]))
    assert (await eventually(impatient.health)).ok
    assert await eventually(impatient.lead)
    assert len((await impatient.claim("handlers", 10)).deliveries) == 1


async def refused(operation: Callable[[], Awaitable[Any]]) -> None:
    """Repeat *operation* until the store is not available."""
    async with asyncio.timeout(15):
        with suppress(StoreUnavailable):
            while True:
                await operation()
                await asyncio.sleep(0.02)


async def test_a_server_that_becomes_read_only_is_not_ready_until_it_can_be_written_again(
    impatient: Store, arrival: MakeArrival, sql: Any
) -> None:
    name = await sql.fetchval("SELECT current_database()")

    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await sql.execute(END_SESSIONS)
    await refused(impatient.health)
    await asyncio.sleep(1.0)
    await refused(lambda: receive(impatient, [arrival()]))
    await refused(impatient.health)
    await sql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    await eventually(lambda: receive(impatient, [arrival()]))
    assert (await eventually(impatient.health)).ok


async def test_a_store_on_a_read_only_server_names_the_cause_when_it_opens(
    database: str, sql: Any
) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    with pytest.raises(StoreUnavailable) as caught:
        await PostgresStore(database).open()

    assert caught.value.issue is not None
    assert caught.value.issue.code == "read_only_server"


async def test_a_server_without_free_connections_serves_by_those_that_are_open(
    role: str, database: str, arrival: MakeArrival, sql: Any
) -> None:
    await sql.execute(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    )
    store = PostgresStore(as_role(database, role))
    await store.open()
    await receive(store, [arrival()])

    await sql.execute(f"ALTER ROLE {role} CONNECTION LIMIT 2")  # one of them is for health
    await asyncio.gather(*(store.depth() for _ in range(50)))

    await store.close()


@pytest.mark.long
async def test_operations_fail_while_the_server_is_down_and_work_when_it_is_back(
    arrival: MakeArrival,
) -> None:
    server = Server()
    server.start()
    store = PostgresStore(server.url("postgres"), limits=IMPATIENT)
    await store.open()
    update = arrival()

    server.stop()
    for _ in range(3):
        for operation in (lambda: receive(store, [update]), store.health, store.depth):
            with pytest.raises(StoreUnavailable):
                await operation()
    server.start()

    await eventually(lambda: receive(store, [update]))
    assert (await eventually(store.health)).ok
    await store.close()
    server.remove()


@asynccontextmanager
async def store_behind(network: Network, database: str) -> AsyncIterator[PostgresStore]:
    """A store on *database*, to which *network* connects."""
    port = await network.start()
    store = PostgresStore(through(port, database), limits=IMPATIENT)
    await store.open()
    yield store
    await store.close()
    await network.stop()


async def test_a_silent_network_fails_operations_within_their_deadline(
    server: Server, database: str, arrival: MakeArrival
) -> None:
    network = Network(server)
    async with store_behind(network, database) as store:
        await receive(store, [arrival()])

        network.cut()
        for operation in (lambda: receive(store, [arrival()]), store.health, store.depth):
            with pytest.raises(StoreUnavailable):
                await operation()
        network.mend()

        await eventually(lambda: receive(store, [arrival()]))
        assert (await eventually(store.health)).ok


class Pooler(Network):
    """Refuses connections with settings in their first message, as PgBouncer does."""

    @override
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(4)
        first += await reader.readexactly(int.from_bytes(first) - 4)
        names = first[8:].split(b"\0")[::2]
        if set(names) <= {b"user", b"database", b"client_encoding", b""}:
            reader.feed_data(first)
            await super()._accept(reader, writer)
        else:
            writer.close()


async def test_a_pooler_that_passes_no_settings_on_is_connected_through(
    server: Server, database: str, sql: Any
) -> None:
    async with store_behind(Pooler(server), database) as store:
        assert (await store.health()).ok
        session = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'wats'"
        assert await sql.fetchval(session) == 1


@pytest.mark.parametrize("slots", [{"handlers": 1}, {}], ids=["on-arrival", "claimed"])
async def test_a_lease_whose_commit_is_not_reported_is_released_without_an_attempt(
    server: Server, database: str, arrival: MakeArrival, slots: dict[str, int]
) -> None:
    network = LosesCommits(server)
    async with store_behind(network, database) as store:
        await store.register([Consumer(name="handlers", max_attempts=1, lease_seconds=3600)])
        if not slots:
            await receive(store, [arrival()])

        network.loss = Loss.REPORT
        with pytest.raises(StoreUnavailable):
            await (receive(store, [arrival()], slots) if slots else store.claim("handlers", 1))

        async with asyncio.timeout(15):
            while not (found := (await store.claim("handlers", 1)).deliveries):
                await asyncio.sleep(0.01)
        assert [(each.attempt, each.is_exhausted) for each in found] == [(1, False)]
        assert (await store.depth()).total == Depth(leased=1)


KEY: dict[str, Any] = {"scope": "a", "key_hash": b"key"}
SECONDS = {"reserve_seconds": 60.0, "keep_seconds": 3600.0}


async def reserve_key(store: PostgresStore) -> ReservationOutcome:
    return (await store.reserve_request(**KEY, request_hash=b"a", **SECONDS)).outcome


async def test_a_reservation_whose_commit_is_not_reported_is_undone(
    server: Server, database: str
) -> None:
    network = LosesCommits(server)
    async with store_behind(network, database) as store:
        reserve = partial(reserve_key, store)

        network.loss = Loss.REPORT
        with pytest.raises(StoreUnavailable):
            await reserve()

        async with asyncio.timeout(15):
            while await reserve() is not ReservationOutcome.RESERVED:
                await asyncio.sleep(0.01)


async def test_a_key_of_a_request_that_failed_during_an_outage_is_free_afterwards(
    server: Server, database: str
) -> None:
    network = LosesCommits(server)
    async with store_behind(network, database) as store:
        reserve = partial(reserve_key, store)

        assert await reserve() is ReservationOutcome.RESERVED

        await execute(database, END_SESSIONS)
        network.is_down = True
        with pytest.raises(StoreUnavailable):
            await store.fail_request(**KEY)
        network.is_down = False

        async with asyncio.timeout(15):
            while await eventually(reserve) is not ReservationOutcome.RESERVED:
                await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        assert await reserve() is ReservationOutcome.IN_FLIGHT


@pytest.mark.long
async def test_a_commit_that_is_not_reported_is_undone_after_an_outage_of_any_length(
    server: Server, database: str, arrival: MakeArrival
) -> None:
    network = LosesCommits(server)
    async with store_behind(network, database) as store:
        await store.register([Consumer(name="handlers", max_attempts=1, lease_seconds=3600)])

        network.loss, network.is_down = Loss.REPORT, True
        with pytest.raises(StoreUnavailable):
            await receive(store, [arrival()], {"handlers": 1})
        await asyncio.sleep(8)
        network.is_down = False

        async with asyncio.timeout(15):
            while not (found := await eventually(lambda: store.claim("handlers", 1))).deliveries:
                await asyncio.sleep(0.01)
        assert [(each.attempt, each.is_exhausted) for each in found.deliveries] == [(1, False)]


@pytest.mark.parametrize("loss", Loss)
async def test_only_an_operation_whose_commit_failed_has_an_unknown_outcome(
    server: Server, database: str, sql: Any, loss: Loss
) -> None:
    network = LosesCommits(server)
    async with store_behind(network, database) as store:
        network.loss = loss
        with pytest.raises(StoreOutcomeUnknown):
            await store.fail_request(**KEY)

        await sql.execute("ALTER TABLE wats_requests RENAME TO moved")
        with pytest.raises(StoreUnavailable) as caught:
            await store.fail_request(**KEY)
        assert not isinstance(caught.value, StoreOutcomeUnknown)


async def test_the_undoing_of_a_reservation_waits_for_its_transaction(database: str) -> None:
    committing, undoing = [await asyncpg.connect(database) for _ in range(2)]
    transaction = committing.transaction()
    await transaction.start()
    await requests.reserve(committing, **KEY, request_hash=b"a", **SECONDS, nonce=b"first")

    async def undo() -> None:
        async with undoing.transaction():
            is_ours = Reservation(outcome=ReservationOutcome.RESERVED)
            await requests.undo_reserve(undoing, is_ours, **KEY, nonce=b"first")

    undo_task = asyncio.create_task(undo())
    await asyncio.sleep(0.2)
    assert not undo_task.done()
    await transaction.commit()
    await undo_task

    again = await requests.reserve(committing, **KEY, request_hash=b"b", **SECONDS, nonce=b"next")
    assert again.outcome is ReservationOutcome.RESERVED
    await undo()
    third = await requests.reserve(committing, **KEY, request_hash=b"b", **SECONDS, nonce=b"last")
    assert third.outcome is ReservationOutcome.IN_FLIGHT
    await committing.close()
    await undoing.close()


SLEEP = """
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep(0.5);
    RETURN NEW;
END $$;
CREATE TRIGGER sleep BEFORE INSERT ON wats_deliveries FOR EACH ROW EXECUTE FUNCTION sleep();
"""

SLEEPERS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


async def test_a_network_that_falls_silent_during_a_transaction_fails_it_within_its_deadline(
    server: Server, database: str, arrival: MakeArrival, sql: Any
) -> None:
    network = Network(server)
    port = await network.start()
    store = PostgresStore(through(port, database), limits=IMPATIENT)
    await store.open()
    await sql.execute(SLEEP)

    receiving = asyncio.create_task(receive(store, [arrival()]))
    while not await sql.fetchval(SLEEPERS):
        await asyncio.sleep(0.01)
    network.cut()
    ended, _ = await asyncio.wait([receiving], timeout=5 * IMPATIENT.operation_seconds)
    network.mend()

    assert ended
    with pytest.raises(StoreUnavailable):
        await receiving
    await eventually(lambda: receive(store, [arrival()]))
    await store.close()
    await network.stop()


async def test_the_cause_of_a_transaction_whose_connection_ends_is_the_end_of_the_connection(
    store: Store, arrival: MakeArrival, sql: Any
) -> None:
    await sql.execute(SLEEP)

    receiving = asyncio.create_task(receive(store, [arrival()]))
    while not await sql.fetchval(SLEEPERS):
        await asyncio.sleep(0.01)
    await sql.execute(END_SESSIONS)

    with pytest.raises(StoreUnavailable) as caught:
        await receiving
    assert isinstance(caught.value.__cause__, asyncpg.PostgresConnectionError)


async def test_a_table_that_another_session_locks_fails_writes_but_not_health(
    impatient: Store, arrival: MakeArrival, sql: Any
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("LOCK TABLE wats_deliveries IN ACCESS EXCLUSIVE MODE")

    with pytest.raises(StoreUnavailable):
        await receive(impatient, [arrival()])
    assert (await impatient.health()).ok

    await transaction.rollback()
    await receive(impatient, [arrival()])


async def test_an_operation_that_fails_after_its_caller_was_cancelled_is_not_reported_by_asyncio(
    impatient: Store, sql: Any
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("LOCK TABLE wats_depths IN ACCESS EXCLUSIVE MODE")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(impatient.depth(), 0.05)
    await asyncio.sleep(2 * IMPATIENT.lock_seconds)

    gc.collect()
    assert not reported
    await transaction.rollback()


FAIL = """
CREATE SEQUENCE failures;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('failures') <= {count} THEN
        RAISE EXCEPTION 'conflict' USING ERRCODE = '{code}';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail BEFORE INSERT ON wats_deliveries FOR EACH ROW EXECUTE FUNCTION fail();
"""


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_transaction_that_lost_against_another_one_is_repeated(
    store: Store, arrival: MakeArrival, sql: Any, code: str
) -> None:
    await sql.execute(FAIL.format(count=3, code=code))

    await receive(store, [arrival()])

    assert await sql.fetchval("SELECT count(*) FROM wats_deliveries") == 1


async def test_a_transaction_is_repeated_a_few_times_only(
    store: Store, arrival: MakeArrival, sql: Any
) -> None:
    await sql.execute(FAIL.format(count=1000, code="40001"))

    with pytest.raises(StoreUnavailable):
        await receive(store, [arrival()])

    assert await sql.fetchval("SELECT last_value FROM failures") < 10


async def test_closing_waits_until_a_cancelled_claim_is_released(
    store: Store, arrival: MakeArrival
) -> None:
    await receive(store, [arrival()])

    claiming = asyncio.create_task(store.claim("handlers", 1))
    await asyncio.sleep(0)
    claiming.cancel()
    await asyncio.wait([claiming])

    await store.close()
    await store.open()
    assert (await store.depth()).consumers["handlers"] == Depth(pending=1)


async def test_closing_stores_waiting_operations_and_refuses_later_ones(
    open_replica: MakeStore, arrival: MakeArrival
) -> None:
    store, other = await open_replica(), await open_replica()
    tasks = [asyncio.create_task(receive(store, [arrival()])) for _ in range(20)]
    await asyncio.sleep(0)

    await store.close()
    await store.close()

    await asyncio.gather(*tasks)
    assert (await other.depth()).consumers["handlers"].pending == 20
    for operation in (store.depth, store.health, store.lead):
        with pytest.raises(StoreClosed):
            await operation()
    with pytest.raises(StoreClosed):
        await receive(store, [arrival()])


async def test_of_several_replicas_one_leads_until_it_ends(open_replica: MakeStore) -> None:
    stores = [await open_replica() for _ in range(3)]

    leads = [await store.lead() for store in stores]
    again = [await store.lead() for store in stores]
    await stores[leads.index(True)].close()
    left = [store for store, leading in zip(stores, leads, strict=True) if not leading]

    assert sorted(leads) == [False, False, True]
    assert again == leads
    assert await left[0].lead()
    assert not await left[1].lead()


async def test_no_replica_opens_a_database_that_is_being_copied(
    database: str, store: Store, sql: Any
) -> None:
    assert not await sql.fetchval(USE_ALONE)
    await store.close()
    assert await sql.fetchval(USE_ALONE)

    with pytest.raises(StoreUnavailable):
        await PostgresStore(database).open()


async def test_new_work_wakes_the_other_replicas(
    open_replica: MakeStore, arrival: MakeArrival
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    woken, self_woken = asyncio.Event(), asyncio.Event()
    ours.on_work(self_woken.set)
    theirs.on_work(woken.set)

    await receive(ours, [arrival(ordering_key=7), arrival(ordering_key=7)])
    await woken.wait()
    woken.clear()
    await ours.settle(
        [
            Settlement(each, DeliveryState.DONE)
            for each in (await ours.claim("handlers", 1)).deliveries
        ]
    )
    await woken.wait()

    assert not self_woken.is_set()


async def test_operations_are_reported_with_their_outcome(
    database: str, arrival: MakeArrival, sql: Any
) -> None:
    seen: list[tuple[Adapter, StoreOperation, Outcome]] = []
    store = PostgresStore(database, limits=IMPATIENT)
    await store.open(lambda *report: seen.append(report[:3]))

    await receive(store, [arrival()])
    await sql.execute("DROP TABLE wats_windows, wats_depths")
    with pytest.raises(StoreUnavailable):
        await store.depth()

    assert seen == [
        (Adapter.POSTGRES, StoreOperation.RECEIVE, Outcome.SUCCESS),
        (Adapter.POSTGRES, StoreOperation.DEPTH, Outcome.ERROR),
    ]
    await store.close()


async def test_another_event_loop_can_use_the_store(store: Store, arrival: MakeArrival) -> None:
    def in_a_thread() -> int:
        async def use() -> int:
            await receive(store, [arrival()])
            return len((await store.claim("handlers", 10)).deliveries)

        return asyncio.run(use())

    assert await asyncio.to_thread(in_a_thread) == 1


async def test_the_clock_of_the_store_does_not_go_back_with_that_of_the_server(
    sql: Any, database: str
) -> None:
    before = await sql.fetchval("SELECT wats_now()")
    await execute(database, KEEP_CLOCK)

    # As if the server had been an hour ahead until now.
    await sql.execute("UPDATE wats_clock SET latest = latest + 3600000")
    await execute(database, KEEP_CLOCK)
    await execute(database, KEEP_CLOCK)

    after = await sql.fetchval("SELECT wats_now()")
    assert 3_600_000 <= after - before < 3_660_000


async def test_a_lease_given_while_the_clock_of_the_server_is_behind_outlasts_its_correction(
    store: Store, arrival: MakeArrival, sql: Any, database: str
) -> None:
    await receive(store, [arrival()])
    await sql.execute("UPDATE wats_clock SET latest = wats_now() + 3600000")
    leased = (await store.claim("handlers", 1)).deliveries

    await execute(database, KEEP_CLOCK)

    assert len(leased) == 1
    assert not (await store.claim("handlers", 1)).deliveries


async def test_processes_that_correct_the_clock_concurrently_correct_it_once(
    sql: Any, database: str
) -> None:
    await sql.execute("UPDATE wats_clock SET latest = wats_now() + 3600000")

    async with sql.transaction():
        await sql.execute(KEEP_CLOCK)
        other = asyncio.create_task(execute(database, KEEP_CLOCK))
        while not await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    await other

    assert await sql.fetchval("SELECT shift FROM wats_clock") < 3_700_000


async def test_a_checkpoint_removes_the_rows_that_were_erased(
    store: Store, arrival: MakeArrival, sql: Any
) -> None:
    await receive(store, [arrival() for _ in range(50)])
    claimed = (await store.claim("handlers", 100)).deliveries
    await store.settle([Settlement(each, DeliveryState.DONE) for each in claimed])

    assert await store.checkpoint()

    # Where no row is left in a page, its first row is written again from the beginning.
    await receive(store, [arrival()])
    assert await sql.fetchval("SELECT ctid = '(0,1)' FROM wats_deliveries")


async def test_a_checkpoint_that_skips_a_table_has_not_succeeded(
    role: str, database: str, store: Store, sql: Any
) -> None:
    guest = PostgresStore(as_role(database, role))
    await sql.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    await sql.execute(f"REVOKE ALL ON wats_dead_deliveries FROM {role}")
    await guest.open()

    by_a_guest = await guest.checkpoint()
    async with sql.transaction():
        await sql.execute("LOCK TABLE wats_deliveries IN SHARE UPDATE EXCLUSIVE MODE")
        during_another = await store.checkpoint()

    assert [by_a_guest, during_another] == [False, False]
    assert await store.checkpoint()
    await guest.close()


async def test_tasks_of_the_store_that_other_code_cancels_are_replaced(
    database: str, store: Store, arrival: MakeArrival, sql: Any
) -> None:
    woken = asyncio.Event()
    store.on_work(woken.set)
    others = asyncio.all_tasks()
    ours = PostgresStore(database, limits=IMPATIENT)
    await ours.open()
    waiting = asyncio.create_task(ours.depth())
    for _ in range(3):
        await asyncio.sleep(0)

    for task in asyncio.all_tasks() - {*others, waiting}:
        task.cancel()

    with pytest.raises(StoreUnavailable):
        await waiting
    await asyncio.sleep(2 * RETRY_SECONDS)
    await receive(ours, [arrival()])
    await asyncio.wait_for(woken.wait(), 5)
    await sql.execute(END_SESSIONS)
    await asyncio.sleep(RETRY_SECONDS)
    assert (await asyncio.wait_for(eventually(ours.health), 5)).ok
    await ours.close()


async def test_a_transaction_that_is_cancelled_fails_its_updates_and_no_later_ones(
    store, arrival
) -> None:
    others = asyncio.all_tasks()
    failure: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    store.receive([arrival()], lambda _, error: failure.set_result(error))
    while not (storing := asyncio.all_tasks() - others):
        await asyncio.sleep(0)

    for task in storing:  # as any code of the process can
        task.cancel()

    assert isinstance(await asyncio.wait_for(failure, 5), StoreUnavailable)
    assert len(await asyncio.wait_for(receive(store, [arrival()]), 5)) == 1
