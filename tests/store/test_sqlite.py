"""The promises of the store on SQLite beyond the Protocol: files, crashes, full disks."""

import asyncio
import json
import signal
import stat
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from apsw import Connection

from tests.store.children import child
from tests.store.results import waiting
from wats.errors import StoreUnavailable
from wats.store import receive
from wats.store.records import (
    Arrival,
    Consumer,
    DeliveryState,
    Direction,
    MessageRecord,
    Settlement,
    WindowRecord,
)
from wats.store.sqlite import SQLiteStore
from wats.telemetry.contract.values import Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

HANDLERS = [Consumer(name="handlers")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wats.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(str(path), busy_seconds=0.1)
    await store.open()
    await store.register(HANDLERS)
    yield store
    await store.close()


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_only_the_owner_can_read_the_files(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    await receive(store, [arrival()])

    assert modes_in(path.parent) == {"wats.db": 0o600, "wats.db-wal": 0o600, "wats.db-shm": 0o600}


def test_the_mode_of_an_existing_file_is_left_alone(path: Path) -> None:
    path.touch()
    path.chmod(0o640)

    asyncio.run(open_and_close(path))

    assert modes_in(path.parent) == {"wats.db": 0o640}


async def open_and_close(path: Path) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await store.close()


async def test_a_closed_store_leaves_one_file_with_everything_in_it(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    await receive(store, [arrival()])

    await store.close()

    assert list(modes_in(path.parent)) == ["wats.db"]
    await store.open()
    assert (await store.depth()).total.pending == 1


def test_a_done_update_leaves_no_trace_of_its_content(path: Path, arrival: MakeArrival) -> None:
    secret = b"a very private sentence"

    asyncio.run(handle(path, arrival(payload=secret)))

    assert secret not in path.read_bytes()


def test_a_window_does_not_contain_its_customer(path: Path, arrival: MakeArrival) -> None:
    window = WindowRecord(phone_number_id="1", customer="15550001234", last_inbound_at=NOON)

    asyncio.run(handle(path, arrival(window=window)))

    assert b"15550001234" not in path.read_bytes()


async def handle(path: Path, update: Arrival) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await store.register(HANDLERS)
    await receive(store, [update])
    (delivery,) = (await store.claim("handlers", 1)).deliveries
    settled = await store.settle([Settlement(delivery, DeliveryState.DONE)])
    assert settled.done == [delivery.update_id]
    await store.close()


async def test_no_acknowledged_update_is_lost_when_the_process_is_killed(path: Path) -> None:
    process = child(
        path,
        """
async def receive_all(store, numbers):
    for number in numbers:
        (result,) = await receive(store, [arrival(number)])
        assert result is not None
        write(number)

async def main():
    store = await opened()
    numbers = iter(range(1, 10**9))
    await asyncio.gather(*(receive_all(store, numbers) for _ in range(16)))

asyncio.run(main())
""",
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(500)]

    process.send_signal(signal.SIGKILL)
    # Not by `communicate`, which would skip the buffered part and begin inside a line.
    with process.stdout:
        rest = process.stdout.read()
    process.wait(timeout=30)
    acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]

    store = SQLiteStore(str(path))
    await store.open()
    await store.register(HANDLERS)
    claimed = (await store.claim("handlers", 10**6)).deliveries
    await store.close()
    assert set(acknowledged) <= {delivery.ordering_key for delivery in claimed}


async def test_a_full_disk_makes_the_store_unavailable_until_there_is_room(path: Path) -> None:
    process = child(
        path,
        """
async def main():
    store = await opened()
    stored = 0
    limit = os.path.getsize(sys.argv[1] + "-wal") + 1_000_000
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    number = 0
    try:
        while True:
            number += 1
            stored += len(await receive(store, [arrival(number)]))
    except StoreUnavailable:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    (again,) = await receive(store, [arrival(number)])
    depth = await store.depth()
    write([stored, again is not None, depth.total.pending])
    await store.close()

asyncio.run(main())
""",
    )

    stored, is_stored_then, pending = json.loads(process.communicate(timeout=60)[0])

    assert stored > 10
    assert is_stored_then
    assert pending == stored + 1 == rows_of(path)["pending"]


def rows_of(path: Path) -> dict[str, int]:
    """Count the deliveries in each state by their rows, which the counters must agree with."""
    connection = Connection(str(path))
    rows = connection.execute(
        "SELECT state, count(*) FROM wats_outstanding GROUP BY state"
        " UNION ALL SELECT 'dead', count(*) FROM wats_dead_deliveries"
    ).fetchall()
    connection.close()
    return {"pending": 0, "leased": 0, "retry": 0} | dict(rows)


async def counters_of(store: SQLiteStore) -> dict[str, int]:
    total = (await store.depth()).total
    return msgspec.structs.asdict(total)


@pytest.mark.parametrize("conflict", ["ABORT", "FAIL", "ROLLBACK"])
async def test_counters_agree_with_the_rows_after_statements_that_failed(
    store: SQLiteStore, path: Path, arrival: MakeArrival, conflict: str
) -> None:
    other = Connection(str(path))
    for event, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
        other.execute(
            f"CREATE TRIGGER fail_{event} BEFORE {event} ON wats_deliveries"
            f" WHEN {row}.ordering_key = 13 AND {row}.attempts = 1"
            f" BEGIN SELECT RAISE({conflict}, 'injected'); END"
        )
    good = [arrival() for _ in range(4)]
    bad = arrival(ordering_key=13)

    stored = await asyncio.gather(
        *(receive(store, [each], {"handlers": 1}) for each in (*good, bad)),
        return_exceptions=True,
    )

    assert [type(each) for each in stored] == [list] * 4 + [StoreUnavailable]
    assert await counters_of(store) == rows_of(path)
    await receive(store, [bad])
    with pytest.raises(StoreUnavailable):
        await store.claim("handlers", 9)
    assert await counters_of(store) == rows_of(path)
    other.execute("DROP TRIGGER fail_UPDATE")
    (delivery,) = (await store.claim("handlers", 9)).deliveries
    leased = [each.leased[0] for result in stored[:4] for each in result]
    states = [DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.DEAD, DeliveryState.PENDING]
    settlements = [Settlement(*pair) for pair in zip(leased, states, strict=True)]
    with pytest.raises(StoreUnavailable):
        await store.settle([*settlements, Settlement(delivery, DeliveryState.DONE)])
    assert await counters_of(store) == rows_of(path)
    await store.settle(settlements)
    assert await counters_of(store) == rows_of(path)
    other.close()


async def test_a_locked_database_is_unavailable_for_writing_and_can_be_read(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    observed: list[tuple[StoreOperation, Outcome]] = []
    await store.close()
    await store.open(lambda _, operation, outcome, __: observed.append((operation, outcome)))
    other = Connection(str(path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable):
        await receive(store, [arrival()])
    assert (await store.depth()).total.pending == 0

    other.execute("ROLLBACK")
    other.close()
    assert waiting(await receive(store, [arrival()])) == [1]
    assert observed == [
        (StoreOperation.RECEIVE, Outcome.ERROR),
        (StoreOperation.DEPTH, Outcome.SUCCESS),
        (StoreOperation.RECEIVE, Outcome.SUCCESS),
    ]


async def test_the_event_loop_runs_while_an_operation_waits_for_the_disk(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    other = Connection(str(path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")
    receiving = asyncio.ensure_future(receive(store, [arrival()]))
    turns = 0

    while not receiving.done():
        await asyncio.sleep(0.001)
        turns += 1

    assert isinstance(receiving.exception(), StoreUnavailable)
    assert turns > 2
    other.close()


async def test_the_latest_messages_are_recognized_after_a_restart(
    store: SQLiteStore,
    path: Path,
    arrival: MakeArrival,
    message: Callable[..., MessageRecord],
) -> None:
    again = [arrival(message=message(f"wamid.{n}", direction=Direction.INBOUND)) for n in range(5)]
    await receive(store, again)
    await store.close()

    await store.open()

    assert await receive(store, again) == [None] * 5


async def test_concurrent_checkpoints_share_a_thread(store: SQLiteStore) -> None:
    before = set(threading.enumerate())

    emptied = await asyncio.gather(store.checkpoint(), store.checkpoint())

    assert emptied == [True, True]
    started = set(threading.enumerate()) - before
    assert [each.name for each in started].count("wats-store-log") == 1
