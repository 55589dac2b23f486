"""Whose cancellation is it: that of this task, or that of something it waited for?"""

import asyncio


def is_for_this_task(error: BaseException) -> bool:
    """Tell whether *error* must go on because it ends this task, or the process.

    A coroutine that awaits a task that somebody cancelled raises `CancelledError` as well, though
    nobody wants to end the one who called it. That is a failure like any other.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
