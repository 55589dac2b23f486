"""The in-process handlers of updates: async callables, each with a name that outlives restarts."""

import importlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from wats.errors import ConfigError, ConfigIssue
from wats.inbound.updates import Update
from wats.inbound.watchdog import Watchdog
from wats.telemetry import Telemetry, error_name
from wats.telemetry.vocabulary import Outcome, UpdateKind

Handler: TypeAlias = Callable[[Update], Awaitable[None]]
"""Called with one update at a time; whatever it returns is ignored, what it raises is a failure.

An update is handed over until the handler returns once. It can come again after that only if the
process dies between the return and the commit that follows, so a handler whose work must not be
done twice keeps `update.key`, which never changes.
"""


class Handlers:
    """Who handles which kinds of updates. Frozen when the service starts."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Handler, int]] = {}
        self._targets: dict[UpdateKind, tuple[str, ...]] = dict.fromkeys(UpdateKind, ())
        self._frozen = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all handlers, in the order in which they were added."""
        return tuple(self._handlers)

    def add(
        self, handler: Handler, kinds: Iterable[UpdateKind] = UpdateKind, name: str | None = None
    ) -> None:
        """Let *handler* have the updates of *kinds*; all kinds if none are named.

        The name, by default `module:qualified_name`, is kept in the store with every update that
        the handler is still to get: rename a handler only when its inbox is empty.

        Raises:
            ConfigError: There is a handler of this name, or the service has started.
        """
        name = name if name is not None else _name_of(handler)
        if self._frozen:
            raise _refusal(name, "add handlers before the service starts.")
        if name in self._handlers:
            raise _refusal(name, "there is another handler of this name; give one of them a name.")
        self._handlers[name] = handler, len(self._handlers)
        for kind in set(kinds):
            self._targets[kind] += (name,)

    def freeze(self) -> None:
        """Refuse further handlers."""
        self._frozen = True

    def targets(self, kind: UpdateKind) -> tuple[str, ...]:
        """Return the names of the handlers that want updates of *kind*."""
        return self._targets[kind]

    def __getitem__(self, name: str) -> tuple[Handler, int]:
        """Return the handler *name*, and its place among `names`, by which telemetry knows it."""
        return self._handlers[name]


class HandlerCalls:
    """Calls handlers and isolates their failures.

    Args:
        timeout_seconds: The time limit of one call.
    """

    def __init__(self, handlers: Handlers, *, telemetry: Telemetry, timeout_seconds: float) -> None:
        self._handlers = handlers
        self._telemetry = telemetry
        self._watchdog = Watchdog(timeout_seconds)

    @property
    def is_exhausted(self) -> bool:
        """Whether so many calls ignore their cancellation that no more can be abandoned."""
        return self._watchdog.is_exhausted

    async def call(self, target: str, update: Update) -> BaseException | None:
        """Call the handler *target* with *update*; record and return what it raised, of any class.

        Raises:
            CancelledError: The caller was cancelled; the call is abandoned.
        """
        began = time.perf_counter()
        handler, place = self._handlers[target]
        failure = await self._watchdog.run(handler, update)
        if failure is not None:
            self._telemetry.errors.record(failure)
        outcome = Outcome.SUCCESS if failure is None else Outcome.ERROR
        seconds = time.perf_counter() - began
        self._telemetry.dispatched(place, update.kind, outcome, seconds)
        return failure


def import_handler(reference: str) -> Handler:
    """Import the async callable that *reference*, `package.module:function`, names.

    Raises:
        ConfigError: There is no such module or function, or it cannot be called.
    """
    module_name, _, path = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, SystemExit, KeyboardInterrupt) as error:
        raise _refusal(reference, f"it cannot be imported: {error_name(error)}.") from error
    if not callable(found):
        raise _refusal(reference, "it cannot be called.")
    handler: Handler = found
    return handler


def _name_of(handler: Handler) -> str:
    kind = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{kind.__module__}:{kind.__qualname__}"


def _refusal(name: str, reason: str) -> ConfigError:
    return ConfigError([ConfigIssue("invalid_handler", f"handlers[{name}]", reason)])
