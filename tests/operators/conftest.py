import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from wats.telemetry.contract.families import FAMILIES, Family
from wats.telemetry.contract.labels import Label
from wats.telemetry.contract.values import UNMATCHED, FamilySet, Kind
from wats.testing import example_profile
from wats.web.table import route_table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "operators"

TOKEN = re.compile(
    r"""(?P<space>\s+|\#.*)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<range>\[[^\]]*\])
    |(?P<number>[0-9.]+(?:e[+-]?[0-9]+|[smhd])?)
    |(?P<name>[a-zA-Z_:$][a-zA-Z0-9_:$]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},])""",
    re.VERBOSE,
)
WORDS = {"and", "or", "unless", "bool", "offset"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
TARGET_LABELS = {"job", "instance"}


@dataclass(frozen=True)
class Query:
    """The names in an expression of PromQL."""

    selectors: list[tuple[str, list[tuple[str, str, str]]]]
    grouped: set[str]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.selectors}


def tokens_of(expression: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(expression):
        match = TOKEN.match(expression, at)
        assert match is not None, expression[at:]
        at = match.end()
        if match.lastgroup != "space":
            found.append((str(match.lastgroup), match[0]))
    return found


def parse_query(expression: str) -> Query:
    """Find the metrics, the matchers and the label lists of *expression*."""
    tokens = [*tokens_of(expression), ("end", "")]
    selectors: list[tuple[str, list[tuple[str, str, str]]]] = []
    grouped: set[str] = set()
    at = 0
    while tokens[at][0] != "end":
        kind, text = tokens[at]
        follows = tokens[at + 1][1]
        at += 1
        if kind != "name" or text in WORDS:
            continue
        if text in GROUPING:
            labels, at = _until(tokens, at, ")")
            grouped |= {each for sort, each in labels if sort == "name"}
        elif follows == "{":
            matchers, at = _until(tokens, at, "}")
            selectors.append((text, list(_matchers(matchers))))
        elif follows not in {"(", "by", "without"}:
            selectors.append((text, []))
    return Query(selectors, grouped)


def _until(tokens: list[tuple[str, str]], at: int, end: str) -> tuple[list[tuple[str, str]], int]:
    last = next(place for place in range(at, len(tokens)) if tokens[place][1] == end)
    return tokens[at + 1 : last], last + 1


def _matchers(tokens: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    plain = [text for _, text in tokens if text != ","]
    for place in range(0, len(plain), 3):
        label, sign, value = plain[place : place + 3]
        yield label, sign, json.loads(value)


class Checker:
    """Knows the series that a query may use: the vocabulary, `up`, and recorded series."""

    def __init__(self, records: dict[str, set[str]]) -> None:
        self._records = records
        self._families: dict[str, Family] = {}
        for family in FAMILIES:
            parts = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
            self._families |= {f"{family.name}{part}": family for part in parts}
        profile = example_profile()
        table = route_table(profile, groups_enabled=True)
        self._routes = {*(row.label for row in table), UNMATCHED}

    def families(self, expression: str) -> set[Family]:
        """Return the families in *expression*."""
        names = parse_query(expression).names
        return {self._families[name] for name in names if name in self._families}

    def sets(self, expression: str) -> set[FamilySet]:
        return {family.set for family in self.families(expression)}

    def objections(self, expression: str) -> list[str]:
        """Return everything that *expression* names and that there is not."""
        query = parse_query(expression)
        found, known = [], set(TARGET_LABELS)
        for name, matchers in query.selectors:
            labels = self._labels(name)
            if labels is None:
                found.append(f"the metric {name}")
                continue
            known |= labels.keys()
            for key, sign, value in matchers:
                found += self._matcher(name, labels, key, sign, value)
        return found + [f"the label {label}" for label in query.grouped - known]

    def counters(self, expression: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the counters in *expression*, with each combination of labels that it names."""
        query = parse_query(expression)
        for name, matchers in query.selectors:
            family = self._families.get(name)
            if family is None or family.kind is not Kind.COUNTER:
                continue
            closed = {label.key: label.values for label in family.labels if label.values}
            axes = {key: values for key, values in closed.items() if key in query.grouped}
            for key, sign, value in matchers:
                asked = tuple(value.split("|") if sign in {"=~", "!~"} else [value])
                if sign.startswith("!"):
                    asked = tuple(each for each in closed[key] if each not in asked)
                if key not in TARGET_LABELS:
                    axes[key] = asked
            for values in product(*axes.values()):
                yield name, dict(zip(axes, values, strict=True))

    def _labels(self, name: str) -> dict[str, Label | None] | None:
        """Return the labels of a metric, with their known values."""
        targets: dict[str, Label | None] = dict.fromkeys(TARGET_LABELS)
        if name == "up":
            return targets
        if name in self._records:
            return targets | dict.fromkeys(self._records[name])
        if name not in self._families:
            return None
        bound = {"le": None} if name.endswith("_bucket") else {}
        return targets | bound | {label.key: label for label in self._families[name].labels}

    def _matcher(
        self, name: str, labels: dict[str, Label | None], key: str, sign: str, value: str
    ) -> list[str]:
        if key not in labels:
            return [f"the label {key} of {name}"]
        label = labels[key]
        if label is None and key != "route":
            return []
        values = self._routes if key == "route" else set(label.values if label else ())
        asked = value.split("|") if sign in {"=~", "!~"} else [value]
        return [f"the value {each} of {key}" for each in asked if each not in values]


def load_rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return groups


@pytest.fixture
def groups() -> list[dict[str, Any]]:
    """The groups of the rules."""
    return load_rules()


@pytest.fixture
def rules(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules of all groups."""
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def checker(rules: list[dict[str, Any]]) -> Checker:
    records = {
        rule["record"]: parse_query(rule["expr"]).grouped - {"le"}
        for rule in rules
        if "record" in rule
    }
    return Checker(records)


@pytest.fixture
def generate() -> ModuleType:
    """The module that makes the dashboard, which is in no package."""
    spec = importlib.util.spec_from_file_location("generate_dashboard", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
