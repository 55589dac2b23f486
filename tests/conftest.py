import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    # `&` in a script ignores SIGINT, and nohup SIGHUP. Child processes inherit an ignored signal,
    # so no command that the tests start would end on it. They do not inherit a handler.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)

    # An example may take long on a machine that has other work.
    few = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
    settings.register_profile("few", few)
    settings.register_profile("many", few, max_examples=100)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_finish() -> None:
    """Exclude what was collected from garbage collection, which takes a tenth of the time."""
    gc.collect()
    gc.freeze()
