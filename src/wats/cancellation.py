"""Distinguish the cancellation of this task from that of an awaited task or future."""

import asyncio


def is_for_this_task(error: BaseException) -> bool:
    """Return whether *error* ends this task and must be raised again.

    A coroutine that awaits a cancelled task raises `CancelledError` as well, although the caller
    was not cancelled. That is a failure like any other. So are `SystemExit` and
    `KeyboardInterrupt`: while the service runs, signals do not raise them.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit)
