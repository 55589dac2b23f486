"""The counter of avoided words, and the texts that must not contain any."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml

from tests.pages import ROOT, load
from wats.cli import main
from wats.telemetry.contract.families import FAMILIES

words = load(ROOT / "docs/words.py")


def occurrences(passages: Any) -> list[str]:
    _, hits = words.measure(passages)
    return sorted(
        f"{hit.path}:{hit.line}: {habit.name}: {hit.text.strip()}"
        for habit, found in hits.items()
        for hit in found
    )


def lines_of(passages: Any) -> list[tuple[int, str]]:
    return sorted((each.line, each.text.strip()) for each in passages if each.text.strip())


def helps(command: click.Command, name: str) -> Iterator[Any]:
    # The first context of a command decides on the names of its help option, also in other tests.
    context = click.Context(command, info_name=name, **main.context_settings)
    yield words.Passage(name, 1, " ".join(command.get_help(context).split()))
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            subcommand = command.get_command(context, each)
            assert subcommand is not None
            yield from helps(subcommand, f"{name} {each}")


def titles(panels: Any) -> Iterator[str]:
    for panel in panels:
        yield from (panel.get("title", ""), panel.get("description", ""))
        yield from titles(panel.get("panels", ()))


def test_a_page_is_counted_without_code_and_link_targets() -> None:
    page = "Who `told` you?\n```\nwho\n```\n[who](#who) <!-- who -->\n"

    _, hits = words.measure(words.passages_of_page("page.md", page))

    found = {habit.name: [hit.line for hit in each] for habit, each in hits.items() if each}
    assert found == {"who": [1, 5]}


def test_a_module_is_counted_by_names_docstrings_and_comments() -> None:
    source = 'def tell_who():\n    """First.\n\n    Third.\n    """\n    x = "who"  # who\n'

    passages = words.prose_of_module("module.py", source)

    assert lines_of(passages) == [(1, "tell who"), (2, "First."), (4, "Third."), (6, "# who")]


def test_comments_of_sql_are_counted() -> None:
    source = "-- Who reads it.\nCREATE TABLE who (\n    who TEXT  -- what a reader sees\n);\n"

    passages = words.comments_of_sql("0001_initial.sql", source)

    assert lines_of(passages) == [(1, "Who reads it."), (3, "what a reader sees")]


def test_messages_are_phrases_and_no_docstrings() -> None:
    source = '"""A docstring of four words."""\nx = "a key", f"must be a number, {x}"\n'

    passages = words.messages_of_module("module.py", source)

    assert lines_of(passages) == [(2, "must be a number,")]


@pytest.mark.parametrize(("count", "above"), [(4, []), (5, ["come"])])
def test_a_habit_above_its_limit_is_reported(count: int, above: list[str]) -> None:
    text = "comes " * count + "word " * (10_000 - count)

    found = words.exceeded(*words.measure([words.Passage("page.md", 1, text)]))

    assert [habit.name for habit in found] == above


def test_each_habit_has_a_reason_and_a_replacement() -> None:
    assert all(habit.reason and habit.instead for habit in words.HABITS)


def test_a_class_name_exists_once_in_the_package() -> None:
    places = defaultdict(list)
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")

    repeated = {name: found for name, found in places.items() if len(found) > 1}

    assert places
    assert not repeated


def test_help_texts_of_metrics_avoid_the_words() -> None:
    assert not occurrences(words.Passage(each.name, 1, each.help) for each in FAMILIES)


def test_alerts_avoid_the_words() -> None:
    rules = yaml.safe_load((ROOT / "operators/rules.yml").read_text("utf-8"))

    assert not occurrences(
        words.Passage(rule["alert"], 1, text)
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
        for text in (re.sub("(?=[A-Z])", " ", rule["alert"]), *rule["annotations"].values())
    )


def test_the_dashboard_avoids_the_words() -> None:
    dashboard = json.loads((ROOT / "operators/dashboard.json").read_text("utf-8"))

    assert not occurrences(
        words.Passage("dashboard", 1, text) for text in titles(dashboard["panels"])
    )


def test_help_screens_avoid_the_words() -> None:
    assert not occurrences(helps(main, "wats"))


def test_messages_avoid_the_words() -> None:
    assert not occurrences(
        passage
        for path in sorted((ROOT / "src").rglob("*.py"))
        for passage in words.messages_of_module(
            str(path.relative_to(ROOT)), path.read_text("utf-8")
        )
    )
