"""In-process handlers of updates: async callables with names that are stable across restarts."""

import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from wats.errors import ConfigError, ConfigIssue
from wats.inbound.failures import function_of
from wats.inbound.filters import Predicate, UpdateFilter, kinds_of
from wats.inbound.parts import Part
from wats.inbound.updates import Update
from wats.references import ImportFailed, import_reference
from wats.store.records import OUTBOX
from wats.telemetry.contract.values import UpdateKind
from wats.worker import Limit, unlimited

Handler: TypeAlias = Callable[[Update], Awaitable[object]]
"""Called with one update. Its result is ignored; an exception is a failure.

The call is retried until the handler returns. After that it is repeated only if the process dies
between the return and the following commit. Replies of the update are sent once; a handler with
another effect that must not happen twice records `update.key`, which is the same for every call.
"""


class RetryLater(Exception):
    """Raised by a handler that cannot handle an update now: it is called again after *seconds*.

    The attempt is not counted and not logged as a failure, so it brings no dead letter nearer.
    Later updates of the same conversation wait. The longest pause is an hour.

    Raises:
        ValueError: *seconds* is negative or not finite.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            msg = "The seconds of a pause must be finite and at least 0."
            raise ValueError(msg)
        super().__init__()
        self.seconds = seconds


_NOT_ASYNC = "it must be an async function, or an object whose __call__ is one."
_NO_PARAMETER = "it must accept one argument, the update."
_NAME_RESERVED = "this name is reserved for the messages that are sent later."
_TOO_LATE = "add handlers before the service starts."
_NAME_TAKEN = "another handler has this name; use a function with another name."


class Batch(NamedTuple):
    """How a handler takes several updates of a conversation in one call.

    Attributes:
        size: The maximum number of updates.
        handler: Called with two or more updates, in order. It handles all of them, or fails.
    """

    size: int
    handler: Callable[[Sequence[Update]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Target:
    """A handler, and the policy of its calls.

    Attributes:
        place: Its index in `Handlers.names`, which telemetry uses.
        concurrency: The number of concurrent calls, unless it is that of the config.
        schedule: The pauses (s) between attempts, unless they are those of the config.
        batch: How it takes several updates in one call, if it does.
        limit: Returns the number of calls that it can have at a time now.
    """

    handler: Handler
    place: int
    concurrency: int | None = None
    schedule: tuple[float, ...] = ()
    batch: Batch | None = None
    limit: Limit = unlimited


Consumers: TypeAlias = dict[UpdateKind, tuple[str, ...]]
"""The names of the handlers of each kind of update."""


class Handlers:
    """The consumers of each kind of update and number. Frozen by the start of the service.

    A consumer is a handler, or a puller, which has a name here and no handler.

    Args:
        only: The phone number ids of which updates are handled; those of all by default. Updates
            without a number are always handled.
    """

    def __init__(self, only: Iterable[str] | None = None) -> None:
        self._places: dict[str, int] = {}
        self._targets: dict[str, Target] = {}
        self._filters: dict[str, UpdateFilter] = {}
        numbers = () if only is None else (None, *only)
        self._of_number: dict[str | None, Consumers] = {each: _no_consumers() for each in numbers}
        self._of_others = _no_consumers()
        self._serves_others = only is None
        self._frozen = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all consumers, in the order of their addition."""
        return tuple(self._places)

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the consumers that have a handler."""
        return tuple(self._targets)

    def add(
        self,
        handler: Handler,
        kinds: Iterable[UpdateKind] = UpdateKind,
        name: str | None = None,
        *,
        concurrency: int | None = None,
        content: Collection[type[Part]] = (),
        where: Predicate | None = None,
        numbers: Collection[str] | None = None,
        schedule: tuple[float, ...] = (),
        batch: Batch | None = None,
        limit: Limit = unlimited,
    ) -> None:
        """Add *handler* for updates of *kinds*, by default of all kinds.

        It has at most *concurrency* concurrent calls, by default as many as the config permits. It
        gets only updates with a content of one of the classes *content*, if any, for which *where*
        returns true, and with *numbers*, phone number ids, only those of these numbers.
        *schedule* are the pauses (s) between its attempts, instead of those of the config. *limit*
        returns the number of calls that it can have at a time now; other updates wait. With
        *batch*, updates of one conversation that wait are handled in one call.

        The name, by default `module:qualified_name`, is stored with every delivery of the handler,
        so rename a handler only when its inbox is empty.

        Raises:
            ConfigError: The name is taken or reserved, the service has started, the filter can
                match no update, or *handler* is not an async callable of one argument: a plain
                function would block every other handler.
        """
        if inspect.isclass(handler) or not callable(handler):
            raise _refusal(name or type(handler).__name__, _NOT_ASYNC)
        name = name if name is not None else _name_of(handler)
        if reason := self._reason_against(handler, name):
            raise _refusal(name, reason)
        try:
            accepted = UpdateFilter.checked(content, where)
            wanted = kinds_of(set(kinds), accepted.contents)
        except ValueError as error:
            raise _refusal(name, str(error)) from None
        if accepted.selects:
            self._filters[name] = accepted
            handler = accepted.guard(handler)
        self._add(name, wanted, numbers)
        self._targets[name] = Target(handler, self.place(name), concurrency, schedule, batch, limit)

    def add_puller(
        self,
        name: str,
        kinds: Iterable[UpdateKind] = UpdateKind,
        numbers: Collection[str] | None = None,
    ) -> None:
        """Add the puller *name* for updates of *kinds*, and of *numbers* if any are given.

        Raises:
            ConfigError: The name is taken, or the service has started.
        """
        if reason := self._reason_against_name(name):
            raise _refusal(name, reason)
        self._add(name, set(kinds), numbers)

    def _add(
        self, name: str, kinds: Collection[UpdateKind], numbers: Collection[str] | None
    ) -> None:
        self._places[name] = len(self._places)
        for consumers in self._tables(numbers):
            for kind in kinds:
                consumers[kind] += (name,)

    def _tables(self, numbers: Collection[str] | None) -> Sequence[Consumers]:
        """Return the tables of consumers of *numbers*, or all tables."""
        if numbers is None:
            others = [self._of_others] if self._serves_others else []
            return [*self._of_number.values(), *others]
        if self._serves_others:
            for number in numbers:
                self._of_number.setdefault(number, dict(self._of_others))
        return [self._of_number[number] for number in numbers if number in self._of_number]

    def _reason_against(self, handler: Handler, name: str) -> str | None:
        """Return why *handler* cannot be added, if so."""
        if not _is_async(handler):
            return _NOT_ASYNC
        if not _accepts_update(handler):
            return _NO_PARAMETER
        return self._reason_against_name(name)

    def _reason_against_name(self, name: str) -> str | None:
        if self._frozen:
            return _TOO_LATE
        if name == OUTBOX:
            return _NAME_RESERVED
        return _NAME_TAKEN if name in self._places else None

    def freeze(self) -> None:
        """Refuse further handlers."""
        self._frozen = True

    def consumers(self, update: Update) -> tuple[str, ...]:
        """Return the names of the handlers that get *update*."""
        names = self._of_number.get(update.phone_number_id, self._of_others)[update.kind]
        if not self._filters:
            return names
        return tuple(name for name in names if self._selects(name, update))

    def _selects(self, name: str, update: Update) -> bool:
        accepted = self._filters.get(name)
        return accepted is None or accepted.may_match(update)

    def __getitem__(self, name: str) -> Target:
        """Return the handler *name*, with its policy."""
        return self._targets[name]

    def place(self, name: str) -> int:
        """Return the index of the consumer *name* in `names`, which telemetry uses."""
        return self._places[name]


def _no_consumers() -> Consumers:
    return dict.fromkeys(UpdateKind, ())


def import_handler(reference: str) -> Handler:
    """Import the async callable with the *reference* `package.module:function`.

    Raises:
        ConfigError: The module or function does not exist, or cannot be called.
    """
    try:
        found = import_reference(reference)
    except ImportFailed as error:
        raise _refusal(reference, f"it cannot be imported: {error}.") from error
    if not callable(found):
        raise _refusal(reference, "it cannot be called.")
    handler: Handler = found
    return handler


def _is_async(handler: Handler) -> bool:
    function = function_of(handler)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def _accepts_update(handler: Handler) -> bool:
    """Return false only if a call with one argument would certainly fail."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # not every callable has one
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _name_of(handler: Handler) -> str:
    kind = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{kind.__module__}:{kind.__qualname__}"


def _refusal(name: str, reason: str) -> ConfigError:
    return ConfigError([ConfigIssue("invalid_handler", f"handlers[{name}]", reason)])
