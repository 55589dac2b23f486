"""Rules over several keys of an object. No I/O."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from wats.errors import Detail


class Rule(Protocol):
    """A rule over several keys of an object."""

    def mistakes(self, fields: Mapping[str, Any], prefix: str) -> Iterator[Detail]:
        """Yield how *fields* break the rule; *prefix* precedes its keys in paths."""

    def schema(self) -> dict[str, Any]:
        """Return the rule as JSON schema, empty if that cannot state the rule."""

    def describe(self) -> str:
        """Return the rule in words."""


class OneOf(msgspec.Struct, frozen=True):
    """Exactly one of some keys; if not `required`, at most one."""

    names: tuple[str, ...]
    required: bool = True

    def mistakes(self, fields: Mapping[str, Any], prefix: str) -> Iterator[Detail]:
        """Yield how *fields* break the rule."""
        first, *others = given = [name for name in self.names if name in fields] or [""]
        if given == [""] and self.required:
            yield Detail(f"{prefix}{self.names[0]}", _needed(self.names))
        for name in others:
            yield Detail(f"{prefix}{name}", f"must not be combined with '{first}'")

    def schema(self) -> dict[str, Any]:
        """Return the rule as JSON schema."""
        alone: list[dict[str, Any]] = [{"required": [name]} for name in self.names]
        none: list[dict[str, Any]] = [{"not": {"anyOf": alone}}]
        return {"oneOf": alone if self.required else alone + none}

    def describe(self) -> str:
        """Return the rule in words."""
        return f"{'Exactly' if self.required else 'At most'} one of {_listed(self.names)}."


class AnyOf(msgspec.Struct, frozen=True):
    """At least one of some keys, each with its spellings."""

    names: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    def mistakes(self, fields: Mapping[str, Any], prefix: str) -> Iterator[Detail]:
        """Yield how *fields* break the rule."""
        if not any(name in fields for name in (*self.names, *self.aliases)):
            yield Detail(f"{prefix}{self.names[0]}", _needed(self.names))

    def schema(self) -> dict[str, Any]:
        """Return the rule as JSON schema."""
        return {"anyOf": [{"required": [name]} for name in (*self.names, *self.aliases)]}

    def describe(self) -> str:
        """Return the rule in words."""
        return f"At least one of {_listed(self.names)}."


class Total(msgspec.Struct, frozen=True):
    """The highest number of items in the arrays `items` of all objects in the array `groups`."""

    groups: str
    items: str
    high: int

    def mistakes(self, fields: Mapping[str, Any], prefix: str) -> Iterator[Detail]:
        """Yield how *fields* break the rule."""
        groups = fields.get(self.groups)
        lists = [
            group.get(self.items)
            for group in (groups if isinstance(groups, list) else ())
            if isinstance(group, dict)
        ]
        if sum(len(each) for each in lists if isinstance(each, list)) > self.high:
            yield Detail(f"{prefix}{self.groups}", f"must have at most {self.high} '{self.items}'")

    def schema(self) -> dict[str, Any]:
        """Return nothing: JSON schema cannot add lengths."""
        return {}

    def describe(self) -> str:
        """Return the rule in words."""
        return f"At most {self.high} `{self.items}` in all `{self.groups}`."


def _needed(names: tuple[str, ...]) -> str:
    others = " or ".join(f"'{name}'" for name in names[1:])
    return f"must be given unless {others} is"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
