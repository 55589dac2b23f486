"""The contract of every store for retention: the rows that a purge deletes and keeps."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.store.results import dead_letters, payloads, waiting
from wats.store import Store, receive
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    Direction,
    MessageRecord,
    Reservation,
    Retention,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite.inbox import PROMPT
from wats.telemetry.contract.values import Adapter
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]
MakeMessage = Callable[..., MessageRecord]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]
Reserve = Callable[..., Awaitable[Reservation]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LONG = 10.0**9
DAY = 86_400.0


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def transition(status: str, *, at: datetime = NOON, **changes: object) -> StatusRecord:
    values: dict[str, object] = {
        "phone_number_id": "1",
        "wa_message_id": "wamid.1",
        "status": status,
        "occurred_at": at,
    }
    return StatusRecord(**(values | changes))


def window(customer: str, at: datetime) -> WindowRecord:
    return WindowRecord(phone_number_id="1", customer=customer, last_inbound_at=at)


async def purge(
    store: Store,
    *,
    inbox: float = 0,
    dead: float = 0,
    unseen: float = LONG,
    messages: float = 0,
) -> int:
    """Purge everything that is older than now, unless a retention is given."""
    return await store.purge(Retention(inbox=inbox, dead=dead, unseen=unseen, messages=messages))


async def purge_all(
    store: Store, *, inbox: float = LONG, dead: float = 0, unseen: float = LONG
) -> list[int]:
    """Purge until nothing is left; return how many rows each call deleted."""
    rows = []
    while deleted := await purge(store, inbox=inbox, dead=dead, unseen=unseen):
        rows.append(deleted)
    return rows


async def test_nothing_is_purged_before_its_time(
    store: Store,
    arrival: MakeArrival,
    message: MakeMessage,
    claim: Claim,
    settle: Settle,
    reserve: Reserve,
) -> None:
    await receive(store, [arrival(consumers=(), message=message(), status=transition("sent"))])
    await receive(store, [arrival(window=window("2", NOON)), arrival()])
    await reserve()
    await settle((await claim())[:1], DeliveryState.DEAD)

    assert await purge(store) == 0


async def test_an_old_update_is_purged_and_then_new_again(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    updates = done, _, no_consumer = arrival(), arrival(), arrival(consumers=())
    await receive(store, updates)
    await settle(await claim(limit=1))
    clock.advance(1)

    assert await purge(store, inbox=2) == 0
    assert await purge(store) == 3

    assert waiting(await receive(store, [done, no_consumer])) == [1, 0]


async def test_a_purged_identity_takes_no_delivery_with_it(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    update = arrival()
    await receive(store, [update])
    clock.advance(1)

    await purge(store)

    assert payloads(await claim()) == [update.payload]


async def test_an_old_dead_letter_is_purged(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival(consumers=("handlers", "other")), arrival()])
    await settle(await claim(), DeliveryState.DEAD)
    clock.advance(10)
    await settle(await claim("other"), DeliveryState.DEAD)

    assert await purge(store, inbox=LONG, dead=5) == 2

    assert (await store.depth()).total == Depth(dead=1)
    assert [letter.consumer for letter in await dead_letters(store)] == ["other"]


async def test_deliveries_of_a_consumer_that_is_no_longer_registered_expire(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    updates = [arrival(ordering_key=n % 3, consumers=("a", "b")) for n in range(10)]
    await receive(store, updates, {"b": 1})
    await store.register([Consumer(name="a")])
    clock.advance(5)

    assert await purge(store, inbox=LONG, unseen=5) == 0
    assert (await store.depth()).consumers["b"] == Depth(pending=9, leased=1)
    clock.advance(1)
    assert sum(await purge_all(store, unseen=5)) == 10

    assert (await store.depth()).consumers == {"a": Depth(pending=10)}
    assert len(await claim("a")) == 3


async def test_many_deliveries_of_one_conversation_expire_in_few_transactions(
    store: Store, arrival: MakeArrival, clock: FakeClock
) -> None:
    updates = [arrival(ordering_key=n // 1100, consumers=("a",)) for n in range(1200)]
    await receive(store, updates, {"a": 1})
    await store.register([Consumer(name="other")])
    clock.advance(6)

    rows = await purge_all(store, unseen=5)

    assert sum(rows) == 1200
    assert len(rows) <= 4
    assert set((await store.depth()).consumers) == {"other"}


async def test_a_consumer_that_is_registered_again_in_time_keeps_its_deliveries(
    store: Store, arrival: MakeArrival, claim: Claim, clock: FakeClock
) -> None:
    await receive(store, [arrival(consumers=("a",))])
    await store.register([Consumer(name="other")])
    clock.advance(5)
    await store.register([Consumer(name="a")])
    clock.advance(5)

    assert await purge(store, inbox=LONG, unseen=6) == 0

    assert len(await claim("a")) == 1


async def test_a_dead_letter_of_a_removed_consumer_is_counted_until_it_is_purged(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock
) -> None:
    await receive(store, [arrival(consumers=("a",))])
    clock.advance(10)
    await settle(await claim("a"), DeliveryState.DEAD)
    await store.register([Consumer(name="other")])

    assert await purge(store, inbox=LONG, dead=5, unseen=5) == 0

    assert (await store.depth()).consumers["a"] == Depth(dead=1)
    clock.advance(6)
    assert await purge_all(store, dead=5, unseen=5) == [1]
    assert set((await store.depth()).consumers) == {"other"}


async def test_old_messages_statuses_and_windows_are_purged(
    store: Store, arrival: MakeArrival, message: MakeMessage, clock: FakeClock
) -> None:
    await store.record_sent(message("wamid.1"))
    await store.record_sent(message("wamid.2", updated_at=later(9)))
    await receive(
        store,
        [
            arrival(status=transition("invented"), window=window("2", NOON)),
            arrival(status=transition("sent", at=later(9)), window=window("3", later(9))),
        ],
    )
    await receive(store, [arrival(status=transition("read", at=later(1), wa_message_id="wamid.3"))])
    clock.advance(2)

    # SQLite has no other identities of statuses.
    identities = 0 if store.adapter is Adapter.SQLITE else 3
    assert await purge(store, inbox=0.5, dead=LONG) == 3 + identities

    assert [record.status for record in await store.list_statuses("wamid.1")] == ["sent"]
    assert await store.list_statuses("wamid.3") == []
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None
    assert await store.last_inbound_at(phone_number_id="1", customer="3") == later(9)
    assert len((await store.list_messages(limit=10, cursor=None)).items) == 2


async def test_a_message_is_recognized_as_long_as_any_update(
    store: Store, arrival: MakeArrival, message: MakeMessage, clock: FakeClock
) -> None:
    again = arrival(message=message(direction=Direction.INBOUND))
    await receive(store, [again])
    clock.advance(1)

    assert await purge(store, inbox=2) == 0
    assert waiting(await receive(store, [again])) == [None]
    assert await purge(store) == 1
    assert waiting(await receive(store, [again])) == [1]


@pytest.mark.parametrize("messages", [DAY, 0])
@pytest.mark.parametrize("delay", [timedelta(0), timedelta(minutes=59), PROMPT, timedelta(100)])
async def test_a_status_is_recognized_as_long_as_any_update_also_if_it_was_late(
    store: Store, arrival: MakeArrival, clock: FakeClock, delay: timedelta, messages: float
) -> None:
    again = arrival(status=transition("sent", at=NOON - delay))
    await receive(store, [again])
    clock.advance(1)

    await purge(store, inbox=DAY, messages=messages)
    assert waiting(await receive(store, [again])) == [None]
    assert await purge(store) > 0
    assert waiting(await receive(store, [again])) == [1]


async def test_a_status_that_did_not_advance_its_message_is_recognized_as_long_as_any_update(
    store: Store, arrival: MakeArrival, message: MakeMessage, clock: FakeClock
) -> None:
    await store.record_sent(message("wamid.1"))
    again = arrival(status=transition("read", at=later(9), participant="3"))
    await receive(store, [arrival(status=transition("read", participant="2")), again])
    clock.advance(10)

    await purge(store, inbox=5, messages=5)

    assert waiting(await receive(store, [again])) == [None]


async def test_a_message_without_a_recent_change_is_purged(
    store: Store, message: MakeMessage, clock: FakeClock
) -> None:
    await store.record_sent(message("wamid.1"))
    clock.advance(1)

    assert await purge(store) == 1

    assert await store.get_message("wamid.1") is None


async def test_a_message_that_changed_later_does_not_keep_others_from_being_purged(
    store: Store, message: MakeMessage, clock: FakeClock
) -> None:
    for number in range(3):
        await store.record_sent(message(f"wamid.{number}", updated_at=later(9)))
    await store.record_sent(message("wamid.old"))
    await store.record_sent(message("wamid.new", created_at=later(9), updated_at=later(9)))

    clock.advance(1)
    assert await purge(store) == 1
    assert await store.get_message("wamid.old") is None
    clock.advance(9)
    assert await purge(store) == 4


async def test_an_expired_key_is_purged(store: Store, reserve: Reserve, clock: FakeClock) -> None:
    await reserve()
    clock.advance(24 * 3600)

    assert await purge(store) == 0
    clock.advance(1)
    assert await purge(store) == 1


@pytest.mark.parametrize("expired", ["identities", "dead-letters", "removed-consumers"])
async def test_a_purge_deletes_a_bounded_number_of_rows_at_a_time(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle, clock: FakeClock, expired: str
) -> None:
    consumers = {"identities": (), "dead-letters": ("handlers",), "removed-consumers": ("a",)}
    await receive(store, [arrival(consumers=consumers[expired]) for _ in range(1200)])
    await settle(await claim(limit=1200), DeliveryState.DEAD)
    await store.register([Consumer(name="handlers")])
    clock.advance(1)

    rows = await purge_all(store, inbox=0 if expired == "identities" else LONG, unseen=0)

    assert sum(rows) == 1200
    assert max(rows) <= 1000
