"""The promises of every store about messages that are sent later."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from tests.store.conftest import NOON
from wats.store import Store, receive
from wats.store.admin import DeliveryFilter
from wats.store.outbox import OUTCOME_UNKNOWN, UNLIMITED_ATTEMPTS, NewSend, SendResult, SendState
from wats.store.pacing import unlimited
from wats.store.person import Person
from wats.store.records import (
    OUTBOX,
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    MessageRecord,
    Reservation,
    ReservationOutcome,
    SendProof,
    Settlement,
    StatusRecord,
)
from wats.telemetry.contract.values import Adapter
from wats.testing import FakeClock

LEASE_SECONDS = 60.0
KEEP_SECONDS = 3600.0


def new_send(number: int = 1, **changes: object) -> NewSend:
    values: dict[str, object] = {
        "phone_number_id": "1",
        "ordering_key": number,
        "payload": b"message %d" % number,
        "nonce": number,
        "scope": "1/messages",
        "key_hash": b"key %d" % number,
        "request_hash": b"body",
        "keep_seconds": KEEP_SECONDS,
    }
    return NewSend(**(values | changes))


@pytest.fixture
async def outbox(store: Store) -> Store:
    await store.register(
        [
            Consumer(name="handlers", lease_seconds=LEASE_SECONDS, max_attempts=5),
            Consumer(name=OUTBOX, lease_seconds=LEASE_SECONDS, max_attempts=UNLIMITED_ATTEMPTS),
        ]
    )
    return store


async def enqueued(store: Store, send: NewSend) -> int:
    reservation = await store.enqueue(send)
    assert reservation.outcome is ReservationOutcome.RESERVED
    assert reservation.outbox_id is not None
    return reservation.outbox_id


async def claimed(store: Store) -> Sequence[Delivery]:
    return (await store.claim(OUTBOX, 100)).deliveries


async def begun(store: Store) -> Sequence[Delivery]:
    deliveries = await claimed(store)
    assert list(await store.renew(deliveries, is_final=True)) == []
    return deliveries


async def settle(
    store: Store, delivery: Delivery, state: DeliveryState, error: str | None = None
) -> None:
    response = b'{"messages":[]}' if state is DeliveryState.DONE else b""
    settlement = Settlement(delivery, state, error=error)
    await store.settle_sends([SendResult(settlement=settlement, response=response)])


async def state_of(store: Store, outbox_id: int) -> SendState | None:
    view = await store.get_send(outbox_id)
    return None if view is None else view.state


async def reserve(store: Store, send: NewSend) -> Reservation:
    return await store.reserve_request(
        scope=send.scope,
        key_hash=send.key_hash,
        request_hash=send.request_hash,
        reserve_seconds=60,
        keep_seconds=60,
    )


async def test_a_message_is_queued_then_being_sent_then_sent(
    outbox: Store, message: Callable[..., MessageRecord]
) -> None:
    outbox_id = await enqueued(outbox, new_send())
    assert await state_of(outbox, outbox_id) is SendState.QUEUED
    (delivery,) = await claimed(outbox)
    assert (delivery.payload, await state_of(outbox, outbox_id)) == (
        b"message 1",
        SendState.SENDING,
    )

    settlement = Settlement(delivery, DeliveryState.DONE)
    result = SendResult(settlement=settlement, response=b"{}", message=message())
    await outbox.settle_sends([result])

    view = await outbox.get_send(outbox_id)
    assert view is not None
    assert (view.state, view.response) == (SendState.SENT, b"{}")
    assert await outbox.get_message("wamid.1") is not None
    assert (await outbox.depth()).outbox.outstanding == 0
    assert await outbox.read_delivery(outbox_id) is None


async def test_a_claim_returns_the_age_of_a_message_by_the_clock_of_the_store(
    outbox: Store, clock: FakeClock
) -> None:
    await enqueued(outbox, new_send())
    clock.advance(7)

    (first,) = await claimed(outbox)
    clock.advance(LEASE_SECONDS + 1)
    (second,) = (await outbox.claim(OUTBOX, 100, pace=unlimited("1"))).deliveries

    assert first.age_seconds == pytest.approx(7, abs=0.5)
    assert second.age_seconds == pytest.approx(LEASE_SECONDS + 8, abs=0.5)


async def test_a_key_belongs_to_one_message_whether_its_caller_waits_or_not(outbox: Store) -> None:
    send = new_send()
    outbox_id = await enqueued(outbox, send)
    in_flight = Reservation(outcome=ReservationOutcome.IN_FLIGHT, outbox_id=outbox_id)
    assert await outbox.enqueue(send) == in_flight
    assert await reserve(outbox, send) == in_flight
    conflict = await outbox.enqueue(new_send(request_hash=b"other"))
    assert conflict.outcome is ReservationOutcome.CONFLICT

    (delivery,) = await claimed(outbox)
    await settle(outbox, delivery, DeliveryState.DONE)

    replay = Reservation(
        outcome=ReservationOutcome.REPLAY, response=b'{"messages":[]}', outbox_id=outbox_id
    )
    assert await reserve(outbox, send) == replay
    assert await outbox.enqueue(send) == replay
    assert (await outbox.depth()).outbox.outstanding == 0


async def test_a_key_in_use_by_a_waiting_caller_takes_no_place_in_the_outbox(
    outbox: Store,
) -> None:
    send = new_send()
    await reserve(outbox, send)

    assert await outbox.enqueue(send) == Reservation(outcome=ReservationOutcome.IN_FLIGHT)
    assert await claimed(outbox) == []


async def test_a_full_outbox_stores_nothing_and_leaves_the_key_free(outbox: Store) -> None:
    first, second = new_send(1), new_send(2, ordering_key=1)
    assert (await outbox.enqueue(first, max_waiting=1)).outcome is ReservationOutcome.RESERVED

    full = await outbox.enqueue(second, max_waiting=1)
    known = await outbox.enqueue(first, max_waiting=1)

    assert full == Reservation(outcome=ReservationOutcome.FULL)
    assert known.outcome is ReservationOutcome.IN_FLIGHT
    assert (await outbox.depth()).outbox.outstanding == 1
    await claimed(outbox)  # a message that is being sent does not wait
    assert (await outbox.enqueue(second, max_waiting=1)).outcome is ReservationOutcome.RESERVED


async def test_the_limit_holds_for_messages_that_are_stored_at_the_same_moment(
    outbox: Store,
) -> None:
    sends = [new_send(number, phone_number_id=str(number % 3)) for number in range(12)]

    found = await asyncio.gather(*(outbox.enqueue(each, max_waiting=5) for each in sends))

    stored = [each for each in found if each.outcome is ReservationOutcome.RESERVED]
    assert len(stored) == (await outbox.depth()).outbox.pending
    if outbox.adapter is Adapter.SQLITE:  # elsewhere, concurrent transactions see fewer messages
        assert len(stored) == 5


async def test_messages_of_numbers_that_are_not_configured_wait_and_are_counted(
    outbox: Store,
) -> None:
    of_removed = [new_send(n, phone_number_id="2", ordering_key=7) for n in range(2)]
    ids = [await enqueued(outbox, send) for send in (*of_removed, new_send(5))]

    assert len((await outbox.claim(OUTBOX, 10, pace=unlimited("1"))).deliveries) == 1
    assert [await state_of(outbox, each) for each in ids[:2]] == [SendState.QUEUED] * 2
    counts = [await outbox.orphaned_sends(numbers) for numbers in (["1"], ["1", "2"])]

    assert counts == [2, 0]
    (delivery,) = (await outbox.claim(OUTBOX, 10, pace=unlimited("2"))).deliveries
    assert delivery.payload == b"message 0"


async def test_only_numbers_with_messages_need_claims(outbox: Store) -> None:
    assert set(await outbox.due_numbers()) == set()
    await outbox.enqueue(new_send(1))
    await outbox.enqueue(new_send(2, phone_number_id="2"))

    assert set(await outbox.due_numbers()) == {"1", "2"}
    (delivery,) = (await outbox.claim(OUTBOX, 10, pace=unlimited("1"))).deliveries
    await settle(outbox, delivery, DeliveryState.DONE)
    assert set(await outbox.due_numbers()) == {"2"}


async def test_messages_to_one_recipient_are_claimed_in_order_one_at_a_time(outbox: Store) -> None:
    for number in range(3):
        await outbox.enqueue(new_send(number, ordering_key=7))
    payloads = []
    for _ in range(3):
        (delivery,) = await claimed(outbox)
        payloads.append(delivery.payload)
        await settle(outbox, delivery, DeliveryState.DONE)

    assert payloads == [b"message 0", b"message 1", b"message 2"]


async def test_a_message_that_failed_frees_its_key(outbox: Store) -> None:
    send = new_send()
    outbox_id = await enqueued(outbox, send)
    (delivery,) = await claimed(outbox)

    await settle(outbox, delivery, DeliveryState.DEAD, "InvalidParameterError")

    view = await outbox.get_send(outbox_id)
    assert view is not None
    assert (view.state, view.error) == (SendState.FAILED, "InvalidParameterError")
    assert (await reserve(outbox, send)).outcome is ReservationOutcome.RESERVED
    assert await outbox.retry_sends([outbox_id], even_unknown=True) == 0


async def test_a_lease_that_expires_before_its_call_began_is_given_again(
    outbox: Store, clock: FakeClock
) -> None:
    outbox_id = await enqueued(outbox, new_send())
    (first,) = await claimed(outbox)
    clock.advance(LEASE_SECONDS + 1)

    (second,) = await claimed(outbox)

    assert (second.is_exhausted, second.payload) == (False, first.payload)
    assert list(await outbox.renew([first], is_final=True)) == [first]  # so it is not sent twice
    assert list(await outbox.renew([second], is_final=True)) == []
    await settle(outbox, second, DeliveryState.DONE)
    assert await state_of(outbox, outbox_id) is SendState.SENT


@pytest.mark.parametrize("state", [DeliveryState.RETRY, DeliveryState.PENDING])
async def test_a_message_that_a_call_did_not_send_can_be_claimed_and_released_again(
    outbox: Store, clock: FakeClock, state: DeliveryState
) -> None:
    await enqueued(outbox, new_send())
    await settle(outbox, (await begun(outbox))[0], state, "Busy")
    await claimed(outbox)
    clock.advance(LEASE_SECONDS + 1)

    (delivery,) = await claimed(outbox)

    assert not delivery.is_exhausted


async def test_an_expired_lease_of_a_call_is_an_unknown_outcome_that_blocks_the_key(
    outbox: Store, clock: FakeClock
) -> None:
    send = new_send()
    outbox_id = await enqueued(outbox, send)
    await begun(outbox)
    for _ in range(2):  # the process that finds it may die, too
        clock.advance(LEASE_SECONDS + 1)
        (delivery,) = await claimed(outbox)
        assert delivery.is_exhausted

    await settle(outbox, delivery, DeliveryState.DEAD, OUTCOME_UNKNOWN)

    assert await state_of(outbox, outbox_id) is SendState.UNKNOWN
    assert (await reserve(outbox, send)).outcome is ReservationOutcome.UNKNOWN
    assert await claimed(outbox) == []


async def test_a_retried_message_keeps_its_key_and_has_one_more_attempt(
    outbox: Store, clock: FakeClock
) -> None:
    send = new_send()
    outbox_id = await enqueued(outbox, send)
    (first,) = await claimed(outbox)
    await outbox.settle_sends(
        [SendResult(settlement=Settlement(first, DeliveryState.RETRY, 5.0, "Busy"))]
    )
    assert await state_of(outbox, outbox_id) is SendState.RETRY
    assert (await outbox.enqueue(send)).outcome is ReservationOutcome.IN_FLIGHT
    clock.advance(6)

    (second,) = await claimed(outbox)

    assert (second.attempt, second.is_exhausted) == (2, False)


async def test_a_released_message_is_queued_again(outbox: Store) -> None:
    outbox_id = await enqueued(outbox, new_send())
    (delivery,) = await claimed(outbox)

    await settle(outbox, delivery, DeliveryState.PENDING)

    assert await state_of(outbox, outbox_id) is SendState.QUEUED
    (again,) = await claimed(outbox)
    assert (again.attempt, again.is_exhausted) == (1, False)


async def test_a_send_that_ends_after_its_lease_is_sent_nevertheless(
    outbox: Store, clock: FakeClock
) -> None:
    outbox_id = await enqueued(outbox, new_send())
    (slow,) = await begun(outbox)
    clock.advance(LEASE_SECONDS + 1)
    (exhausted,) = await claimed(outbox)
    await settle(outbox, exhausted, DeliveryState.DEAD, OUTCOME_UNKNOWN)

    await settle(outbox, slow, DeliveryState.DONE)

    assert await state_of(outbox, outbox_id) is SendState.SENT
    assert (await outbox.depth()).outbox.dead == 0


async def test_a_failure_after_the_lease_changes_nothing(outbox: Store, clock: FakeClock) -> None:
    send = new_send()
    outbox_id = await enqueued(outbox, send)
    (slow,) = await begun(outbox)
    clock.advance(LEASE_SECONDS + 1)
    (exhausted,) = await claimed(outbox)
    await settle(outbox, exhausted, DeliveryState.DEAD, OUTCOME_UNKNOWN)

    await settle(outbox, slow, DeliveryState.DEAD, "InvalidParameterError")

    assert await state_of(outbox, outbox_id) is SendState.UNKNOWN
    assert (await reserve(outbox, send)).outcome is ReservationOutcome.UNKNOWN


@pytest.mark.parametrize("is_settled", [True, False])
async def test_a_status_with_the_callback_data_proves_the_send(
    outbox: Store, arrival: Callable[..., Arrival], clock: FakeClock, is_settled: bool
) -> None:
    send = new_send(nonce=5)
    outbox_id = await enqueued(outbox, send)
    (delivery,) = await claimed(outbox)
    if is_settled:
        await settle(outbox, delivery, DeliveryState.DEAD, OUTCOME_UNKNOWN)
    prove = partial(arrival, kind="status", consumers=())

    await receive(outbox, [prove(proof=SendProof(outbox_id, 6, b"forged"))])
    assert await state_of(outbox, outbox_id) is not SendState.SENT
    await receive(outbox, [prove(proof=SendProof(outbox_id, 5, b"{}"))])

    assert await state_of(outbox, outbox_id) is SendState.SENT
    replay = await reserve(outbox, send)
    assert (replay.outcome, replay.response) == (ReservationOutcome.REPLAY, b"{}")
    clock.advance(LEASE_SECONDS + 1)
    assert await claimed(outbox) == []


@pytest.mark.parametrize("is_discarded", [False, True])
async def test_a_message_that_only_a_status_proved_is_listed_with_the_data_of_its_item(
    outbox: Store,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    is_discarded: bool,
) -> None:
    payload = b'{"type":"image","phone_number_id":"1","recipient":"15550001111","payload":{}}'
    outbox_id = await enqueued(outbox, new_send(payload=payload))
    await settle(outbox, (await claimed(outbox))[0], DeliveryState.DEAD, OUTCOME_UNKNOWN)
    if is_discarded:
        assert await outbox.discard_sends([outbox_id]) == 1
    delivered = StatusRecord(
        phone_number_id="1", wa_message_id="wamid.1", status="delivered", occurred_at=NOON
    )
    proof = SendProof(outbox_id, 1, b"{}", message(type="unknown", to_phone=None))

    for _ in range(2):  # Meta repeats the callback data in each status
        await receive(outbox, [arrival(consumers=(), status=delivered, proof=proof)])

    (found,) = (await outbox.list_messages(limit=10, cursor=None)).items
    expected = ("unknown", None) if is_discarded else ("image", "15550001111")
    assert (found.wa_message_id, found.type, found.to_phone) == ("wamid.1", *expected)
    assert found.status == "delivered"
    assert len(await outbox.list_statuses("wamid.1")) == 1


async def test_a_status_that_overtakes_the_response_of_meta_is_replaced_by_the_response(
    outbox: Store, arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]
) -> None:
    outbox_id = await enqueued(outbox, new_send())
    (delivery,) = await claimed(outbox)
    proof = SendProof(outbox_id, 1, b"proof", message())
    await receive(outbox, [arrival(consumers=(), proof=proof)])

    settlement = Settlement(delivery, DeliveryState.DONE)
    await outbox.settle_sends(
        [SendResult(settlement=settlement, response=b"{}", message=message())]
    )

    view = await outbox.get_send(outbox_id)
    assert view is not None
    assert view.response == b"{}"
    assert len((await outbox.list_messages(limit=10, cursor=None)).items) == 1


async def test_only_a_failed_message_is_retried_unless_an_unknown_one_is_named(
    outbox: Store,
) -> None:
    ids = [await enqueued(outbox, new_send(number)) for number in range(2)]
    errors = ["Busy", OUTCOME_UNKNOWN]
    for delivery, error in zip(await claimed(outbox), errors, strict=True):
        await settle(outbox, delivery, DeliveryState.DEAD, error)

    assert await outbox.retry_sends(ids, even_unknown=False) == 1
    assert await state_of(outbox, ids[1]) is SendState.UNKNOWN
    assert await outbox.retry_sends(ids, even_unknown=True) == 1

    assert [await state_of(outbox, each) for each in ids] == [SendState.QUEUED] * 2
    assert (await reserve(outbox, new_send(1))).outcome is ReservationOutcome.IN_FLIGHT
    assert [each.attempt for each in await claimed(outbox)] == [1, 1]


async def test_a_discarded_message_frees_its_key_unless_it_may_have_been_sent(
    outbox: Store,
) -> None:
    sends = [new_send(number) for number in range(3)]
    ids = [await enqueued(outbox, send) for send in sends[:2]]
    unknown, leased = await claimed(outbox)
    ids.append(await enqueued(outbox, sends[2]))
    await settle(outbox, unknown, DeliveryState.DEAD, OUTCOME_UNKNOWN)

    assert await outbox.discard_sends(ids) == 2

    assert leased.id == ids[1]
    assert await state_of(outbox, ids[1]) is SendState.SENDING
    outcomes = [(await reserve(outbox, send)).outcome for send in sends]
    assert outcomes == [
        ReservationOutcome.UNKNOWN,
        ReservationOutcome.IN_FLIGHT,
        ReservationOutcome.RESERVED,
    ]


async def test_operations_on_updates_leave_the_outbox(
    outbox: Store, arrival: Callable[..., Arrival]
) -> None:
    ids = [await enqueued(outbox, new_send(number)) for number in range(2)]
    await settle(outbox, (await claimed(outbox))[0], DeliveryState.DEAD, OUTCOME_UNKNOWN)
    await receive(outbox, [arrival()])

    assert await outbox.retry_dead(ids) == await outbox.discard(ids) == 0
    assert await outbox.expedite(ids) == await outbox.replay(ids, "handlers") == 0
    assert await outbox.replay(ids, OUTBOX) is None
    assert await outbox.dead_letters(limit=10) == ()
    updates = await outbox.list_deliveries(DeliveryFilter(), limit=10)
    assert [each.consumer for each in updates.items] == ["handlers"]
    depth = await outbox.depth()
    assert (depth.total.outstanding, depth.total.dead) == (1, 0)
    assert (depth.outbox.outstanding, depth.outbox.dead) == (1, 1)


async def test_the_age_of_the_oldest_message_is_apart_from_that_of_updates(
    outbox: Store, arrival: Callable[..., Arrival], clock: FakeClock
) -> None:
    await outbox.enqueue(new_send())
    clock.advance(20)
    await receive(outbox, [arrival()])
    clock.advance(10)

    depth = await outbox.depth()

    assert (depth.outbox_seconds, depth.oldest_seconds) == (30, 10)


async def test_a_person_is_erased_from_the_outbox(outbox: Store) -> None:
    for number, to in enumerate(("15550001111", "15550002222", "15550001111")):
        await outbox.enqueue(new_send(number, payload=b'{"to":"%b"}' % to.encode()))
    await settle(outbox, (await claimed(outbox))[2], DeliveryState.DEAD, OUTCOME_UNKNOWN)
    position, erased = None, 0
    while True:
        step = await outbox.erase(Person("15550001111"), ["1"], position=position, is_trial=False)
        erased += step.deliveries + step.dead_letters
        position = step.position
        if position is None:
            break

    assert erased == 2
    left = await outbox.list_deliveries(DeliveryFilter(consumer=OUTBOX), limit=10)
    assert [each.head for each in left.items] == [b'{"to":"15550002222"}']


async def test_a_paused_outbox_sends_nothing(outbox: Store) -> None:
    await outbox.pause(OUTBOX, is_paused=True)
    await outbox.enqueue(new_send())

    assert await claimed(outbox) == []


async def test_a_key_outlives_the_wait_in_the_outbox_and_expires_after_the_send(
    outbox: Store, clock: FakeClock
) -> None:
    send = new_send()
    outbox_id = await enqueued(outbox, send)
    clock.advance(30 * 86_400)
    assert (await reserve(outbox, send)).outcome is ReservationOutcome.IN_FLIGHT
    (delivery,) = await claimed(outbox)
    await settle(outbox, delivery, DeliveryState.DONE)
    clock.advance(KEEP_SECONDS + 1)

    assert (await reserve(outbox, send)).outcome is ReservationOutcome.RESERVED
    assert await outbox.get_send(outbox_id) is None
