"""Plants canaries in JSON: as every text and number and as every key, in several forms."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.privacy.canaries import Canaries

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
REFUSED = {
    "malformed_object_other_product",
    "malformed_object_missing",
    "malformed_entry_not_array",
}
"""The bodies of the corpus that are not webhooks of WhatsApp."""

_META_WORD = re.compile("[a-z_]*|[A-Z_]*")
_DIGITS = re.compile(r"\+?[0-9]+")
_MOMENT = re.compile("1[0-9]{9}")
_SKELETON = {"object", "field"}
_SMALL = 10_000_000
_MOMENTS = range(10**9, 2 * 10**9)
_OUTER = 8
"""Keys down to this depth are needed to find an item and to recognize its type."""


def plain(word: str) -> str:
    """Return *word* as it is."""
    return word


def hostile(word: str) -> str:
    """Return a text that breaks out of every context that does not escape it."""
    return f"{word}\"}} 1\n# HELP x \\\x1b[31m{word}\u2028\u0000\U0001f426'; --%n{{{word}}}"


def long(word: str) -> str:
    """Return a text that is longer than any identifier."""
    return f"{word} " * 30


@dataclass(frozen=True, kw_only=True)
class Form:
    """How canaries look.

    Attributes:
        text: Makes a text from a word.
        is_apt: Whether a phone number is replaced by one, and a time or a code is left, so that
            everything can be read as before.
        keeps_words: Whether Meta's own words stay, so that the item keeps its type.
        renames_keys: Whether keys are replaced as well, below those that hold an item.
        adds_keys: Whether every object gets unknown keys.
        is_digits: Whether every text is a phone number.
    """

    text: Callable[[str], str] = plain
    is_apt: bool = False
    keeps_words: bool = True
    renames_keys: bool = False
    adds_keys: bool = False
    is_digits: bool = False


APT = Form(is_apt=True)
FORMS = {
    "apt": APT,
    "with more keys": Form(is_apt=True, adds_keys=True),
    "hostile": Form(text=hostile, adds_keys=True),
    "digits": Form(is_digits=True, adds_keys=True),
    "long": Form(text=long, adds_keys=True),
    "lower case": Form(text=str.lower, keeps_words=False, adds_keys=True),
    "keys": Form(keeps_words=False, renames_keys=True),
}


class Planter:
    """Replaces the values in one body by canaries in one *form*."""

    def __init__(self, canaries: Canaries, form: Form) -> None:
        self._canaries = canaries
        self._form = form
        self._known: dict[str, str] = {}

    def plant(self, value: Any, place: str, *, is_item: bool = False) -> Any:
        """Return *value* with canaries; *place* is its position.

        *is_item* is whether it is below the keys that are needed to find it.
        """
        match value:
            case dict():
                return self._object(value, place, is_item=is_item)
            case list():
                return [self.plant(each, f"{place}[]", is_item=is_item) for each in value]
            case str():
                return self._text(value, place)
            case bool() | None:
                return value
            case _:
                return self._number(value, place)

    def _object(self, value: Mapping[str, Any], place: str, *, is_item: bool) -> dict[str, Any]:
        planted = {}
        for key, item in value.items():
            inner = f"{place}.{key}"
            name = key
            if is_item and self._form.renames_keys:
                name = self._form.text(self._canaries.word(f"{inner} (key)"))
            is_inside = is_item or place.endswith(".value")
            stays = key in _SKELETON
            planted[name] = item if stays else self.plant(item, inner, is_item=is_inside)
        if self._form.adds_keys:
            added = f"{place} (added)"
            for content in (self._new_text("", added), self._digits(added)):
                planted[self._form.text(self._canaries.word(f"{added} (key)"))] = content
        return planted

    def _text(self, value: str, place: str) -> str:
        form = self._form
        if form.keeps_words and _META_WORD.fullmatch(value):
            return value
        if form.is_apt and _MOMENT.fullmatch(value):
            return value
        if form.is_apt:  # the same person, message or group is the same afterwards
            if value not in self._known:
                self._known[value] = self._new_text(value, place)
            return self._known[value]
        return self._new_text(value, place)

    def _new_text(self, value: str, place: str) -> str:
        form = self._form
        if form.is_digits or (form.is_apt and _DIGITS.fullmatch(value)):
            return self._canaries.number(place)
        prefix = "wamid." if value.startswith("wamid.") else ""
        return prefix + form.text(self._canaries.word(place))

    def _number(self, value: float, place: str) -> float:
        if isinstance(value, float):
            return float(f"9.{self._canaries.number(place)[1:]}")
        if self._form.is_apt and (abs(value) < _SMALL or value in _MOMENTS):
            return value
        return self._digits(place)

    def _digits(self, place: str) -> int:
        return int(self._canaries.number(place))


class Body(NamedTuple):
    """A webhook body with canaries in it.

    Attributes:
        is_webhook: Whether it is one, so that it has to be taken.
        emits: The expected number of updates, where it is known.
    """

    body: bytes
    is_webhook: bool
    emits: int | None = None


def webhook_bodies(canaries: Canaries) -> Iterator[Body]:
    """Yield every body of the corpus in every form, then with each of its words replaced alone."""
    rows = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]
    for form_name, form in FORMS.items():
        for row in rows:
            name = row["name"]
            planted = Planter(canaries, form).plant(row["body"], f"{name} ({form_name}) ")
            # A malformed body may be well-formed once it holds canaries.
            is_known = form is APT and row["source"] != "malformed"
            emits = len(row["emit"]) if is_known else None
            yield Body(json.dumps(planted).encode(), name not in REFUSED, emits)
    for row in rows:
        for path in word_paths(row["body"]):
            yield _with_one_replaced(row, path, canaries)


def word_paths(value: Any, path: tuple[Any, ...] = (), depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each of Meta's words in *value*, and `...` below each outer key."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in members:
        here = (*path, key)
        if isinstance(value, dict) and depth < _OUTER:
            yield (*here, ...)
        if isinstance(item, dict | list):
            yield from word_paths(item, here, depth + 1)
        elif isinstance(item, str) and _META_WORD.fullmatch(item):
            yield here


def _with_one_replaced(row: Any, path: tuple[Any, ...], canaries: Canaries) -> Body:
    body = Planter(canaries, APT).plant(row["body"], f"{row['name']} (next to one) ")
    is_key = path[-1] is ...
    *outer, last = path[:-1] if is_key else path
    holder = body
    for key in outer:
        holder = holder[key]
    steps = (f".{step}" if isinstance(step, str) else "[]" for step in (*outer, last))
    place = f"{row['name']} (alone) {''.join(steps)}"
    if is_key:
        holder[canaries.word(f"{place} (key)")] = holder.pop(last)
    else:
        holder[last] = canaries.word(place)
    is_envelope = path[0] != "object" and path != ("entry", ...)
    return Body(json.dumps(body).encode(), is_envelope and row["name"] not in REFUSED)
