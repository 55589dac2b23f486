"""How mistakes are named without showing what a file holds. No I/O."""

import difflib
import re
from collections.abc import Callable, Collection
from typing import TypeVar

from wats.errors import ConfigError, ConfigIssue

T = TypeVar("T")

_SHOWN = re.compile("[A-Za-z][A-Za-z0-9_.-]{0,39}")
_SHOWN_VARIABLE = re.compile("[A-Z][A-Z0-9_]{0,63}")


def step(path: str, key: object) -> str:
    """Return *path* and *key* below it, or a question mark for a key that is not a plain name.

    Something long or odd in the place of a key is more likely a value that slipped there.
    """
    shown = isinstance(key, str) and _SHOWN.fullmatch(key)
    return f"{path}.{key}" if shown else f"{path}[?]"


def unknown_key(path: str, key: object, known: Collection[str]) -> ConfigIssue:
    """Return the issue with a key that is not one of *known*, and the nearest that is."""
    where = step(path, key)
    near = [] if where.endswith("[?]") else difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"valid keys are {', '.join(known)}."
    return ConfigIssue("unknown_key", where, f"Is not a key of the config file; {hint}")


def variable(name: str) -> str:
    """Return how to call the environment variable *name*.

    A name in small letters may be a token that was pasted in its place, so it is not repeated.
    """
    if _SHOWN_VARIABLE.fullmatch(name):
        return f"The environment variable '{name}'"
    return "The environment variable of this key"


def attempt(work: Callable[[], T], issues: list[ConfigIssue]) -> T | None:
    """Return what *work* returns, or add its mistakes to *issues* and return None."""
    try:
        return work()
    except ConfigError as error:
        issues.extend(error.issues)
        return None
