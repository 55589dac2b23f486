import asyncio

import pytest

from wats.inbound.watchdog import Watchdog


async def test_a_call_that_exceeds_its_limit_fails_with_a_timeout() -> None:
    failure = await Watchdog(0.02).run(asyncio.Event().wait)

    assert isinstance(failure, TimeoutError)


async def test_a_call_within_its_limit_does_not_fail() -> None:
    watchdog = Watchdog(0.02)

    assert await watchdog.run(asyncio.sleep, 0) is None

    await asyncio.sleep(0.05)


@pytest.mark.parametrize("error", [ValueError(), SystemExit("x"), GeneratorExit()])
async def test_an_exception_of_a_call_is_returned(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    assert await Watchdog(5).run(fail) is error


async def test_a_call_that_swallows_its_cancellation_and_returns_fails_with_a_timeout() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    assert isinstance(await Watchdog(0.02).run(stubborn), TimeoutError)


async def test_a_call_that_never_ends_is_abandoned() -> None:
    gate = asyncio.Event()

    async def endless() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    watchdog = Watchdog(0.02)

    assert isinstance(await watchdog.run(endless), TimeoutError)
    assert not watchdog.is_exhausted
    gate.set()


async def test_each_of_many_calls_has_its_own_limit() -> None:
    watchdog = Watchdog(0.05)

    failures = await asyncio.gather(*(watchdog.run(asyncio.sleep, each) for each in (0, 5, 0.001)))

    assert [type(failure) for failure in failures] == [type(None), TimeoutError, type(None)]


async def test_the_call_of_a_cancelled_caller_is_cancelled() -> None:
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set_result(True)

    task = asyncio.create_task(Watchdog(5).run(wait))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended


def test_a_loop_that_ended_during_a_call_does_not_affect_the_next() -> None:
    watchdog = Watchdog(0.02)

    async def forsake() -> None:
        forsaken.append(asyncio.ensure_future(watchdog.run(asyncio.Event().wait)))
        await asyncio.sleep(0)

    forsaken: list[asyncio.Future[BaseException | None]] = []
    asyncio.run(forsake())

    assert isinstance(asyncio.run(watchdog.run(asyncio.Event().wait)), TimeoutError)
