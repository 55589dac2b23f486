import asyncio

import pytest

from wats.inbound.watchdog import Watchdog


async def test_what_takes_too_long_ends_with_a_timeout() -> None:
    watchdog = Watchdog(0.02)

    with pytest.raises(TimeoutError), watchdog.watch():
        await asyncio.Event().wait()

    await asyncio.sleep(0)  # the task goes on as if nothing had been


async def test_what_is_quick_enough_is_left_alone() -> None:
    watchdog = Watchdog(0.02)

    with watchdog.watch():
        await asyncio.sleep(0)

    await asyncio.sleep(0.05)


async def test_an_exception_of_what_is_watched_comes_through() -> None:
    with pytest.raises(ValueError, match="mine"), Watchdog(5).watch():
        raise ValueError("mine")


async def test_what_ignores_its_cancellation_has_timed_out_all_the_same() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    with pytest.raises(TimeoutError), Watchdog(0.02).watch():
        await stubborn()


async def test_each_of_many_tasks_has_its_own_time() -> None:
    watchdog = Watchdog(0.05)

    async def run(seconds: float) -> str:
        try:
            with watchdog.watch():
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "timeout"
        return "done"

    assert await asyncio.gather(run(0), run(5), run(0.001), run(5)) == [
        *("done", "timeout", "done", "timeout")
    ]


async def test_a_cancellation_from_outside_stays_one() -> None:
    watchdog = Watchdog(5)

    async def run() -> None:
        with watchdog.watch():
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_loop_that_ended_amid_a_watch_does_not_keep_the_next_from_being_watched() -> None:
    watchdog = Watchdog(0.02)

    async def forsake() -> None:
        watchdog.watch().__enter__()

    async def wait() -> None:
        with watchdog.watch():
            await asyncio.Event().wait()

    asyncio.run(forsake())
    with pytest.raises(TimeoutError):
        asyncio.run(wait())
