"""What the store on SQLite promises beyond the Protocol: files, crashes, full disks, processes."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apsw import Connection

from wats.errors import StoreUnavailable
from wats.store.records import (
    Arrival,
    DeliveryState,
    Direction,
    Kept,
    MessageRecord,
    Settled,
    Settlement,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import SQLiteStore, message_index
from wats.telemetry.vocabulary import Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

# What children have in common: a store in the file that they are told, and arrivals by number.
PREAMBLE = """
import asyncio, json, os, resource, sys
from datetime import UTC, datetime
from wats.errors import StoreUnavailable
from wats.store.records import Arrival, Kept
from wats.store.sqlite import SQLiteStore

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

def arrival(number, lane=None):
    return Arrival(
        key=number.to_bytes(16, "big"), occurred_at=NOON, received_at=NOON, kind="message",
        phone_number_id="1", lane=number if lane is None else lane, payload=b"x" * 500,
        targets=("handlers",),
    )

def say(what):
    print(json.dumps(what), flush=True)

store = SQLiteStore(sys.argv[1])
"""


def child(path: Path, script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wats.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(str(path), busy_seconds=0.1)
    await store.open()
    yield store
    await store.close()


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_only_the_owner_can_read_what_is_stored(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    await store.receive([arrival()])

    assert modes_in(path.parent) == {"wats.db": 0o600, "wats.db-wal": 0o600, "wats.db-shm": 0o600}


def test_the_mode_of_a_file_that_is_there_is_left_alone(path: Path) -> None:
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
    await store.receive([arrival()])

    await store.close()

    assert list(modes_in(path.parent)) == ["wats.db"]
    await store.open()
    assert (await store.inbox_depth()).pending == 1


@pytest.mark.parametrize("obstacle", ["no-folder", "a-folder", "no-database"])
async def test_a_file_that_cannot_be_a_database_is_unavailable(
    tmp_path: Path, obstacle: str
) -> None:
    (tmp_path / "text").write_text("This is no database, and it is long enough to show it. " * 99)
    paths = {"no-folder": "none/wats.db", "a-folder": ".", "no-database": "text"}
    store = SQLiteStore(str(tmp_path / paths[obstacle]), busy_seconds=0.1)

    with pytest.raises(StoreUnavailable) as caught:
        await store.open()

    assert str(caught.value) == "The store could not be reached."
    await store.close()


def test_what_is_done_leaves_no_trace_of_its_content(path: Path, arrival: MakeArrival) -> None:
    secret = b"a very private sentence"

    asyncio.run(handle(path, arrival(payload=secret)))

    assert secret not in path.read_bytes()


def test_a_window_does_not_show_whose_it_is(path: Path, arrival: MakeArrival) -> None:
    window = WindowRecord(phone_number_id="1", customer="15550001234", last_inbound_at=NOON)

    asyncio.run(handle(path, arrival(window=window)))

    assert b"15550001234" not in path.read_bytes()


async def handle(path: Path, update: Arrival) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await store.receive([update])
    (delivery,) = await store.claim_deliveries(
        targets=["handlers"], limit=1, lease_seconds=60, now=NOON
    )
    done = Settlement(
        delivery=delivery,
        state=DeliveryState.DONE,
    )
    assert await store.settle_deliveries([done], now=NOON) == Settled(
        done=(delivery.update_id,), more=False
    )
    await store.close()


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(path: Path) -> None:
    process = child(
        path,
        """
async def receive(numbers):
    for number in numbers:
        assert await store.receive([arrival(number)]) == [Kept()]
        say(number)

async def main():
    await store.open()
    numbers = iter(range(1, 10**9))
    await asyncio.gather(*(receive(numbers) for _ in range(16)))

asyncio.run(main())
""",
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(500)]

    process.send_signal(signal.SIGKILL)
    # Not by `communicate`, which would pass over what was read ahead and begin amid a line.
    with process.stdout:
        rest = process.stdout.read()
    process.wait(timeout=30)
    acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]

    store = SQLiteStore(str(path))
    await store.open()
    claimed = await store.claim_deliveries(
        targets=["handlers"], limit=10**6, lease_seconds=60, now=NOON
    )
    await store.close()
    assert set(acknowledged) <= {delivery.lane for delivery in claimed}


async def test_a_full_disk_makes_the_store_unavailable_until_there_is_room(path: Path) -> None:
    process = child(
        path,
        """
async def main():
    await store.open()
    kept = 0
    limit = os.path.getsize(sys.argv[1] + "-wal") + 1_000_000
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    number = 0
    try:
        while True:
            number += 1
            kept += len(await store.receive([arrival(number)]))
    except StoreUnavailable:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    again = await store.receive([arrival(number)])
    depth = await store.inbox_depth()
    say([kept, again == [Kept()], depth.pending])
    await store.close()

