"""The valid contents of `/metrics`, `/status` and `/debug/diagnostics`. No I/O."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import msgspec

from wats.inspection.samples import Labels, Samples
from wats.privacy import REDACTED
from wats.telemetry.contract.families import FAMILIES, Family
from wats.telemetry.contract.labels import TARGET_NAME, Label
from wats.telemetry.contract.values import UNMATCHED, Kind
from wats.web.ops.status import ServiceStatus

_PARTS: Final = ("_bucket", "_sum", "_count")

# A random token has digits before letters in several places, unlike a long name of a handler.
_PRIVATE: Final = {
    "a phone number": re.compile(r"[0-9](?:[ ()-]{0,2}[0-9]){6}"),
    "a message id": re.compile(r"wamid[.]", re.IGNORECASE),
    "a token": re.compile(
        r"EAA[A-Za-z0-9]{8}|[Bb]earer [!-~]|sha256=[0-9a-f]"
        r"|(?=(?:[A-Za-z_-]*[0-9][0-9_-]*(?=[A-Za-z])){2})[A-Za-z0-9_-]{32}"
    ),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+[.][\w]"),
}


MAX_TEXT_CHARACTERS: Final = 1024
"""Several times the longest text of a service. The patterns need quadratic time."""


def looks_private(text: str) -> list[str]:
    """Return descriptions of the forbidden data that *text* seems to hold."""
    if len(text) > MAX_TEXT_CHARACTERS:
        return [f"a text of more than {MAX_TEXT_CHARACTERS} characters"]
    return [what for what, pattern in _PRIVATE.items() if pattern.search(text)]


def strings_of(document: object) -> Iterator[str]:
    """Yield every string of a decoded JSON document, its keys among them."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for key, value in document.items():
            yield str(key)
            yield from strings_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from strings_of(value)


class Vocabulary:
    """The series that one service can expose, as far as they are known to its clients."""

    def __init__(self, status: ServiceStatus) -> None:
        self._families = {name: family for family in FAMILIES for name in _sample_names(family)}
        self._open = {
            "route": {*status.routes, UNMATCHED},
            "version": {status.version},
            "graph_api_version": {status.graph_api_version},
        }

    def objection(self, name: str, labels: Labels) -> str | None:
        """Describe the part of a series that is in no table, or return `None`."""
        family = self._families.get(name)
        if family is None:
            return "an unknown family"
        values = dict(labels)
        has_bound = name == f"{family.name}_bucket"
        bound = values.pop("le", None) if has_bound else None
        if set(values) != {label.key for label in family.labels}:
            return f"unknown labels of {family.name}"
        if has_bound and bound not in _bounds(family):
            return f"an unknown bucket of {family.name}"
        wrong = [label.key for label in family.labels if not self._has(label, values[label.key])]
        return f"an unknown value of {wrong[0]} in {family.name}" if wrong else None

    def objections(self, samples: Samples) -> list[str]:
        """Return the parts of *samples* that are in no table, each once."""
        found = (self.objection(name, labels) for name, labels, _ in samples)
        return list(dict.fromkeys(each for each in found if each is not None))

    def _has(self, label: Label, value: str) -> bool:
        if label.source is None or value == label.other:
            return value in {*label.values, label.other}
        known = self._open.get(label.key)
        return TARGET_NAME.fullmatch(value) is not None if known is None else value in known


def _sample_names(family: Family) -> tuple[str, ...]:
    if family.kind is Kind.HISTOGRAM:
        return tuple(f"{family.name}{part}" for part in _PARTS)
    return (family.name,)


def _bounds(family: Family) -> set[str]:
    return {*(f"{bound:g}" for bound in family.buckets), "+Inf"}


def unknown_fields(document: object, described: type[msgspec.Struct], path: str = "") -> list[str]:
    """Describe the deviations of *document* from the type *described*.

    An unknown field is not named: it could hold any text.
    """
    if not isinstance(document, dict):
        return [f"{path or 'the document'} is not an object"]
    fields = {field.encode_name: field for field in msgspec.structs.fields(described)}
    required = [name for name, field in fields.items() if field.required]
    found = [f"{_below(path, name)} is missing" for name in required if name not in document]
    if document.keys() - fields.keys():
        found.append(f"{path or 'the document'} has an undocumented field")
    for name, field in fields.items():
        for kind in _structs_in(field.type):
            held = document.get(name)
            items = held if isinstance(held, list) else [] if held is None else [held]
            for item in items:
                found += unknown_fields(item, kind, _below(path, name))
    return found


def _structs_in(described: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(described, type) and issubclass(described, msgspec.Struct):
        yield described
    for each in get_args(described):
        yield from _structs_in(each)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def shown_secrets(shape: Mapping[str, Any]) -> list[str]:
    """Return the secrets in a `configShape` that are not redacted."""
    secret = {"auth": ("accessToken",), "webhook": ("verifyToken", "appSecret")}
    return [
        f"{section}.{key}"
        for section, keys in secret.items()
        for key in keys
        if shape.get(section, {}).get(key) != REDACTED
    ]
