"""The kinds of values in a composer body: how each is checked, built, and described. No I/O.

A kind has four methods: `mistakes` yields the faults of a value, `build` converts a valid value to
Graph's form, `schema` returns its JSON schema, and `describe` its valid values in words. `UNSET` as
the result of `build` omits the member. Lengths are in code points, as in JSON Schema.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Protocol, TypeAlias

import msgspec

from wats.errors import Detail
from wats.outbound.composers.rules import AnyOf, Rule
from wats.outbound.messages import text_mistakes, unknown_keys, with_line_feeds

Json: TypeAlias = dict[str, Any]


class Value(Protocol):
    """A kind of value."""

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*, which is at *path*; if *strict*, also unknown keys."""

    def build(self, value: Any) -> Any:
        """Return the valid *value* in Graph's form."""

    def schema(self) -> Json:
        """Return the JSON schema of a valid value."""

    def describe(self) -> str:
        """Return the valid values in words."""


class TextValue(msgspec.Struct, frozen=True):
    """A text, not blank.

    Attributes:
        max_length: The highest number of code points.
        lines: Whether it may have line ends and tabs.
        pattern: A regular expression that it must match, with `form` as its wording.
    """

    max_length: int
    lines: bool = False
    pattern: str | None = None
    form: str = ""

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*."""
        del strict
        found = list(text_mistakes(value, path, self.max_length, lines=self.lines))
        yield from found
        if not found and self.pattern is not None and not _matches(self.pattern, value):
            yield Detail(path, f"must be {self.form}")

    def build(self, value: str) -> str:
        """Return *value* with the line ends that Meta accepts."""
        return with_line_feeds(value) if self.lines else value

    def schema(self) -> Json:
        """Return the JSON schema."""
        limits: Json = {"type": "string", "minLength": 1, "maxLength": self.max_length}
        return limits if self.pattern is None else {**limits, "pattern": f"^(?:{self.pattern})$"}

    def describe(self) -> str:
        """Return the valid values in words."""
        if self.form:
            return f"{self.form}, at most {self.max_length} characters"
        return f"1 to {self.max_length} characters{', also line ends' if self.lines else ''}"


class Number(msgspec.Struct, frozen=True):
    """A number from `low` to `high`; a `whole` one has no fraction."""

    low: int
    high: int
    whole: bool = True

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*."""
        del strict
        if not self._is_valid(value):
            yield Detail(path, f"must be {self.describe()}")

    def _is_valid(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def build(self, value: float) -> float:
        """Return *value*; a whole number without its fraction."""
        return int(value) if self.whole else value

    def schema(self) -> Json:
        """Return the JSON schema."""
        kind = "integer" if self.whole else "number"
        return {"type": kind, "minimum": self.low, "maximum": self.high}

    def describe(self) -> str:
        """Return the valid values in words."""
        return f"a {'whole ' if self.whole else ''}number from {self.low} to {self.high}"


class Choice(msgspec.Struct, frozen=True):
    """One of some words."""

    words: tuple[str, ...]

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*."""
        del strict
        if value not in self.words:
            *others, last = (f"'{word}'" for word in self.words)
            yield Detail(path, f"must be {', '.join(others)} or {last}")

    def build(self, value: str) -> str:
        """Return *value*."""
        return value

    def schema(self) -> Json:
        """Return the JSON schema."""
        return {"enum": list(self.words)}

    def describe(self) -> str:
        """Return the valid values in words."""
        return ", ".join(f"`{word}`" for word in self.words)


class Flag(msgspec.Struct, frozen=True):
    """True or false."""

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*."""
        del strict
        if not isinstance(value, bool):
            yield Detail(path, "must be true or false")

    def build(self, value: bool) -> bool:
        """Return *value*."""
        return value

    def schema(self) -> Json:
        """Return the JSON schema."""
        return {"type": "boolean"}

    def describe(self) -> str:
        """Return the valid values in words."""
        return "`true` or `false`"


class Free(msgspec.Struct, frozen=True):
    """An object in Graph's own form, which is forwarded unchanged."""

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*."""
        del strict
        if not isinstance(value, dict):
            yield Detail(path, "must be an object")

    def build(self, value: Json) -> Json:
        """Return *value*."""
        return value

    def schema(self) -> Json:
        """Return the JSON schema."""
        return {"type": "object"}

    def describe(self) -> str:
        """Return the valid values in words."""
        return "an object in Graph's format, forwarded unchanged"


class Array(msgspec.Struct, frozen=True):
    """An array of `low` to `high` items."""

    item: Value
    low: int
    high: int

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value* and of its items."""
        if not isinstance(value, list):
            yield Detail(path, "must be an array")
            return
        if not self.low <= len(value) <= self.high:
            yield Detail(path, f"must have {self.low} to {self.high} items")
        # Of an array with too many items, a caller needs no mistakes of the items beyond.
        for index, item in enumerate(value[: self.high]):
            yield from self.item.mistakes(item, f"{path}[{index}]", strict=strict)

    def build(self, value: list[Any]) -> list[Any]:
        """Return the items in Graph's form."""
        return [self.item.build(item) for item in value]

    def schema(self) -> Json:
        """Return the JSON schema."""
        limits = {"minItems": self.low, "maxItems": self.high}
        return {"type": "array", "items": self.item.schema(), **limits}

    def describe(self) -> str:
        """Return the valid values in words."""
        if isinstance(inner(self.item), Record):
            return f"{self.low} to {self.high} items"
        return f"{self.low} to {self.high} items, each {self.item.describe()}"


class Shaped(msgspec.Struct, frozen=True):
    """A value that Graph has in another shape, made by `shape` from the built value."""

    value: Value
    shape: Callable[[Any], Any]

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value*."""
        return self.value.mistakes(value, path, strict=strict)

    def build(self, value: Any) -> Any:
        """Return *value* in Graph's shape."""
        return self.shape(self.value.build(value))

    def schema(self) -> Json:
        """Return the JSON schema."""
        return self.value.schema()

    def describe(self) -> str:
        """Return the valid values in words."""
        return self.value.describe()


class Refused(msgspec.Struct, frozen=True):
    """A key that another composer has and this one must not: to ignore it would lose content."""

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield that *value* is refused."""
        del value, strict
        yield Detail(path, "must not be given for this type")

    def build(self, value: object) -> object:
        """Return *value*; not reached, because it is never valid."""
        return value

    def schema(self) -> Json:
        """Return the JSON schema."""
        return {"not": {}}

    def describe(self) -> str:
        """Return the valid values in words."""
        return "must not be given"


class Field(msgspec.Struct, frozen=True):
    """A key of a body.

    Attributes:
        name: The key.
        graph: The position of its value in Graph's form, as a path in the object that is built. A
            path that ends with `+` is an array, which the value or its items are appended to.
        value: Its kind.
        required: Whether it must be given.
        aliases: Other spellings of the key.
    """

    name: str
    graph: str
    value: Value
    required: bool = False
    aliases: tuple[str, ...] = ()

    def key_in(self, fields: Mapping[str, Any]) -> str | None:
        """Return the spelling of the key in *fields*."""
        return next((key for key in (self.name, *self.aliases) if key in fields), None)


class Constant(msgspec.Struct, frozen=True):
    """A member of Graph's form that no key of a body has."""

    graph: str
    value: object


class Record(msgspec.Struct, frozen=True):
    """An object; its members are built in the order of the table."""

    members: tuple[Field | Constant, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def fields(self) -> tuple[Field, ...]:
        """The keys that a caller can give."""
        return tuple(each for each in self.members if isinstance(each, Field))

    def mistakes(self, value: object, path: str, *, strict: bool) -> Iterator[Detail]:
        """Yield the faults of *value* and of its members."""
        if not isinstance(value, dict):
            yield Detail(path, "must be an object")
            return
        prefix = f"{path}." if path else ""
        for field in self.fields:
            key = field.key_in(value)
            if key is not None:
                yield from field.value.mistakes(value[key], f"{prefix}{key}", strict=strict)
            elif field.required:
                yield Detail(f"{prefix}{field.name}", "must be given")
        for rule in self.rules:
            yield from rule.mistakes(value, prefix)
        yield from unknown_keys(value, keys_of(self), strict=strict, prefix=prefix)

    def build(self, value: Mapping[str, Any]) -> Json:
        """Return *value* in Graph's form."""
        built: Json = {}
        for member in self.members:
            if isinstance(member, Constant):
                _put(built, member.graph, member.value)
            elif (key := member.key_in(value)) is not None:
                _put(built, member.graph, member.value.build(value[key]))
        return built

    def schema(self) -> Json:
        """Return the JSON schema."""
        required = [each.name for each in self.fields if each.required and not each.aliases]
        rules = [schema for rule in self.rules if (schema := rule.schema())]
        spelt = [each for each in self.fields if each.required and each.aliases]
        rules += [AnyOf((each.name, *each.aliases)).schema() for each in spelt]
        return {
            "type": "object",
            "properties": {
                key: each.value.schema()
                for each in self.fields
                for key in (each.name, *each.aliases)
            },
            **({"required": required} if required else {}),
            **({"allOf": rules} if rules else {}),
        }

    def describe(self) -> str:
        """Return the valid values in words."""
        return "an object"


def inner(value: Value) -> Value:
    """Return the kind of *value* without its shape in Graph's form."""
    return inner(value.value) if isinstance(value, Shaped) else value


@cache
def keys_of(record: Record) -> tuple[str, ...]:
    """Return all keys of *record*, in every spelling."""
    return tuple(key for each in record.fields for key in (each.name, *each.aliases))


@cache
def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def _put(built: Json, path: str, value: object) -> None:
    if value is msgspec.UNSET:
        return
    *parents, last = _steps(path)
    for step in parents:
        built = built.setdefault(step, {})
    if not last.endswith("+"):
        built[last] = value
        return
    items = built.setdefault(last[:-1], [])
    if isinstance(value, list):
        items.extend(value)
    else:
        items.append(value)


def _matches(pattern: str, value: object) -> bool:
    return re.fullmatch(pattern, str(value)) is not None
