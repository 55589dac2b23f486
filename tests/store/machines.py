"""State machines on SQLite, and how many steps of a state machine a test runs."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from typing_extensions import override

from tests.folders import in_memory
from tests.store.model import Clients
from wats.store.sqlite import SQLiteStore
from wats.testing import FakeClock

STEPS_PER_RUN = 50


def hold(
    machine: type[RuleBasedStateMachine], *, steps: int, phases: Sequence[Phase] = tuple(Phase)
) -> None:
    """Run *machine* for at most *steps*, and fail if it finds a broken promise."""
    options = settings(
        phases=phases,
        max_examples=max(steps // STEPS_PER_RUN, 1),
        stateful_step_count=STEPS_PER_RUN,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)


def on_sqlite(
    machine: type[Any], make: Callable[..., SQLiteStore] = SQLiteStore
) -> type[RuleBasedStateMachine]:
    """Return *machine* with stores on a new file for each run."""

    class OnSQLite(machine):  # type: ignore[misc]  # the class is a parameter
        @override
        def clients(self) -> Clients:
            self.folder = tempfile.mkdtemp(prefix="wats-model-", dir=in_memory())
            clock = FakeClock()
            return Clients(lambda: make(f"{self.folder}/wats.db", now=clock), clock.advance)

        @override
        def close(self) -> None:
            shutil.rmtree(self.folder)

    return OnSQLite
