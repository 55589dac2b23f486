"""What the Protocol promises, asked of every store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from wats.errors import StoreClosed
from wats.store import Store
from wats.store.open import open_store
from wats.store.records import (
    STATUS_RANK,
    Arrival,
    Delivery,
    DeliveryState,
    Direction,
    InboxDepth,
    MessageRecord,
    Reservation,
    ReservationOutcome,
    Settlement,
    StatusRecord,
    WindowRecord,
)
from wats.telemetry.vocabulary import Adapter, Outcome, StoreOperation

MakeArrival = Callable[..., Arrival]
MakeMessage = Callable[..., MessageRecord]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LEASE = 60.0


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture(params=["file", "memory"])
def closed_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    urls = {"file": f"sqlite:///{tmp_path}/wats.db", "memory": "sqlite:///:memory:"}
    return open_store(urls[request.param])


@pytest.fixture
async def store(closed_store: Store) -> AsyncIterator[Store]:
    await closed_store.open()
    yield closed_store
    await closed_store.close()


async def claim(
    store: Store, *, now: datetime = NOON, limit: int = 100, targets: Sequence[str] = ("handlers",)
) -> Sequence[Delivery]:
    return await store.claim_deliveries(targets=targets, limit=limit, lease_seconds=LEASE, now=now)


def ending(
    delivery: Delivery,
    state: DeliveryState = DeliveryState.DONE,
    *,
    due_at: datetime | None = None,
    error: str | None = None,
) -> Settlement:
    return Settlement(
        update_id=delivery.update_id,
        target=delivery.target,
        lease_id=delivery.lease_id,
        state=state,
        due_at=due_at,
        error=error,
    )


async def settle(
    store: Store,
    deliveries: Sequence[Delivery],
    state: DeliveryState = DeliveryState.DONE,
    *,
    now: datetime = NOON,
    due_at: datetime | None = None,
) -> Sequence[int]:
    settlements = [ending(d, state, due_at=due_at, error="ValueError") for d in deliveries]
    return await store.settle_deliveries(settlements, now=now)


def payloads(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


def ids(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.update_id for delivery in deliveries]


# One of each question that a store answers, in no order that matters.
def questions(store: Store, message: MessageRecord) -> dict[StoreOperation, Callable[[], object]]:
    key = {"scope": "send", "key_hash": b"key"}
    return {
        StoreOperation.HEALTH: store.health,
        StoreOperation.RECEIVE: lambda: store.receive([]),
        StoreOperation.CLAIM: lambda: claim(store),
        StoreOperation.RENEW: lambda: store.renew_deliveries([], lease_seconds=LEASE, now=NOON),
        StoreOperation.SETTLE: lambda: store.settle_deliveries([], now=NOON),
        StoreOperation.DUE: lambda: store.next_due_at(targets=["handlers"]),
        StoreOperation.DEPTH: store.inbox_depth,
        StoreOperation.RESERVE: lambda: reserve(store),
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
            now=NOON, inbox_before=NOON, messages_before=NOON
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
    receiving = [asyncio.create_task(store.receive([arrival()])) for _ in range(20)]
    await asyncio.sleep(0)

    await store.close()

    assert await asyncio.gather(*receiving) == [[True]] * 20


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


# Receiving


async def test_a_replayed_update_is_stored_once(store: Store, arrival: MakeArrival) -> None:
    first = arrival()

    assert await store.receive([first]) == [True]
    assert await store.receive([first]) == [False]
    assert len(await claim(store)) == 1


async def test_an_update_that_stands_twice_in_one_call_is_stored_once(
    store: Store, arrival: MakeArrival
) -> None:
    first, second, third = arrival(), arrival(), arrival()
    await store.receive([second])

    assert await store.receive([first, first, second, third]) == [True, False, False, True]
    assert len(await claim(store)) == 3


async def test_the_same_key_at_another_time_is_another_update(
    store: Store, arrival: MakeArrival
) -> None:
    first = arrival()
    second = msgspec.structs.replace(first, occurred_at=later(1))

    assert await store.receive([first, second]) == [True, True]


async def test_a_known_update_changes_nothing_even_when_it_says_something_else(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    first = arrival()
    await store.receive([first])
    again = msgspec.structs.replace(
        first,
        payload=b"other",
        targets=("handlers", "other"),
        message=message(),
        window=WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON),
    )

    assert await store.receive([again]) == [False]

    assert payloads(await claim(store, targets=["handlers", "other"])) == [first.payload]
    assert await store.get_message("wamid.1") is None
    assert await store.last_inbound_at(phone_number_id="1", customer="2") is None


async def test_an_update_for_nobody_is_remembered_and_given_to_nobody(
    store: Store, arrival: MakeArrival
) -> None:
    update = arrival(targets=())

    assert await store.receive([update]) == [True]
    assert await store.receive([update]) == [False]
    assert await claim(store) == []
    assert await store.inbox_depth() == InboxDepth(pending=0, leased=0, retry=0, dead=0)


async def test_many_tasks_may_receive_at_once(store: Store, arrival: MakeArrival) -> None:
    updates = [arrival() for _ in range(100)]

    answers = await asyncio.gather(
        *(store.receive([update]) for update in updates),
        *(store.receive([update]) for update in updates),
    )

    assert answers == [[True]] * 100 + [[False]] * 100
    assert len(await claim(store, limit=200)) == 100


# Claiming


async def test_deliveries_are_claimed_in_the_order_in_which_they_arrived(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival() for _ in range(5)]
    await store.receive(updates)

    first = await claim(store, limit=2)
    rest = await claim(store)

    assert payloads(first) == [update.payload for update in updates[:2]]
    assert payloads(rest) == [update.payload for update in updates[2:]]
    assert {delivery.attempt for delivery in (*first, *rest)} == {1}
    assert [delivery.lane for delivery in first] == [update.lane for update in updates[:2]]


async def test_a_leased_delivery_is_given_to_nobody_else(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(), arrival()])

    claims = await asyncio.gather(*(claim(store, limit=1) for _ in range(5)))

    assert sorted(len(claimed) for claimed in claims) == [0, 0, 0, 1, 1]
    assert await claim(store, now=later(LEASE - 1)) == []


async def test_each_target_gets_its_own_delivery(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(targets=("a", "b"))])

    (ours,) = await claim(store, targets=["a"])
    (theirs,) = await claim(store, targets=["a", "b"])

    assert (ours.target, theirs.target) == ("a", "b")
    assert ours.update_id == theirs.update_id


async def test_targets_that_were_not_asked_for_are_left_alone(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(targets=("a",))])

    assert await claim(store, targets=["b"]) == []
    assert await claim(store, targets=[]) == []


async def test_of_several_targets_those_due_longest_come_first(
    store: Store, arrival: MakeArrival
) -> None:
    for target in ("a", "b", "a"):
        await store.receive([arrival(targets=(target,))])

    claimed = await claim(store, targets=["b", "a"], limit=2)

    assert [delivery.target for delivery in claimed] == ["a", "b"]


async def test_what_waits_in_a_lane_is_claimed_together_in_order(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival(lane=7) for _ in range(3)]
    await store.receive(updates)

    claimed = await claim(store)

    assert payloads(claimed) == [update.payload for update in updates]
    assert len({delivery.lease_id for delivery in claimed}) == 1


async def test_a_lane_waits_for_what_is_leased_of_it(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    first = await claim(store, limit=1)
    await store.receive([arrival(lane=7)])

    assert await claim(store) == []

    await settle(store, first)
    assert len(await claim(store)) == 2


async def test_a_lane_waits_only_within_its_target(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(lane=7, targets=("a", "b"))])
    await claim(store, targets=["a"])

    assert len(await claim(store, targets=["b"])) == 1


async def test_busy_lanes_do_not_keep_others_waiting(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(lane=7) for _ in range(200)])
    other = arrival(lane=8)
    await store.receive([other])

    claimed = await claim(store, limit=10)

    assert other.payload in payloads(claimed)
    assert len(claimed) == 10


async def test_one_claim_holds_a_bounded_run_of_a_lane(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(lane=7) for _ in range(200)])

    claimed = await claim(store, limit=200)

    assert 2 <= len(claimed) <= 50


async def test_an_expired_lease_is_claimed_again_and_counts_as_an_attempt(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    first = await claim(store)

    again = await claim(store, now=later(LEASE))

    assert payloads(again) == payloads(first)
    assert [delivery.attempt for delivery in again] == [2, 2]
    assert {d.lease_id for d in again}.isdisjoint({d.lease_id for d in first})


async def test_what_another_still_holds_of_a_lane_is_not_claimed_with_its_expired_head(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7), arrival(lane=7)])
    first, second, _ = await claim(store)
    await store.renew_deliveries([second], lease_seconds=LEASE, now=later(LEASE))

    again = await claim(store, now=later(LEASE))

    assert payloads(again) == [first.payload]


# Renewing


async def test_a_renewed_lease_lasts_longer(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival()])
    claimed = await claim(store)

    await store.renew_deliveries(claimed, lease_seconds=LEASE, now=later(LEASE - 1))

    assert await claim(store, now=later(2 * LEASE - 2)) == []
    assert len(await claim(store, now=later(2 * LEASE - 1))) == 1


async def test_a_lease_that_is_no_longer_ours_is_not_renewed(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival()])
    lost = await claim(store)
    await claim(store, now=later(LEASE))

    await store.renew_deliveries(lost, lease_seconds=1000, now=later(LEASE))

    assert len(await claim(store, now=later(2 * LEASE))) == 1


# Settling


async def test_a_done_delivery_is_never_given_again(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival()])

    claimed = await claim(store)

    assert await settle(store, claimed) == ids(claimed)

    assert await claim(store, now=later(1000 * LEASE)) == []
    assert await store.inbox_depth() == InboxDepth(pending=0, leased=0, retry=0, dead=0)


async def test_an_update_is_done_when_its_last_target_is(
    store: Store, arrival: MakeArrival
) -> None:
    update = arrival(targets=("a", "b"))
    await store.receive([update, arrival(targets=("a",))])

    first = await claim(store, targets=["a"])

    assert await settle(store, first) == ids(first[1:])

    last = await claim(store, targets=["b"])
    assert payloads(last) == [update.payload]
    assert await settle(store, last) == ids(last)


async def test_targets_of_one_update_settled_together_are_told_once(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(targets=("a", "b"))])

    claimed = await claim(store, targets=["a", "b"])

    assert await settle(store, claimed) == ids(claimed[:1])


async def test_a_retry_waits_for_its_time_and_is_the_next_attempt(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival()])
    claimed = await claim(store)

    assert await settle(store, claimed, DeliveryState.RETRY, due_at=later(10)) == []

    assert await claim(store, now=later(9)) == []
    (again,) = await claim(store, now=later(10))
    assert again.attempt == 2


async def test_a_retry_without_a_time_is_due_at_once(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival()])

    await settle(store, await claim(store), DeliveryState.RETRY)

    assert len(await claim(store)) == 1


async def test_a_retry_keeps_its_lane_waiting_and_no_other(
    store: Store, arrival: MakeArrival
) -> None:
    first, second, other = arrival(lane=7), arrival(lane=7), arrival(lane=8)
    await store.receive([first])
    await settle(store, await claim(store), DeliveryState.RETRY, due_at=later(10))
    await store.receive([second, other])

    assert payloads(await claim(store, now=later(9))) == [other.payload]
    assert payloads(await claim(store, now=later(10))) == [first.payload, second.payload]


async def test_when_the_middle_of_a_run_fails_the_rest_waits_behind_it(
    store: Store, arrival: MakeArrival
) -> None:
    updates = [arrival(lane=7) for _ in range(4)]
    await store.receive(updates)
    first, second, third, fourth = await claim(store)

    await store.settle_deliveries(
        [
            ending(first),
            ending(second, DeliveryState.RETRY, due_at=later(10)),
            ending(third, DeliveryState.PENDING),
            ending(fourth, DeliveryState.PENDING),
        ],
        now=NOON,
    )

    assert await claim(store, now=later(9)) == []
    again = await claim(store, now=later(10))
    assert payloads(again) == [update.payload for update in updates[1:]]
    assert [delivery.attempt for delivery in again] == [2, 1, 1]


async def test_a_run_can_be_settled_one_by_one(store: Store, arrival: MakeArrival) -> None:
    updates = [arrival(lane=7) for _ in range(3)]
    await store.receive(updates)
    first, second, third = await claim(store)

    await settle(store, [first])
    assert await claim(store) == []
    await settle(store, [second], DeliveryState.RETRY, due_at=later(10))
    await settle(store, [third], DeliveryState.PENDING)

    assert payloads(await claim(store, now=later(10))) == [u.payload for u in updates[1:]]


async def test_a_follower_that_failed_before_its_head_ended_keeps_its_time(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    head, follower = await claim(store)

    await settle(store, [follower], DeliveryState.RETRY, due_at=later(30))
    assert await claim(store, now=later(31)) == []
    await settle(store, [head])

    assert await claim(store, now=later(29)) == []
    assert payloads(await claim(store, now=later(30))) == [follower.payload]


async def test_what_is_given_back_is_as_it_was(store: Store, arrival: MakeArrival) -> None:
    first, second = arrival(lane=7), arrival(lane=7)
    await store.receive([first, second])

    await settle(store, await claim(store), DeliveryState.PENDING)

    again = await claim(store)
    assert payloads(again) == [first.payload, second.payload]
    assert [delivery.attempt for delivery in again] == [1, 1]


async def test_a_dead_delivery_is_counted_and_blocks_nothing(
    store: Store, arrival: MakeArrival
) -> None:
    second = arrival(lane=7)
    await store.receive([arrival(lane=7)])
    poison = await claim(store)
    await store.receive([second])

    assert await settle(store, poison, DeliveryState.DEAD) == []

    assert payloads(await claim(store, now=later(1000))) == [second.payload]
    assert (await store.inbox_depth()).dead == 1


async def test_a_dead_head_lets_the_rest_of_its_run_go_on(
    store: Store, arrival: MakeArrival
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    head, follower = await claim(store)

    await settle(store, [head], DeliveryState.DEAD)

    assert await claim(store) == []
    assert await settle(store, [follower]) == [follower.update_id]


@pytest.mark.parametrize(
    "state", [DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.DEAD, DeliveryState.PENDING]
)
async def test_a_lease_that_is_no_longer_ours_settles_nothing(
    store: Store, arrival: MakeArrival, state: DeliveryState
) -> None:
    await store.receive([arrival(lane=7), arrival(lane=7)])
    lost = await claim(store)
    held = await claim(store, now=later(LEASE))

    assert await settle(store, lost, state, due_at=NOON) == []

    assert await claim(store, now=later(LEASE)) == []
    assert (await store.inbox_depth()).leased == 2
    assert await settle(store, held) == ids(held)


# Looking at the inbox


async def test_the_next_due_time_is_that_of_the_first_head(
    store: Store, arrival: MakeArrival
) -> None:
    assert await store.next_due_at(targets=["handlers"]) is None

    await store.receive([arrival(lane=7), arrival(lane=8, received_at=later(5))])
    assert await store.next_due_at(targets=["handlers", "other"]) == NOON

    first = await claim(store, limit=1)
    assert await store.next_due_at(targets=["handlers"]) == later(5)

    await settle(store, first, DeliveryState.RETRY, due_at=later(2))
    assert await store.next_due_at(targets=["handlers"]) == later(2)
    assert await store.next_due_at(targets=["other"]) is None


async def test_a_lease_is_due_when_it_ends(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival()])

    await claim(store)

    assert await store.next_due_at(targets=["handlers"]) == later(LEASE)


async def test_the_depth_counts_deliveries_by_state(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(received_at=later(n)) for n in range(4)])
    done, dead, retry, _ = await claim(store, now=later(4))
    await store.receive([arrival(received_at=later(9), targets=("a", "b"))])
    await settle(store, [done])
    await settle(store, [dead], DeliveryState.DEAD)
    await settle(store, [retry], DeliveryState.RETRY, due_at=later(60))

    depth = await store.inbox_depth()

    assert depth == InboxDepth(pending=2, leased=1, retry=1, dead=1, oldest_at=later(2))


# Idempotency keys


async def reserve(
    store: Store,
    *,
    scope: str = "send",
    key_hash: bytes = b"key",
    request_hash: bytes = b"body",
    now: datetime = NOON,
) -> Reservation:
    return await store.reserve_request(
        scope=scope,
        key_hash=key_hash,
        request_hash=request_hash,
        now=now,
        reserved_until=now + timedelta(seconds=60),
        expires_at=now + timedelta(hours=24),
    )


async def test_of_concurrent_requests_with_one_key_one_is_reserved(store: Store) -> None:
    answers = await asyncio.gather(*(reserve(store) for _ in range(20)))

    outcomes = [answer.outcome for answer in answers]
    assert outcomes.count(ReservationOutcome.RESERVED) == 1
    assert outcomes.count(ReservationOutcome.IN_FLIGHT) == 19
    assert {answer.reserved_until for answer in answers} == {None, later(60)}


async def test_a_key_is_another_one_in_another_scope(store: Store) -> None:
    await reserve(store, scope="send")

    assert (await reserve(store, scope="groups")).outcome is ReservationOutcome.RESERVED


async def test_a_completed_request_is_replayed(store: Store) -> None:
    await reserve(store)

    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)

    assert await reserve(store) == Reservation(outcome=ReservationOutcome.REPLAY, response=b"{}")


async def test_a_completed_request_has_recorded_its_message(
    store: Store, message: MakeMessage
) -> None:
    await reserve(store)

    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=message())

    assert (await store.get_message("wamid.1")) is not None


@pytest.mark.parametrize("ending", ["none", "complete", "doubt"])
async def test_a_key_belongs_to_its_body(store: Store, ending: str) -> None:
    await reserve(store)
    if ending == "complete":
        await store.complete_request(scope="send", key_hash=b"key", response=b"", message=None)
    if ending == "doubt":
        await store.doubt_request(scope="send", key_hash=b"key")

    answer = await reserve(store, request_hash=b"other")

    assert answer == Reservation(outcome=ReservationOutcome.CONFLICT)


async def test_a_failed_request_gives_its_key_back_for_any_body(store: Store) -> None:
    await reserve(store)

    await store.fail_request(scope="send", key_hash=b"key")

    answer = await reserve(store, request_hash=b"other")
    assert answer.outcome is ReservationOutcome.RESERVED


async def test_a_completed_request_does_not_fail_any_more(store: Store) -> None:
    await reserve(store)
    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)

    await store.fail_request(scope="send", key_hash=b"key")
    await store.doubt_request(scope="send", key_hash=b"key")

    assert (await reserve(store)).outcome is ReservationOutcome.REPLAY


async def test_a_doubted_request_stays_unknown_until_it_is_completed(store: Store) -> None:
    await reserve(store)

    await store.doubt_request(scope="send", key_hash=b"key")
    assert (await reserve(store)).outcome is ReservationOutcome.UNKNOWN

    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)
    assert (await reserve(store)).outcome is ReservationOutcome.REPLAY


async def test_a_reservation_whose_process_died_is_unknown(store: Store) -> None:
    await reserve(store)

    assert (await reserve(store, now=later(59))).outcome is ReservationOutcome.IN_FLIGHT
    assert (await reserve(store, now=later(60))).outcome is ReservationOutcome.UNKNOWN


async def test_an_expired_key_is_free_for_any_body(store: Store) -> None:
    await reserve(store)
    await store.complete_request(scope="send", key_hash=b"key", response=b"{}", message=None)

    answer = await reserve(store, request_hash=b"other", now=later(24 * 3600))

    assert answer.outcome is ReservationOutcome.RESERVED
    again = await reserve(store, request_hash=b"other", now=later(24 * 3600))
    assert again.outcome is ReservationOutcome.IN_FLIGHT


# Messages, statuses, windows


def transition(status: str, *, at: datetime = NOON, **changes: object) -> StatusRecord:
    values: dict[str, object] = {
        "phone_number_id": "1",
        "wa_message_id": "wamid.1",
        "status": status,
        "occurred_at": at,
    }
    return StatusRecord(**(values | changes))


async def test_a_message_is_returned_as_it_was_recorded(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    sent = message("wamid.1", graph_message_id="g", to_phone="2")
    received = message(
        "wamid.2",
        direction=Direction.INBOUND,
        from_phone="2",
        to_phone=None,
        status="received",
        updated_at=later(1),
    )

    await store.record_sent(sent)
    await store.receive([arrival(message=received)])

    for record in (sent, received):
        found = await store.get_message(record.wa_message_id)
        assert found is not None
        assert msgspec.structs.replace(found, row_id="") == record
    assert await store.get_message("wamid.3") is None


async def test_a_known_message_is_left_as_it_is(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message())
    await store.receive([arrival(status=transition("read"))])

    await store.record_sent(message(to_phone="3"))
    await store.receive([arrival(message=message(to_phone="4"))])

    (found,) = (await store.list_messages(limit=10, cursor=None)).items
    assert (found.to_phone, found.status) == ("2", "read")


async def test_numbers_and_directions_have_messages_of_their_own(
    store: Store, message: MakeMessage
) -> None:
    await store.record_sent(message())
    await store.record_sent(message(phone_number_id="2"))
    await store.record_sent(message(direction=Direction.INBOUND, to_phone="9"))

    assert len((await store.list_messages(limit=10, cursor=None)).items) == 3
    found = await store.get_message("wamid.1")
    assert found is not None
    assert found.to_phone == "9"


@pytest.mark.parametrize(
    ("order", "status"),
    [
        pytest.param(["sent", "delivered", "read"], "read", id="in-order"),
        pytest.param(["read", "delivered", "sent"], "read", id="backwards"),
        pytest.param(["sent", "failed"], "failed", id="failed"),
        pytest.param(["failed", "sent"], "failed", id="failed-is-final"),
        pytest.param(["failed", "delivered"], "delivered", id="failed-but-arrived"),
        pytest.param(["sent", "warning"], "sent", id="same-rank"),
        pytest.param(["sent", "invented"], "sent", id="not-in-the-table"),
    ],
)
@pytest.mark.parametrize("recorded", ["before", "after", "together"])
async def test_a_status_replaces_only_one_of_lower_rank(
    store: Store,
    arrival: MakeArrival,
    message: MakeMessage,
    order: list[str],
    status: str,
    recorded: str,
) -> None:
    updates = [arrival(status=transition(name)) for name in order]
    if recorded == "before":
        await store.record_sent(message())
    if recorded == "together":
        updates.append(arrival(message=message()))

    await store.receive(updates)
    if recorded == "after":
        await store.record_sent(message())

    found = await store.get_message("wamid.1")
    assert found is not None
    assert found.status == status
    history = await store.list_statuses("wamid.1")
    assert [record.status for record in history] == order


async def test_a_message_with_a_status_that_is_in_no_table_takes_any_that_is(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    assert "invented" not in STATUS_RANK
    await store.record_sent(message(status="invented"))

    await store.receive([arrival(status=transition("accepted"))])

    found = await store.get_message("wamid.1")
    assert found is not None
    assert found.status == "accepted"


async def test_updated_at_never_goes_back(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message())

    await store.receive([arrival(status=transition("delivered", at=later(9)))])
    await store.receive([arrival(status=transition("read", at=later(5)))])
    await store.receive([arrival(status=transition("sent", at=later(20)))])

    found = await store.get_message("wamid.1")
    assert found is not None
    assert (found.status, found.updated_at) == ("read", later(9))


async def test_statuses_that_came_before_their_message_move_it_on(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.receive([arrival(status=transition("delivered", at=later(9)))])
    await store.receive([arrival(status=transition("sent", at=later(3)))])

    await store.complete_request(scope="send", key_hash=b"key", response=b"", message=message())

    found = await store.get_message("wamid.1")
    assert found is not None
    assert (found.status, found.updated_at) == ("delivered", later(9))


async def test_a_transition_is_kept_once_for_each_participant(
    store: Store, arrival: MakeArrival
) -> None:
    transitions = [
        transition("read", participant="a"),
        transition("read", participant="b"),
        transition("read", participant="a"),
        transition("read", participant="a", at=later(1), error_code=131047),
    ]

    await store.receive([arrival(status=status) for status in transitions])

    expected = [transitions[0], transitions[1], transitions[3]]
    assert await store.list_statuses("wamid.1") == expected
    assert await store.list_statuses("wamid.2") == []


async def test_statuses_move_only_outbound_messages_of_their_number(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message(direction=Direction.INBOUND, status="received"))
    await store.record_sent(message(phone_number_id="2"))

    await store.receive([arrival(status=transition("read"))])

    page = await store.list_messages(limit=10, cursor=None)
    assert [item.status for item in page.items] == ["accepted", "received"]


async def test_messages_are_listed_from_the_last_recorded_on(
    store: Store, message: MakeMessage
) -> None:
    names = [f"wamid.{number}" for number in range(5)]
    for name in names:
        await store.record_sent(message(name))

    first = await store.list_messages(limit=2, cursor=None)
    second = await store.list_messages(limit=2, cursor=first.next_cursor)
    third = await store.list_messages(limit=2, cursor=second.next_cursor)

    listed = [item.wa_message_id for page in (first, second, third) for item in page.items]
    assert listed == names[::-1]
    assert third.next_cursor is None
    assert (await store.list_messages(limit=5, cursor=None)).next_cursor is None


async def test_every_row_id_is_a_cursor(store: Store, message: MakeMessage) -> None:
    await store.record_sent(message("wamid.1"))
    await store.record_sent(message("wamid.2"))
    newest = await store.get_message("wamid.2")
    assert newest is not None

    page = await store.list_messages(limit=10, cursor=newest.row_id)

    assert [item.wa_message_id for item in page.items] == ["wamid.1"]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "999", "1.5", "٣", "9" * 5000])
async def test_what_cannot_be_a_cursor_leads_to_an_empty_page(
    store: Store, message: MakeMessage, cursor: str
) -> None:
    await store.record_sent(message())

    page = await store.list_messages(limit=10, cursor=cursor)

    assert (page.items, page.next_cursor) == ((), None)


def window(customer: str, at: datetime, phone_number_id: str = "1") -> WindowRecord:
    return WindowRecord(phone_number_id=phone_number_id, customer=customer, last_inbound_at=at)


async def test_a_window_moves_forward_only(store: Store, arrival: MakeArrival) -> None:
    for seconds in (5, 9, 7):
        await store.receive([arrival(window=window("2", later(seconds)))])

    assert await store.last_inbound_at(phone_number_id="1", customer="2") == later(9)


async def test_every_number_has_windows_of_its_own(store: Store, arrival: MakeArrival) -> None:
    await store.receive([arrival(window=window("2", NOON, phone_number_id="1"))])

    assert await store.last_inbound_at(phone_number_id="2", customer="2") is None
    assert await store.last_inbound_at(phone_number_id="1", customer="3") is None


# Purging


async def purge(store: Store, *, at: datetime) -> int:
    return await store.purge(now=at, inbox_before=at, messages_before=at)


async def test_nothing_is_purged_before_its_time(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.receive([arrival(targets=(), message=message(), status=transition("sent"))])
    await store.receive([arrival(window=window("2", NOON))])
    await reserve(store)
    await settle(store, await claim(store))

    assert await purge(store, at=NOON) == 0


async def test_updates_that_are_done_are_purged_and_then_new_again(
    store: Store, arrival: MakeArrival
) -> None:
    done, nobody, waiting, dead = arrival(), arrival(targets=()), arrival(), arrival()
    await store.receive([done, nobody, waiting, dead])
    claimed = await claim(store)
    await settle(store, claimed[:1])
    await settle(store, claimed[2:], DeliveryState.DEAD)

    assert await purge(store, at=later(1)) == 2

    assert await store.receive([done, nobody, waiting, dead]) == [True, True, False, False]


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


async def test_a_message_not_touched_for_long_is_purged(store: Store, message: MakeMessage) -> None:
    await store.record_sent(message("wamid.1"))

    assert await purge(store, at=later(1)) == 1

    assert await store.get_message("wamid.1") is None


async def test_an_expired_key_is_purged(store: Store) -> None:
    await reserve(store)

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
