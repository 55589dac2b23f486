"""The promises of every store about its lifecycle and about receiving updates."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from typing_extensions import override

from tests.store.results import payloads, waiting
from wats.errors import StoreClosed
from wats.store import NoSlots, Store, receive
from wats.store.admin import OUTSTANDING
from wats.store.person import Person
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    Depth,
    Direction,
    MessageRecord,
    Received,
    Retention,
    WindowRecord,
)
from wats.telemetry.contract.values import Adapter, Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]
MakeMessage = Callable[..., MessageRecord]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HANDLERS = Consumer(name="handlers")


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def operations(store: Store, message: MessageRecord) -> dict[StoreOperation, Callable[[], object]]:
    """Return one call of each operation that telemetry measures, in any order."""
    key = {"scope": "send", "key_hash": b"key"}
    return {
        StoreOperation.HEALTH: store.health,
        StoreOperation.RECEIVE: lambda: receive(store, []),
        StoreOperation.CLAIM: lambda: store.claim("handlers", 1),
        StoreOperation.RENEW: lambda: store.renew([]),
        StoreOperation.SETTLE: lambda: store.settle([]),
        StoreOperation.DEPTH: store.depth,
        StoreOperation.RESERVE: lambda: store.reserve_request(
            **key, request_hash=b"body", reserve_seconds=60, keep_seconds=60
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
        StoreOperation.PURGE: lambda: store.purge(Retention(inbox=1, dead=1, unseen=1, messages=1)),
    }


def uncounted(store: Store) -> list[Callable[[], object]]:
    """Return one call of each operation that telemetry does not measure."""
    return [
        lambda: store.register([HANDLERS]),
        store.lead,
        store.checkpoint,
        store.consumers,
        lambda: store.pause("handlers", is_paused=True),
        lambda: store.list_deliveries(OUTSTANDING, limit=1),
        lambda: store.read_delivery(1),
        lambda: store.retry_dead([1]),
        lambda: store.discard([1]),
        lambda: store.erase(Person("15550001234"), ["1"], position=None, is_trial=False),
    ]


def all_operations(store: Store, message: MessageRecord) -> list[Callable[[], object]]:
    return [*operations(store, message).values(), *uncounted(store)]


async def test_every_operation_is_refused_before_the_store_is_opened(
    closed_store: Store, message: MakeMessage
) -> None:
    for call in all_operations(closed_store, message()):
        with pytest.raises(StoreClosed):
            await call()


async def test_every_operation_is_refused_after_the_store_is_closed(
    store: Store, message: MakeMessage
) -> None:
    await store.close()

    for call in all_operations(store, message()):
        with pytest.raises(StoreClosed):
            await call()


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


async def test_operations_that_were_submitted_before_a_close_are_finished(
    store: Store, arrival: MakeArrival
) -> None:
    receiving = [asyncio.ensure_future(receive(store, [arrival()])) for _ in range(20)]
    await asyncio.sleep(0)

    await store.close()

    assert [waiting(results) for results in await asyncio.gather(*receiving)] == [[1]] * 20


async def test_the_observer_is_called_for_every_counted_operation(
    closed_store: Store, message: MakeMessage
) -> None:
    observed: list[tuple[Adapter, StoreOperation, Outcome]] = []

    def observe(
        adapter: Adapter, operation: StoreOperation, outcome: Outcome, seconds: float
    ) -> None:
        assert 0 < seconds < 60
        observed.append((adapter, operation, outcome))

    await closed_store.open(observe)
    await closed_store.register([HANDLERS])
    for call in all_operations(closed_store, message()):
        await call()
    await closed_store.close()

    assert observed == [
        (closed_store.adapter, operation, Outcome.SUCCESS) for operation in StoreOperation
    ]


async def test_health_names_the_adapter_and_the_schema(store: Store) -> None:
    health = await store.health()

    assert health.ok
    assert health.adapter == store.adapter.value
    assert health.schema_version >= 1


async def test_a_redelivered_update_is_stored_once(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first = arrival()

    assert waiting(await receive(store, [first])) == [1]
    assert waiting(await receive(store, [first])) == [None]
    assert len(await claim()) == 1


async def test_an_update_given_twice_in_one_call_is_stored_once(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first, second, third = arrival(), arrival(), arrival()
    await receive(store, [second])

    assert waiting(await receive(store, [first, first, second, third])) == [1, None, None, 1]
    assert len(await claim()) == 3


async def test_the_same_key_at_another_time_is_another_update(
    store: Store, arrival: MakeArrival
) -> None:
    first = arrival()
    second = msgspec.structs.replace(first, occurred_at=later(1))

    assert waiting(await receive(store, [first, second])) == [1, 1]


async def test_a_redelivery_with_other_content_changes_nothing(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    first = arrival()
    await receive(store, [first])
    again = msgspec.structs.replace(
        first,
        payload=b"other",
        consumers=("handlers", "other"),
        window=WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON),
    )

    assert waiting(await receive(store, [again])) == [None]

    assert payloads(await claim()) == [first.payload]
    assert await claim("other") == []
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None


async def test_a_redelivered_message_is_recognized_by_its_record(
    store: Store, arrival: MakeArrival, message: MakeMessage, claim: Claim
) -> None:
    received = message(direction=Direction.INBOUND, type="text")
    first = arrival(ordering_key=1, message=received)
    again = arrival(
        occurred_at=later(1),
        message=msgspec.structs.replace(received, type="image"),
        window=WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON),
    )
    other = msgspec.structs.replace(
        first, ordering_key=2, message=msgspec.structs.replace(received, phone_number_id="2")
    )
    third = arrival(ordering_key=3, message=message("wamid.2", direction=Direction.INBOUND))

    assert waiting(await receive(store, [first, again])) == [1, None]
    assert waiting(await receive(store, [third, again, other])) == [1, None, 1]

    assert payloads(await claim()) == [first.payload, third.payload, other.payload]
    items = (await store.list_messages(limit=10, cursor=None)).items
    assert [(item.phone_number_id, item.type) for item in items] == [
        ("2", "text"),
        ("1", "text"),
        ("1", "text"),
    ]
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None


async def test_a_sent_message_is_not_mistaken_for_an_inbound_one(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message())

    inbound = arrival(message=message(direction=Direction.INBOUND))
    assert waiting(await receive(store, [inbound])) == [1]


async def test_an_update_without_consumers_is_recognized_and_never_claimed(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    update = arrival(consumers=())

    assert waiting(await receive(store, [update])) == [0]
    assert waiting(await receive(store, [update])) == [None]
    assert await claim() == []
    assert (await store.depth()).total == Depth()


async def test_many_tasks_may_receive_at_the_same_time(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    updates = [arrival() for _ in range(100)]

    results = await asyncio.gather(
        *(receive(store, [update]) for update in updates),
        *(receive(store, [update]) for update in updates),
    )

    # Each update is stored by one of its two calls; a transaction that stalls may be overtaken.
    stored = [waiting(each) for each in results]
    for pair in zip(stored[:100], stored[100:], strict=True):
        assert sorted(pair, key=str) == [[1], [None]]
    assert len(await claim(limit=200)) == 100


async def test_results_are_passed_to_the_callback_once_and_after_the_call(
    store: Store, arrival: MakeArrival
) -> None:
    calls: list[tuple[Sequence[Received | None] | None, Exception | None]] = []
    is_called = asyncio.Event()

    def on_received(results: Sequence[Received | None] | None, error: Exception | None) -> None:
        calls.append((results, error))
        is_called.set()

    store.receive([arrival()], on_received)
    assert calls == []
    await is_called.wait()
    await store.close()

    ((results, error),) = calls
    assert results is not None
    assert (waiting(results), error) == ([1], None)


async def test_a_claim_returns_whether_more_could_be_claimed_now(
    store: Store, arrival: MakeArrival
) -> None:
    await receive(store, [arrival(), arrival(ordering_key=7), arrival(ordering_key=7)])

    claims = [await store.claim("handlers", 1) for _ in range(3)]

    # The third update follows the second of its ordering key.
    assert [len(claimed.deliveries) for claimed in claims] == [1, 1, 0]
    assert [claimed.more for claimed in claims] == [True, False, False]


async def test_a_cancelled_caller_has_stored_its_updates(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    update = arrival()
    receiving = asyncio.ensure_future(receive(store, [update]))
    await asyncio.sleep(0)
    receiving.cancel()

    while not (found := payloads(await claim())):
        await asyncio.sleep(0.01)
    assert found == [update.payload]
    assert waiting(await receive(store, [update])) == [None]


async def test_slots_that_cannot_be_reserved_fail_their_webhook_and_no_other(
    store: Store, arrival: Callable[..., Arrival]
) -> None:
    failed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    class Broken(NoSlots):
        @override
        def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
            raise ZeroDivisionError

    store.receive([arrival()], lambda _, error: failed.set_result(error), Broken())
    (other,) = await receive(store, [arrival()])

    assert isinstance(await failed, ZeroDivisionError)
    assert other is not None
