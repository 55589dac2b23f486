"""Every store keeps the promises of the model of the outbox, and the model finds broken stores."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import Phase
from typing_extensions import override

from tests.store.machines import hold, on_sqlite
from tests.store.outbox_model import OutboxMachine
from wats.store.outbox import NewSend, SendResult
from wats.store.records import Claimed, DeliveryState, Reservation, ReservationOutcome, Settled
from wats.store.sqlite import SQLiteStore


@pytest.mark.parametrize("steps", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_sqlite_keeps_every_promise_of_the_outbox(steps: int) -> None:
    hold(on_sqlite(OutboxMachine), steps=steps)


class SendsAnExpiredLeaseAgain(SQLiteStore):
    @override
    async def claim(self, consumer: str, limit: int) -> Claimed:
        claimed = await super().claim(consumer, limit)
        again = [msgspec.structs.replace(each, is_exhausted=False) for each in claimed.deliveries]
        return Claimed(again, claimed.more)


class ForgetsTheKey(SQLiteStore):
    @override
    async def enqueue(self, send: NewSend) -> Reservation:
        found = await super().enqueue(send)
        if found.outcome is ReservationOutcome.RESERVED:
            await self.fail_request(scope=send.scope, key_hash=send.key_hash)
        return found


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


@pytest.mark.parametrize(
    "broken",
    [SendsAnExpiredLeaseAgain, ForgetsTheKey, FreesTheKeyOfAnUnknownOutcome, LosesALateResult],
)
def test_the_model_finds_an_outbox_that_is_broken(broken: type[SQLiteStore]) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(on_sqlite(OutboxMachine, broken), steps=20_000, phases=(Phase.generate,))
