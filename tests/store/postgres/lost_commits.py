"""An inbox and an outbox whose connections end in the moment of a commit."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.store.model import (
    CLIENTS,
    CONSUMERS,
    ENDS,
    ITEMS,
    LEASE_SECONDS,
    NAMES,
    RETENTION,
    SLOTS,
    Expected,
    InboxMachine,
)
from tests.store.outbox_model import ENDS as SEND_ENDS
from tests.store.outbox_model import KEYS, OutboxMachine
from tests.store.postgres.network import LosesCommits, Loss
from wats.errors import StoreUnavailable
from wats.store import receive
from wats.store.records import OUTBOX, DeliveryState, ReservationOutcome, Settlement

LOSSES = st.sampled_from(Loss)


async def is_lost(
    network: LosesCommits, store: Any, operation: Coroutine[Any, Any, Any], loss: Loss
) -> bool:
    """Run *operation* of *store*; return whether its caller cannot know if it was committed.

    Its leases and reservations are undone when this returns. An operation of one statement has no
    commit to lose.
    """
    network.loss = loss
    try:
        await operation
    except StoreUnavailable:
        async with asyncio.timeout(30):
            while store._tasks:
                await asyncio.sleep(0.002)
        return True
    finally:
        network.loss = None
    return False


class InboxWithLostCommits(InboxMachine):
    """Adds calls that fail although they may be committed, and what their callers do then.

    Meta sends an update again, and a worker repeats a settlement. Leases that no caller got are
    released by the store, and their attempts are not counted.
    """

    network: LosesCommits

    def lose(self, client: int, operation: Coroutine[Any, Any, Any], loss: Loss) -> bool:
        return bool(self.run(is_lost(self.network, self.stores[client], operation, loss)))

    @rule(client=CLIENTS, consumer=st.sampled_from(NAMES), limit=st.integers(1, 3), loss=LOSSES)
    def lose_a_claim(self, client: int, consumer: str, limit: int, loss: Loss) -> None:
        by = self.consumers[client].get(consumer)
        if by is None:
            return

        assert self.lose(client, self.stores[client].claim(consumer, limit), loss)

        if loss is Loss.REPORT:
            heads = self.model.heads(consumer)[:limit]
            self._lose_former_leases(heads)
            for each in heads:
                if not self.model.lease(each, by):
                    self.model.end(each, DeliveryState.PENDING, 0)

    def _lose_former_leases(self, heads: Sequence[Expected]) -> None:
        for held in self.held:
            for delivery, each in [*held.values()]:
                if each in heads:
                    self.lost.append(held.pop(delivery.id)[0])

    @rule(client=CLIENTS, items=ITEMS, slots=SLOTS, loss=LOSSES)
    def lose_an_arrival(
        self,
        client: int,
        items: list[tuple[int, tuple[str, ...]]],
        slots: dict[str, int],
        loss: Loss,
    ) -> None:
        arrivals = self._arrivals(client, items)
        room = self._room(slots)

        assert self.lose(client, receive(self.stores[client], arrivals, slots), loss)

        if loss is Loss.REPORT:
            before = len(self.model.outstanding)
            for each in arrivals:
                consumers = [self.consumers[client][name] for name in each.consumers]
                self.model.arrive(int(each.payload), each.ordering_key, consumers, room)
            for each in self.model.outstanding[before:]:
                if each.is_leased:
                    self.model.end(each, DeliveryState.PENDING, 0)
        results = self.run(receive(self.stores[client], arrivals))
        for arrival, result in zip(arrivals, results, strict=True):
            if loss is Loss.REPORT:
                assert result is None
            else:
                self._expect_received(client, arrival, result, {})

    @rule(client=CLIENTS, loss=LOSSES)
    def lose_a_renewal(self, client: int, loss: Loss) -> None:
        if not self.held[client]:
            self._work_on_something(client)
        held = [*self.held[client].values()]

        lost = self.lose(client, self.stores[client].renew([each for each, _ in held]), loss)

        assert lost
        if loss is Loss.REPORT:
            for _, each in held:
                by = self.consumers[client][each.consumer]
                each.due = self.model.now + int(by.lease_seconds)

    @rule(client=CLIENTS, state=st.sampled_from(ENDS), loss=LOSSES, is_late=st.booleans())
    def lose_a_settlement(
        self, client: int, state: DeliveryState, loss: Loss, is_late: bool
    ) -> None:
        """A settlement is repeated, maybe after others have claimed what it made due."""
        if not self.held[client]:
            self._work_on_something(client)
        held = [*self.held[client].values()]
        settlements = [
            Settlement(each, DeliveryState.DEAD if each.is_exhausted else state) for each, _ in held
        ]

        lost = self.lose(client, self.stores[client].settle(settlements), loss)

        is_settled = not lost or loss is Loss.REPORT
        if is_settled:
            self._settled(client, settlements)
        if is_late:
            for name in NAMES:
                self.claim(1 - client, name, 3)
        settled = self.run(self.stores[client].settle(settlements))
        if is_settled:
            assert not settled.done
        else:
            self._settled(client, settlements)

    def _settled(self, client: int, settlements: Sequence[Settlement]) -> None:
        for each in settlements:
            if each.delivery.id in self.held[client]:
                _, expected = self.held[client].pop(each.delivery.id)
                self.model.end(expected, each.state, 0)

    @rule(client=CLIENTS, loss=LOSSES)
    def lose_a_purge(self, client: int, loss: Loss) -> None:
        for each in (0, 1):
            self._register(each)
        self.lose(client, self.stores[client].purge(RETENTION), loss)

        self.purge(client)


class OutboxWithLostCommits(OutboxMachine):
    """Adds the same to an outbox. A caller with a key repeats its request."""

    network: LosesCommits

    def lose(self, client: int, operation: Coroutine[Any, Any, Any], loss: Loss) -> None:
        assert self.run(is_lost(self.network, self.stores[client], operation, loss))

    @rule(client=CLIENTS, key=KEYS, recipient=st.integers(1, 2), loss=LOSSES)
    def lose_an_item(self, client: int, key: int, recipient: int, loss: Loss) -> None:
        send = self._send(key, recipient)

        self.lose(client, self.stores[client].enqueue(send), loss)

        found = self.run(self.stores[client].enqueue(send))
        if loss is Loss.REPORT and key not in self.keys:
            assert found.outcome is ReservationOutcome.IN_FLIGHT
            assert found.outbox_id is not None
            self._enqueued(found.outbox_id, send, key)
        else:
            self._expect_enqueued(found, send, key, None)

    @rule(client=CLIENTS, key=KEYS, loss=LOSSES)
    def lose_a_reservation(self, client: int, key: int, loss: Loss) -> None:
        """The key is free, as nothing was sent."""
        self.lose(client, self._reserve(client, key), loss)

        self.send_and_wait(1 - client, key, "fail")

    @rule(client=CLIENTS, limit=st.integers(1, 3), loss=LOSSES)
    def lose_a_claim(self, client: int, limit: int, loss: Loss) -> None:
        """An exhausted item stays leased: a call has begun which may have been carried out."""
        self.lose(client, self.stores[client].claim(OUTBOX, limit), loss)

        if loss is Loss.REQUEST:
            return
        for each in self.queue.heads(OUTBOX)[:limit]:
            self.items[each.number].lease = 0
            if not self.queue.lease(each, CONSUMERS[OUTBOX]):
                self.queue.end(each, DeliveryState.PENDING, 0)

    @rule(client=CLIENTS, loss=LOSSES)
    def lose_a_beginning(self, client: int, loss: Loss) -> None:
        """There is no call, and the item is released."""
        if not self.held:
            self.claim(client, 1, False)
        if not self.held:
            return
        delivery, item = self.held[0]

        self.lose(client, self.stores[client].renew([delivery], is_final=True), loss)

        if self._is_held(delivery, item) and loss is Loss.REPORT:
            item.place.is_final, item.place.due = True, self.queue.now + LEASE_SECONDS
        self._settle(client, 0, "released")

    @rule(client=CLIENTS, place=st.integers(0, 5), ending=SEND_ENDS, loss=LOSSES)
    def lose_a_result(self, client: int, place: int, ending: str, loss: Loss) -> None:
        """The worker repeats it, maybe after others have claimed what it made due."""
        if not self.held:
            self.claim(client, 1, True)
        if not self.held:
            return
        place %= len(self.held)
        delivery, item = self.held[place]

        self.lose(
            client, self.stores[client].settle_sends([self._result(delivery, item, ending)]), loss
        )

        if loss is Loss.REPORT:
            self._settled(place, ending)
            self.claim(1 - client, 3, False)
            self.held.append((delivery, item))
            place = -1
        self._settle(client, place, ending)
