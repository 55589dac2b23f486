"""The promises of an inbox as a small model, and the state machine that holds a store to it.

Two clients with connections of their own work on one database. Every result of the store must be
that of the model, and the counters must agree after every step.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wats.store import Store, receive
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    InboxDepth,
    Received,
    Retention,
    Settlement,
)

LEASE_SECONDS = 30
DEAD_SECONDS = 1000
CLIENTS = st.sampled_from((0, 1))
NAMES = ("a", "b")
MAX_ATTEMPTS = {"a": 2, "b": 1}
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NEVER_PURGED = 10**9


@dataclass
class Expected:
    """One outstanding delivery of the model."""

    number: int
    consumer: str
    ordering_key: int
    arrived: int
    due: int
    attempts: int = 0
    is_leased: bool = False
    is_final: bool = False

    @property
    def state(self) -> str:
        if self.is_leased:
            return "leased"
        return "retry" if self.attempts else "pending"


@dataclass
class Model:
    """The required behaviour of a store, in thirty lines. Times are seconds."""

    now: int = 0
    outstanding: list[Expected] = field(default_factory=list)
    dead: list[tuple[int, str, int]] = field(default_factory=list)

    def heads(self, consumer: str) -> list[Expected]:
        firsts: dict[int, Expected] = {}
        for each in self.outstanding:
            if each.consumer == consumer:
                firsts.setdefault(each.ordering_key, each)
        due = [each for each in firsts.values() if each.due <= self.now]
        return sorted(due, key=lambda each: each.due)  # stable, so the earliest arrivals lead

    def arrive(self, number: int, key: int, consumers: Sequence[str], slots: dict[str, int]) -> int:
        """Return how many deliveries are leased on arrival."""
        leased = 0
        for consumer in consumers:
            each = Expected(number, consumer, key, self.now, self.now)
            is_first = all(
                (other.consumer, other.ordering_key) != (consumer, key)
                for other in self.outstanding
            )
            if slots[consumer]:
                slots[consumer] -= 1
                if is_first:
                    self.lease(each)
                    leased += 1
            self.outstanding.append(each)
        return leased

    def lease(self, each: Expected) -> bool:
        """Return whether the last permitted attempt was lost with its lease."""
        is_exhausted = each.is_leased and each.is_final
        each.attempts += not is_exhausted
        each.is_leased, each.due = True, self.now + LEASE_SECONDS
        each.is_final = each.attempts >= MAX_ATTEMPTS[each.consumer]
        return is_exhausted

    def end(self, each: Expected, state: DeliveryState, retry_seconds: int) -> None:
        each.is_leased = False
        match state:
            case DeliveryState.RETRY:
                each.due = self.now + retry_seconds
                return
            case DeliveryState.PENDING:
                each.due = each.arrived
                each.attempts -= 1
                return
            case DeliveryState.DEAD:
                self.dead.append((each.number, each.consumer, self.now))
        self.outstanding.remove(each)


class Clients:
    """Two connections to one database, and the clock of both.

    Attributes:
        make: Makes a store on the database.
        advance: Moves the clock of the database on by seconds.
    """

    def __init__(self, make: Callable[[], Store], advance: Callable[[int], None]) -> None:
        self.make = make
        self.advance = advance


class InboxMachine(RuleBasedStateMachine):
    """Compares a store with the model. Subclasses for each store define `clients` and `close`."""

    def clients(self) -> Clients:
        raise NotImplementedError

    def close(self) -> None: ...

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database = self.clients()
        self.model = Model()
        self.numbers = 0
        self.stores: list[Store] = []
        # The deliveries that each client holds unsettled, with their state in the model. The third
        # are processes that died.
        self.held: list[dict[int, tuple[Delivery, Expected]]] = [{}, {}, {}]
        self.lost: list[Delivery] = []
        self.configured = {"a", "b"}
        self.seen = dict.fromkeys(NAMES, 0)
        self.last: Arrival | None = None

    def run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(operation)

    @initialize()
    def start(self) -> None:
        self.stores = [self.database.make(), self.database.make()]
        for client in (0, 1):
            self._open(client)

    def _open(self, client: int) -> None:
        self.run(self.stores[client].open())
        self._register(client)

    def _register(self, client: int) -> None:
        consumers = [
            Consumer(name=name, lease_seconds=LEASE_SECONDS, max_attempts=MAX_ATTEMPTS[name])
            for name in sorted(self.configured)
        ]
        self.run(self.stores[client].register(consumers))
        self.seen |= dict.fromkeys(self.configured, self.model.now)

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.loop.close()
        self.close()

    @rule(
        client=CLIENTS,
        items=st.lists(
            st.tuples(st.integers(1, 3), st.sampled_from((("a", "b"), ("a",), ("b",), ()))),
            min_size=1,
            max_size=4,
        ),
        slots=st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.integers(0, 2)}),
    )
    def receive(
        self, client: int, items: list[tuple[int, tuple[str, ...]]], slots: dict[str, int]
    ) -> None:
        arrivals = [
            self._arrival(key, tuple(name for name in names if name in self.configured))
            for key, names in items
        ]
        backlogged = {name for name in NAMES if self.model.heads(name)}
        room = {name: 0 if name in backlogged else count for name, count in slots.items()}

        results = self.run(receive(self.stores[client], arrivals, slots))

        for arrival, result in zip(arrivals, results, strict=True):
            self._expect_received(client, arrival, result, room)
        self.last = arrivals[-1]

    def _arrival(self, key: int, names: tuple[str, ...]) -> Arrival:
        self.numbers += 1
        return Arrival(
            key=self.numbers.to_bytes(16, "big"),
            occurred_at=NOON,
            received_at=NOON,
            kind="account",
            phone_number_id="1",
            ordering_key=key,
            payload=b"%d" % self.numbers,
            consumers=names,
        )

    def _expect_received(
        self, client: int, arrival: Arrival, result: Received, room: dict[str, int]
    ) -> None:
        before = len(self.model.outstanding)
        leased = self.model.arrive(
            int(arrival.payload), arrival.ordering_key, arrival.consumers, room
        )
        new = self.model.outstanding[before:]
        expected = [each for each in new if each.is_leased]
        assert result is not None
        assert len(result.leased) == leased
        assert result.waiting == len(new) - leased
        self._expect_leased(client, result.leased, expected)

    def _expect_leased(
        self, client: int, deliveries: Sequence[Delivery], expected: Sequence[Expected]
    ) -> None:
        assert [
            (int(each.payload), each.consumer, each.ordering_key, each.attempt)
            for each in deliveries
        ] == [(each.number, each.consumer, each.ordering_key, each.attempts) for each in expected]
        for delivery, each in zip(deliveries, expected, strict=True):
            for held in self.held:  # the lease of another client was lost with this
                if delivery.id in held:
                    self.lost.append(held.pop(delivery.id)[0])
            self.held[client][delivery.id] = delivery, each

    @precondition(lambda self: self.last is not None)
    @rule(client=CLIENTS)
    def redeliver(self, client: int) -> None:
        assert self.last is not None

        (result,) = self.run(receive(self.stores[client], [self.last], {"a": 9, "b": 9}))

        assert result is None

    @rule(client=CLIENTS, consumer=st.sampled_from(NAMES), limit=st.integers(1, 3))
    def claim(self, client: int, consumer: str, limit: int) -> None:
        if consumer not in self.configured:
            return
        heads = self.model.heads(consumer)
        expected, is_more = heads[:limit], len(heads) > limit
        exhausted = [self.model.lease(each) for each in expected]

        claimed = self.run(self.stores[client].claim(consumer, limit))

        deliveries = claimed.deliveries
        assert claimed.more == is_more
        assert [each.is_exhausted for each in deliveries] == exhausted
        self._expect_leased(client, deliveries, expected)

    @rule(client=CLIENTS, data=st.data())
    def settle(self, client: int, data: st.DataObject) -> None:
        held = self.held[client]
        if not held:  # rules are chosen blindly: make most rules applicable
            self._work_on_something(client)
        if not held:
            return
        ids = sorted(held)
        count = data.draw(st.integers(1, len(ids)))
        chosen = data.draw(st.permutations(ids))[:count]
        settlements = []
        for id_ in chosen:
            delivery, each = held.pop(id_)
            state = data.draw(st.sampled_from(ENDS))
            if delivery.is_exhausted:
                state = DeliveryState.DEAD
            seconds = data.draw(st.integers(1, 100))
            error = "ValueError" if state in (DeliveryState.RETRY, DeliveryState.DEAD) else None
            settlements.append(Settlement(delivery, state, seconds, error))
            self.model.end(each, state, seconds)

        settled = self.run(self.stores[client].settle(settlements))

        left = {each.number for each in self.model.outstanding} | {
            number for number, _, _ in self.model.dead
        }
        done = {
            settlement.delivery.update_id: int(settlement.delivery.payload)
            for settlement in settlements
            if settlement.state is DeliveryState.DONE
        }
        assert sorted(settled.done) == sorted(
            update_id for update_id, number in done.items() if number not in left
        )

    def _work_on_something(self, client: int) -> None:
        if not self.model.outstanding:
            self.receive(client, [(1, NAMES), (2, NAMES), (1, NAMES)], dict.fromkeys(NAMES, 1))
        for name in NAMES:
            self.claim(client, name, 3)

    @rule(client=CLIENTS, data=st.data())
    def lose_leases(self, client: int, data: st.DataObject) -> None:
        """Deliveries of one client are claimed by the other one after the leases have expired."""
        self._work_on_something(client)
        self.time_passes(LEASE_SECONDS)
        for name in NAMES:
            self.claim(1 - client, name, data.draw(st.integers(1, 3)))

    @precondition(lambda self: self.lost)
    @rule(client=CLIENTS, state=st.sampled_from(list(DeliveryState)[2:]), data=st.data())
    def settle_a_lost_lease(self, client: int, state: DeliveryState, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.lost))

        settled = self.run(self.stores[client].settle([Settlement(delivery, state)]))

        assert not settled.done

    @rule(client=CLIENTS)
    def renew(self, client: int) -> None:
        held = list(self.held[client].values())
        lost = [each for each in self.lost if each.consumer in self.configured][:1]

        refused = self.run(self.stores[client].renew([each for each, _ in held] + lost))

        assert list(refused) == lost
        for _, each in held:
            each.due = self.model.now + LEASE_SECONDS

    @rule(seconds=st.sampled_from((1, 10, LEASE_SECONDS, 100)))
    def time_passes(self, seconds: int) -> None:
        self.database.advance(seconds)
        self.model.now += seconds

    @rule(client=CLIENTS)
    def die(self, client: int) -> None:
        """A process dies; another one starts in its place."""
        self.held[2] |= self.held[client]
        self.held[client].clear()
        self.run(self.stores[client].close())
        self.stores[client] = self.database.make()
        self._open(client)

    @rule(client=CLIENTS)
    def stop(self, client: int) -> None:
        """A process releases its deliveries and starts again."""
        for pair in list(self.held[client].values()):
            self._let_go(client, pair)
        self.run(self.stores[client].close())
        self.run(self.stores[client].open())
        self._register(client)

    @rule(client=CLIENTS, consumer=st.sampled_from(NAMES))
    def cancel_a_claim(self, client: int, consumer: str) -> None:
        """A cancelled caller does not lose the claim: it is awaited and released."""
        if consumer not in self.configured:
            return
        store = self.stores[client]
        exhausted = [each for each in self.model.heads(consumer)[:2] if each.is_leased]
        if exhausted:  # releasing these is not the release of an unused claim
            return

        async def cancelled() -> None:
            claim = asyncio.ensure_future(store.claim(consumer, 2))
            waiting = asyncio.ensure_future(asyncio.shield(claim))
            await asyncio.sleep(0)
            waiting.cancel()
            claimed = await claim
            released = [Settlement(each, DeliveryState.PENDING) for each in claimed.deliveries]
            await store.settle(released)

        claimed = self.model.heads(consumer)[:2]
        self.run(cancelled())
        for each in claimed:
            each.due = each.arrived

    def _let_go(self, client: int, pair: tuple[Delivery, Expected]) -> None:
        delivery, each = pair
        del self.held[client][delivery.id]
        state = DeliveryState.DEAD if delivery.is_exhausted else DeliveryState.PENDING
        self.model.end(each, state, 0)
        self.run(self.stores[client].settle([Settlement(delivery, state)]))

    @precondition(lambda self: self.numbers > 5)
    @rule(consumer=st.sampled_from(NAMES))
    def remove_a_consumer(self, consumer: str) -> None:
        for client in (0, 1):
            for pair in list(self.held[client].values()):
                if pair[0].consumer == consumer:
                    self._let_go(client, pair)
        self.configured.discard(consumer)
        for client in (0, 1):
            self._register(client)

    @rule(consumer=st.sampled_from(NAMES))
    def add_a_consumer(self, consumer: str) -> None:
        self.configured.add(consumer)
        for client in (0, 1):
            self._register(client)

    @rule(client=CLIENTS)
    def purge(self, client: int) -> None:
        self.seen |= dict.fromkeys(self.configured, self.model.now)
        for each in (0, 1):
            if self.configured:
                self._register(each)
        before = self.model.now - DEAD_SECONDS
        retention = Retention(inbox=NEVER_PURGED, dead=DEAD_SECONDS, messages=NEVER_PURGED)

        while self.run(self.stores[client].purge(retention)):
            pass

        self.model.dead = [each for each in self.model.dead if each[2] >= before]
        gone = {name for name in NAMES if self.seen[name] < before}
        self.model.outstanding = [
            each for each in self.model.outstanding if each.consumer not in gone
        ]

    @invariant()
    def counters_agree(self) -> None:
        if not self.stores:
            return
        depth: InboxDepth = self.run(self.stores[0].depth())
        for name in NAMES:
            states = [each.state for each in self.model.outstanding if each.consumer == name]
            expected = Depth(
                pending=states.count("pending"),
                leased=states.count("leased"),
                retry=states.count("retry"),
                dead=sum(consumer == name for _, consumer, _ in self.model.dead),
            )
            assert depth.consumers.get(name, Depth()) == expected
        arrived = [
            each.arrived for each in self.model.outstanding if each.consumer in self.configured
        ]
        assert depth.oldest_seconds == self.model.now - min(arrived, default=self.model.now)
        assert depth.orphaned.keys().isdisjoint(self.configured)
        letters = self.run(self.stores[1].dead_letters(limit=10_000))
        assert Counter(each.consumer for each in letters) == Counter(
            consumer for _, consumer, _ in self.model.dead
        )


ENDS = (
    DeliveryState.DONE,
    DeliveryState.DONE,
    DeliveryState.DONE,
    DeliveryState.RETRY,
    DeliveryState.DEAD,
    DeliveryState.PENDING,
)
