"""Record the public surface: run `.venv/bin/python -m tests.surface`, which writes `surface.txt`.

The record has a line for each name that users of wats can depend on. A change of the surface is
then a change of the record, which a reviewer sees.
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from tests.pages import ROOT, load
from tests.privacy.log_lines import documented_events
from wats.config import config_keys
from wats.privacy import Secret
from wats.simulator import SimulatorSettings
from wats.simulator.control import ControlEndpoints
from wats.simulator.recipients import BY_SUFFIX
from wats.simulator.world import World
from wats.telemetry.contract.families import FAMILIES, SPANS
from wats.telemetry.contract.labels import Label
from wats.telemetry.contract.values import LifecycleEvent
from wats.testing import example_profile
from wats.web.openapi import build_document
from wats.web.table import route_table

RECORD = Path(__file__).with_name("surface.txt")
COMMAND = ".venv/bin/python -m tests.surface"

_generate = load(ROOT / "docs/generate.py")


def python_names() -> Iterator[str]:
    """Yield every public name, and the parameters or members of what it names."""
    for module in ("wats", "wats.errors", "wats.testing", "wats.simulator", "wats.adapters.pywa"):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            yield from _described(f"{module}.{name}", value)


def _described(name: str, value: object) -> Iterator[str]:
    if isinstance(value, ModuleType):
        for inner in value.__all__:
            yield from _described(f"{name}.{inner}", getattr(value, inner))
    elif isinstance(value, type):
        yield f"{name}{_parameters(value)}"
        parameters = re.findall(r"\w+", _parameters(value))
        for inner in sorted(_members(value) - set(parameters)):
            yield f"{name}.{inner}{_parameters(inspect.getattr_static(value, inner, None))}"
    else:
        yield f"{name}{_parameters(value)}"


def _members(cls: type) -> set[str]:
    """Return the public members that are defined in wats, fields included."""
    found: set[str] = set()
    for each in cls.__mro__:
        if each.__module__.partition(".")[0] == "wats":
            found |= {*_public(vars(each)), *_public(inspect.get_annotations(each))}
    if issubclass(cls, Enum):
        found |= set(cls.__members__)
    return found


def _public(names: object) -> list[str]:
    return [name for name in names if not name.startswith("_")]  # type: ignore[attr-defined]


def _parameters(value: object) -> str:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    is_class = isinstance(value, type)
    if is_class and (issubclass(value, Enum) or getattr(value, "_is_protocol", False)):
        return ""
    if not (is_class or inspect.isroutine(value)):
        return ""
    signature = inspect.signature(value)
    plain = [
        each.replace(
            annotation=each.empty, default=each.default if each.default is each.empty else ANY
        )
        for each in signature.parameters.values()
    ]
    shown = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    return f"{shown} async" if inspect.iscoroutinefunction(value) else shown


class _Any:
    def __repr__(self) -> str:
        return "…"


ANY = _Any()
"""Every default of a parameter: whether there is one is recorded, but not its value."""


def routes() -> Iterator[str]:
    """Yield every route with its posture and its parameters, and the members of every body."""
    profile = example_profile()
    table = route_table(profile, groups_enabled=True)
    for row in table:
        for operation in row.operations:
            yield f"{operation.method.value} {row.path} {row.label} {row.posture.value}"
    document = json.loads(build_document(table, profile=profile, complete=True))
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for each in operation.get("parameters", ()) if isinstance(operation, dict) else ():
                yield f"{method.upper()} {path} {each['in']} {each['name']}"
    for name, schema in document["components"]["schemas"].items():
        yield from _properties(f"body {name}", schema)


def _properties(name: str, schema: dict[str, Any]) -> Iterator[str]:
    for member, held in schema.get("properties", {}).items():
        mark = " required" if member in schema.get("required", ()) else ""
        yield f"{name}.{member}{mark}"
        yield from _properties(f"{name}.{member}", held.get("items", held))
    for other in schema.get("anyOf", ()):
        yield from _properties(name, other)


def commands() -> Iterator[str]:
    """Yield every command with its arguments, and its options."""
    for path, command in _generate.walk_commands():
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        yield " ".join([path, *(each.make_metavar(click.Context(command)) for each in arguments)])
        for each in command.params:
            if isinstance(each, click.Option):
                yield f"{path} {' '.join(sorted(each.opts))}{'' if each.is_flag else ' VALUE'}"


def keys() -> Iterator[str]:
    """Yield every key of the config file, with its default."""
    for key in config_keys():
        yield f"{key.path} {'required' if key.required else repr(key.default)}"


def metrics() -> Iterator[str]:
    """Yield every family with its labels, and every label with its values."""
    labels: dict[str, Label] = {}
    for family in FAMILIES:
        names = [label.key for label in family.labels]
        yield f"{family.name} {family.kind.value} {{{','.join(sorted(names))}}} {family.set.value}"
        labels |= {f"{family.name} {label.key}": label for label in family.labels}
    for name, label in labels.items():
        for value in (*label.values, label.other):
            yield f"{name}={value}"


def sinks() -> Iterator[str]:
    """Yield what a telemetry sink receives: attributes, spans and lifecycle events."""
    for family in FAMILIES:
        if family.attributes is not None:
            yield f"{family.name}({', '.join(family.attributes)})"
    for span, attributes in SPANS.items():
        yield f"{span.value}({', '.join(attributes)})"
    yield from (f"event {event.value}" for event in LifecycleEvent)


def codes() -> Iterator[str]:
    """Yield every error code, with the HTTP statuses or its place."""
    for code, statuses in _generate.answered_codes().items():
        yield f"{code} {' '.join(map(str, sorted(statuses)))}"
    yield from (f"{code} start" for code in _generate.raised_at_start())
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    _, _, table = page.partition("## Validation errors")
    yield from (f"{code} config" for code in re.findall(r"`([a-z]+_[a-z_]+)`", table))


def events() -> Iterator[str]:
    """Yield every event of the log with its keys."""
    for event, names in documented_events().items():
        yield " ".join([event, "at", *sorted(names)])


def simulator() -> Iterator[str]:
    """Yield the routes of the control API, and the recipients with a behavior of their own."""
    settings = SimulatorSettings(app_secret=Secret(""), verify_token=Secret(""))
    for route in ControlEndpoints(World(settings)).routes():
        yield f"{route.method} {route.path}"
    yield from BY_SUFFIX


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "Python": python_names,
    "HTTP routes": routes,
    "Commands": commands,
    "Keys of the config file": keys,
    "Metrics": metrics,
    "Telemetry sinks": sinks,
    "Error codes": codes,
    "Log events": events,
    "Simulator": simulator,
}


def surface() -> str:
    """Return the record: sections of sorted lines."""
    parts = ["\n".join([f"# {title}", *sorted(set(lines()))]) for title, lines in SECTIONS.items()]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    RECORD.write_text(surface(), "utf-8")
