"""Pullers keep the promises of their state machine on PostgreSQL."""

import itertools
from collections.abc import Callable

import pytest
from typing_extensions import override

from tests.inbound.pull_machine import PullMachine
from tests.inbound.test_pullers import hold
from tests.store.model import Clients
from tests.store.postgres.test_state_machine import FREEZE, execute
from wats.store.postgres import PostgresStore


def machine_of(url_of: Callable[[str], str], template: str) -> type[PullMachine]:
    numbers = itertools.count(1)

    class OnPostgres(PullMachine):
        @override
        def clients(self) -> Clients:
            self.name = f"pulled_{next(numbers)}"
            execute(url_of("postgres"), f"CREATE DATABASE {self.name} TEMPLATE {template}")
            execute(url_of(self.name), FREEZE)
            return Clients(lambda: PostgresStore(url_of(self.name)), self.advance)

        def advance(self, seconds: int) -> None:
            statement = "UPDATE wats_clock SET shift = shift + $1"
            execute(url_of(self.name), statement, seconds * 1000)

        @override
        def close(self) -> None:
            execute(url_of("postgres"), f"DROP DATABASE {self.name} WITH (FORCE)")

    return OnPostgres


@pytest.mark.parametrize("steps", [40, pytest.param(400, marks=pytest.mark.long)])
def test_pullers_keep_every_promise_of_the_model_on_postgresql(
    url_of: Callable[[str], str], template: str, steps: int
) -> None:
    hold(machine_of(url_of, template), steps=steps)
