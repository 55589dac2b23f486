"""Typed updates in Meta's form, to be compared with the items that they were read from."""

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from wats.inbound.content import Contacts, Edit
from wats.inbound.events import MessageCopy
from wats.inbound.message_types import Message
from wats.inbound.parts import Part
from wats.inbound.updates import Update

Path = tuple[str | int, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the path and the value of every leaf of *value* that is not null."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif value is not None:
        yield path, value


def text_of(value: object) -> object:
    """Return the leaf *value* in a form that is equal for numbers, times and their texts.

    A text such as `NaN` stays a text, because that number is not equal to itself.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, datetime):
        return float(value.timestamp())
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value
    return value if math.isnan(number) else number


def wire(part: Any) -> Any:
    """Return *part* as the JSON that it was read from."""
    if isinstance(part, tuple):
        return [wire(each) for each in part]
    if not isinstance(part, Part):
        return part
    members = {
        field.encode_name: wire(getattr(part, field.name))
        for field in msgspec.structs.fields(type(part))
    }
    if isinstance(part, Edit):
        context = {"context": members["context"], "type": part.type}
        inner = {**context, **_content(part.type, part.content)}
        return {"original_message_id": part.original_message_id, "message": inner}
    if isinstance(part, MessageCopy):
        del members["content"]
        return {**members, **_content(part.type, part.content)}
    return members


def typed_item(update: Update) -> Any:
    """Return the typed members of *update* in the form of its item."""
    if update.message is not None:
        content = update.content if update.message.content is None else update.message.content
        return {**_header(update.message), **_content(update.message.type, content)}
    return wire(update.content)


def untyped(update: Update) -> set[Path]:
    """Return the paths of the leaves of the item that no typed member has."""
    typed = {path: text_of(value) for path, value in leaves(typed_item(update))}
    return {
        path
        for path, value in leaves(update.raw)
        if path not in typed or typed[path] != text_of(value)
    }


def _content(kind: str | None, content: Part | None) -> Mapping[str, Any]:
    if content is None:
        return {}
    if isinstance(content, Contacts) or type(content).__name__ == "ChatOpening":
        return dict(wire(content))
    return {str(kind): wire(content)}


def _header(message: Message) -> Mapping[str, Any]:
    sender = message.sender
    return {
        "id": message.id,
        "type": message.type,
        "timestamp": message.timestamp,
        "from": sender.wa_id,
        "from_user_id": sender.user_id,
        "from_parent_user_id": sender.parent_user_id,
        "group_id": message.group_id,
        "context": wire(message.context),
        "referral": wire(message.referral),
        "identity": wire(message.identity),
        "errors": wire(message.errors),
    }
