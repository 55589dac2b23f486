"""Which errors were seen lately: class names and counts, bounded, and never a text. No I/O."""

import re
import sys
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

MAX_NAMES: Final = 10

UNNAMED: Final = "Error"
"""What an error is called whose own name may not be shown."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}", re.ASCII)

_OURS = frozenset({"wats", "aiohttp", "click", "httptools", "msgspec", "uvicorn", "uvloop", "yaml"})


def error_name(error: BaseException) -> str:
    """Return the class name of *error* if it is known to be no more than a name.

    A class is known if it stands under its name in a module of wats, of a direct dependency or of
    the standard library. Any other may have been made at run time of whatever was at hand, and is
    called `Error`.
    """
    try:
        cls = type(error)
        name, module = cls.__name__, cls.__module__
        package = module.partition(".")[0]
        known = package in _OURS or package in sys.stdlib_module_names
        if known and vars(sys.modules[module]).get(name) is cls:
            return _checked(name)
    except Exception:  # noqa: S110 - a class can lie about itself in any way; then it has no name
        pass
    return UNNAMED


def _checked(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else UNNAMED


class ErrorLedger:
    """Counts errors by class name, for at most ten names; the least recently seen one goes first.

    *names* are further names that may be recorded: those of the Graph error table.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(_checked(name) for name in names)
        self._counts: OrderedDict[str, int] = OrderedDict()

    def record(self, error: BaseException) -> None:
        """Count *error* under its class name."""
        self._count(error_name(error))

    def record_name(self, name: str) -> None:
        """Count an error that is known by *name*; a name that is not in the list is `Error`."""
        self._count(name if name in self._names else UNNAMED)

    def snapshot(self) -> dict[str, int]:
        """Return the counts, the least recently seen name first."""
        return dict(self._counts)

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1
        self._counts.move_to_end(name)
        if len(self._counts) > MAX_NAMES:
            self._counts.popitem(last=False)
