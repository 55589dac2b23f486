"""Every store keeps the promises of the model of the outbox, and the model finds broken stores."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import Phase
from typing_extensions import override

from tests.store.machines import hold, on_sqlite
from tests.store.outbox_model import OutboxMachine
from wats.store import NO_SLOTS, OnReceived, Slots
from wats.store.outbox import NewSend, SendResult
from wats.store.records import (
    Arrival,
    Claimed,
    Delivery,
    DeliveryState,
    Reservation,
    ReservationOutcome,
    SendProof,
    Settled,
)
from wats.store.sqlite import SQLiteStore


@pytest.mark.parametrize("steps", [250, pytest.param(10_000, marks=pytest.mark.long)])
def test_sqlite_keeps_every_promise_of_the_outbox(steps: int) -> None:
    hold(on_sqlite(OutboxMachine), steps=steps)


class SendsAnExpiredLeaseAgain(SQLiteStore):
    @override
    async def claim(self, consumer: str, limit: int) -> Claimed:
        claimed = await super().claim(consumer, limit)
        again = [msgspec.structs.replace(each, is_exhausted=False) for each in claimed.deliveries]
        return Claimed(again, claimed.more)


class ForgetsThatACallBegan(SQLiteStore):
    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        return await super().renew(deliveries)


class PermitsACallWithoutALease(SQLiteStore):
    @override
    async def renew(
        self, deliveries: Sequence[Delivery], *, is_final: bool = False
    ) -> Sequence[Delivery]:
        await super().renew(deliveries, is_final=is_final)
        return ()


class ForgetsTheKey(SQLiteStore):
    @override
    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        found = await super().enqueue(send, max_waiting=max_waiting)
        if found.outcome is ReservationOutcome.RESERVED:
            await self.fail_request(scope=send.scope, key_hash=send.key_hash)
        return found


class HasNoLimit(SQLiteStore):
    @override
    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        return await super().enqueue(send)


class FreesTheKeyOfAnUnknownOutcome(SQLiteStore):
    @override
    async def settle_sends(self, results: Sequence[SendResult]) -> Settled:
        settled = await super().settle_sends(results)
        for each in results:
            if each.settlement.state is DeliveryState.DEAD:
                for key in range(5):
                    await self.fail_request(scope="1/messages", key_hash=b"%d" % key)
        return settled


class LosesALateResult(SQLiteStore):
    @override
    async def settle_sends(self, results: Sequence[SendResult]) -> Settled:
        return await super().settle([each.settlement for each in results])


class RecordsNoProvenMessage(SQLiteStore):
    @override
    def receive(
        self, arrivals: Sequence[Arrival], on_received: OnReceived, slots: Slots = NO_SLOTS
    ) -> None:
        proofs = [
            each.proof and SendProof(*msgspec.structs.astuple(each.proof)[:3]) for each in arrivals
        ]
        changed = [
            msgspec.structs.replace(each, proof=proof)
            for each, proof in zip(arrivals, proofs, strict=True)
        ]
        super().receive(changed, on_received, slots)


@pytest.mark.long
@pytest.mark.parametrize(
    "broken",
    [
        SendsAnExpiredLeaseAgain,
        ForgetsThatACallBegan,
        PermitsACallWithoutALease,
        ForgetsTheKey,
        HasNoLimit,
        FreesTheKeyOfAnUnknownOutcome,
        LosesALateResult,
        RecordsNoProvenMessage,
    ],
)
def test_the_model_finds_an_outbox_that_is_broken(broken: type[SQLiteStore]) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(on_sqlite(OutboxMachine, broken), steps=20_000, phases=(Phase.generate,))
