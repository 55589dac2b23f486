"""The result of one check: it holds, fails, or is unknown. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_NAMED: Final = 5


class Verdict(StrEnum):
    """Whether an item holds; `unknown` if it cannot be checked from outside."""

    HOLDS = "holds"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one item, with its evidence or its remedy."""

    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """An item with its finding.

    Attributes:
        name: The name of the item in JSON.
        promise: The property that must hold.
        finding: The verdict, with its evidence or its remedy.
    """

    name: str
    promise: str
    finding: Finding


def holds(note: str = "") -> Finding:
    """Return that the item holds."""
    return Finding(Verdict.HOLDS, note)


def fails(note: str) -> Finding:
    """Return that the item fails, with the reason and the remedy."""
    return Finding(Verdict.FAILS, note)


def unknown(note: str) -> Finding:
    """Return that the item cannot be checked, with the reason."""
    return Finding(Verdict.UNKNOWN, note)


def some(things: Sequence[str]) -> str:
    """Return the first of *things* for a note, and the number of the others."""
    more = len(things) - MAX_NAMED
    return ", ".join(things[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
