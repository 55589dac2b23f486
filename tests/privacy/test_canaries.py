"""The suite itself: its canaries are everywhere, and a leak is found in any encoding."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.privacy.asking import ADMIN_BODIES, CONTENTS, GROUP_BODIES
from tests.privacy.canaries import Canaries
from tests.privacy.planting import CORPUS, FORMS, Planter, word_paths
from wats.testing import example_profile
from wats.web.table import route_table

ROWS = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]

SHAPES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper-case": str.upper,
    "lower-case": str.lower,
    "inside-a-word": lambda text: f"a{text}b",
    "json": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "python": lambda text: "".join(f"\\x{ord(letter):02x}" for letter in text),
    "percent": lambda text: "".join(f"%{ord(letter):02X}" for letter in text),
    "percent-in-json": lambda text: json.dumps("".join(f"%{ord(c):02x}" for c in text)),
    "hex": lambda text: text.encode().hex(),
    "hex-upper-case": lambda text: f"0x{text.encode().hex().upper()}",
    "hex-with-colons": lambda text: text.encode().hex(":"),
    "hex-after-a-digit": lambda text: f"a{text.encode().hex()}",
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64-in-a-path": lambda text: f"/x/{base64.b64encode(text.encode()).decode()}/y",
    "base64-of-more": lambda text: base64.b64encode(f"a {text} b".encode()).decode(),
    "base64-of-yet-more": lambda text: base64.urlsafe_b64encode(f"ab {text} cd".encode()).decode(),
    "base64-percent": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
}
NUMBER_SHAPES: dict[str, Callable[[str], str]] = {
    "international": lambda text: f"+{text}",
    "spaces": lambda text: f"{text[:3]} {text[3:6]} {text[6:]}",
    "dashes": lambda text: f"{text[:3]}-{text[3:6]}-{text[6:]}",
    "brackets": lambda text: f"+{text[:3]} (0{text[3:6]}) {text[6:]}".replace("(0", "("),
    "thousands": lambda text: f"{int(text):,}",
    "float": lambda text: f"{float(text)}",
    "exponent": lambda text: f"{float(text):.14e}",
    "fraction": lambda text: f"9.{text[1:]}",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["word", "number"])
def test_a_canary_is_found_in_every_shape(kind: str, shape: Callable[[str], str]) -> None:
    canaries = Canaries()
    made = canaries.word if kind == "word" else canaries.number
    made("elsewhere")

    text = f'{{"x":"{shape(made("here"))}"}} 0.25\n'

    assert canaries.found_in(text) == {"here"}


@pytest.mark.parametrize("shape", NUMBER_SHAPES.values(), ids=NUMBER_SHAPES)
def test_a_phone_number_is_found_however_it_is_written(shape: Callable[[str], str]) -> None:
    canaries = Canaries()

    text = f"le 0.5 {shape(canaries.number('here'))}\n17"

    assert canaries.found_in(text) == {"here"}


def test_a_word_is_found_if_it_is_cut_short() -> None:
    canaries = Canaries()

    assert canaries.found_in(canaries.word("here")[:8]) == {"here"}


def test_a_string_that_is_not_a_canary_is_not_found() -> None:
    canaries = Canaries()
    for _ in range(50_000):
        canaries.word("word")
        canaries.number("number")
    pages = (path.read_text("utf-8") for path in Path(__file__).parents[2].glob("docs/*.md"))

    assert canaries.found_in("\n".join(pages)) == set()


def test_every_canary_is_unique() -> None:
    canaries = Canaries()

    made = {make("x") for _ in range(50_000) for make in (canaries.word, canaries.number)}

    assert len(made) == len(canaries) == 100_000
    assert len({word[:8] for word in made if word.isalpha()}) == 50_000


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every text and number in *value*, by its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*path, key))
    elif value is not None and not isinstance(value, bool):
        yield path, value


def _same_keys(before: Any, after: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every key of *before* that is in *after*, which is of the same shape."""
    if isinstance(before, dict):
        for key, name in zip(before, after, strict=True):
            if key == name:
                yield (*path, key)
            yield from _same_keys(before[key], after[name], (*path, key))
    elif isinstance(before, list):
        for place, (item, other) in enumerate(zip(before, after, strict=True)):
            yield from _same_keys(item, other, (*path, place))


def planted(body: Any, form: str) -> Any:
    return Planter(Canaries(), FORMS[form]).plant(body, "")


def texts_that_stay(body: Any) -> set[tuple[Any, ...]]:
    """Return the paths in *body* of texts that are not replaced with all others, nor alone."""
    before = dict(leaves(body))
    after = dict(leaves(planted(body, "lower case")))
    stayed = {path for path, value in before.items() if after[path] == value}
    return stayed - set(word_paths(body))


def test_every_text_and_number_of_the_corpus_is_replaced() -> None:
    stayed = {row["name"]: texts_that_stay(row["body"]) for row in ROWS}

    assert {name: paths for name, paths in stayed.items() if paths} == {}


def keys_that_stay(body: Any) -> set[tuple[Any, ...]]:
    """Return the paths in *body* of keys that are not replaced with all others, nor alone."""
    alone = {path[:-1] for path in word_paths(body) if path[-1] is ...}
    return set(_same_keys(body, planted(body, "keys"))) - alone


def test_every_key_of_the_corpus_is_replaced() -> None:
    stayed = {row["name"]: keys_that_stay(row["body"]) for row in ROWS}

    assert {name: paths for name, paths in stayed.items() if paths} == {}


def test_every_body_that_the_api_takes_is_planted() -> None:
    table = route_table(example_profile(), groups_enabled=True)
    operations = {each.name for row in table for each in row.operations if each.body is not None}

    bodies = {**GROUP_BODIES, **ADMIN_BODIES}
    sends = {"sendText", "sendMessage", "sendMarketingMessage"}
    others = {"receiveWebhook", "markRead", "uploadMedia", "graphPost", "acknowledgeUpdates"}
    assert operations == {*bodies, *sends, *others}
    for row in table:
        for operation in row.operations:
            if operation.name in bodies:
                fields = {field.encode_name for field in msgspec.structs.fields(operation.body)}
                assert fields == set(bodies[operation.name])


def test_every_message_is_planted_with_its_content() -> None:
    for kind, content in CONTENTS.items():
        before = dict(leaves(content))
        after = dict(leaves(planted(content, "lower case")))

        assert [(kind, path) for path, value in before.items() if after[path] == value] == []
