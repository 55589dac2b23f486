"""The README is followed from its top to its end, with a fake Meta, as a newcomer does."""

import json
import re
import textwrap
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, blocks, commands_in
from tests.walk import Reader, is_installed, request, wait_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not is_installed("curl"), reason="curl is not installed"),
]

RUN_TARGETS = ("demo", "serve")


def make(reader: Reader) -> None:
    """Put a make on the PATH that runs some targets, without the set-up.

    For other targets it only checks that they exist: CI runs these.
    """
    makefile = (ROOT / "Makefile").read_text("utf-8")
    cases = []
    for target, recipe in re.findall(r"^([a-z-]+):.*\n((?:\t.+\n)*)", makefile, re.MULTILINE):
        commands = reader.on_free_port(recipe.replace("\t@", "").replace("$(BIN)", ".venv/bin"))
        cases.append(f"{target}) {f'exec {commands}' if target in RUN_TARGETS else ''};;")
    reader.shim("make", "\n".join(["case $1 in", *cases, "*) exit 2;; esac"]))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    reader = Reader(tmp_path)
    make(reader)
    return reader


def shown_by(url: str) -> list[tuple[str, str]]:
    """Return the direction and the text of each message on the phones of the fake Meta at *url*."""
    _, messages = request(f"{url}/_simulator/messages")
    return [(each["direction"], each["text"]) for each in json.loads(messages)["messages"]]


def test_every_step_of_the_readme_succeeds_and_its_bot_answers(reader: Reader) -> None:
    config = reader.folder / "wats.config.yaml"
    shown = []
    with reader:
        for said in reader.follow(PAGES["README.md"]):
            assert said.code == 0, said
            if said.command.endswith("wats init"):
                config.write_text(reader.placed(config.read_text()))
                made = (reader.folder / "orders.py").read_text()
            if said.command.endswith("$META/_simulator/messages"):
                url = reader.run("echo $META").out.strip()
                wait_for(lambda url=url: len(shown_by(url)) > 1)
                shown.append(shown_by(url))

        request(f"{reader.meta_url}/_simulator/inbound", b'{"from": "15550002222", "text": "Hey"}')
        wait_for(lambda: len(shown_by(reader.meta_url)) > 1)

        assert shown == [
            [("outbound", "Hello"), ("inbound", "Hi!")],
            [("inbound", "Hi!"), ("outbound", "You wrote: Hi!")],
        ]
        assert shown_by(reader.meta_url)[-1] == ("outbound", "You wrote: Hey")
    assert made == blocks("README.md", "python")[0].partition("\n")[2]


def test_the_instructions_of_the_sandbox_can_be_followed(reader: Reader) -> None:
    with reader:
        instructions = reader.start("make serve").err.partition("try:\n")[2]
        shown = textwrap.dedent(instructions.partition("Stop")[0]).replace("curl -s ", "curl -sf ")
        commands = commands_in(shown)

        said = [reader.run(each) for each in commands]

        assert [each for each in said if each.code != 0] == []
        (listing,) = (each for each in commands if "/api/messages -H" in each)
        wait_for(lambda: len(json.loads(reader.run(listing).out)["items"]) == 2)
