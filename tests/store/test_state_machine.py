"""Every store keeps the promises of the model, and the model finds a store that does not."""

from collections.abc import Sequence

import apsw
import pytest
from hypothesis import Phase
from msgspec.structs import replace
from typing_extensions import override

from tests.store.machines import hold, on_sqlite
from tests.store.model import InboxMachine
from wats.store import NO_SLOTS, OnReceived
from wats.store.records import (
    Arrival,
    Claimed,
    Delivery,
    DeliveryState,
    Follower,
    Settled,
    Settlement,
)
from wats.store.sqlite import SQLiteStore


@pytest.mark.parametrize("steps", [400, pytest.param(10_000, marks=pytest.mark.long)])
def test_sqlite_keeps_every_promise_of_the_model(steps: int) -> None:
    hold(on_sqlite(InboxMachine), steps=steps)


class NewestFirst(SQLiteStore):
    @override
    async def claim(self, consumer: str, limit: int) -> Claimed:
        found = (await super().claim(consumer, 100)).deliveries
        released = [Settlement(each, DeliveryState.PENDING) for each in found[:-limit]]
        await super().settle(released)
        return Claimed(found[-limit:], bool(released))


class GivesBackWhole(SQLiteStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        if any(each.state is DeliveryState.RETRY for each in settlements):
            settlements = [Settlement(each.delivery, DeliveryState.PENDING) for each in settlements]
        return await super().settle(settlements)


class StealsLeases(SQLiteStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        with apsw.Connection(self._path) as connection:
            for each in settlements:
                values = each.delivery.lease, each.delivery.id
                connection.execute("UPDATE wats_deliveries SET lease = ? WHERE id = ?", values)
        return await super().settle(settlements)


class LosesASettlement(SQLiteStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        return await super().settle(settlements[:-1])


class RepeatsFollowers(SQLiteStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        return await super().settle([replace(each, also=()) for each in settlements])


class HandlesFailedFollowers(SQLiteStore):
    @override
    async def claim(self, consumer: str, limit: int) -> Claimed:
        claimed = await super().claim(consumer, limit)
        with apsw.Connection(self._path) as connection:
            found = [
                replace(each, followers=_behind(connection, each)) for each in claimed.deliveries
            ]
        return Claimed(found, claimed.more)


def _behind(connection: apsw.Connection, head: Delivery) -> tuple[Follower, ...]:
    statement = """
        SELECT id, update_id, payload FROM wats_deliveries
        WHERE ordering_key = ? AND consumer = ? AND due_at IS NULL ORDER BY id LIMIT 2
    """
    rows = connection.execute(statement, (head.ordering_key, head.consumer))
    return tuple(Follower(*row) for row in rows)


class HasTwoHeads(SQLiteStore):
    @override
    def receive(
        self, arrivals: Sequence[Arrival], on_received: OnReceived, slots: object = NO_SLOTS
    ) -> None:
        with apsw.Connection(self._path) as connection:
            connection.execute("DROP INDEX IF EXISTS wats_deliveries_head")
            connection.execute(
                "CREATE UNIQUE INDEX wats_deliveries_head ON wats_deliveries "
                "(ordering_key, consumer, id) WHERE due_at IS NOT NULL"
            )
            connection.execute(
                "UPDATE wats_deliveries SET due_at = arrived_at, followers = 0 WHERE due_at IS NULL"
            )
        super().receive(arrivals, on_received)


class IgnoresPauses(SQLiteStore):
    @override
    async def pause(self, consumer: str, *, is_paused: bool) -> bool:
        return await super().pause(consumer, is_paused=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "broken",
    [
        NewestFirst,
        GivesBackWhole,
        StealsLeases,
        LosesASettlement,
        RepeatsFollowers,
        HandlesFailedFollowers,
        HasTwoHeads,
        IgnoresPauses,
    ],
)
def test_the_model_finds_a_store_that_is_broken(broken: type[SQLiteStore]) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(on_sqlite(InboxMachine, broken), steps=20_000, phases=(Phase.generate,))
