"""Pullers keep the promises of their state machine on SQLite; for PostgreSQL see its folder."""

import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from typing_extensions import override

from tests.folders import in_memory
from tests.inbound.pull_machine import PullMachine
from tests.store.model import Clients
from wats.store.records import Settled, Settlement
from wats.store.sqlite import SQLiteStore
from wats.testing import FakeClock

STEPS_PER_RUN = 40


def hold(machine: type[PullMachine], *, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    options = settings(
        phases=phases,
        max_examples=max(steps // STEPS_PER_RUN, 1),
        stateful_step_count=STEPS_PER_RUN,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)


def machine_of(make: Any) -> type[PullMachine]:
    class OnSQLite(PullMachine):
        @override
        def clients(self) -> Clients:
            self.folder = tempfile.mkdtemp(prefix="wats-model-", dir=in_memory())
            clock = FakeClock()
            return Clients(lambda: make(f"{self.folder}/wats.db", now=clock), clock.advance)

        @override
        def close(self) -> None:
            shutil.rmtree(self.folder)

    return OnSQLite


@pytest.mark.parametrize("steps", [400, pytest.param(6_000, marks=pytest.mark.long)])
def test_pullers_keep_every_promise_of_the_model_on_sqlite(steps: int) -> None:
    hold(machine_of(SQLiteStore), steps=steps)


class SettlesLate(SQLiteStore):
    @override
    async def acknowledge(self, settlements: Sequence[Settlement]) -> Settled:
        return await self.settle(settlements)


def test_the_model_finds_a_store_that_settles_an_ended_lease() -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(machine_of(SettlesLate), steps=4000, phases=(Phase.generate,))
