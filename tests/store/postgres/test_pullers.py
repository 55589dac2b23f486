"""Pullers keep the promises of their state machine on PostgreSQL."""

import pytest

from tests.inbound.pull_machine import PullMachine
from tests.store.machines import hold
from tests.store.postgres.server import Server
from tests.store.postgres.test_state_machine import on_postgres


@pytest.mark.parametrize("steps", [40, pytest.param(400, marks=pytest.mark.long)])
def test_pullers_keep_every_promise_of_the_model_on_postgresql(
    server: Server, template: str, steps: int
) -> None:
    hold(on_postgres(PullMachine, server, template), steps=steps)
