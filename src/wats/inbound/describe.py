"""The reference of typed updates as Markdown, with an example of each content. No I/O."""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import NoneType
from typing import Any, Final, get_args

import msgspec

from wats.inbound.content import Interactive
from wats.inbound.parts import Part
from wats.inbound.typed import CONTENTS
from wats.inbound.updates import Update
from wats.telemetry.contract.values import UpdateKind

_TYPES: Final[Mapping[object, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    datetime: "time",
}


def describe_updates(updates: Iterable[Update], meanings: Mapping[UpdateKind, str]) -> str:
    """Return a section for each kind, with the first of *updates* for each type of content."""
    examples: dict[UpdateKind, dict[str, Update]] = {kind: {} for kind in UpdateKind}
    for update in updates:
        examples[update.kind].setdefault(_title_of(update), update)
    return "\n\n".join(
        "\n\n".join([f"## {kind.value}", meanings[kind], *_describe(examples[kind])])
        for kind in UpdateKind
    )


def describe_classes() -> str:
    """Return a table of the classes of content and their parts, with the types of their fields."""
    found: dict[str, type[Part]] = {}
    for contents in CONTENTS.values():
        for part in contents:
            _collect(part, found)
    rows = [
        f"| `{name}` | {_meaning(part)} | {_fields(part)} |" for name, part in sorted(found.items())
    ]
    return "\n".join(["| Class | Meaning | Fields |", "| --- | --- | --- |", *rows])


def _name_of(update: Update) -> str:
    """Return the difference of an update to the others of its kind: its type, field or class."""
    if update.kind in (UpdateKind.MESSAGE, UpdateKind.CHAT_OPENED) and "type" in update.raw:
        reply = update.content.type if isinstance(update.content, Interactive) else None
        return f"type `{update.raw['type']}`" + (f", `{reply}`" if reply else "")
    if update.kind in (UpdateKind.ACCOUNT, UpdateKind.TEMPLATE, UpdateKind.UNKNOWN):
        return f"field `{update.field}`"
    return f"`{type(update.content).__name__}`"


def _title_of(update: Update) -> str:
    content: Part | None = update.content
    kind = "without content" if content is None else f"`{type(content).__name__}`"
    name = _name_of(update)
    return kind if name == kind else f"{name[0].upper()}{name[1:]}: {kind}"


def _describe(examples: Mapping[str, Update]) -> Iterator[str]:
    for title, update in examples.items():
        members = [
            f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in update.raw.items()
        ]
        item = ",\n".join(members)
        yield f"{title}\n\n```json\n{{\n{item}\n}}\n```"


def _collect(part: type[Part], found: dict[str, type[Part]]) -> None:
    if part.__name__ in found:
        return
    found[part.__name__] = part
    for field in msgspec.structs.fields(part):
        kind = _kind_of(field.type)[0]
        if isinstance(kind, type) and issubclass(kind, Part) and kind is not Part:
            _collect(kind, found)


def _meaning(part: type[Part]) -> str:
    return (inspect.getdoc(part) or "").partition("\n")[0]


def _fields(part: type[Part]) -> str:
    return ", ".join(
        f"`{field.name}`: {_type_of(field.type)}" for field in msgspec.structs.fields(part)
    )


def _type_of(annotation: object) -> str:
    kind, is_list = _kind_of(annotation)
    if isinstance(kind, type) and issubclass(kind, Part):
        name = "content" if kind is Part else f"`{kind.__name__}`"
    else:
        name = _TYPES.get(kind, "object")
    return f"list of {name}" if is_list else name


def _kind_of(annotation: Any) -> tuple[object, bool]:
    """Return the type in the annotation `X | None` or `tuple[X, ...]`, and if it is a list."""
    kinds = [each for each in get_args(annotation) if each is not NoneType] or [annotation]
    kind = kinds[0]
    return (get_args(kind) or (kind,))[0] if kind not in _TYPES else kind, Ellipsis in kinds
