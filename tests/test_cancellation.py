import asyncio

import pytest

from wats.cancellation import is_for_this_task


async def test_the_cancellation_of_this_task_is_raised_again() -> None:
    async def run() -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            return is_for_this_task(error)
        return False

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()

    assert await task


async def test_the_cancellation_of_something_that_was_awaited_is_a_failure() -> None:
    other = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    other.cancel()

    with pytest.raises(asyncio.CancelledError) as caught:
        await other
    assert not is_for_this_task(caught.value)


def test_the_end_of_a_coroutine_is_raised_again() -> None:
    assert is_for_this_task(GeneratorExit())


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_any_other_error_is_a_failure(error: BaseException) -> None:
    assert not is_for_this_task(error)
