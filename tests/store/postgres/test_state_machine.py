"""PostgreSQL keeps the promises of the models of an inbox and of an outbox."""

from typing import Any

import pytest
from hypothesis import Phase
from hypothesis.stateful import RuleBasedStateMachine
from msgspec.structs import replace
from typing_extensions import override

from tests.store.conftest import NOON
from tests.store.machines import hold
from tests.store.model import Clients
from tests.store.postgres.lost_commits import InboxWithLostCommits, OutboxWithLostCommits
from tests.store.postgres.network import LosesCommits, through
from tests.store.postgres.server import Server, ServerClock
from wats.errors import StoreUnavailable
from wats.store.outbox import NewSend
from wats.store.postgres import PostgresStore, deliveries
from wats.store.postgres.connection import Connection, Database, Undo
from wats.store.records import Claimed, DeliveryState, Reservation, Settlement


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


class ForgetsLostLeases(PostgresStore):
    @override
    def _undo_soon(self, database: Database, undo: Undo[Any] | None, result: Any) -> None:
        pass


class RetriesOnly(PostgresStore):
    """A store that undoes a lost lease as if a call had failed."""

    @override
    def _undo_soon(self, database: Database, undo: Undo[Any] | None, result: Any) -> None:
        async def retry(connection: Connection, result: Any) -> None:
            if isinstance(result, Claimed):
                failed = [Settlement(each, DeliveryState.RETRY) for each in result.deliveries]
                await deliveries.settle(connection, failed)
            elif undo is not None:
                await undo(connection, result)

        super()._undo_soon(database, retry, result)


class StoresEachItemTwice(PostgresStore):
    @override
    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        try:
            return await super().enqueue(send, max_waiting=max_waiting)
        except StoreUnavailable:
            again = replace(send, key_hash=send.key_hash + b"again")
            await super().enqueue(again, max_waiting=max_waiting)
            raise


@pytest.mark.long
@pytest.mark.parametrize(
    ("machine", "broken"),
    [
        (InboxWithLostCommits, ForgetsLostLeases),
        (InboxWithLostCommits, RetriesOnly),
        (OutboxWithLostCommits, ForgetsLostLeases),
        (OutboxWithLostCommits, StoresEachItemTwice),
    ],
)
def test_the_model_finds_a_store_that_handles_lost_commits_wrongly(
    server: Server, template: str, machine: type[Any], broken: type[PostgresStore]
) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        hold(on_postgres(machine, server, template, broken), steps=5000, phases=(Phase.generate,))
