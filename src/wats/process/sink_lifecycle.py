"""The telemetry sink that a config file names: made when the service starts, closed at its end."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, Final

from wats.errors import ConfigError, ConfigIssue
from wats.references import ImportFailed, import_reference, reason_of
from wats.telemetry import TelemetrySink
from wats.telemetry.sinks.isolation import FailureLog

CLOSE_SECONDS: Final = 7.0
"""The time limit of closing a sink. A `BufferedSink` and an `OtelSink` take 5 s at most."""


@asynccontextmanager
async def opened_sink(
    reference: str | None, *, close_seconds: float = CLOSE_SECONDS
) -> AsyncIterator[TelemetrySink | None]:
    """Make the sink that *reference*, `package.module:function`, returns; close it at the end.

    Its `close` method, if any, plain or a coroutine function, is called in a thread of its own. An
    exception, or a timeout, is logged and contained.

    Raises:
        ConfigError: The function cannot be imported or called, or raises.
    """
    if reference is None:
        yield None
        return
    sink = _make(reference)
    try:
        yield sink
    finally:
        await _close(sink, close_seconds)


def _make(reference: str) -> TelemetrySink:
    try:
        make: Any = import_reference(reference)
    except ImportFailed as error:
        raise _refusal(f"{reference!r} cannot be imported: {error}.") from error
    try:
        sink: TelemetrySink = make()
    except ConfigError:
        raise  # its message has the fault and its position
    except BaseException as error:
        raise _refusal(f"{reference!r} cannot be called: {reason_of(error)}.") from error
    return sink


def _refusal(reason: str) -> ConfigError:
    issue = ConfigIssue("invalid_telemetry_sink", "telemetry.sink", reason)
    return ConfigError([issue], "The telemetry sink cannot be made.")


async def _close(sink: TelemetrySink, seconds: float) -> None:
    close = getattr(sink, "close", None)
    if not callable(close):
        return
    failures = FailureLog("wats.telemetry.sink.error")

    def call() -> object:
        try:
            return close()
        except BaseException as error:
            failures.report("close", error)
            return None

    closing = asyncio.create_task(_failure_of(call))
    try:
        await asyncio.wait({closing}, timeout=seconds)
    finally:
        closing.cancel()  # not awaited, as a coroutine can ignore it
    error = closing.result() if closing.done() else TimeoutError()
    if error is not None:
        failures.report("close", error)


async def _failure_of(call: Callable[[], object]) -> BaseException | None:
    """Return the exception of the coroutine that *call* returns, if it returns one that fails."""
    try:
        result = await _in_a_thread(call)
        if inspect.isawaitable(result):
            await result
    except BaseException as error:
        return error
    return None


async def _in_a_thread(call: Callable[[], object]) -> object:
    """Return the result of *call*, which raises nothing.

    Its thread is a daemon: if it never ends, the process still does. The loop's own executor would
    be waited for.
    """
    done: Future[object] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()  # from here on, a cancelled caller does not cancel it
        done.set_result(call())

    threading.Thread(target=run, name="wats-sink-close", daemon=True).start()
    return await asyncio.wrap_future(done)
