"""Pullers keep the promises of their state machine on SQLite; for PostgreSQL see its folder."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import Phase
from typing_extensions import override

from tests.inbound.pull_machine import PullMachine
from tests.store.machines import hold, on_sqlite
from wats.clock import utc_now
from wats.errors import StoreUnavailable
from wats.inbound import updates
from wats.inbound.pullers import FAILED, Acknowledgement, Puller
from wats.inbound.updates import Update
from wats.store import receive
from wats.store.records import Arrival, Claimed, Settled, Settlement
from wats.store.sqlite import SQLiteStore
from wats.telemetry import Adapter, RouteLabel, Telemetry, UpdateKind


@pytest.mark.parametrize("steps", [200, pytest.param(6_000, marks=pytest.mark.long)])
def test_pullers_keep_every_promise_of_the_model_on_sqlite(steps: int) -> None:
    hold(on_sqlite(PullMachine), steps=steps)


class CountsClaims(SQLiteStore):
    claims = 0

    @override
    async def claim(self, *_: Any) -> Claimed:
        self.claims += 1
        return Claimed([], more=False)


async def let_tasks_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def make_puller(store: SQLiteStore, **options: Any) -> Puller:
    telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE)
    return Puller("batch", store, place=0, lease_seconds=60.0, telemetry=telemetry, **options)


def arrival_of(number: int, **changes: Any) -> Arrival:
    now = utc_now()
    update = Update(
        key=f"{number:032}",
        kind=UpdateKind.MESSAGE,
        field="messages",
        waba_id="1",
        occurred_at=now,
        received_at=now,
        raw={},
    )
    arrival = Arrival(
        key=bytes.fromhex(update.key),
        occurred_at=now,
        received_at=now,
        kind=update.kind,
        phone_number_id="1",
        ordering_key=number,
        payload=updates.encode(update),
        consumers=("batch",),
    )
    return msgspec.structs.replace(arrival, **changes)


async def test_an_arrival_wakes_the_polls_of_its_kind_only() -> None:
    store = CountsClaims(":memory:")
    await store.open()
    puller = make_puller(store, max_attempts=3)
    puller.start()
    woken = []
    for kinds in ({UpdateKind.STATUS}, {UpdateKind.MESSAGE, UpdateKind.STATUS}, ()):
        polling = asyncio.create_task(puller.poll(1, 60.0, frozenset(kinds)))
        await let_tasks_run()
        before = store.claims
        puller.note_work(UpdateKind.MESSAGE)
        await let_tasks_run()
        woken.append(store.claims - before)
        polling.cancel()
        await asyncio.wait([polling])
    await puller.stop()
    await store.close()

    assert woken == [0, 1, 1]


async def test_a_dead_letter_is_logged_with_the_name_of_its_puller() -> None:
    store, logged = SQLiteStore(":memory:"), list[Any]()
    await store.open()
    puller = make_puller(store, max_attempts=1, log=logged.append)
    await store.register([puller.consumer])
    puller.start()
    await receive(store, [arrival_of(1)])

    (pulled,) = await puller.poll(1, 0)
    await puller.acknowledge([Acknowledgement(puller.lease_of(pulled), True)])
    await puller.stop()
    await store.close()

    dead = {"event": "wats.inbox.dead", "consumer": "batch", "kind": "message"}
    assert logged == [{**dead, "errorName": FAILED}]


async def test_a_poll_returns_the_update_behind_one_that_becomes_a_dead_letter() -> None:
    store, logged = SQLiteStore(":memory:"), list[Any]()
    await store.open()
    puller = make_puller(store, max_attempts=3, log=logged.append)
    await store.register([puller.consumer])
    puller.start()
    damaged = arrival_of(1, payload=b"damaged")
    await receive(store, [damaged, arrival_of(2, ordering_key=damaged.ordering_key)])

    pulled = await puller.poll(2, 0)
    dead = await store.dead_letters(limit=10)
    await puller.stop()
    await store.close()

    assert [each.update.key for each in pulled] == [f"{2:032}"]
    assert [(each.consumer, each.error) for each in dead] == [("batch", "DecodeError")]
    assert [each["event"] for each in logged] == ["wats.inbox.dead"]


class CannotSettle(SQLiteStore):
    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        raise StoreUnavailable


async def test_a_poll_returns_what_it_leased_although_a_dead_letter_cannot_be_stored() -> None:
    store = CannotSettle(":memory:")
    await store.open()
    puller = make_puller(store, max_attempts=3)
    await store.register([puller.consumer])
    puller.start()
    await receive(store, [arrival_of(1, payload=b"damaged"), arrival_of(2)])

    pulled = await puller.poll(2, 0)
    await puller.stop()
    await store.close()

    assert [each.update.key for each in pulled] == [f"{2:032}"]


class SettlesLate(SQLiteStore):
    @override
    async def acknowledge(self, settlements: Sequence[Settlement]) -> Settled:
        return await self.settle(settlements)


@pytest.mark.long
def test_the_model_finds_a_store_that_settles_an_ended_lease() -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(on_sqlite(PullMachine, SettlesLate), steps=4000, phases=(Phase.generate,))
