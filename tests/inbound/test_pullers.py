"""Pullers keep the promises of their state machine on SQLite; for PostgreSQL see its folder."""

from collections.abc import Sequence

import pytest
from hypothesis import Phase
from typing_extensions import override

from tests.inbound.pull_machine import PullMachine
from tests.store.machines import hold, on_sqlite
from wats.store.records import Settled, Settlement
from wats.store.sqlite import SQLiteStore


@pytest.mark.parametrize("steps", [400, pytest.param(6_000, marks=pytest.mark.long)])
def test_pullers_keep_every_promise_of_the_model_on_sqlite(steps: int) -> None:
    hold(on_sqlite(PullMachine), steps=steps)


class SettlesLate(SQLiteStore):
    @override
    async def acknowledge(self, settlements: Sequence[Settlement]) -> Settled:
        return await self.settle(settlements)


def test_the_model_finds_a_store_that_settles_an_ended_lease() -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(on_sqlite(PullMachine, SettlesLate), steps=4000, phases=(Phase.generate,))