asyncio.run(main())
""",
    )

    kept, again, pending = json.loads(process.communicate(timeout=60)[0])

    assert kept > 10
    assert again
    assert pending == kept + 1


async def test_a_locked_database_is_unavailable_for_writing_and_can_be_read(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    told: list[tuple[StoreOperation, Outcome]] = []
    await store.close()
    await store.open(lambda _, operation, outcome, __: told.append((operation, outcome)))
    other = Connection(str(path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable):
        await store.receive([arrival()])
    assert (await store.inbox_depth()).pending == 0

    other.execute("ROLLBACK")
    other.close()
    assert await store.receive([arrival()]) == [Kept()]
    assert told == [
        (StoreOperation.RECEIVE, Outcome.ERROR),
        (StoreOperation.DEPTH, Outcome.SUCCESS),
        (StoreOperation.RECEIVE, Outcome.SUCCESS),
    ]


async def test_the_loop_goes_on_while_the_disk_is_waited_for(
    store: SQLiteStore, path: Path, arrival: MakeArrival
) -> None:
    other = Connection(str(path))
    other.set_busy_timeout(5000)
    other.execute("BEGIN IMMEDIATE")
    receiving = asyncio.ensure_future(store.receive([arrival()]))
    loop = asyncio.get_running_loop()
    longest = 0.0

    while not receiving.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        longest = max(longest, loop.time() - before)

    assert isinstance(receiving.exception(), StoreUnavailable)
    assert longest < 0.09
    other.close()


async def test_two_processes_never_get_one_delivery(store: SQLiteStore, path: Path) -> None:
    receiver = child(
        path,
        """
async def main():
    await store.open()
    await store.receive([arrival(number, lane=number % 100) for number in range(1, 2001)])
    await store.close()

asyncio.run(main())
""",
    )
    receiver.communicate(timeout=30)
    claimer = """
async def main():
    await store.open()
    while claimed := await store.claim_deliveries(
        targets=["handlers"], limit=7, lease_seconds=60, now=NOON
    ):
        from wats.store.records import DeliveryState, Settlement
        say([d.update_id for d in claimed])
        await store.settle_deliveries(
            [Settlement(delivery=d,
                        state=DeliveryState.DONE) for d in claimed], now=NOON)
    await store.close()

asyncio.run(main())
"""

    processes = [child(path, claimer) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]

    claimed = [
        update_id
        for output in outputs
        for line in output.splitlines()
        for update_id in json.loads(line)
    ]
    assert len(claimed) == len(set(claimed))
    left = await store.claim_deliveries(
        targets=["handlers"], limit=5000, lease_seconds=60, now=NOON + timedelta(hours=1)
    )
    assert len(claimed) + len(left) == 2000


async def test_a_process_that_dies_with_a_lease_leaves_it_to_others(
    store: SQLiteStore, path: Path
) -> None:
    process = child(
        path,
        """
async def main():
    await store.open()
    await store.receive([arrival(1)])
    say(len(await store.claim_deliveries(
        targets=["handlers"], limit=1, lease_seconds=60, now=NOON)))
    os.kill(os.getpid(), 9)

asyncio.run(main())
""",
    )
    assert process.communicate(timeout=30)[0] == "1\n"

    (delivery,) = await store.claim_deliveries(
        targets=["handlers"], limit=1, lease_seconds=60, now=NOON + timedelta(seconds=60)
    )

    assert delivery.attempt == 2


async def test_what_another_process_recorded_is_known_and_moved_on_by_its_statuses(
    store: SQLiteStore,
    path: Path,
    arrival: MakeArrival,
    message: Callable[..., MessageRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(message_index, "INDEX_BATCH", 3)
    other = SQLiteStore(str(path))
    await other.open()
    stores = [store, other]
    for number in range(8):  # gathered by each of the two, amid what they know in turns
        writer, reader = stores[number % 2], stores[(number + 1) % 2]
        received = message(f"wamid.in.{number}", direction=Direction.INBOUND)
        sent = message(f"wamid.out.{number}")

        assert await writer.receive([arrival(message=received)]) == [Kept()]
        await writer.record_sent(sent)
        assert await reader.receive([arrival(message=received)]) == [None]
        status = StatusRecord(
            phone_number_id="1",
            wa_message_id=sent.wa_message_id,
            status="delivered",
            occurred_at=NOON,
        )
        assert await reader.receive([arrival(status=status)]) == [Kept()]

        for each in stores:
            assert await each.get_message(received.wa_message_id) is not None
            found = await each.get_message(sent.wa_message_id)
            assert found is not None
            assert found.status == "delivered"
    await other.close()


async def test_a_service_that_starts_again_knows_the_latest_messages(
    store: SQLiteStore,
    path: Path,
    arrival: MakeArrival,
    message: Callable[..., MessageRecord],
) -> None:
    again = [arrival(message=message(f"wamid.{n}", direction=Direction.INBOUND)) for n in range(5)]
    await store.receive(again)
    await store.close()

    await store.open()

    assert await store.receive(again) == [None] * 5
