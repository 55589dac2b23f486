"""What every store promises: its life, receiving and purging."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from wats.errors import StoreClosed
from wats.store import Store
from wats.store.records import (
    Arrival,
    Delivery,
    DeliveryState,
    Direction,
    InboxDepth,
    Kept,
    MessageRecord,
    Reservation,
    StatusRecord,
    WindowRecord,
)
from wats.telemetry.vocabulary import Adapter, Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]
MakeMessage = Callable[..., MessageRecord]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]
Reserve = Callable[..., Awaitable[Reservation]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def payloads(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


def transition(status: str, *, at: datetime = NOON, **changes: object) -> StatusRecord:
    values: dict[str, object] = {
        "phone_number_id": "1",
        "wa_message_id": "wamid.1",
        "status": status,
        "occurred_at": at,
    }
    return StatusRecord(**(values | changes))


def window(customer: str, at: datetime, phone_number_id: str = "1") -> WindowRecord:
    return WindowRecord(phone_number_id=phone_number_id, customer=customer, last_inbound_at=at)


# One of each question that a store answers, in no order that matters.
def questions(store: Store, message: MessageRecord) -> dict[StoreOperation, Callable[[], object]]:
    key = {"scope": "send", "key_hash": b"key"}
    return {
        StoreOperation.HEALTH: store.health,
        StoreOperation.RECEIVE: lambda: store.receive([]),
        StoreOperation.CLAIM: lambda: store.claim_deliveries(
            targets=[], limit=1, lease_seconds=1, now=NOON
        ),
        StoreOperation.RENEW: lambda: store.renew_deliveries([], lease_seconds=1, now=NOON),
        StoreOperation.SETTLE: lambda: store.settle_deliveries([], now=NOON),
        StoreOperation.DEPTH: store.inbox_depth,
        StoreOperation.RESERVE: lambda: store.reserve_request(
            **key, request_hash=b"body", now=NOON, reserved_until=NOON, expires_at=NOON
        ),
        StoreOperation.COMPLETE: lambda: store.complete_request(
            **key, response=b"{}", message=None
        ),
        StoreOperation.FAIL: lambda: store.fail_request(**key),
        StoreOperation.DOUBT: lambda: store.doubt_request(**key),
        StoreOperation.RECORD: lambda: store.record_sent(message),
        StoreOperation.LIST: lambda: store.list_messages(limit=1, cursor=None),
        StoreOperation.GET: lambda: store.get_message("wamid.1"),
        StoreOperation.STATUSES: lambda: store.list_statuses("wamid.1"),
        StoreOperation.WINDOW: lambda: store.last_inbound_at(phone_number_id="1", customer="2"),
        StoreOperation.PURGE: lambda: store.purge(
            now=NOON, inbox_before=NOON, dead_before=NOON, messages_before=NOON
        ),
    }


async def test_every_question_is_refused_before_the_store_is_opened(
    closed_store: Store, message: MakeMessage
) -> None:
    for ask in questions(closed_store, message()).values():
        with pytest.raises(StoreClosed):
            await ask()


async def test_every_question_is_refused_after_the_store_is_closed(
    store: Store, message: MakeMessage
) -> None:
    await store.close()

    for ask in questions(store, message()).values():
        with pytest.raises(StoreClosed):
            await ask()


async def test_opening_twice_and_closing_twice_does_nothing_more(store: Store) -> None:
    await store.open()
    await asyncio.gather(store.open(), store.open())
    assert (await store.health()).ok

    await asyncio.gather(store.close(), store.close())
    await store.close()


async def test_a_closed_store_can_be_opened_again(store: Store) -> None:
    await store.close()

    await store.open()

    assert (await store.health()).ok


async def test_what_was_asked_before_the_store_is_closed_is_finished(
    store: Store, arrival: MakeArrival
) -> None:
    receiving = [asyncio.ensure_future(store.receive([arrival()])) for _ in range(20)]
    await asyncio.sleep(0)

    await store.close()

    assert await asyncio.gather(*receiving) == [[Kept()]] * 20


async def test_the_observer_is_told_of_every_question(
    closed_store: Store, message: MakeMessage
) -> None:
    told: list[tuple[Adapter, StoreOperation, Outcome]] = []

    def observe(
        adapter: Adapter, operation: StoreOperation, outcome: Outcome, seconds: float
    ) -> None:
        assert 0 < seconds < 60
        told.append((adapter, operation, outcome))

    await closed_store.open(observe)
    for ask in questions(closed_store, message()).values():
        await ask()
    await closed_store.close()

    assert told == [
        (closed_store.adapter, operation, Outcome.SUCCESS) for operation in StoreOperation
    ]


async def test_health_names_the_adapter_and_the_schema(store: Store) -> None:
    health = await store.health()

    assert health.ok
    assert health.adapter == store.adapter.value
    assert health.schema_version >= 1


async def test_a_replayed_update_is_stored_once(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first = arrival()

    assert await store.receive([first]) == [Kept()]
    assert await store.receive([first]) == [None]
    assert len(await claim()) == 1


async def test_an_update_that_stands_twice_in_one_call_is_stored_once(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first, second, third = arrival(), arrival(), arrival()
    await store.receive([second])

    assert await store.receive([first, first, second, third]) == [Kept(), None, None, Kept()]
    assert len(await claim()) == 3


async def test_the_same_key_at_another_time_is_another_update(
    store: Store, arrival: MakeArrival
) -> None:
    first = arrival()
    second = msgspec.structs.replace(first, occurred_at=later(1))

    assert await store.receive([first, second]) == [Kept(), Kept()]


async def test_a_known_update_changes_nothing_even_when_it_says_something_else(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first = arrival()
    await store.receive([first])
    again = msgspec.structs.replace(
        first,
        payload=b"other",
        targets=("handlers", "other"),
        status=StatusRecord(
            phone_number_id="1", wa_message_id="wamid.1", status="sent", occurred_at=NOON
        ),
        window=WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON),
    )

    assert await store.receive([again]) == [None]

    assert payloads(await claim(targets=["handlers", "other"])) == [first.payload]
    assert await store.list_statuses("wamid.1") == []
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None


async def test_an_update_that_brings_a_message_is_known_by_the_message(
    store: Store, arrival: MakeArrival, message: MakeMessage, claim: Claim
) -> None:
    received = message(direction=Direction.INBOUND, type="text")
    first = arrival(message=received)
    again = arrival(
        occurred_at=later(1),
        message=msgspec.structs.replace(received, type="image"),
        window=WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON),
    )
    other = msgspec.structs.replace(
        first, message=msgspec.structs.replace(received, phone_number_id="2")
    )
    third = arrival(message=message("wamid.2", direction=Direction.INBOUND))

    assert await store.receive([first, again]) == [Kept(), None]
    assert await store.receive([third, again, other]) == [Kept(), None, Kept()]

    assert payloads(await claim()) == [first.payload, third.payload, other.payload]
    items = (await store.list_messages(limit=10, cursor=None)).items
    assert [(item.phone_number_id, item.type) for item in items] == [
        ("2", "text"),
        ("1", "text"),
        ("1", "text"),
    ]
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None


async def test_what_was_sent_does_not_make_a_message_known_that_comes_in(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message())

    assert await store.receive([arrival(message=message(direction=Direction.INBOUND))]) == [Kept()]


async def test_an_update_for_nobody_is_remembered_and_given_to_nobody(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    update = arrival(targets=())

    assert await store.receive([update]) == [Kept()]
    assert await store.receive([update]) == [None]
    assert await claim() == []
    assert await store.inbox_depth() == InboxDepth(pending=0, leased=0, retry=0, dead=0)


async def test_many_tasks_may_receive_at_once(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival() for _ in range(100)]

    answers = await asyncio.gather(
        *(store.receive([update]) for update in updates),
        *(store.receive([update]) for update in updates),
    )

    assert answers == [[Kept()]] * 100 + [[None]] * 100
    assert len(await claim(limit=200)) == 100


async def purge(store: Store, *, at: datetime) -> int:
    return await store.purge(now=at, inbox_before=at, dead_before=at, messages_before=at)


async def test_nothing_is_purged_before_its_time(
    store: Store,
    arrival: MakeArrival,
    message: MakeMessage,
    claim: Claim,
    settle: Settle,
    reserve: Reserve,
) -> None:
    await store.receive([arrival(targets=(), message=message(), status=transition("sent"))])
    await store.receive([arrival(window=window("2", NOON))])
    await reserve()
    await settle(await claim())

    assert await purge(store, at=NOON) == 0


async def test_updates_that_are_done_are_purged_and_then_new_again(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    done, nobody, waiting, dead = arrival(), arrival(targets=()), arrival(), arrival()
    await store.receive([done, nobody, waiting, dead])
    claimed = await claim()
    await settle(claimed[:1])
    await settle(claimed[2:], DeliveryState.DEAD)
    at = later(1)

    assert await store.purge(now=at, inbox_before=at, dead_before=NOON, messages_before=at) == 2

    assert await store.receive([done, nobody, waiting, dead]) == [Kept(), Kept(), None, None]


async def test_many_old_updates_that_are_not_done_do_not_keep_others_from_being_purged(
    store: Store, arrival: MakeArrival
) -> None:
    waiting = [arrival() for _ in range(1200)]
    await store.receive([*waiting, arrival(targets=())])

    assert await purge(store, at=later(1)) == 1
    assert await purge(store, at=later(1)) == 0
    assert await store.receive(waiting[:1]) == [None]


async def test_an_update_that_is_done_late_is_purged_then(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    await store.receive([arrival()])
    assert await purge(store, at=later(9)) == 0

    await settle(await claim(now=later(9)), now=later(9))

    assert await purge(store, at=later(9)) == 1


async def test_a_dead_delivery_is_purged_and_what_it_held_is_erased_with_the_last_of_them(
    store: Store, arrival: MakeArrival, claim: Claim, settle: Settle
) -> None:
    update = arrival(targets=("handlers", "other"))
    await store.receive([update])
    await settle(await claim(), DeliveryState.DEAD)
    at = later(1)

    assert await store.purge(now=at, inbox_before=NOON, dead_before=at, messages_before=at) == 1
    assert (await store.inbox_depth()).dead == 0
    assert await purge(store, at=later(2)) == 0

    await settle(await claim(targets=["other"]), DeliveryState.DEAD, now=at)
    assert (
        await store.purge(now=at, inbox_before=NOON, dead_before=later(2), messages_before=at) == 1
    )
    assert await purge(store, at=later(2)) == 1
    assert await store.receive([update]) == [Kept()]


async def test_old_messages_statuses_and_windows_are_purged(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message("wamid.1"))
    await store.record_sent(message("wamid.2", updated_at=later(9)))
    await store.receive(
        [
            arrival(status=transition("invented"), window=window("2", NOON)),
            arrival(status=transition("sent", at=later(9)), window=window("3", later(9))),
        ]
    )
    await store.receive([arrival(status=transition("read", at=later(1), wa_message_id="wamid.3"))])

    assert await purge(store, at=later(2)) == 3

    assert [record.status for record in await store.list_statuses("wamid.1")] == ["sent"]
    assert await store.list_statuses("wamid.3") == []
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None
    assert await store.last_inbound_at(phone_number_id="1", customer="3") == later(9)
    assert len((await store.list_messages(limit=10, cursor=None)).items) == 2


async def test_a_message_stays_known_as_long_as_any_update(
    store: Store, arrival: MakeArrival, message: MakeMessage, claim: Claim, settle: Settle
) -> None:
    again = arrival(message=message(direction=Direction.INBOUND))
    await store.receive([again])
    await settle(await claim())
    at = later(1)

    assert await store.purge(now=at, inbox_before=NOON, dead_before=at, messages_before=at) == 0
    assert await store.receive([again]) == [None]
    assert await store.purge(now=at, inbox_before=at, dead_before=at, messages_before=at) == 2
    assert await store.receive([again]) == [Kept()]


async def test_a_message_not_touched_for_long_is_purged(store: Store, message: MakeMessage) -> None:
    await store.record_sent(message("wamid.1"))

    assert await purge(store, at=later(1)) == 1

    assert await store.get_message("wamid.1") is None


async def test_a_message_that_was_touched_later_does_not_keep_others_from_being_purged(
    store: Store, message: MakeMessage
) -> None:
    for number in range(3):
        await store.record_sent(message(f"wamid.{number}", updated_at=later(9)))
    await store.record_sent(message("wamid.old"))
    await store.record_sent(message("wamid.new", created_at=later(9), updated_at=later(9)))

    assert await purge(store, at=later(1)) == 1
    assert await store.get_message("wamid.old") is None
    assert await purge(store, at=later(10)) == 4


async def test_an_expired_key_is_purged(store: Store, reserve: Reserve) -> None:
    await reserve()

    assert await purge(store, at=later(24 * 3600)) == 0
    assert await purge(store, at=later(24 * 3600 + 1)) == 1


async def test_a_purge_deletes_a_bounded_number_of_rows_at_a_time(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(targets=()) for _ in range(1200)])

    rows = []
    while deleted := await purge(store, at=later(1)):
        rows.append(deleted)

    assert sum(rows) == 1200
    assert max(rows) <= 1000
