"""Count the words that this project avoids: run `.venv/bin/python docs/words.py`.

Each entry of `HABITS` has a limit per 1,000 words, a reason and replacements. The habits are
counted in three collections of text: the pages, the source and the tests. Exit with status 1 and a
list of all occurrences if a collection exceeds a limit.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Habit:
    """A group of words to avoid, and the wording to prefer."""

    name: str
    pattern: str
    limit: float
    reason: str
    instead: str

    def find(self, text: str) -> list[str]:
        """Return the occurrences in *text*."""
        return re.findall(rf"\b(?:{self.pattern})\b", text, flags=re.IGNORECASE)


HABITS = (
    # Each limit of the first seven is the highest rate of Starlette, Procrastinate, psycopg and
    # psycopg_pool in their docstrings and comments, which are easy to read.
    Habit(
        "what",
        r"what|whatever",
        limit=0.9,
        reason="A clause describes a thing that has a name.",
        instead="the name of the thing",
    ),
    Habit(
        "tell",
        r"tells?|told|telling",
        limit=0.1,
        reason="Code does not talk, and the verb hides the direction of the data.",
        instead="pass, return, record, log, report, state, distinguish",
    ),
    Habit(
        "of it",
        r"of\s+(?:it|them|these)",
        limit=0.4,
        reason="The reader has to search for the noun.",
        instead="the noun again",
    ),
    Habit(
        "nobody",
        r"nobody|somebody|anybody",
        limit=0.0,
        reason="It makes a person of a process, and names no actor.",
        instead="the actor, or the passive voice",
    ),
    Habit(
        "who",
        r"who|whoever",
        limit=0.1,
        reason="It makes a person of a process.",
        instead="caller, client, worker, process, handler, operator",
    ),
    Habit(
        "come",
        r"comes?|came|coming",
        limit=0.4,
        reason="It has a dozen meanings.",
        instead="arrive, return, follow, happen, originate",
    ),
    Habit(
        "stand",
        r"stands?|stood",
        limit=0.4,
        reason="It has several meanings, and an idiom in each.",
        instead="be, appear, be written, represent",
    ),
    # Words with a plainer equivalent, and words of our own for things that have a name.
    Habit(
        "beside",
        r"beside|amid",
        limit=0.0,
        reason='It is rare, and is read as "besides".',
        instead="next to, in addition to, during",
    ),
    Habit(
        "is to be",
        r"(?:is|are)\s+to\s+be",
        limit=0.0,
        reason="It may be an order, a plan or a possibility.",
        instead="must, will, can",
    ),
    Habit(
        "as a whole",
        r"all\s+the\s+same|as\s+a\s+whole",
        limit=0.0,
        reason="It is an idiom.",
        instead="nevertheless, complete",
    ),
    Habit(
        "at once",
        r"at\s+once",
        limit=0.0,
        reason="It means both immediately and simultaneously.",
        instead="immediately, at the same time, concurrent",
    ),
    Habit(
        "by itself",
        r"by\s+itself",
        limit=0.0,
        reason="It means both alone and automatically.",
        instead="alone, separately, automatically",
    ),
    Habit(
        "lane",
        r"lanes?",
        limit=0.0,
        reason="Queues have a word for it.",
        instead="ordering key",
    ),
    Habit(
        "in doubt",
        r"in\s+doubt",
        limit=0.0,
        reason="It is a state of a send and needs one name.",
        instead="outcome unknown",
    ),
    Habit(
        "chores",
        r"chores?",
        limit=0.0,
        reason="It is a private word.",
        instead="upkeep",
    ),
    Habit(
        "stranger",
        r"strangers?",
        limit=0.0,
        reason="It is a private word.",
        instead="client without a token, unauthenticated request",
    ),
)


@dataclass(frozen=True)
class Passage:
    """A line or string of prose, and its position."""

    path: str
    line: int
    text: str


def passages_of_page(path: str, page: str) -> Iterator[Passage]:
    """Yield the lines of a Markdown *page* without code, link targets and HTML comments."""
    fenced = False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield Passage(path, number, _without_code(line))


def prose_of_module(path: str, source: str) -> Iterator[Passage]:
    """Yield comments, docstrings, and names of functions and classes of a module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Passage(path, token.start[0], _without_code(token.string))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Passage(path, node.lineno, _name_as_words(node.name))
        elif isinstance(node, ast.Expr) and _is_text(node.value):
            yield from _lines(path, node.lineno, str(node.value.value))


