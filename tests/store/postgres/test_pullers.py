"""Pullers keep the promises of their state machine on PostgreSQL."""

from collections.abc import Callable

import pytest

from tests.inbound.pull_machine import PullMachine
from tests.store.machines import hold
from tests.store.postgres.test_state_machine import machine_of


@pytest.mark.parametrize("steps", [40, pytest.param(400, marks=pytest.mark.long)])
def test_pullers_keep_every_promise_of_the_model_on_postgresql(
    url_of: Callable[[str], str], template: str, steps: int
) -> None:
    hold(machine_of(PullMachine, url_of, template), steps=steps)
