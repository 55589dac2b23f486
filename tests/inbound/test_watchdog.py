import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wats.inbound.watchdog import Call, Watchdog

Failure = BaseException | None


def start(
    watchdog: Watchdog, function: Callable[[Any], Awaitable[object]], argument: object = None
) -> "asyncio.Future[Failure]":
    """Start a call, and return the future of its exception."""
    return start_cancellable(watchdog, function, argument)[0]


def start_cancellable(
    watchdog: Watchdog, function: Callable[[Any], Awaitable[object]], argument: object = None
) -> tuple["asyncio.Future[Failure]", Callable[[], None]]:
    """Start a call; return the future of its exception, and a function that cancels the call."""
    ended: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()

    class TestedCall(Call):
        def ended(self, failure: Failure) -> None:
            if not ended.done():
                ended.set_result(failure)

    call = TestedCall()
    watchdog.start(call, function, argument)
    return ended, call.cancel


async def forever(_: object) -> None:
    await asyncio.Event().wait()


async def test_a_call_that_exceeds_its_limit_fails_with_a_timeout() -> None:
    failure = await start(Watchdog(0.02), forever)

    assert isinstance(failure, TimeoutError)


async def test_a_call_within_its_limit_does_not_fail() -> None:
    watchdog = Watchdog(0.02)

    assert await start(watchdog, asyncio.sleep, 0) is None

    await asyncio.sleep(0.05)


async def test_a_call_does_not_depend_on_the_task_factory_of_the_loop() -> None:
    def refuse(_loop: object, _coroutine: object, **_: object) -> "asyncio.Task[Any]":
        raise AssertionError

    loop = asyncio.get_running_loop()
    loop.set_task_factory(refuse)
    ended = start(Watchdog(60), asyncio.sleep, 0)
    loop.set_task_factory(None)

    assert await ended is None


@pytest.mark.parametrize("error", [ValueError(), SystemExit("x"), GeneratorExit()])
async def test_an_exception_of_a_call_is_returned(error: BaseException) -> None:
    async def fail(_: object) -> None:
        raise error

    assert await start(Watchdog(60), fail) is error


async def test_a_call_that_swallows_its_cancellation_and_returns_fails_with_a_timeout() -> None:
    async def stubborn(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    assert isinstance(await start(Watchdog(0.02), stubborn), TimeoutError)


async def test_a_call_that_never_ends_is_abandoned() -> None:
    gate = asyncio.Event()

    async def endless(_: object) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    watchdog = Watchdog(0.02)

    assert isinstance(await start(watchdog, endless), TimeoutError)
    assert not watchdog.is_exhausted
    gate.set()


async def test_each_of_many_calls_has_its_own_limit() -> None:
    watchdog = Watchdog(0.05)

    failures = await asyncio.gather(*(start(watchdog, asyncio.sleep, each) for each in (0, 60, 0)))

    assert [type(failure) for failure in failures] == [type(None), TimeoutError, type(None)]


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_call_that_is_cancelled_ends_with_its_cancellation(has_begun: bool) -> None:
    ended, cancel = start_cancellable(Watchdog(60), forever)
    if has_begun:
        await asyncio.sleep(0.01)

    cancel()

    assert isinstance(await ended, asyncio.CancelledError)


async def test_a_call_whose_task_others_cancel_before_it_begins_ends_with_its_limit() -> None:
    before = asyncio.all_tasks()
    ended = start(Watchdog(0.02), forever)

    for task in asyncio.all_tasks() - before:
        task.cancel()

    assert isinstance(await ended, asyncio.CancelledError)


def test_a_loop_that_ended_during_a_call_does_not_affect_the_next() -> None:
    watchdog = Watchdog(0.02)

    async def forsake() -> None:
        start(watchdog, forever)
        await asyncio.sleep(0)

    async def wait() -> Failure:
        return await start(watchdog, forever)

    asyncio.run(forsake())

    assert isinstance(asyncio.run(wait()), TimeoutError)
