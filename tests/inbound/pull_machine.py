"""The promises of pullers, as a state machine on the model of an inbox.

Two processes with pullers of their own work on one database. Each result of a poll and of an
acknowledgement must be that of the model, and receipts are used in any process and at any time.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.store.model import CLIENTS, CONSUMERS, LEASE_SECONDS, NOON, Clients, Expected, Model
from wats.inbound import updates
from wats.inbound.pullers import Acknowledgement, Puller, Pullers, Retry
from wats.inbound.receipts import ReceiptBook
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.store import Store, receive
from wats.store.records import Arrival, DeliveryState, Depth
from wats.telemetry import Adapter, RouteLabel, Telemetry, UpdateKind

NAME = "a"
CONSUMER = CONSUMERS[NAME]
BOOK = ReceiptBook([Secret("a-secret-for-tests")])
RETRIES: tuple[Retry, ...] = (False, False, True, 10.0)


KINDS = frozenset[UpdateKind](), frozenset({UpdateKind.MESSAGE}), frozenset({UpdateKind.STATUS})


def kind_of(number: int) -> UpdateKind:
    """Return the kind of the update with *number*."""
    return UpdateKind.STATUS if number % 3 == 0 else UpdateKind.MESSAGE


class Issued(NamedTuple):
    """A receipt, with the delivery of the model and the number of its lease there."""

    receipt: str
    expected: Expected
    attempt: int


class PullMachine(RuleBasedStateMachine):
    """Compares pullers with the model. Subclasses for each store define `clients` and `close`."""

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
        self.pullers: list[Puller] = []
        self.issued: list[Issued] = []
        self.valid: dict[int, str] = {}  # the last receipt of each number, if it was not used

    def run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(operation)

    @initialize()
    def start(self) -> None:
        for _ in range(2):
            store, puller = self.run(self._open())
            self.stores.append(store)
            self.pullers.append(puller)

    async def _open(self) -> tuple[Store, Puller]:
        store = self.database.make()
        await store.open()
        puller = Puller(
            NAME,
            store,
            place=0,
            lease_seconds=LEASE_SECONDS,
            max_attempts=CONSUMER.max_attempts,
            telemetry=Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE),
            log=lambda _: None,
            jitter=lambda: 0.0,
        )
        await store.register([puller.consumer])
        puller.start()
        return store, puller

    def teardown(self) -> None:
        for puller, store in zip(self.pullers, self.stores, strict=True):
            self.run(puller.stop())
            self.run(store.close())
        self.close()
        self.loop.close()

    @rule(client=CLIENTS, keys=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def receive(self, client: int, keys: list[int]) -> None:
        arrivals = [self._arrival(key) for key in keys]

        self.run(receive(self.stores[client], arrivals))

    def _arrival(self, key: int) -> Arrival:
        self.numbers += 1
        self.model.arrive(self.numbers, key, [CONSUMER], {})
        update = Update(
            key=f"{self.numbers:032x}",
            kind=kind_of(self.numbers),
            field="messages",
            waba_id="1",
            occurred_at=NOON,
            received_at=NOON,
            raw={"number": self.numbers},
        )
        return Arrival(
            key=bytes.fromhex(update.key),
            occurred_at=NOON,
            received_at=NOON,
            kind=update.kind,
            phone_number_id="1",
            ordering_key=key,
            payload=updates.encode(update),
            consumers=(NAME,),
        )

    @rule(client=CLIENTS, limit=st.integers(1, 4), kinds=st.sampled_from(KINDS))
    def poll(self, client: int, limit: int, kinds: frozenset[UpdateKind]) -> None:
        expected = self._claim(limit, kinds)

        pulled = self.run(self.pullers[client].poll(limit, 0, kinds))

        assert [(each.update.raw["number"], each.delivery.attempt) for each in pulled] == [
            (each.number, each.attempts) for each in expected
        ]
        for each, wanted in zip(pulled, expected, strict=True):
            receipt = BOOK.issue(self.pullers[client].lease_of(each))
            self.issued.append(Issued(receipt, wanted, wanted.attempts))
            self.valid[wanted.number] = receipt

    def _claim(self, limit: int, kinds: frozenset[UpdateKind] = frozenset()) -> Sequence[Expected]:
        """Lease deliveries of the model; exhausted ones become dead letters."""
        found: list[Expected] = []
        while len(found) < limit:
            heads = self.model.heads(NAME)
            wanted = [each for each in heads if not kinds or kind_of(each.number) in kinds]
            if not wanted:
                break
            for each in wanted[: limit - len(found)]:
                self.valid.pop(each.number, None)
                if self.model.lease(each, CONSUMER):
                    self.model.end(each, DeliveryState.DEAD, 0)
                else:
                    found.append(each)
        return found

    @rule(client=CLIENTS, limit=st.integers(1, 4), is_early=st.booleans())
    def disconnect(self, client: int, limit: int, is_early: bool) -> None:
        """A client hangs up during its poll, or before the response is written."""
        puller = self.pullers[client]
        for each in self._claim(limit):
            self.model.end(each, DeliveryState.PENDING, 0)

        async def hang_up() -> None:
            polling = asyncio.ensure_future(puller.poll(limit, 0))
            if is_early:
                await asyncio.sleep(0)
                puller.abandon(polling)
            else:
                puller.give_back([each.delivery for each in await polling])
            await puller.stop()
            puller.start()

        self.run(hang_up())

    @precondition(lambda self: self.issued)
    @rule(client=CLIENTS, data=st.data())
    def acknowledge(self, client: int, data: st.DataObject) -> None:
        recent = self.issued[-6:]
        chosen = data.draw(st.lists(st.sampled_from(recent), min_size=1, max_size=3))
        retries = [data.draw(st.sampled_from(RETRIES)) for _ in chosen]
        expected = [self._end(*pair) for pair in zip(chosen, retries, strict=True)]
        given = []
        for each, retry in zip(chosen, retries, strict=True):
            leased = BOOK.read(each.receipt)
            assert leased is not None
            given.append(Acknowledgement(leased, retry))

        results = self.run(Pullers([self.pullers[client]]).acknowledge(given))

        assert list(results) == expected

    def _end(self, issued: Issued, retry: Retry) -> str:
        each = issued.expected
        if self.valid.get(each.number) != issued.receipt or each.due <= self.model.now:
            return "lease_lost"
        del self.valid[each.number]
        if retry is False:
            self.model.end(each, DeliveryState.DONE, 0)
            return "done"
        if retry is not True:
            self.model.end(each, DeliveryState.PENDING, int(retry))
            return "retry"
        if each.attempts >= CONSUMER.max_attempts:
            self.model.end(each, DeliveryState.DEAD, 0)
            return "dead"
        self.model.end(each, DeliveryState.RETRY, 3 ** (each.attempts - 1))
        return "retry"

    @rule(seconds=st.sampled_from((1, 10, LEASE_SECONDS)))
    def time_passes(self, seconds: int) -> None:
        self.database.advance(seconds)
        self.model.now += seconds

    @rule(client=CLIENTS)
    def restart(self, client: int) -> None:
        """A process ends; receipts of its leases are valid in the next one."""
        self.run(self.stores[client].close())
        self.stores[client], self.pullers[client] = self.run(self._open())

    @rule(client=CLIENTS, is_paused=st.booleans())
    def pause(self, client: int, is_paused: bool) -> None:
        self.run(self.stores[client].pause(NAME, is_paused=is_paused))
        self.model.paused = {NAME} if is_paused else set()

    @invariant()
    def counters_agree(self) -> None:
        if not self.stores:
            return
        states = [each.state for each in self.model.outstanding]
        depth = self.run(self.stores[0].depth()).consumers.get(NAME, Depth())
        assert depth == Depth(
            pending=states.count("pending"),
            leased=states.count("leased"),
            retry=states.count("retry"),
            dead=len(self.model.dead),
        )
