import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    # `&` in a script ignores SIGINT, and nohup SIGHUP. Child processes inherit an ignored signal,
    # so no command that the tests start would end on it. They do not inherit a handler.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)

    # An example may take long on a machine that has other work.
    few = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=15)
    settings.register_profile("few", few)
    settings.register_profile("many", few, max_examples=100)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In the first ring, load no module whose tests all are long: some load large packages."""
    if collection_path.suffix != ".py" or config.getoption("markexpr") != "not long":
        return None
    source = collection_path.read_text("utf-8")
    return "\npytestmark = pytest.mark.long\n" in source or None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_finish() -> None:
    """Exclude what was collected from garbage collection, which takes a tenth of the time."""
    gc.collect()
    gc.freeze()
