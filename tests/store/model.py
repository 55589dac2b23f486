"""The promises of an inbox as a small model, and the state machine that holds a store to it.

Two clients with connections of their own work on one database. Every result of the store must be
that of the model, and the counters must agree after every step.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wats.store import Store, receive
from wats.store.admin import DEAD_LETTERS, OUTSTANDING, DeliveryFilter
from wats.store.outbox import UNLIMITED_ATTEMPTS
from wats.store.records import (
    OUTBOX,
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    Follower,
    InboxDepth,
    Received,
    Retention,
    Settlement,
)

LEASE_SECONDS = 30
DEAD_SECONDS = 1000
UNSEEN_SECONDS = 800
CLIENTS = st.sampled_from((0, 1))
NAMES = ("a", "b")
ITEMS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from((("a", "b"), ("a",), ("b",), ()))),
    min_size=1,
    max_size=4,
)
"""The ordering keys and the consumers of updates."""
SLOTS = st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.integers(0, 2)})
CONSUMERS = {
    "a": Consumer(name="a", lease_seconds=LEASE_SECONDS, max_attempts=2, batch=3),
    # A consumer with one attempt has no batches, as a failure could not be handled alone.
    "b": Consumer(name="b", lease_seconds=LEASE_SECONDS, max_attempts=1, batch=3),
    OUTBOX: Consumer(name=OUTBOX, lease_seconds=LEASE_SECONDS, max_attempts=UNLIMITED_ATTEMPTS),
}
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NEVER_PURGED = 10**9
RETENTION = Retention(
    inbox=NEVER_PURGED, dead=DEAD_SECONDS, unseen=UNSEEN_SECONDS, messages=NEVER_PURGED
)
ENDS = (
    DeliveryState.DONE,
    DeliveryState.DONE,
    DeliveryState.DONE,
    DeliveryState.RETRY,
    DeliveryState.DEAD,
    DeliveryState.PENDING,
)


@dataclass
class Expected:
    """One outstanding delivery of the model.

    Attributes:
        number: The number of the update, which is its payload.
        order: The order of arrival; that of a replayed update is the order of the replay.
        is_replayed: Whether the delivery was made by a replay.
    """

    number: int
    consumer: str
    ordering_key: int
    arrived: int
    due: int
    attempts: int = 0
    is_head: bool = False
    is_leased: bool = False
    is_final: bool = False
    order: int = 0
    is_replayed: bool = False

    def __post_init__(self) -> None:
        self.order = self.order or self.number

    @property
    def state(self) -> str:
        if self.is_leased:
            return "leased"
        return "retry" if self.attempts else "pending"


@dataclass
class Model:
    """The required behavior of a store. Times are seconds."""

    now: int = 0
    outstanding: list[Expected] = field(default_factory=list)
    dead: list[tuple[Expected, int]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)

    def heads(self, consumer: str) -> list[Expected]:
        if consumer in self.paused:
            return []
        heads = [each for each in self.outstanding if each.is_head and each.consumer == consumer]
        due = [each for each in heads if each.due <= self.now]
        return sorted(due, key=lambda each: (each.due, each.order))

    def depth(self, consumer: str) -> Depth:
        states = [each.state for each in self.outstanding if each.consumer == consumer]
        return Depth(
            pending=states.count("pending"),
            leased=states.count("leased"),
            retry=states.count("retry"),
            dead=sum(each.consumer == consumer for each, _ in self.dead),
        )

    def siblings_of(self, each: Expected) -> list[Expected]:
        key = each.consumer, each.ordering_key
        return [other for other in self.outstanding if (other.consumer, other.ordering_key) == key]

    def arrive(
        self, number: int, key: int, consumers: Iterable[Consumer], slots: dict[str, int]
    ) -> int:
        """Return how many deliveries are leased on arrival, of at most *slots* free slots."""
        leased = 0
        for consumer in consumers:
            each = Expected(number, consumer.name, key, self.now, self.now)
            each.is_head = not self.siblings_of(each)
            if slots.get(consumer.name):
                slots[consumer.name] -= 1
                if each.is_head:
                    self.lease(each, consumer)
                    leased += 1
            self.outstanding.append(each)
        return leased

    def lease(self, each: Expected, by: Consumer) -> bool:
        """Return whether the last permitted attempt was lost with its lease."""
        is_exhausted = each.is_leased and each.is_final
        each.attempts += not is_exhausted
        each.is_leased, each.due = True, self.now + int(by.lease_seconds)
        each.is_final = is_exhausted or each.attempts >= by.max_attempts
        return is_exhausted

    def end(self, each: Expected, state: DeliveryState, retry_seconds: int) -> None:
        each.is_leased = False
        match state:
            case DeliveryState.RETRY:
                each.due = self.now + retry_seconds
                return
            case DeliveryState.PENDING:
                each.due = self.now + retry_seconds if retry_seconds else each.arrived
                each.attempts -= 1
                return
            case DeliveryState.DEAD:
                self.dead.append((each, self.now))
        self.remove(each)

    def followers(self, each: Expected, by: Consumer) -> list[Expected]:
        """Return the deliveries that may be handled with *each*, which has just been leased."""
        if each.attempts > 1 or each.is_final:
            return []
        others = [other for other in self.siblings_of(each) if other is not each]
        others.sort(key=lambda other: other.order)
        unfailed = itertools.takewhile(lambda other: not other.attempts, others)
        return list(unfailed)[: by.batch - 1]

    def remove(self, each: Expected) -> None:
        self.outstanding.remove(each)
        following = self.siblings_of(each)
        if each.is_head and following:
            self.make_head(min(following, key=lambda other: other.order))

    def make_head(self, each: Expected) -> None:
        each.is_head, each.due = True, each.arrived

    def retry_dead(self, letter: tuple[Expected, int]) -> None:
        self.dead.remove(letter)
        old = letter[0]
        each = replace(
            old, due=old.arrived, attempts=0, is_head=False, is_leased=False, is_final=False
        )
        later = [other for other in self.siblings_of(each) if other.is_head]
        if not later:
            each.is_head = True
        elif not later[0].is_leased and later[0].order > each.order:
            later[0].is_head = False
            self.make_head(each)
        self.outstanding.append(each)

    def expedite(self, each: Expected) -> int:
        if not each.is_head or each.is_leased or each.due <= self.now:
            return 0
        each.due = each.arrived
        return 1

    def replay(self, source: Expected, consumer: str, order: int) -> int:
        """Return how many deliveries *consumer* gets."""
        key = source.number, consumer
        if any(key_of(each) == key for each in self.outstanding):
            return 0
        for letter in self.dead:
            if key_of(letter[0]) == key:
                self.retry_dead(letter)
                return 1
        each = Expected(source.number, consumer, source.ordering_key, self.now, self.now)
        each.order, each.is_replayed = order, True
        each.is_head = not self.siblings_of(each)
        self.outstanding.append(each)
        return 1


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
        # The followers that were claimed last with each delivery.
        self.followers: dict[int, list[Expected]] = {}
        # The consumers of each client, with its limits.
        self.consumers = [{name: CONSUMERS[name] for name in NAMES} for _ in range(2)]
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
        consumers = self.consumers[client]
        self.run(self.stores[client].register([*consumers.values()]))
        self.seen |= dict.fromkeys(consumers, self.model.now)
        self.model.known |= consumers.keys()

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.close()
        self.loop.close()

    @rule(
        client=CLIENTS,
        items=ITEMS,
        slots=SLOTS,
    )
    def receive(
        self, client: int, items: list[tuple[int, tuple[str, ...]]], slots: dict[str, int]
    ) -> None:
        arrivals = self._arrivals(client, items)
        room = self._room(slots)

        results = self.run(receive(self.stores[client], arrivals, slots))

        for arrival, result in zip(arrivals, results, strict=True):
            self._expect_received(client, arrival, result, room)
        self.last = arrivals[-1]

    def _arrivals(
        self, client: int, items: Sequence[tuple[int, tuple[str, ...]]]
    ) -> Sequence[Arrival]:
        return [
            self._arrival(key, tuple(name for name in names if name in self.consumers[client]))
            for key, names in items
        ]

    def _room(self, slots: Mapping[str, int]) -> dict[str, int]:
        """Return how many of *slots* can be used: none while older deliveries are due."""
        backlogged = {name for name in NAMES if self.model.heads(name)} | self.model.paused
        return {name: 0 if name in backlogged else count for name, count in slots.items()}

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
        consumers = [self.consumers[client][name] for name in arrival.consumers]
        leased = self.model.arrive(int(arrival.payload), arrival.ordering_key, consumers, room)
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
        by = self.consumers[client].get(consumer)
        if by is None:
            return
        heads = self.model.heads(consumer)
        expected, is_more = heads[:limit], len(heads) > limit
        exhausted = [self.model.lease(each, by) for each in expected]

        claimed = self.run(self.stores[client].claim(consumer, limit))

        deliveries = claimed.deliveries
        assert claimed.more == is_more
        assert [each.is_exhausted for each in deliveries] == exhausted
        self._expect_leased(client, deliveries, expected)
        for delivery, each in zip(deliveries, expected, strict=True):
            followers = self.followers[delivery.id] = self.model.followers(each, by)
            found = [int(other.payload) for other in delivery.followers]
            assert found == [other.number for other in followers]

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
        settlements: list[Settlement] = []
        done: list[tuple[int, Expected]] = []
        for id_ in chosen:
            delivery, each = held.pop(id_)
            state = data.draw(st.sampled_from(ENDS))
            if delivery.is_exhausted:
                state = DeliveryState.DEAD
            first = 0 if state is DeliveryState.PENDING else 1
            seconds = data.draw(st.integers(first, 100))
            error = "ValueError" if state in (DeliveryState.RETRY, DeliveryState.DEAD) else None
            also = delivery.followers[: data.draw(st.integers(0, len(delivery.followers)))]
            settlements.append(Settlement(delivery, state, seconds, error, also))
            if state is DeliveryState.DONE:
                done += [(delivery.update_id, each), *self._followers_end(delivery, also)]
            self.model.end(each, state, seconds)

        settled = self.run(self.stores[client].settle(settlements))

        stored = [*self.model.outstanding, *(each for each, _ in self.model.dead)]
        left = {each.number for each in stored if not each.is_replayed}
        assert sorted(settled.done) == sorted(
            {id_ for id_, each in done if each.is_replayed or each.number not in left}
        )

    def _followers_end(
        self, head: Delivery, also: Sequence[Follower]
    ) -> list[tuple[int, Expected]]:
        """End those followers *also* of *head* that are outstanding; return their updates."""
        ended = []
        for follower, each in zip(also, self.followers.get(head.id, ()), strict=False):
            if each in self.model.outstanding:
                self.model.outstanding.remove(each)
                ended.append((follower.update_id, each))
        return ended

    @rule(client=CLIENTS, key=st.integers(1, 3), data=st.data())
    def handle_several(self, client: int, key: int, data: st.DataObject) -> None:
        """Deliveries that wait in a conversation are claimed and settled together."""
        self.receive(client, [(key, ("a",))] * 3, dict.fromkeys(NAMES, 0))
        self.claim(client, "a", 3)
        self.settle(client, data)

    @rule(client=CLIENTS, data=st.data())
    def acknowledge(self, client: int, data: st.DataObject) -> None:
        """Leases that have expired are not settled, even if no other lease was given since."""
        held = self.held[client]
        if not held:
            self._work_on_something(client)
        settlements, expected = [], []
        for id_ in sorted(held):
            delivery, each = held[id_]
            state = data.draw(st.sampled_from((DeliveryState.DONE, DeliveryState.RETRY)))
            if delivery.is_exhausted or not data.draw(st.booleans()):
                continue
            settlements.append(Settlement(delivery, state, 5, "ValueError"))
            if each.due <= self.model.now:
                expected.append(delivery)
                continue
            del held[id_]
            self.model.end(each, state, 5)
        for delivery in self.lost[:1]:
            settlements.append(Settlement(delivery, DeliveryState.DONE))
            expected.append(delivery)

        settled = self.run(self.stores[client].acknowledge(settlements))

        assert list(settled.lost) == expected

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
    @rule(client=CLIENTS, state=st.sampled_from(ENDS), data=st.data())
    def settle_a_lost_lease(self, client: int, state: DeliveryState, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.lost))

        settlement = Settlement(delivery, state, also=delivery.followers)
        settled = self.run(self.stores[client].settle([settlement]))

        assert not settled.done

    @rule(client=CLIENTS)
    def renew(self, client: int) -> None:
        consumers = self.consumers[client]
        held = list(self.held[client].values())
        lost = [each for each in self.lost if each.consumer in consumers][:1]

        refused = self.run(self.stores[client].renew([each for each, _ in held] + lost))

        assert list(refused) == lost
        for _, each in held:
            each.due = self.model.now + int(consumers[each.consumer].lease_seconds)

    @rule(seconds=st.sampled_from((1, 10, LEASE_SECONDS, 100, UNSEEN_SECONDS + 1)))
    def time_passes(self, seconds: int) -> None:
        self.database.advance(seconds)
        self.model.now += seconds

    @rule(client=CLIENTS)
    def die(self, client: int) -> None:
        """A process dies or hangs; another one starts in its place."""
        self.held[2] |= self.held[client]
        self.held[client].clear()
        self.run(self.stores[client].close())
        self.stores[client] = self.database.make()
        self._open(client)

    @rule(client=CLIENTS)
    def wake_up(self, client: int) -> None:
        """A process that hung goes on with its leases, as far as they were not lost."""
        for id_, pair in [*self.held[2].items()]:
            if pair[0].consumer in self.consumers[client]:
                self.held[client][id_] = self.held[2].pop(id_)

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
        if consumer not in self.consumers[client]:
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
    @rule(client=CLIENTS, consumer=st.sampled_from(NAMES))
    def remove_a_consumer(self, client: int, consumer: str) -> None:
        """A process starts with another config; the other process may still have the old one."""
        for pair in list(self.held[client].values()):
            if pair[0].consumer == consumer:
                self._let_go(client, pair)
        self.consumers[client].pop(consumer, None)
        self._register(client)

    @rule(
        client=CLIENTS,
        consumer=st.sampled_from(NAMES),
        lease_seconds=st.sampled_from((10, LEASE_SECONDS)),
        max_attempts=st.sampled_from((1, 2, 5)),
        batch=st.sampled_from((1, 3)),
    )
    def add_a_consumer(
        self, client: int, consumer: str, lease_seconds: int, max_attempts: int, batch: int
    ) -> None:
        """A process starts with another consumer, or with other limits than the other process."""
        self.consumers[client][consumer] = Consumer(
            name=consumer, lease_seconds=lease_seconds, max_attempts=max_attempts, batch=batch
        )
        self._register(client)

    @rule(client=CLIENTS)
    def purge(self, client: int) -> None:
        for each in (0, 1):
            self._register(each)
        before = self.model.now - DEAD_SECONDS
        unseen_before = self.model.now - UNSEEN_SECONDS

        while self.run(self.stores[client].purge(RETENTION)):
            pass

        self.model.dead = [letter for letter in self.model.dead if letter[1] >= before]
        gone = {name for name in NAMES if self.seen[name] < unseen_before}
        self.model.outstanding = [
            each for each in self.model.outstanding if each.consumer not in gone
        ]
        for held in self.held:
            for delivery, each in [*held.values()]:
                if each not in self.model.outstanding:
                    self.lost.append(held.pop(delivery.id)[0])
        used = {each.consumer for each, _ in self.model.dead}
        self.model.known -= gone - used
        self.model.paused &= self.model.known

    @rule(client=CLIENTS, consumer=st.sampled_from(NAMES), is_paused=st.booleans())
    def pause(self, client: int, consumer: str, is_paused: bool) -> None:
        is_known = self.run(self.stores[client].pause(consumer, is_paused=is_paused))

        assert is_known == (consumer in self.model.known)
        self.model.paused.discard(consumer)
        if is_paused and is_known:
            self.model.paused.add(consumer)

    @precondition(lambda self: self.model.dead)
    @rule(client=CLIENTS, data=st.data())
    def retry_dead(self, client: int, data: st.DataObject) -> None:
        ids = self._ids(DEAD_LETTERS)
        letters = sorted(self.model.dead, key=lambda letter: letter[0].number)
        chosen = letters[: data.draw(st.integers(1, len(letters)))]

        count = self.run(self.stores[client].retry_dead([ids[key_of(each)] for each, _ in chosen]))

        assert count == len(chosen)
        for letter in chosen:
            self.model.retry_dead(letter)

    @rule(client=CLIENTS, data=st.data())
    def expedite(self, client: int, data: st.DataObject) -> None:
        ids = self._ids(OUTSTANDING)
        if not ids:
            return
        chosen = data.draw(st.sets(st.sampled_from(sorted(ids)), min_size=1, max_size=3))

        count = self.run(self.stores[client].expedite([ids[key] for key in chosen]))

        found = [each for each in self.model.outstanding if key_of(each) in chosen]
        assert count == sum(map(self.model.expedite, found))

    @rule(client=CLIENTS, consumer=st.sampled_from(NAMES), data=st.data())
    def replay(self, client: int, consumer: str, data: st.DataObject) -> None:
        ids = self._ids(OUTSTANDING) | self._ids(DEAD_LETTERS)
        if not ids:
            return
        chosen = data.draw(st.sets(st.sampled_from(sorted(ids)), min_size=1, max_size=3))
        sources = {key_of(each): each for each in self.model.outstanding}
        sources |= {key_of(each): each for each, _ in self.model.dead}

        replay = self.stores[client].replay([ids[key] for key in chosen], consumer)
        count = self.run(replay)

        if consumer not in self.model.known:
            assert count is None
            return
        expected = 0
        for key in sorted(chosen, key=ids.__getitem__):
            self.numbers += 1
            expected += self.model.replay(sources[key], consumer, self.numbers)
        assert count == expected

    @rule(client=CLIENTS, data=st.data())
    def discard(self, client: int, data: st.DataObject) -> None:
        ids = self._ids(OUTSTANDING) | self._ids(DEAD_LETTERS)
        if not ids:
            return
        chosen = data.draw(st.lists(st.sampled_from(sorted(ids)), min_size=1, max_size=2))

        count = self.run(self.stores[client].discard([ids[key] for key in chosen]))

        assert count == len(set(chosen))
        for key in set(chosen):
            for held in self.held:
                if ids[key] in held:
                    self.lost.append(held.pop(ids[key])[0])
        for each in [each for each in self.model.outstanding if key_of(each) in chosen]:
            self.model.remove(each)
        self.model.dead = [each for each in self.model.dead if key_of(each[0]) not in chosen]

    def _ids(self, wanted: DeliveryFilter) -> dict[tuple[int, str], int]:
        page = self.run(self.stores[0].list_deliveries(wanted, limit=10_000))
        return {(int(each.head), each.consumer): each.id for each in page.items}

    @invariant()
    def counters_agree(self) -> None:
        if not self.stores:
            return
        depth: InboxDepth = self.run(self.stores[0].depth())
        for name in NAMES:
            assert depth.consumers.get(name, Depth()) == self.model.depth(name)
        configured = self.consumers[0]
        arrived = [each.arrived for each in self.model.outstanding if each.consumer in configured]
        assert depth.oldest_seconds == self.model.now - min(arrived, default=self.model.now)
        assert depth.orphaned.keys().isdisjoint(configured)
        assert self._ids(DEAD_LETTERS).keys() == {key_of(each) for each, _ in self.model.dead}
        page = self.run(self.stores[1].list_deliveries(OUTSTANDING, limit=10_000))
        assert {
            (int(each.head), each.consumer): (each.state, each.attempts) for each in page.items
        } == {key_of(each): (each.state, each.attempts) for each in self.model.outstanding}


def key_of(each: Expected) -> tuple[int, str]:
    return each.number, each.consumer
