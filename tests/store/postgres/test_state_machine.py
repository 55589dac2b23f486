"""PostgreSQL keeps the promises of the models of an inbox and of an outbox."""

from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine
from typing_extensions import override

from tests.store.conftest import NOON
from tests.store.machines import hold
from tests.store.model import Clients
from tests.store.postgres.lost_commits import InboxWithLostCommits, OutboxWithLostCommits
from tests.store.postgres.network import LosesCommits, through
from tests.store.postgres.server import Server, ServerClock
from wats.store.postgres import PostgresStore


def on_postgres(
    machine: type[Any],
    server: Server,
    template: str,
    make: type[PostgresStore] = PostgresStore,
) -> type[RuleBasedStateMachine]:
    """Return *machine* with stores on an empty database of *server* for each run."""

    class OnPostgres(machine):  # type: ignore[misc]  # the class is a parameter
        @override
        def clients(self) -> Clients:
            clock = ServerClock(server.folder, NOON)
            self.name = server.take_database(template, clock)
            self.network = LosesCommits(server)
            url = through(self.run(self.network.start()), server.url(self.name))
            return Clients(lambda: make(url), clock.advance)

        @override
        def close(self) -> None:
            self.run(self.network.stop())
            server.give_back(self.name)

    return OnPostgres


@pytest.mark.parametrize("steps", [100, pytest.param(10_000, marks=pytest.mark.long)])
def test_postgresql_keeps_every_promise_of_the_model(
    server: Server, template: str, steps: int
) -> None:
    hold(on_postgres(InboxWithLostCommits, server, template), steps=steps)


@pytest.mark.parametrize("steps", [100, pytest.param(2000, marks=pytest.mark.long)])
def test_postgresql_keeps_every_promise_of_the_outbox(
    server: Server, template: str, steps: int
) -> None:
    hold(on_postgres(OutboxWithLostCommits, server, template), steps=steps)
