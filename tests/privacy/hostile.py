"""Code of an operator that fails in every way, and records the data it received."""

import asyncio
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import datetime
from itertools import count, cycle
from pathlib import Path
from typing import Any

NUMBERS_THAT_COUNT = 1_000_000
"""Numbers in calls of a sink are shorter than a phone number."""


class Unspeakable(Exception):
    """Cannot be shown without another failure."""

    def __str__(self) -> str:
        raise RuntimeError(self.args[0])

    __repr__ = __str__


class Nameless(type):
    """The class of classes that fail when their names are read."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError(str(vars(cls)["text"]))


class Dying:
    """Fails after the last test has looked at it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        raise RuntimeError(self._text)


def named_by(text: str, base: type[BaseException] = RuntimeError, **more: Any) -> BaseException:
    """Return an exception whose class is named *text*."""
    return type(text.replace("\0", ""), (base,), more)(text)


def chained(text: str) -> BaseException:
    error = KeyError(text)
    error.__cause__ = named_by(text, ValueError)
    error.__cause__.__context__ = OSError(5, text, text)
    error.add_note(text)
    return error


def errors_of(text: str) -> dict[str, Callable[[], BaseException]]:
    """Return the ways to raise something that quotes *text*."""
    return {
        "text": lambda: RuntimeError(text),
        "name": lambda: named_by(text),
        "name in builtins": lambda: named_by(
            text, __module__="builtins", __qualname__="ValueError"
        ),
        "name that is no text": lambda: named_by("X", __module__=[text]),
        "name that fails": lambda: Nameless("X", (Exception,), {"text": text})(text),
        "base": lambda: named_by(text, BaseException),
        "unspeakable": lambda: Unspeakable(text),
        "chain": lambda: chained(text),
        "group": lambda: ExceptionGroup(text, [named_by(text), Unspeakable(text)]),
        "cancelled": lambda: asyncio.CancelledError(text),
        "timeout": lambda: TimeoutError(text),
        "file": lambda: FileNotFoundError(2, text, text),
        "decoding": lambda: UnicodeDecodeError(text, text.encode(), 0, 1, text),
        "stop": lambda: StopAsyncIteration(text),
        "exit": lambda: SystemExit(text),
        "interrupt": lambda: KeyboardInterrupt(text),
        "generator": lambda: GeneratorExit(text),
    }


async def _fail(text: str) -> None:
    raise named_by(text)


def _fail_now(text: str) -> None:
    raise named_by(text)


def noises_of(text: str) -> dict[str, Callable[[], object]]:
    """Return the ways to leak data without raising an exception."""
    loop = asyncio.get_running_loop()
    return {
        "logs": lambda: logging.getLogger(text).error(text, exc_info=named_by(text)),
        "logs without a logger": lambda: logging.error(text),  # noqa: LOG015 - as handlers do
        "warns": lambda: warnings.warn(text, RuntimeWarning, stacklevel=1),
        "task": lambda: loop.create_task(_fail(text), name=text),
        "callback": lambda: loop.call_soon(_fail_now, text),
        "future": lambda: loop.run_in_executor(None, _fail_now, text),
        "handler": lambda: loop.call_exception_handler(
            {"message": text, "exception": named_by(text)}
        ),
        "thread": lambda: threading.Thread(target=_fail_now, args=(text,), name=text).start(),
        "finalizer": lambda: Dying(text),
        "forgotten": lambda: _fail(text),
    }


_turns = count()


async def fail(update: Any) -> None:
    """Handle *update* in another way each time: by an error, a noise, a reply, or without any."""
    text = json.dumps(update.raw, ensure_ascii=False)
    errors, noises = list(errors_of(text).values()), list(noises_of(text).values())
    turn = next(_turns) % (len(errors) + len(noises) + 2)
    if turn < len(errors):
        raise errors[turn]()
    if turn == len(errors) + len(noises):
        await update.reply(text)
    for make in noises[turn - len(errors) :][:1]:
        make()


async def start_child(update: Any) -> None:
    """Start a process that connects, and ignore its result."""
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await child.wait()


async def listen(update: Any) -> None:
    """Handle *update* without output."""


async def shout(update: Any) -> None:
    """Handle *update* by printing it everywhere."""
    text = json.dumps(update.raw)
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)


class Sink:
    """Records every argument, then fails with the strings that it received."""

    def __init__(self) -> None:
        self._file = Path(os.environ["SINK_FILE"]).open("a")  # noqa: SIM115 - as long as the sink
        self._known: set[object] = set()
        words = os.environ["SINK_WORDS"].split(",")
        self._errors = cycle([make for word in words for make in errors_of(word).values()])

    def _record(self, method: str, name: str, attributes: Any, *numbers: object) -> None:
        known = (method, name, repr(attributes))
        telling = [n for n in numbers if not isinstance(n, int | float) or n >= NUMBERS_THAT_COUNT]
        if known not in self._known or telling:
            self._known.add(known)
            call = {"method": method, "name": name, "attributes": repr(attributes)}
            self._file.write(json.dumps({**call, "values": repr(numbers)}) + "\n")
            self._file.flush()
        raise next(self._errors)()

    def close(self) -> None:
        self._record("close", "", {})

    def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        self._record("increment_counter", name, attributes, value)

    def record_histogram(self, name: str, value_seconds: float, attributes: Any) -> None:
        self._record("record_histogram", name, attributes, value_seconds)

    def record_span(self, name: str, start: datetime, end: datetime, attributes: Any) -> None:
        self._record("record_span", name, attributes, start.year, end.year)

    def record_event(self, name: str, attributes: Any, timestamp: datetime) -> None:
        self._record("record_event", name, attributes, timestamp.year)

    def set_gauge(self, name: str, value: float, attributes: Any) -> None:
        self._record("set_gauge", name, attributes, value)


class TracedSink(Sink):
    """Receives also the places of spans in traces, for which `traceparent` is read."""

    def record_span(
        self, name: str, start: datetime, end: datetime, attributes: Any, span: Any = None
    ) -> None:
        self._record("record_span", name, attributes, start.year, end.year, span)


class AsyncSink(Sink):
    """Does the same, and fails later."""

    async def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        await asyncio.sleep(0)
        self._record("increment_counter", name, attributes, value)

    async def record_histogram(self, name: str, value_seconds: float, attributes: Any) -> None:
        await asyncio.sleep(0)
        self._record("record_histogram", name, attributes, value_seconds)
