"""The contract of the PostgreSQL store for deliveries, also between replicas."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.store.results import dead_letters
from wats.store import Store, receive
from wats.store.postgres.deliveries import claim_unflushed
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    Retention,
    Settled,
    Settlement,
)

MakeArrival = Callable[..., Arrival]
MakeStore = Callable[..., Awaitable[Store]]
PassTime = Callable[[float], Awaitable[None]]

SLOTS = {"handlers": 100}


def payloads(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


async def claim(store: Store, consumer: str, limit: int) -> Sequence[Delivery]:
    return (await store.claim(consumer, limit)).deliveries


async def settle(
    store: Store,
    deliveries: Sequence[Delivery],
    state: DeliveryState = DeliveryState.DONE,
    **more: Any,
) -> Settled:
    return await store.settle([Settlement(each, state, **more) for each in deliveries])


async def test_deliveries_are_claimed_in_order_of_arrival(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival() for _ in range(5)]
    await receive(store, updates)

    first = await claim(store, "handlers", 2)
    rest = await claim(store, "handlers", 10)

    assert payloads(first) == [update.payload for update in updates[:2]]
    assert payloads(rest) == [update.payload for update in updates[2:]]
    assert {delivery.attempt for delivery in (*first, *rest)} == {1}


async def test_deliveries_of_several_numbers_are_claimed_oldest_first(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival(phone_number_id=number) for number in ("2", None, "1", "2", "1")]
    for update in updates:
        await receive(store, [update])

    first = await claim(store, "handlers", 3)
    rest = await claim(store, "handlers", 3)

    assert payloads(first) == [update.payload for update in updates[:3]]
    assert payloads(rest) == [update.payload for update in updates[3:]]


async def test_a_duplicate_changes_nothing(store: Store, arrival: MakeArrival) -> None:
    update = arrival()

    first, twin = await receive(store, [update, update])
    again = await receive(store, [update])

    assert first is not None
    assert [twin, *again] == [None, None]
    assert len(await claim(store, "handlers", 10)) == 1


async def test_a_delivery_is_leased_on_arrival_while_nothing_waits(
    store: Store, arrival: MakeArrival
) -> None:
    update = arrival()

    (received,) = await receive(store, [update], SLOTS)

    assert received is not None
    (delivery,) = received.leased
    assert (delivery.payload, delivery.attempt, received.waiting) == (update.payload, 1, 0)
    assert await claim(store, "handlers", 10) == []
    assert (await settle(store, [delivery])).done == [delivery.update_id]
    assert (await store.depth()).consumers == {"handlers": Depth()}


async def test_older_deliveries_go_before_one_that_arrives(
    store: Store, arrival: MakeArrival
) -> None:
    await receive(store, [arrival()])

    (received,) = await receive(store, [arrival()], SLOTS)

    assert received is not None
    assert (received.leased, received.waiting) == ([], 1)


async def test_an_expired_lease_takes_precedence_over_an_arrival(
    store: Store, arrival: MakeArrival, pass_time: PassTime
) -> None:
    await receive(store, [arrival()], SLOTS)
    await pass_time(61)

    (received,) = await receive(store, [arrival()], SLOTS)

    assert received is not None
    assert received.waiting == 1


async def test_no_more_deliveries_are_leased_on_arrival_than_there_are_slots(
    store: Store, arrival: MakeArrival
) -> None:
    received = await receive(store, [arrival() for _ in range(3)], {"handlers": 2})

    assert [each and len(each.leased) for each in received] == [1, 1, 0]


async def test_only_the_first_of_an_ordering_key_is_leased(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival(ordering_key=7) for _ in range(3)]
    received = await receive(store, updates, SLOTS)
    assert [each and len(each.leased) for each in received] == [1, 0, 0]
    assert received[0] is not None

    held, seen = received[0].leased, []
    for _ in updates:
        seen += payloads(held)
        settled = await settle(store, held)
        held = await claim(store, "handlers", 10)
        assert settled.due == ({"handlers"} if held else set())

    assert seen == [update.payload for update in updates]
    assert await claim(store, "handlers", 10) == []


async def test_each_consumer_has_deliveries_of_its_own(store: Store, arrival: MakeArrival) -> None:
    await receive(store, [arrival(consumers=("a", "b"))])

    (ours,) = await claim(store, "a", 10)
    (theirs,) = await claim(store, "b", 10)

    assert ours.update_id == theirs.update_id == ours.id
    assert theirs.id == ours.id + 1
    assert (await settle(store, [ours])).done == []
    assert (await settle(store, [theirs])).done == [ours.update_id]


async def test_deliveries_with_and_without_followers_are_settled_together(
    store: Store, arrival: MakeArrival
) -> None:
    follower = arrival(ordering_key=7)
    received = await receive(store, [arrival(ordering_key=7), arrival(), follower], SLOTS)
    leased = [each for result in received if result for each in result.leased]

    settled = await settle(store, leased)
    again = await settle(store, leased)

    assert sorted(settled.done) == sorted(each.update_id for each in leased)
    assert settled.due == {"handlers"}
    assert (again.done, again.due) == ([], set())
    assert (await store.depth()).consumers["handlers"] == Depth(pending=1)
    assert payloads(await claim(store, "handlers", 10)) == [follower.payload]


async def test_a_retry_waits_for_its_time(
    store: Store, arrival: MakeArrival, pass_time: PassTime
) -> None:
    await receive(store, [arrival(ordering_key=7), arrival(ordering_key=7)])
    claimed = await claim(store, "handlers", 10)

    await settle(store, claimed, DeliveryState.RETRY, retry_seconds=10.0, error="ValueError")

    assert await claim(store, "handlers", 10) == []
    depth = (await store.depth()).consumers["handlers"]
    assert depth == Depth(pending=1, retry=1)
    await pass_time(10)
    (again,) = await claim(store, "handlers", 10)
    assert (again.id, again.attempt) == (claimed[0].id, 2)
    assert (await store.depth()).consumers["handlers"] == Depth(pending=1, leased=1)


async def test_a_released_delivery_is_as_it_was(store: Store, arrival: MakeArrival) -> None:
    await receive(store, [arrival()])

    settled = await settle(store, await claim(store, "handlers", 10), DeliveryState.PENDING)

    assert settled.due == {"handlers"}
    (again,) = await claim(store, "handlers", 10)
    assert again.attempt == 1


async def test_an_expired_lease_is_claimed_again_and_the_old_one_is_void(
    store: Store, arrival: MakeArrival, pass_time: PassTime
) -> None:
    await receive(store, [arrival()])
    lost = await claim(store, "handlers", 10)
    await pass_time(60)
    (held,) = await claim(store, "handlers", 10)

    for state in (DeliveryState.DONE, DeliveryState.DEAD, DeliveryState.RETRY):
        settled = await settle(store, lost, state)
        assert (settled.done, settled.due) == ([], set())
    assert await store.renew([*lost, held]) == lost

    assert held.attempt == 2
    assert (await settle(store, [held])).done == [held.update_id]


async def test_a_renewed_lease_lasts_longer(
    store: Store, arrival: MakeArrival, pass_time: PassTime
) -> None:
    await receive(store, [arrival()])
    claimed = await claim(store, "handlers", 10)
    await pass_time(59)

    assert await store.renew(claimed) == []
    await pass_time(59)

    assert await claim(store, "handlers", 10) == []


async def test_the_last_attempt_is_not_repeated_after_its_lease_expired(
    open_replica: MakeStore, arrival: MakeArrival, pass_time: PassTime
) -> None:
    store = await open_replica(Consumer(name="handlers", lease_seconds=60.0, max_attempts=2))
    await receive(store, [arrival()], SLOTS)
    await pass_time(60)
    (last,) = await claim(store, "handlers", 10)
    assert (last.attempt, last.is_exhausted) == (2, False)
    await pass_time(60)

    (exhausted,) = await claim(store, "handlers", 10)

    assert (exhausted.attempt, exhausted.is_exhausted) == (2, True)
    await settle(store, [exhausted], DeliveryState.PENDING)
    (exhausted,) = await claim(store, "handlers", 10)
    assert (exhausted.attempt, exhausted.is_exhausted) == (2, True)
    await settle(store, [exhausted], DeliveryState.DEAD, error="LeaseExpired")
    (letter,) = await dead_letters(store)
    assert (letter.id, letter.attempts, letter.error) == (exhausted.id, 2, "LeaseExpired")


async def test_a_lower_number_of_attempts_makes_no_dead_letter_of_an_untried_delivery(
    open_replica: MakeStore, arrival: MakeArrival, pass_time: PassTime
) -> None:
    before = await open_replica(Consumer(name="handlers", max_attempts=10))
    await receive(before, [arrival()])
    for _ in range(3):
        claimed = await claim(before, "handlers", 1)
        await settle(before, claimed, DeliveryState.RETRY)
    after = await open_replica(Consumer(name="handlers", max_attempts=2))

    (claimed_after,) = await claim(after, "handlers", 1)

    assert not claimed_after.is_exhausted


async def test_the_ordering_key_of_a_dead_letter_continues(
    store: Store, arrival: MakeArrival, pass_time: PassTime
) -> None:
    first, second = arrival(ordering_key=7), arrival(ordering_key=7)
    await receive(store, [first, second])
    poison = await claim(store, "handlers", 10)

    settled = await settle(store, poison, DeliveryState.DEAD, error="ValueError")

    assert (settled.done, settled.due) == ([], {"handlers"})
    assert payloads(await claim(store, "handlers", 10)) == [second.payload]
    assert (await store.depth()).total == Depth(leased=1, dead=1)
    assert [each.error for each in await dead_letters(store)] == ["ValueError"]


async def test_the_age_of_the_oldest_delivery_is_known(
    store: Store, arrival: MakeArrival, pass_time: PassTime
) -> None:
    assert (await store.depth()).oldest_seconds == 0.0
    await receive(store, [arrival()])
    await pass_time(100)
    await receive(store, [arrival(phone_number_id="2")])

    assert 100 <= (await store.depth()).oldest_seconds < 110


async def test_text_that_postgresql_cannot_store_fails_nothing(
    store: Store, arrival: MakeArrival
) -> None:
    received = await receive(store, [arrival(kind="a\0b", phone_number_id="\ud800"), arrival()])

    assert None not in received
    assert len(await claim(store, "handlers", 10)) == 2


async def test_one_call_that_cannot_be_stored_fails_no_other(
    store: Store, arrival: MakeArrival
) -> None:
    good, bad = arrival(), arrival(ordering_key=2**70)

    results = await asyncio.gather(
        receive(store, [good]), receive(store, [bad]), return_exceptions=True
    )

    assert isinstance(results[1], Exception)
    assert payloads(await claim(store, "handlers", 10)) == [good.payload]


async def test_deliveries_of_a_removed_consumer_are_deleted(
    open_replica: MakeStore, arrival: MakeArrival, pass_time: PassTime, sql: Any
) -> None:
    store = await open_replica()
    await sql.execute("INSERT INTO wats_consumers VALUES ('gone', wats_now())")
    await receive(store, [arrival(consumers=("gone",), ordering_key=n % 3) for n in range(1200)])
    await receive(store, [arrival()])
    retention = Retention(inbox=1e9, dead=30.0, unseen=30.0, messages=1e9)
    assert await store.purge(retention) == 0
    await pass_time(31)

    deleted = [await store.purge(retention) for _ in range(4)]

    assert deleted == [500, 500, 200, 0] or sum(deleted) == 1200
    assert (await store.depth()).consumers == {"handlers": Depth(pending=1)}
    assert await sql.fetchval("SELECT count(*) FROM wats_deliveries") == 1


async def test_a_claim_of_the_outbox_does_not_wait_for_the_disk(sql: Any) -> None:
    async def setting(connection: Any) -> Any:
        return await connection.fetchval("SHOW synchronous_commit")

    usual = await setting(sql)

    async with sql.transaction():
        assert await claim_unflushed(sql, setting) == "off"

    assert await setting(sql) == usual
