import asyncio
from typing import Any

import pytest

from wats.errors import StoreUnavailable
from wats.service.components import Consumers


class Part:
    """Stops together with others only: each waits until all are asked to stop."""

    def __init__(self, together: asyncio.Barrier, error: Exception | None = None) -> None:
        self.together = together
        self.error = error
        self.calls: list[object] = []

    async def start(self) -> None:
        self.calls.append("start")
        if self.error is not None:
            raise self.error

    async def stop(self, drain_seconds: float) -> None:
        self.calls.append(drain_seconds)
        await self.together.wait()


def consumers_of(dispatcher: Any, outbox: Any) -> Consumers:
    return Consumers(dispatcher, outbox, 10.0)


async def test_handlers_and_the_outbox_have_the_same_seconds_to_finish() -> None:
    together = asyncio.Barrier(2)
    dispatcher, outbox = Part(together), Part(together)
    consumers = consumers_of(dispatcher, outbox)
    await consumers.start()

    async with asyncio.timeout(60):
        await consumers.stop()

    assert dispatcher.calls == outbox.calls == ["start", 10.0]


async def test_no_handler_runs_if_the_outbox_cannot_start() -> None:
    together = asyncio.Barrier(2)
    dispatcher, outbox = Part(together), Part(together, StoreUnavailable())

    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailable):
            await consumers_of(dispatcher, outbox).start()

    assert dispatcher.calls == outbox.calls == ["start", 10.0]
