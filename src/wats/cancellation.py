"""Cancellation: whether it is meant for this task, and results whose caller was cancelled."""

import asyncio
from typing import Any


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


def resolve(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    """Resolve *future* with the result or error, unless its caller was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
