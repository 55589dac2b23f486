"""Two replicas on one database, at the moments where they could overlook each other.

A trigger stops a transaction in the middle until the test lets it go on.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from wats.store import Store, receive
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    Settled,
    Settlement,
)

MakeArrival = Callable[..., Arrival]
MakeStore = Callable[..., Awaitable[Store]]
Stop = Callable[[str, str], AbstractAsyncContextManager[None]]

SLOTS = {"handlers": 100}
HELD = b"held"
BEFORE_ITS_HEAD = "BEFORE INSERT ON wats_deliveries", "NEW.payload = 'held' AND NEW.due_at > 0"
BEFORE_ITS_FOLLOWER = (
    "BEFORE INSERT ON wats_deliveries",
    "NEW.payload = 'held' AND NEW.due_at IS NULL",
)
BEFORE_ITS_DELETION = "BEFORE DELETE ON wats_deliveries", "OLD.payload = 'held'"
BEFORE_ITS_LEASE = "BEFORE UPDATE ON wats_deliveries", "NEW.payload = 'held' AND NEW.lease > 0"
BEFORE_ITS_COUNTERS = "BEFORE INSERT ON wats_depths", "NEW.consumer = 'held'"


@pytest.fixture
async def stop(sql: Any) -> Stop:
    """Stop every transaction at a trigger; they go on when the context ends."""

    @asynccontextmanager
    async def stop(event: str, condition: str) -> AsyncIterator[None]:
        await sql.execute(f"""
            CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF {condition} THEN PERFORM pg_advisory_xact_lock_shared(4711); END IF;
                RETURN coalesce(NEW, OLD);
            END $$;
            CREATE TRIGGER stop {event} FOR EACH ROW EXECUTE FUNCTION stop();
            SELECT pg_advisory_lock(4711);
            INSERT INTO wats_numbers VALUES ('1') ON CONFLICT DO NOTHING;
        """)
        try:
            yield
        finally:
            await sql.execute("SELECT pg_advisory_unlock(4711)")

    return stop


async def reach_the_stop(sql: Any, count: int = 1) -> None:
    """Wait until *count* transactions wait at the trigger."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while await sql.fetchval(waiting) < count:
        await asyncio.sleep(0.01)


async def block(sql: Any, task: "asyncio.Task[Any]") -> None:
    """Wait until *task* waits for the row or the transaction of another one."""
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE locktype IN ('transactionid', 'tuple') AND NOT granted"
    )
    while await sql.fetchval(waiting) < 1:
        assert not task.done()
        await asyncio.sleep(0.01)


async def leased(store: Store, *arrivals: Arrival) -> list[Delivery]:
    received = await receive(store, arrivals, SLOTS)
    return [delivery for each in received if each is not None for delivery in each.leased]


async def claim(store: Store, consumer: str, limit: int) -> Sequence[Delivery]:
    return (await store.claim(consumer, limit)).deliveries


async def settle(
    store: Store, deliveries: Sequence[Delivery], state: DeliveryState = DeliveryState.DONE
) -> Settled:
    return await store.settle([Settlement(each, state) for each in deliveries])


async def handle_all(store: Store) -> list[bytes]:
    """Claim and settle until nothing is left; return the payloads in that order."""
    seen: list[bytes] = []
    while claimed := await claim(store, "handlers", 10):
        seen += [each.payload for each in claimed]
        await settle(store, claimed)
    return seen


async def test_of_two_replicas_that_insert_into_a_free_key_concurrently_one_gets_the_lease(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop
) -> None:
    ours, theirs = await open_replica(), await open_replica()

    async with stop(*BEFORE_ITS_HEAD):
        tasks = [
            asyncio.create_task(leased(store, arrival(ordering_key=7, payload=HELD)))
            for store in (ours, theirs)
        ]
        await reach_the_stop(sql, 2)
    results = await asyncio.gather(*tasks)

    held = [each for result in results for each in result]
    assert len(held) == 1
    assert await claim(ours, "handlers", 10) == []
    assert (await settle(ours, held)).due == {"handlers"}
    (follower,) = await claim(theirs, "handlers", 10)
    assert follower.id > held[0].id


