"""Cancellation: whether it is meant for this task, lost callers, and tasks that outlast it."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""The work of a task, which never returns."""

OnEnd: TypeAlias = Callable[[BaseException], None]
"""Called with the exception that ended a task."""


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


class LastingTasks:
    """Tasks that only `cancel` ends, although any code in the process can cancel or end a task.

    One that ends for another reason is replaced.

    Args:
        pause_seconds: The time between the end of a task and its replacement.
    """

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False

    def __len__(self) -> int:
        """Return the number of tasks that run."""
        return len(self._tasks)

    def start(self, run: Run, on_end: OnEnd = lambda _: None) -> None:
        """Run *run* on the running loop, and call *on_end* each time before it is replaced."""
        if not self._is_ending:
            task = asyncio.create_task(run())
            self._tasks.add(task)
            task.add_done_callback(partial(self._replace, run, on_end))

    def _replace(self, run: Run, on_end: OnEnd, ended: "asyncio.Task[None]") -> None:
        self._tasks.discard(ended)
        error = None if ended.cancelled() else ended.exception()
        if not self._is_ending:
            on_end(error or asyncio.CancelledError())
            ended.get_loop().call_later(self._pause_seconds, self.start, run, on_end)

    async def cancel(self, timeout_seconds: float | None = None) -> None:
        """Cancel all tasks, and wait for their ends up to *timeout_seconds*. Start no others."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
