"""The counter of avoided words."""

from typing import Any

import pytest

from tests.pages import ROOT, load

words = load(ROOT / "docs/words.py")


def lines_of(passages: Any) -> list[tuple[int, str]]:
    return sorted((each.line, each.text.strip()) for each in passages if each.text.strip())


def test_a_page_is_counted_without_code_and_link_targets() -> None:
    page = "Who `told` you?\n```\nwho\n```\n[who](#who) <!-- who -->\n"

    _, hits = words.measure(words.passages_of_page("page.md", page))

    found = {habit.name: [hit.line for hit in each] for habit, each in hits.items() if each}
    assert found == {"who": [1, 5]}


def test_a_module_is_counted_by_names_docstrings_and_comments() -> None:
    source = 'def tell_who():\n    """First.\n\n    Third.\n    """\n    x = "who"  # who\n'

    passages = words.prose_of_module("module.py", source)

    assert lines_of(passages) == [(1, "tell who"), (2, "First."), (4, "Third."), (6, "# who")]


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
