import signal

import pytest


def pytest_configure() -> None:
    # `&` in a script ignores SIGINT, and nohup SIGHUP. Child processes inherit an ignored signal,
    # so no command that the tests start would end on it. They do not inherit a handler.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
