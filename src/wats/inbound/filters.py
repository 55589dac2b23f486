"""The filter of a handler: the classes of content and the predicate that select its updates."""

import inspect
from collections.abc import Awaitable, Callable, Collection
from functools import update_wrapper
from typing import TypeAlias, cast

import msgspec

from wats.inbound.parts import Part
from wats.inbound.typed import CONTENTS
from wats.inbound.updates import Update
from wats.telemetry.contract.values import UpdateKind

Predicate: TypeAlias = Callable[[Update], bool]
"""Returns whether a handler gets an update, from the update alone, without waiting."""

_Call: TypeAlias = Callable[[Update], Awaitable[object]]
_KNOWN = frozenset(each for contents in CONTENTS.values() for each in contents)


class UpdateFilter(msgspec.Struct, frozen=True):
    """Selects updates by the class of their content, and by a predicate.

    Attributes:
        contents: The classes; any content, or none, is accepted if there are no classes.
        where: The predicate, if there is one.
    """

    contents: tuple[type[Part], ...]
    where: Predicate | None

    @classmethod
    def checked(cls, contents: Collection[object], where: object) -> "UpdateFilter":
        """Return the filter.

        Raises:
            ValueError: A class is not one that the content of an update has, or *where* cannot be
                called with an update. The result of an async function would always be true.
        """
        for each in contents:
            if not isinstance(each, type) or each not in _KNOWN:
                msg = "content must be a class of Update.content, such as Text, or several."
                raise ValueError(msg)
        if where is not None and (not callable(where) or not _is_plain(where)):
            msg = "where must be a plain function of one argument, the update."
            raise ValueError(msg)
        return cls(contents=cast("tuple[type[Part], ...]", tuple(contents)), where=where)

    @property
    def selects(self) -> bool:
        """Whether there are updates that the filter rejects."""
        return bool(self.contents) or self.where is not None

    def matches(self, update: Update) -> bool:
        """Return whether *update* is accepted.

        Raises:
            Exception: The predicate failed.
        """
        if self.contents and not isinstance(update.content, self.contents):
            return False
        return self.where is None or bool(self.where(update))

    def may_match(self, update: Update) -> bool:
        """Return false if *update* is certainly rejected; true if the predicate fails."""
        try:
            return self.matches(update)
        except BaseException:  # SystemExit of a predicate would end the process
            return True

    def guard(self, handler: _Call) -> _Call:
        """Return *handler* as one that ignores rejected updates.

        A stored delivery may be older than the filter. A failure of the predicate is one of the
        handler, so that it is logged and retried.
        """

        async def guarded(update: Update) -> None:
            if self.matches(update):
                await handler(update)

        return update_wrapper(guarded, handler)


def kinds_of(
    kinds: Collection[UpdateKind], contents: Collection[type[Part]]
) -> Collection[UpdateKind]:
    """Return those of *kinds* that can have one of *contents*.

    Raises:
        ValueError: One of *kinds*, unless these are all, or one of *contents* can never match.
    """
    if not contents:
        return kinds
    matching = {kind for kind in kinds if not set(contents).isdisjoint(CONTENTS[kind])}
    for each in contents:
        if not any(each in CONTENTS[kind] for kind in matching):
            msg = f"{each.__name__} is the content of no update with these kinds."
            raise ValueError(msg)
    others = sorted(kind.value for kind in set(kinds) - matching)
    if others and len(kinds) < len(UpdateKind):
        msg = f"an update of the kind {others[0]} never has such content."
        raise ValueError(msg)
    return matching


def _is_plain(where: Callable[..., object]) -> bool:
    if inspect.iscoroutinefunction(where):
        return False
    try:
        inspect.signature(where).bind(None)
    except TypeError:
        return False
    except ValueError:  # not every callable has a signature
        pass
    return True
