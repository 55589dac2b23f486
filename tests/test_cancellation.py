import asyncio

import pytest

from wats.cancellation import is_for_this_task


async def test_the_cancellation_of_this_task_goes_on() -> None:
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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_ends_the_process_goes_on(error: BaseException) -> None:
    assert is_for_this_task(error)


def test_any_other_error_is_a_failure() -> None:
    assert not is_for_this_task(ValueError())
