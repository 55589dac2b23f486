"""PostgreSQL keeps the promises of the models of an inbox and of an outbox."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from hypothesis.stateful import RuleBasedStateMachine
from typing_extensions import override

from tests.store.machines import hold
from tests.store.model import Clients, InboxMachine
from tests.store.outbox_model import OutboxMachine
from wats.store.postgres import PostgresStore

FREEZE = """
CREATE OR REPLACE FUNCTION wats_now() RETURNS bigint LANGUAGE sql STABLE AS
'SELECT 1790000000000 + shift FROM wats_clock'
"""
"""Only the tests move this clock on."""


def execute(url: str, statement: str, *values: int) -> None:
    """Execute *statement* on a connection and a loop of its own."""

    async def connected() -> None:
        connection: Any = await asyncpg.connect(url)
        await connection.execute(statement, *values)
        await connection.close()

    asyncio.run(connected())


_NUMBERS = itertools.count(1)


def machine_of(
    machine: type[Any], url_of: Callable[[str], str], template: str
) -> type[RuleBasedStateMachine]:
    class OnPostgres(machine):  # type: ignore[misc]  # the class is a parameter
        @override
        def clients(self) -> Clients:
            self.name = f"model_{next(_NUMBERS)}"
            execute(url_of("postgres"), f"CREATE DATABASE {self.name} TEMPLATE {template}")
            execute(url_of(self.name), FREEZE)
            return Clients(lambda: PostgresStore(url_of(self.name)), self.shift_clock)

        def shift_clock(self, seconds: int) -> None:
            statement = "UPDATE wats_clock SET shift = shift + $1"
            execute(url_of(self.name), statement, seconds * 1000)

        @override
        def close(self) -> None:
            execute(url_of("postgres"), f"DROP DATABASE {self.name} WITH (FORCE)")

    return OnPostgres


@pytest.mark.parametrize("steps", [50, pytest.param(500, marks=pytest.mark.long)])
def test_postgresql_keeps_every_promise_of_the_model(
    url_of: Callable[[str], str], template: str, steps: int
) -> None:
    hold(machine_of(InboxMachine, url_of, template), steps=steps)


@pytest.mark.parametrize("steps", [50, pytest.param(500, marks=pytest.mark.long)])
def test_postgresql_keeps_every_promise_of_the_outbox(
    url_of: Callable[[str], str], template: str, steps: int
) -> None:
    hold(machine_of(OutboxMachine, url_of, template), steps=steps)
