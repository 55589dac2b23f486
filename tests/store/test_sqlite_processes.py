"""The promises of the store on SQLite to several processes on one file."""

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.store.children import child
from tests.store.results import leased, payloads, waiting
from wats.service.upkeep import PURGE_EVERY_SECONDS
from wats.store import receive
from wats.store.records import (
    Arrival,
    Consumer,
    DeliveryState,
    Depth,
    Direction,
    MessageRecord,
    Retention,
    Settlement,
    StatusRecord,
)
from wats.store.sqlite import SQLiteStore
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HANDLERS = [Consumer(name="handlers", lease_seconds=30.0)]
DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wats.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
async def stores(path: Path, clock: FakeClock) -> AsyncIterator[list[SQLiteStore]]:
    """Return two stores on one file, as two processes have them."""
    async with two_stores(path, clock) as stores:
        yield stores


@asynccontextmanager
async def two_stores(path: Path, clock: FakeClock, **options: Any) -> AsyncIterator[Any]:
    stores = [SQLiteStore(str(path), now=clock, **options) for _ in range(2)]
    for store in stores:
        await store.open()
        await store.register(HANDLERS)
    yield stores
    for store in stores:
        await store.close()


async def test_two_processes_never_claim_one_delivery_and_keep_the_order(path: Path) -> None:
    receiver = child(
        path,
        """
async def main():
    store = await opened()
    numbers = range(1, 2001)
    await receive(store, [arrival(number, ordering_key=number % 100) for number in numbers])
    await store.close()

asyncio.run(main())
""",
    )
    receiver.communicate(timeout=30)
    claimer = """
async def main():
    store = await opened()
    while (await store.depth()).total.pending:
        claimed = (await store.claim("handlers", 7)).deliveries
        write([(each.id, each.ordering_key) for each in claimed])
        await store.settle([Settlement(each, DeliveryState.DONE) for each in claimed])
    await store.close()

asyncio.run(main())
"""

    processes = [child(path, claimer) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]

    claims = [json.loads(line) for output in outputs for line in output.splitlines()]
    assert Counter(id_ for claim in claims for id_, _ in claim) == Counter(range(1, 2001))
    for output in outputs:
        by_key: dict[int, list[int]] = {}
        for line in output.splitlines():
            claim = json.loads(line)
            assert len({key for _, key in claim}) == len(claim)
            for id_, key in claim:
                by_key.setdefault(key, []).append(id_)
        assert all(ids == sorted(ids) for ids in by_key.values())


async def test_the_lease_of_a_process_that_died_expires_for_others(path: Path) -> None:
    process = child(
        path,
        """
async def main():
    store = await opened(lease_seconds=0.2)
    await receive(store, [arrival(1)])
    write(len((await store.claim("handlers", 1)).deliveries))
    os.kill(os.getpid(), 9)

asyncio.run(main())
""",
    )
    assert process.communicate(timeout=30)[0] == "1\n"
    store = SQLiteStore(str(path))
    await store.open()
    await store.register(HANDLERS)

    while not (claimed := (await store.claim("handlers", 9)).deliveries):
        await asyncio.sleep(0.01)

    assert [each.attempt for each in claimed] == [2]
    await store.close()


async def test_an_update_that_arrives_at_two_processes_is_stored_once(
    stores: list[SQLiteStore], arrival: MakeArrival
) -> None:
    update = arrival()

    results = await asyncio.gather(
        *(receive(store, [update], {"handlers": 1}) for store in stores * 10)
    )

    assert sorted(len(leased(each)) for each in results) == [0] * 19 + [1]
    assert (await stores[0].depth()).total == Depth(leased=1)


async def test_a_conversation_that_arrives_at_two_processes_has_one_lease(
    stores: list[SQLiteStore], arrival: MakeArrival
) -> None:
    one, other = stores
    updates = [arrival(ordering_key=7) for _ in range(4)]

    results = [
        await receive(stores[number % 2], [update], {"handlers": 9})
        for number, update in enumerate(updates)
    ]

    assert [payloads(leased(each)) for each in results] == [[updates[0].payload], [], [], []]
    handled = leased(results[0])
    await one.settle([Settlement(handled[0], DeliveryState.DONE)])
    for number in (1, 2, 3):
        (delivery,) = (await stores[number % 2].claim("handlers", 9)).deliveries
        assert (await stores[1 - number % 2].claim("handlers", 9)).deliveries == []
        handled.append(delivery)
        await other.settle([Settlement(delivery, DeliveryState.DONE)])
    assert payloads(handled) == [update.payload for update in updates]


async def test_one_process_leads_and_another_takes_over_when_it_ends(
    stores: list[SQLiteStore], clock: FakeClock
) -> None:
    one, other = stores

    for _ in range(3):
        assert await one.lead()
        clock.advance(PURGE_EVERY_SECONDS / 2)
        assert not await other.lead()
        clock.advance(PURGE_EVERY_SECONDS / 2)
    clock.advance(2 * PURGE_EVERY_SECONDS)

    assert await other.lead()
    assert not await one.lead()


def test_of_processes_that_start_together_one_leads(path: Path) -> None:
    script = """
async def main():
    store = await opened()
    outcomes = [await store.lead() for _ in range(20)]
    write(outcomes)
    sys.stdin.read()  # what leads is there until all have asked
    await store.close()

asyncio.run(main())
"""

    processes = [child(path, script, stdin=subprocess.PIPE) for _ in range(3)]
    outcomes = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate(timeout=60)

    assert sorted(outcomes) == [[False] * 20, [False] * 20, [True] * 20]


async def test_another_process_leads_immediately_after_the_leader_closes(
    stores: list[SQLiteStore],
) -> None:
    one, other = stores
    assert await one.lead()
    assert not await other.lead()

    await one.close()

    assert await other.lead()


async def test_a_consumer_of_a_process_that_does_not_lead_keeps_its_deliveries(
    stores: list[SQLiteStore], arrival: MakeArrival, clock: FakeClock
) -> None:
    leader, other = stores
    await other.register([Consumer(name="of-the-other")])
    assert await leader.lead()
    await receive(other, [arrival(consumers=("of-the-other",))])
    retention = Retention(inbox=365 * DAY, dead=30 * DAY, unseen=30 * DAY, messages=365 * DAY)

    for _ in range(40):
        clock.advance(DAY)
        await leader.lead()
        await other.lead()
        await leader.purge(retention)

    assert len((await other.claim("of-the-other", 1)).deliveries) == 1


async def test_messages_of_another_process_are_recognized_and_advanced_by_statuses(
    path: Path,
    clock: FakeClock,
    arrival: MakeArrival,
    message: Callable[..., MessageRecord],
) -> None:
    async with two_stores(path, clock, index_batch=3) as stores:
        for number in range(8):  # indexed by each of the two in turn
            writer, reader = stores[number % 2], stores[(number + 1) % 2]
            received = message(f"wamid.in.{number}", direction=Direction.INBOUND)
            sent = message(f"wamid.out.{number}")

            assert waiting(await receive(writer, [arrival(message=received)])) == [1]
            await writer.record_sent(sent)
            assert waiting(await receive(reader, [arrival(message=received)])) == [None]
            status = StatusRecord(
                phone_number_id="1",
                wa_message_id=sent.wa_message_id,
                status="delivered",
                occurred_at=NOON,
            )
            assert waiting(await receive(reader, [arrival(status=status)])) == [1]

            for each in stores:
                assert await each.get_message(received.wa_message_id) is not None
                found = await each.get_message(sent.wa_message_id)
                assert found is not None
                assert found.status == "delivered"
