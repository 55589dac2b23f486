import pytest

from tests.pages import PAGES, ROOT, load
from wats.cli import COMMANDS
from wats.cli.help import topics

MAX_CHARACTERS = 4_000
MAX_LINES = 130

generate = load(ROOT / "docs/generate.py")


def test_the_topics_are_fresh() -> None:
    written = generate.TOPICS.read_text("utf-8")

    assert generate.topics() == written, "Run .venv/bin/python docs/generate.py."


def test_every_page_of_the_documentation_is_a_topic(wats) -> None:
    pages = {page[5:-3] for page in PAGES if page.startswith("docs/")} - {"index"}

    assert topics().keys() == pages
    for name in pages & COMMANDS.keys():
        assert wats.invoke("help", name).out.endswith(f"wats {name} --help\n")


@pytest.mark.parametrize("name", topics())
def test_a_topic_is_short_text_without_markup_for_links_and_tables(wats, name: str) -> None:
    result = wats.invoke("help", name)

    assert (result.code, result.err) == (0, "")
    assert len(result.out) < MAX_CHARACTERS
    assert len(result.out.splitlines()) < MAX_LINES
    assert "](" not in result.out
    assert "<!--" not in result.out
    assert "\n|" not in result.out
    title, _, text = result.out.split("\n", 2)
    assert f"# {title}\n" in PAGES[f"docs/{name}.md"]
    assert len(text.split("\n\n")[0]) > 40
    assert f"\nThe complete page: {topics()[name].url}\n" in result.out


def test_a_short_beginning_of_a_page_is_followed_by_its_first_section(wats) -> None:
    shown = wats.invoke("help", "handlers").out

    assert "\n\nWriting a handler\n\n```python\n" in shown
    assert "await update.reply(" in shown
    assert all(len(topic.text) > 200 and topic.text[-1] != ":" for topic in topics().values())


def test_all_topics_and_commands_are_listed(wats) -> None:
    result = wats.invoke("help")

    assert result.code == 0
    assert all(f"\n  {name} " in result.out for name in (*topics(), *COMMANDS))


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - topics().keys()))
def test_the_help_of_a_command_is_shown(wats, name: str) -> None:
    assert wats.invoke("help", name).out == wats.invoke(name, "--help").out


def test_an_unknown_topic_is_not_repeated(wats) -> None:
    result = wats.invoke("help", "a-secret-in-the-wrong-place")

    assert (result.code, result.out) == (1, "")
    assert "'wats help'" in result.err
    assert "secret" not in result.err
