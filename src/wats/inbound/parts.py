"""Typed parts of items, in Meta's words and shapes, and how they are read. No I/O.

Every field is optional, because Meta leaves fields out and changes them. A field of another type
than declared is missing in the typed value, and remains in the raw item.
"""

from datetime import datetime
from types import NoneType
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

import msgspec

Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time that Meta writes as seconds since 1970, as a number or as text."""


class Part(msgspec.Struct, frozen=True):
    """A part of an item, read from a JSON object."""


PartT = TypeVar("PartT", bound=Part)

# msgspec raises a plain ValueError for the times of one second: the first of the year 10000.
_UNREADABLE = (msgspec.ValidationError, ValueError)


def read(part: type[PartT], raw: object) -> PartT | None:
    """Return *raw* as a *part*, without the fields that cannot be decoded.

    Returns:
        `None` if *raw* is not a JSON object.
    """
    if not isinstance(raw, dict):
        return None
    try:
        return msgspec.convert(raw, part, strict=False)
    except _UNREADABLE:
        return part(
            **{
                field.name: value
                for field in msgspec.structs.fields(part)
                if (value := _read_field(field.type, raw.get(field.encode_name))) is not None
            }
        )


def read_all(part: type[PartT], raw: object) -> tuple[PartT, ...]:
    """Return the elements of *raw* that are JSON objects, each as a *part*."""
    if not isinstance(raw, list):
        return ()
    return tuple(each for item in raw if (each := read(part, item)) is not None)


def _read_field(annotation: Any, raw: object) -> Any:
    """Read one field that is annotated as `X`, as `X | None` or as `tuple[X, ...]`."""
    kind, *rest = [each for each in get_args(annotation) if each is not NoneType] or [annotation]
    if isinstance(kind, type) and issubclass(kind, Part):
        return read_all(kind, raw) if rest else read(kind, raw)
    if rest == [Ellipsis]:
        items = raw if isinstance(raw, list) else []
        return tuple(each for item in items if (each := _read_leaf(kind, kind, item)) is not None)
    return _read_leaf(annotation, kind, raw)


def _read_leaf(annotation: Any, kind: Any, raw: object) -> Any:
    if kind is str and isinstance(raw, int) and not isinstance(raw, bool):
        raw = format(raw)
    try:
        return msgspec.convert(raw, annotation, strict=False)
    except _UNREADABLE:
        return None