async def test_ids_that_were_drawn_too_early_are_drawn_again(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    slow, fast = arrival(ordering_key=7, payload=HELD), arrival(ordering_key=7)
    other = arrival(ordering_key=8)

    async with stop(*BEFORE_ITS_HEAD):
        late = asyncio.create_task(leased(ours, slow, other))
        await reach_the_stop(sql)
        (first,) = await leased(theirs, fast)
    (of_the_other_key,) = await late

    assert of_the_other_key.id == of_the_other_key.update_id > first.id
    rows = await sql.fetch("SELECT id, update_id, last_id, ordering_key FROM wats_deliveries")
    assert {row["id"] for row in rows if row["ordering_key"] == 8} == {of_the_other_key.id}
    assert max(row["last_id"] for row in rows if row["ordering_key"] == 7) > first.id
    assert (await settle(ours, [of_the_other_key])).done == [of_the_other_key.update_id]
    await settle(theirs, [first])
    (follower,) = await claim(ours, "handlers", 10)
    assert follower.payload == HELD
    assert follower.id == follower.update_id > first.id
    assert (await settle(ours, [follower])).done == [follower.update_id]


@pytest.mark.parametrize("state", [DeliveryState.DONE, DeliveryState.DEAD])
async def test_a_settlement_does_not_overlook_a_delivery_that_is_being_inserted(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop, state: DeliveryState
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    head = await leased(ours, arrival(ordering_key=7))

    async with stop(*BEFORE_ITS_FOLLOWER):
        receiving = asyncio.create_task(leased(theirs, arrival(ordering_key=7, payload=HELD)))
        await reach_the_stop(sql)
        settling = asyncio.create_task(settle(ours, head, state))
        await block(sql, settling)
    assert await receiving == []

    assert (await settling).due == {"handlers"}
    assert await handle_all(ours) == [HELD]


@pytest.mark.parametrize("state", [DeliveryState.DONE, DeliveryState.DEAD])
async def test_a_delivery_that_arrives_while_its_head_is_settled_becomes_the_head(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop, state: DeliveryState
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    head = await leased(ours, arrival(ordering_key=7, payload=HELD))

    async with stop(*BEFORE_ITS_DELETION):
        settling = asyncio.create_task(settle(ours, head, state))
        await reach_the_stop(sql)
        receiving = asyncio.create_task(leased(theirs, arrival(ordering_key=7)))
        await block(sql, receiving)
    await settling

    (next_head,) = await receiving
    assert next_head.id > head[0].id
    assert (await settle(theirs, [next_head])).done == [next_head.update_id]


async def test_a_claim_that_skips_a_head_which_is_added_to_is_woken_afterwards(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    woken = asyncio.Event()
    ours.on_work(woken.set)
    head = arrival(ordering_key=7)
    await receive(ours, [head])

    async with stop(*BEFORE_ITS_FOLLOWER):
        receiving = asyncio.create_task(leased(theirs, arrival(ordering_key=7, payload=HELD)))
        await reach_the_stop(sql)
        assert await claim(ours, "handlers", 10) == []
        assert not woken.is_set()
    await receiving

    await woken.wait()
    assert await handle_all(ours) == [head.payload, HELD]


async def test_a_delivery_that_arrives_while_its_head_is_claimed_follows_it(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    await receive(ours, [arrival(ordering_key=7, payload=HELD)])
    late = arrival(ordering_key=7)

    async with stop(*BEFORE_ITS_LEASE):
        claiming = asyncio.create_task(claim(ours, "handlers", 10))
        await reach_the_stop(sql)
        receiving = asyncio.create_task(leased(theirs, late))
        await block(sql, receiving)
    claimed = await claiming

    assert await receiving == []
    assert (await settle(ours, claimed)).due == {"handlers"}
    assert await handle_all(theirs) == [late.payload]


async def test_two_concurrent_claims_share_the_due_deliveries(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop
) -> None:
    ours, theirs = await open_replica(), await open_replica()
    updates = [arrival(payload=HELD), arrival(payload=HELD), arrival(), arrival()]
    await receive(ours, updates)

    async with stop(*BEFORE_ITS_LEASE):
        claiming = asyncio.create_task(claim(ours, "handlers", 2))
        await reach_the_stop(sql)
        rest = await claim(theirs, "handlers", 2)

    assert [each.payload for each in rest] == [update.payload for update in updates[2:]]
    assert [each.payload for each in await claiming] == [HELD, HELD]


@pytest.mark.parametrize("where", [BEFORE_ITS_DELETION, BEFORE_ITS_COUNTERS])
async def test_an_update_whose_last_deliveries_end_concurrently_is_done_once(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any, stop: Stop, where: tuple[str, str]
) -> None:
    consumers = [Consumer(name="held"), Consumer(name="other")]
    ours, theirs = await open_replica(*consumers), await open_replica(*consumers)
    payload = HELD if where is BEFORE_ITS_COUNTERS else b"other"
    await receive(ours, [arrival(consumers=("held", "other"), payload=payload)])
    (held,), (other,) = await claim(ours, "held", 1), await claim(theirs, "other", 1)
    event, condition = where
    if where is BEFORE_ITS_DELETION:
        condition = "OLD.consumer = 'held'"

    async with stop(event, condition):
        first = asyncio.create_task(settle(ours, [held]))
        await reach_the_stop(sql)
        second = asyncio.create_task(settle(theirs, [other]))
        await asyncio.wait([second], timeout=0.3)
    done = (*(await first).done, *(await second).done)

    assert done == (held.update_id,)


class Traffic:
    """Conversations that arrive at several stores and are handled by all stores."""

    def __init__(self, stores: Sequence[Store], arrival: MakeArrival) -> None:
        self.stores = stores
        self.arrival = arrival
        self.sent: dict[int, list[bytes]] = {}
        self.handled: dict[int, list[bytes]] = {}
        self.left = 0

    async def send(self, key: int) -> None:
        for number in range(30):  # each after the one before it was acknowledged
            store = self.stores[(key + number) % len(self.stores)]
            # In another order for each, so that locks are requested in every order.
            keys = [key, *((key + step) % 5 + 100 for step in range(number % 5))]
            batch = [self.arrival(ordering_key=each) for each in keys]
            self.sent.setdefault(key, []).append(batch[0].payload)
            self.left += len(batch)
            received = await receive(store, batch, {"handlers": number % 4})
            for each in received:
                assert each is not None
                await self.handle(store, each.leased)

    async def handle(self, store: Store, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            self.handled.setdefault(each.ordering_key, []).append(each.payload)
        await settle(store, deliveries)
        self.left -= len(deliveries)

    async def work(self, store: Store) -> None:
        while True:
            await self.handle(store, await claim(store, "handlers", 5))
            await asyncio.sleep(0.001)

    async def run(self) -> None:
        workers = [asyncio.create_task(self.work(store)) for store in self.stores]
        await asyncio.gather(*(self.send(key) for key in range(6)))
        while self.left:
            assert not any(worker.done() for worker in workers)
            await asyncio.sleep(0.01)
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


async def test_conversations_keep_their_order_while_replicas_receive_and_handle_concurrently(
    open_replica: MakeStore, arrival: MakeArrival, sql: Any
) -> None:
    traffic = Traffic([await open_replica() for _ in range(3)], arrival)

    await traffic.run()

    assert {key: traffic.handled[key] for key in traffic.sent} == traffic.sent
    assert (await traffic.stores[0].depth()).consumers == {"handlers": Depth()}
    assert await sql.fetchval("SELECT count(*) FROM wats_deliveries") == 0
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await sql.fetchval(deadlocks) == 0


async def test_an_update_that_waits_for_a_lock_does_not_hold_up_other_conversations(
    store, arrival, sql
) -> None:
    await receive(store, [arrival(ordering_key=1)])
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("SELECT 1 FROM wats_deliveries FOR UPDATE")

    waiting = asyncio.create_task(receive(store, [arrival(ordering_key=1)]))
    await asyncio.sleep(0.05)
    for ordering_key in range(2, 6):
        await asyncio.wait_for(receive(store, [arrival(ordering_key=ordering_key)]), 2)
    assert not waiting.done()
    await transaction.rollback()

    assert len(await waiting) == 1
