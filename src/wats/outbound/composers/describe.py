"""The composers as schemas for the OpenAPI document and as tables for the documentation. No I/O."""

import json
from collections.abc import Iterator
from functools import cache

from wats.outbound.composers import COMPOSERS
from wats.outbound.composers.composer import Composer
from wats.outbound.composers.examples import example_of
from wats.outbound.composers.values import Array, Json, Record, Value, inner


@cache
def schemas() -> dict[str, Json]:
    """Return the JSON schema of each composer, with an example, by the name of the schema."""
    return {
        each.schema_name: {**each.schema(), "examples": [example_of(each)]}
        for each in COMPOSERS.values()
    }


def as_markdown() -> str:
    """Return a section for each composer: an example, its keys and their limits."""
    return "\n\n".join(_section(each) for each in COMPOSERS.values())


def _section(composer: Composer) -> str:
    example = json.dumps(example_of(composer), ensure_ascii=False)
    lines = [
        f"### `{composer.kind}`",
        "",
        f"{composer.summary} Graph's type is `{composer.graph_type}`.",
        "",
        f"```json\n{example}\n```",
        "",
        "| Key | Needed | Valid values | In Graph's format |",
        "| --- | --- | --- | --- |",
        *_rows(composer.content, "", {}),
    ]
    if rules := list(_rules(composer.content, "", set())):
        lines += ["", " ".join(rules)]
    return "\n".join(lines)


def _rows(record: Record, prefix: str, seen: dict[Value, str]) -> Iterator[str]:
    """Yield a row for each key of *record* and of the objects in it, each object once."""
    for field in record.fields:
        path = f"{prefix}{field.name}"
        named = "`, `".join((path, *(f"{prefix}{each}" for each in field.aliases)))
        held, deeper = _record_in(field.value, path)
        earlier = seen.get(held) if held is not None else None
        values = f"as `{earlier}`" if earlier is not None else field.value.describe()
        needed = "yes" if field.required else ""
        yield f"| `{named}` | {needed} | {values} | `{field.graph.removesuffix('+')}` |"
        if held is not None and earlier is None:
            seen[held] = path
            yield from _rows(held, deeper, seen)


def _rules(record: Record, prefix: str, seen: set[Value]) -> Iterator[str]:
    where = f"In `{prefix.rstrip('.')}`: " if prefix else ""
    yield from (f"{where}{rule.describe()}" for rule in record.rules)
    for field in record.fields:
        held, deeper = _record_in(field.value, f"{prefix}{field.name}")
        if held is not None and held not in seen:
            seen.add(held)
            yield from _rules(held, deeper, seen)


def _record_in(value: Value, path: str) -> tuple[Record | None, str]:
    """Return the object in *value*, or in its items, and the prefix of the paths of its keys."""
    kind = inner(value)
    if isinstance(kind, Array):
        return _record_in(kind.item, f"{path}[]")
    return (kind, f"{path}.") if isinstance(kind, Record) else (None, "")