def comments_of_sql(path: str, source: str) -> Iterator[Passage]:
    """Yield the comments of SQL statements."""
    for number, line in enumerate(source.splitlines(), start=1):
        _, _, comment = line.partition("--")
        if comment:
            yield Passage(path, number, _without_code(comment))


def messages_of_module(path: str, source: str) -> Iterator[Passage]:
    """Yield the strings of a module that are sentences or phrases, without docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if _is_text(node) and id(node) not in docstrings:
            text = str(node.value)
            if _is_phrase(text):
                yield from _lines(path, node.lineno, text)


def measure(passages: Iterable[Passage]) -> tuple[int, dict[Habit, list[Passage]]]:
    """Return the number of words, and for each habit one passage per occurrence."""
    words = 0
    hits: dict[Habit, list[Passage]] = {habit: [] for habit in HABITS}
    for passage in passages:
        words += len(re.findall(r"[A-Za-z][A-Za-z']*", passage.text))
        for habit in HABITS:
            hits[habit].extend(passage for _ in habit.find(passage.text))
    return words, hits


def exceeded(words: int, hits: dict[Habit, list[Passage]]) -> list[Habit]:
    """Return the habits that exceed their limits, rounded to a tenth as the limits are."""
    return [
        habit
        for habit, found in hits.items()
        if found and round(1000 * len(found) / max(words, 1), 1) > habit.limit
    ]


def collections() -> dict[str, Iterator[Passage]]:
    """Return all texts of the repository by collection."""
    source = ("src", "bench", "operators", "docs")
    return {
        "pages": _pages(),
        "source": chain(
            _modules(prose_of_module, *source),
            _modules(messages_of_module, *source),
            _modules(comments_of_sql, *source, suffix=".sql"),
        ),
        "tests": _modules(prose_of_module, "tests"),
    }


def main() -> int:
    """Print the rate of each habit and the occurrences above a limit; return the exit status."""
    failed = False
    for name, passages in collections().items():
        words, hits = measure(passages)
        above = exceeded(words, hits)
        failed = failed or bool(above)
        rates = ", ".join(
            f"{habit.name} {1000 * len(found) / max(words, 1):.1f}" for habit, found in hits.items()
        )
        print(f"{name}: {words} words; per 1,000: {rates}")
        for habit in above:
            print(f"\n'{habit.name}' above {habit.limit} in {name}. {habit.reason}")
            print(f"Write: {habit.instead}.")
            for hit in hits[habit]:
                print(f"{hit.path}:{hit.line}: {' '.join(hit.text.split())}")
    return int(failed)


def _pages() -> Iterator[Passage]:
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))):
        yield from passages_of_page(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    for path in sorted((ROOT / "operators").glob("*.yml")):
        yield from _lines(str(path.relative_to(ROOT)), 1, path.read_text("utf-8"))


def _modules(
    read: Callable[[str, str], Iterator[Passage]], *folders: str, suffix: str = ".py"
) -> Iterator[Passage]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob(f"*{suffix}")):
            yield from read(str(path.relative_to(ROOT)), path.read_text("utf-8"))


def _lines(path: str, first: int, text: str) -> Iterator[Passage]:
    for number, line in enumerate(text.splitlines(), start=first):
        yield Passage(path, number, _without_code(line))


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_phrase(text: str) -> bool:
    # Shorter strings are mostly keys, headers and fragments of code.
    return len(re.findall(r"\b[a-z']+\b", text)) >= 4


def _name_as_words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", " ", text)


if __name__ == "__main__":
    sys.exit(main())
