"""The promises of an outbox as a small model, and the state machine that holds a store to it.

The queue is that of `tests.store.model`. Here each item also has an idempotency key, which callers
that wait for a result use too. Two clients with connections of their own work on one database.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.store.model import CLIENTS, CONSUMERS, LEASE_SECONDS, NOON, Clients, Expected, Model
from wats.store import Store, receive
from wats.store.outbox import OUTCOME_UNKNOWN, NewSend, SendResult, SendState
from wats.store.records import (
    OUTBOX,
    Arrival,
    Delivery,
    DeliveryState,
    Direction,
    MessageRecord,
    Reservation,
    ReservationOutcome,
    SendProof,
    Settlement,
)

KEEP_SECONDS = 10.0**6
KEYS = st.integers(1, 4)
FAILED = "Refused"
ENDS = st.sampled_from(("sent", "sent", "retry", "failed", "unknown", "released"))
RESULTS = {
    "sent": (DeliveryState.DONE, None),
    "retry": (DeliveryState.RETRY, "Busy"),
    "failed": (DeliveryState.DEAD, FAILED),
    "unknown": (DeliveryState.DEAD, OUTCOME_UNKNOWN),
    "released": (DeliveryState.PENDING, None),
}
OUTCOMES = {
    "reserved": ReservationOutcome.IN_FLIGHT,
    "completed": ReservationOutcome.REPLAY,
    "unknown": ReservationOutcome.UNKNOWN,
}


def record_of(number: int) -> MessageRecord:
    return MessageRecord(
        phone_number_id="1",
        wa_message_id=f"wamid.{number}",
        direction=Direction.OUTBOUND,
        type="unknown",
        status="sent",
        created_at=NOON,
        updated_at=NOON,
    )


@dataclass
class Key:
    """A key in use: its item, or none if a caller waits, and its state."""

    owner: int | None
    state: str = "reserved"


@dataclass
class ExpectedItem:
    """An item that was accepted: its id in the store, its key, and its place in the queue."""

    id: int
    key: int
    place: Expected
    error: str | None = None
    lease: int = 0


class OutboxMachine(RuleBasedStateMachine):
    """Compares a store with the model. Subclasses for each store define `clients` and `close`."""

    def clients(self) -> Clients:
        raise NotImplementedError

    def close(self) -> None: ...

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database = self.clients()
        self.queue = Model()
        self.keys: dict[int, Key] = {}
        self.items: dict[int, ExpectedItem] = {}  # by number, which is the nonce too
        self.held: list[tuple[Delivery, ExpectedItem]] = []  # also of processes that hang
        self.stores: list[Store] = []
        self.recorded: set[str] = set()
        self.proofs = 0

    def run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(operation)

    @initialize()
    def start(self) -> None:
        self.stores = [self.database.make(), self.database.make()]
        for store in self.stores:
            self.run(store.open())
            self.run(store.register([CONSUMERS[OUTBOX]]))

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.close()
        self.loop.close()

    @rule(
        client=CLIENTS, key=KEYS, recipient=st.integers(1, 2), limit=st.sampled_from((1, 2, None))
    )
    def enqueue(self, client: int, key: int, recipient: int, limit: int | None) -> None:
        send = self._send(key, recipient)

        found = self.run(self.stores[client].enqueue(send, max_waiting=limit))

        self._expect_enqueued(found, send, key, limit)

    def _send(self, key: int, recipient: int) -> NewSend:
        number = len(self.items) + 1
        return NewSend(
            phone_number_id="1",
            ordering_key=recipient,
            payload=b"%d" % number,
            nonce=number,
            scope="1/messages",
            key_hash=b"%d" % key,
            request_hash=b"body",
            keep_seconds=KEEP_SECONDS,
        )

    def _expect_enqueued(
        self, found: Reservation, send: NewSend, key: int, limit: int | None
    ) -> None:
        if key in self.keys:
            self._expect_used(found, self.keys[key])
            return
        waiting = sum(not each.is_leased for each in self.queue.outstanding)
        if limit is not None and waiting >= limit:
            assert found == Reservation(outcome=ReservationOutcome.FULL)
            return
        assert found.outcome is ReservationOutcome.RESERVED
        assert found.outbox_id is not None
        self._enqueued(found.outbox_id, send, key)

    def _enqueued(self, outbox_id: int, send: NewSend, key: int) -> None:
        self.queue.arrive(send.nonce, send.ordering_key, (CONSUMERS[OUTBOX],), {})
        self.items[send.nonce] = ExpectedItem(outbox_id, key, self.queue.outstanding[-1])
        self.keys[key] = Key(send.nonce)

    def _expect_used(self, found: Reservation, key: Key) -> None:
        assert found.outcome is OUTCOMES[key.state]
        owner = None if key.owner is None else self.items[key.owner].id
        assert found.outbox_id == owner

    @rule(client=CLIENTS, key=KEYS, ending=st.sampled_from(("complete", "fail", "doubt", "")))
    def send_and_wait(self, client: int, key: int, ending: str) -> None:
        store, name = self.stores[client], {"scope": "1/messages", "key_hash": b"%d" % key}

        found = self.run(self._reserve(client, key))

        if key in self.keys:
            self._expect_used(found, self.keys[key])
            return
        assert found == Reservation(outcome=ReservationOutcome.RESERVED)
        if ending == "complete":
            self.run(store.complete_request(**name, response=b"{}", message=None))
            self.keys[key] = Key(None, "completed")
        elif ending == "doubt":
            self.run(store.doubt_request(**name))
            self.keys[key] = Key(None, "unknown")
        elif ending == "fail":
            self.run(store.fail_request(**name))
        else:
            self.keys[key] = Key(None)

    def _reserve(self, client: int, key: int) -> Coroutine[Any, Any, Reservation]:
        return self.stores[client].reserve_request(
            scope="1/messages",
            key_hash=b"%d" % key,
            request_hash=b"body",
            reserve_seconds=KEEP_SECONDS,
            keep_seconds=KEEP_SECONDS,
        )

    @rule(client=CLIENTS, limit=st.integers(1, 3), begins=st.booleans())
    def claim(self, client: int, limit: int, begins: bool) -> None:
        heads = self.queue.heads(OUTBOX)[:limit]
        exhausted = [self.queue.lease(each, CONSUMERS[OUTBOX]) for each in heads]

        found = self.run(self.stores[client].claim(OUTBOX, limit)).deliveries

        assert [(int(each.payload), each.is_exhausted) for each in found] == [
            (each.number, is_lost) for each, is_lost in zip(heads, exhausted, strict=True)
        ]
        for delivery in found:
            item = self.items[int(delivery.payload)]
            item.lease = delivery.lease
            self.held.append((delivery, item))
            if delivery.is_exhausted:  # as the worker does, without a call
                self._settle(client, len(self.held) - 1, "unknown")
            elif begins:
                self._begin(client, delivery, item)

    @rule(client=CLIENTS, begins=st.booleans())
    def lose_leases(self, client: int, begins: bool) -> None:
        """A process dies with messages that it claimed, and another one claims them."""
        self.claim(client, 3, begins)
        self.advance(LEASE_SECONDS + 1)
        self.claim(1 - client, 3, False)

    @rule(client=CLIENTS, place=st.integers(0, 5))
    def begin(self, client: int, place: int) -> None:
        if self.held:
            self._begin(client, *self.held[place % len(self.held)])

    def _begin(self, client: int, delivery: Delivery, item: ExpectedItem) -> None:
        lost = self.run(self.stores[client].renew([delivery], is_final=True))

        assert list(lost) == ([] if self._is_held(delivery, item) else [delivery])
        if not lost:
            item.place.is_final, item.place.due = True, self.queue.now + LEASE_SECONDS

    def _is_held(self, delivery: Delivery, item: ExpectedItem) -> bool:
        return (
            item.place in self.queue.outstanding
            and item.place.is_leased
            and item.lease == delivery.lease
        )

    @rule(client=CLIENTS, place=st.integers(0, 5), ending=ENDS)
    def settle(self, client: int, place: int, ending: str) -> None:
        if self.held:
            self._settle(client, place % len(self.held), ending)

    def _settle(self, client: int, place: int, ending: str) -> None:
        delivery, item = self.held[place]

        self.run(self.stores[client].settle_sends([self._result(delivery, item, ending)]))

        self._settled(place, ending)

    def _result(self, delivery: Delivery, item: ExpectedItem, ending: str) -> SendResult:
        state, error = RESULTS[ending]
        settlement = Settlement(delivery, state, 0.0, error)
        message = record_of(item.place.number) if ending == "sent" else None
        return SendResult(settlement=settlement, response=b"{}", message=message)

    def _settled(self, place: int, ending: str) -> None:
        delivery, item = self.held.pop(place)
        if ending == "sent":
            self._sent(item)
        elif self._is_held(delivery, item):
            self._end(item, *RESULTS[ending])

    def _end(self, item: ExpectedItem, state: DeliveryState, error: str | None) -> None:
        item.error = error
        self.queue.end(item.place, state, 0)
        if state is DeliveryState.DEAD and error == OUTCOME_UNKNOWN:
            self._key_of(item).state = "unknown"
        elif state is DeliveryState.DEAD:
            del self.keys[item.key]

    def _key_of(self, item: ExpectedItem) -> Key:
        key = self.keys.get(item.key)
        return key if key is not None and key.owner == item.place.number else Key(None)

    def _sent(self, item: ExpectedItem) -> None:
        self.recorded.add(f"wamid.{item.place.number}")
        if item.place in self.queue.outstanding:
            self.queue.remove(item.place)
        self.queue.dead = [each for each in self.queue.dead if each[0] is not item.place]
        self._key_of(item).state = "completed"

    @rule(client=CLIENTS, number=st.integers(1, 6), is_ours=st.booleans())
    def prove(self, client: int, number: int, is_ours: bool) -> None:
        if number not in self.items:
            return
        item = self.items[number]
        self.proofs += 1
        nonce = number if is_ours else number + 1000
        proof = SendProof(item.id, nonce, b"{}", record_of(number))
        arrival = Arrival(
            key=self.proofs.to_bytes(16, "big"),
            occurred_at=NOON,
            received_at=NOON,
            kind="status",
            phone_number_id="1",
            ordering_key=1,
            payload=b"",
            proof=proof,
        )

        self.run(receive(self.stores[client], [arrival]))

        key = self._key_of(item)
        if is_ours and key.owner is not None and key.state != "completed":
            self._sent(item)

    @rule(client=CLIENTS, number=st.integers(1, 6), even_unknown=st.booleans())
    def retry(self, client: int, number: int, even_unknown: bool) -> None:
        if number not in self.items:
            return
        item = self.items[number]
        letters = [each for each in self.queue.dead if each[0] is item.place]
        key = self.keys.get(item.key)
        is_unknown = item.error == OUTCOME_UNKNOWN
        is_free = key is None or (key.owner == number and key.state == "unknown")
        expected = bool(letters) and is_free and (even_unknown or not is_unknown)

        count = self.run(self.stores[client].retry_sends([item.id], even_unknown=even_unknown))

        assert count == expected
        if expected:
            self.queue.retry_dead(letters[0])
            item.place, item.error = self.queue.outstanding[-1], None
            self.keys[item.key] = Key(number)

    @rule(client=CLIENTS, number=st.integers(1, 6))
    def discard(self, client: int, number: int) -> None:
        if number not in self.items:
            return
        item = self.items[number]
        is_waiting = item.place in self.queue.outstanding and not item.place.is_leased
        letters = [each for each in self.queue.dead if each[0] is item.place]

        count = self.run(self.stores[client].discard_sends([item.id]))

        assert count == is_waiting + len(letters)
        if is_waiting:
            self.queue.remove(item.place)
            del self.keys[item.key]
        for letter in letters:
            self.queue.dead.remove(letter)

    @rule(seconds=st.sampled_from((1, LEASE_SECONDS + 1)))
    def advance(self, seconds: int) -> None:
        self.database.advance(seconds)
        self.queue.now += seconds

    @invariant()
    def states_agree(self) -> None:
        for number, item in self.items.items():
            for store in self.stores:
                view = self.run(store.get_send(item.id))
                assert (view and view.state) == self._state_of(number, item)

    @invariant()
    def messages_agree(self) -> None:
        for store in self.stores:
            page = self.run(store.list_messages(limit=len(self.items) + 1, cursor=None))
            assert sorted(each.wa_message_id for each in page.items) == sorted(self.recorded)

    def _state_of(self, number: int, item: ExpectedItem) -> SendState | None:
        if item.place in self.queue.outstanding:
            return {
                "pending": SendState.QUEUED,
                "leased": SendState.SENDING,
                "retry": SendState.RETRY,
            }[item.place.state]
        if any(each is item.place for each, _ in self.queue.dead):
            return SendState.UNKNOWN if item.error == OUTCOME_UNKNOWN else SendState.FAILED
        key = self.keys.get(item.key)
        if key is None or key.owner != number:
            return None
        return {"completed": SendState.SENT, "unknown": SendState.UNKNOWN}.get(key.state)
