"""The number of statements of frequent operations, with many business numbers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from wats.store import Store, receive
from wats.store.postgres import deliveries, depths, messages
from wats.store.postgres.receive import ArrivalWriter
from wats.store.records import (
    ALL_MESSAGES,
    OUTBOX,
    Arrival,
    Consumer,
    DeliveryState,
    Depth,
    Direction,
    MessageRecord,
    Retention,
    Settlement,
    WindowRecord,
)

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONSUMER = Consumer(name="handlers", lease_seconds=60.0)


@asynccontextmanager
async def statements(sql: Any) -> AsyncIterator[list[str]]:
    """Collect the statements that *sql* executes in the block."""
    found: list[str] = []

    def note(record: Any) -> None:
        if "wats_" in record.query:  # asyncpg has some of its own
            found.append(record.query)

    with sql.query_logger(note):
        yield found
        await asyncio.sleep(0)  # in which the last statement is noted


@pytest.fixture(params=[1, 40])
async def numbers(
    request: pytest.FixtureRequest, store: Store, arrival: Callable[..., Arrival]
) -> int:
    """Receive an update without consumers for each of this many numbers."""
    count: int = request.param
    await receive(store, [arrival(phone_number_id=f"{n}", consumers=()) for n in range(count)])
    return count


async def test_an_idle_claim_is_one_statement(numbers: int, sql: Any) -> None:
    async with statements(sql) as found:
        claimed = await deliveries.claim(sql, CONSUMER, 10)

    assert not claimed.deliveries
    assert len(found) == 1


async def test_a_claim_costs_as_much_with_idle_numbers(
    numbers: int, store: Store, sql: Any, arrival: Callable[..., Arrival]
) -> None:
    await receive(store, [arrival(phone_number_id="0") for _ in range(3)])

    async with sql.transaction(), statements(sql) as found:
        claimed = await deliveries.claim(sql, CONSUMER, 10)

    assert len(claimed.deliveries) == 3
    assert len(found) == 4  # what is due, its heads, their leases and counters


async def test_an_update_costs_as_much_with_idle_numbers(
    numbers: int, sql: Any, arrival: Callable[..., Arrival]
) -> None:
    writer = ArrivalWriter({"handlers": CONSUMER})
    writer.remember([[arrival(phone_number_id="0")]])

    async with sql.transaction(), statements(sql) as found:
        update = arrival(phone_number_id="0")
        ((received,),) = await writer.receive(sql, [[update]], {"handlers": 5})

    assert received is not None
    assert len(received.leased) == 1
    assert len(found) == 4  # its identity, what is due, its head and counters


async def test_updates_of_many_numbers_are_stored_by_the_statements_of_one(
    sql: Any, arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]
) -> None:
    writer = ArrivalWriter({"handlers": CONSUMER})
    names = [f"{n}" for n in range(10)]
    updates = [
        arrival(
            phone_number_id=name,
            message=message(phone_number_id=name, direction=Direction.INBOUND),
            window=WindowRecord(phone_number_id=name, customer="2", last_inbound_at=NOON),
        )
        for name in names
    ]
    writer.remember([updates])

    async with sql.transaction(), statements(sql) as found:
        (results,) = await writer.receive(sql, [updates], {"handlers": 50})

    assert [each is not None and len(each.leased) for each in results] == [1] * 10
    assert len(found) == 5  # messages, windows, what is due, heads and counters


async def test_deliveries_that_nothing_depends_on_are_settled_by_one_statement(
    store: Store, sql: Any, arrival: Callable[..., Arrival]
) -> None:
    received = await receive(store, [arrival() for _ in range(3)], {"handlers": 5})
    done = [Settlement(each.leased[0], DeliveryState.DONE) for each in received if each]

    async with statements(sql) as found:
        settled = await deliveries.settle_alone(sql, ("1", "handlers"), done)

    assert len(settled) == 3
    assert len(found) == 1
    assert (await store.depth()).consumers["handlers"] == Depth()


async def test_deliveries_of_many_numbers_are_claimed_and_settled_by_the_statements_of_one(
    store: Store, sql: Any, arrival: Callable[..., Arrival]
) -> None:
    await receive(store, [arrival(phone_number_id=f"{n}") for n in range(10)])

    async with sql.transaction(), statements(sql) as claims:
        claimed = await deliveries.claim(sql, CONSUMER, 20)
    done = [Settlement(each, DeliveryState.DONE) for each in claimed.deliveries]
    async with sql.transaction(), statements(sql) as others:
        lost = await deliveries.renew(sql, claimed.deliveries, {})
        settled = await deliveries.settle(sql, done)

    assert lost == []
    assert len(settled.done) == 10
    assert len(claims) == 4  # what is due, heads, leases and counters
    assert len(others) == 3  # renewals, heads and counters


FILL = """
INSERT INTO wats_numbers SELECT number FROM generate_series(1, 40) AS number;
INSERT INTO wats_inbox (phone_number_id, occurred_at, key, kind, received_at)
SELECT number, n, '', 'status', n
FROM generate_series(1, 40) AS number, generate_series(1, 600) AS n;
INSERT INTO wats_windows (phone_number_id, digest, last_inbound_at)
SELECT number, n, n FROM generate_series(1, 40) AS number, generate_series(1, 600) AS n;
"""


async def test_a_purge_deletes_a_bounded_number_of_rows_of_all_numbers(
    store: Store, sql: Any
) -> None:
    await sql.execute(FILL)
    counts = []

    while count := await store.purge(Retention(inbox=60, dead=60, unseen=60, messages=60)):
        counts.append(count)

    assert sum(counts) == 40 * 600 * 2
    assert max(counts) < 12_500


async def test_messages_are_read_by_the_statements_of_one_number(
    numbers: int, store: Store, sql: Any, message: Callable[..., MessageRecord]
) -> None:
    await store.record_sent(message(phone_number_id="0"))

    async with statements(sql) as found:
        page = await messages.page(sql, 10, None, ALL_MESSAGES)
        got = await messages.get(sql, "wamid.1")
        of_another = await messages.get(sql, "wamid.1", "7")
        statuses = await messages.statuses(sql, "wamid.1")

    assert [got] == list(page.items) == [message(phone_number_id="0", row_id=got and got.row_id)]
    assert (of_another, statuses) == (None, [])
    assert len(found) == 8  # a page: 3, a message: 2, none: 1, statuses: 2


async def test_depths_cost_as_much_with_many_numbers(numbers: int, sql: Any) -> None:
    async with statements(sql) as found:
        await depths.read(sql, ["handlers", OUTBOX])
        await depths.waiting(sql, OUTBOX, ["7"])

    assert len(found) == 4
