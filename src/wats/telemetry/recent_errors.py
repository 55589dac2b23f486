"""Recent errors: a bounded number of class names and counts, without texts. No I/O."""

import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from wats.telemetry.metrics.shared_memory import ERROR_BYTES, Board

MAX_NAMES: Final = 10

UNNAMED: Final = "Error"
"""The name for an error whose own name may not be shown."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}", re.ASCII)

_OURS = frozenset(
    {
        *("wats", "aiohttp", "apsw", "asyncpg", "click"),
        *("httptools", "msgspec", "uvicorn", "uvloop", "yaml"),
    }
)

_defined: dict[str, dict[str, object]] = {}
"""The exception classes of each module by name, at the time of its first inspection."""


def error_name(error: BaseException) -> str:
    """Return the class name of *error* if the name cannot hold data.

    The name is safe if a module of wats, of a direct dependency or of the standard library had the
    class under its name when an `ErrorLedger` was made, or, if the module was imported later, at
    the first error from it. Any other class may have been made from data at run time: it is
    `Error`.
    """
    try:
        cls = type(error)
        name, module = cls.__name__, cls.__module__
        if is_known(module) and _exceptions_of(module).get(name) is cls:
            return _checked(name)
    except Exception:  # noqa: S110 - a class can fail in any way; then it has no name
        pass
    return UNNAMED


def is_known(module: str) -> bool:
    """Return whether *module* is part of wats, of a direct dependency or of Python."""
    package = module.partition(".")[0]
    return package in _OURS or package in sys.stdlib_module_names


def _exceptions_of(module: str) -> Mapping[str, object]:
    found = _defined.get(module)
    if found is None:
        found = _defined[module] = {
            name: value
            for name, value in list(vars(sys.modules[module]).items())
            if isinstance(value, type) and issubclass(value, BaseException)
        }
    return found


def _inspect_modules() -> None:
    """Inspect every known module that has been imported, which takes 10 ms once."""
    for name, module in list(sys.modules.items()):
        # A partly imported module would be recorded as complete.
        if name not in _defined and is_known(name) and not _is_being_imported(module):
            with suppress(Exception):
                _exceptions_of(name)


def _is_being_imported(module: object) -> bool:
    return getattr(getattr(module, "__spec__", None), "_initializing", False)


def _checked(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else UNNAMED


class ErrorLedger:
    """Counts errors by class name, for at most ten names; the least recently seen is replaced.

    Each worker process keeps ten names in its row of *board*, and any worker can report all rows.

    Args:
        names: Further names that may be recorded: those of the Graph error table.
        board: The memory for the counts; a board of its own by default.
        row: The row of this process.
        clock: Nanoseconds on a clock that all processes of this machine share.
    """

    def __init__(
        self,
        names: Collection[str] = (),
        *,
        board: Board | None = None,
        row: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        _inspect_modules()
        board = board or Board()
        self._names = frozenset(_checked(name) for name in names)
        self._rows = [_ErrorRow(board.errors(each)) for each in range(board.rows)]
        self._own = self._rows[row]
        self._clock = clock

    def record(self, error: BaseException) -> None:
        """Count *error* under its class name."""
        self._own.count(error_name(error), self._clock())

    def record_name(self, name: str) -> None:
        """Count an error by *name*; a name outside the list is `Error`."""
        self._own.count(name if name in self._names else UNNAMED, self._clock())

    def snapshot(self) -> dict[str, int]:
        """Return the counts of all processes, the least recently seen name first."""
        counts: dict[str, int] = {}
        seen: dict[str, int] = {}
        for entry in (entry for row in self._rows for entry in row):
            counts[entry.name] = counts.get(entry.name, 0) + entry.count
            seen[entry.name] = max(seen.get(entry.name, 0), entry.seen)
        latest = sorted(counts, key=lambda name: (seen[name], name))[-MAX_NAMES:]
        return {name: counts[name] for name in latest}


@dataclass(frozen=True, slots=True)
class _ErrorEntry:
    name: str = ""
    count: int = 0
    seen: int = 0


_INT64: Final = 8
_NAME_BYTES: Final = 80
_ENTRY_BYTES: Final = 2 * _INT64 + _NAME_BYTES
_READS: Final = 3

assert MAX_NAMES * _ENTRY_BYTES <= ERROR_BYTES  # noqa: S101 - the layout depends on it


class _ErrorRow:
    """The errors of one process: for each name the time of the last one, the count, and the name.

    Readers do not wait for the writer. While an entry changes its name, it is marked as never seen,
    and no two names are ever seen at the same time; so a reader that finds the same time before and
    after reading has read one name, and a process that dies during a write leaves no entry that
    reads as a name.
    """

    def __init__(self, memory: "memoryview[int]") -> None:
        self._memory = memory
        self._numbers = memory.cast("q")

    def __iter__(self) -> Iterator[_ErrorEntry]:
        entries = (self._read(place) for place in range(MAX_NAMES))
        return (entry for entry in entries if entry is not None)

    def count(self, name: str, moment: int) -> None:
        """Count *name* as seen at *moment*."""
        entries = [self._read(place) or _ErrorEntry() for place in range(MAX_NAMES)]
        moment = max(moment, *(entry.seen + 1 for entry in entries))
        names = [entry.name for entry in entries]
        if name in names:
            at = self._number_at(names.index(name))
            self._numbers[at + 1] += 1
        else:
            place = min(range(MAX_NAMES), key=lambda place: entries[place].seen)
            at = self._number_at(place)
            self._numbers[at] = 0
            self._name_of(place)[:] = name.encode("ascii").ljust(_NAME_BYTES, b"\0")
            self._numbers[at + 1] = 1
        self._numbers[at] = moment

    def _read(self, place: int) -> _ErrorEntry | None:
        at = self._number_at(place)
        for _ in range(_READS):
            seen = self._numbers[at]
            name = bytes(self._name_of(place)).rstrip(b"\0").decode("ascii")
            count = self._numbers[at + 1]
            if seen == self._numbers[at]:
                return _ErrorEntry(name, count, seen) if seen else None
        return None

    def _number_at(self, place: int) -> int:
        return place * _ENTRY_BYTES // _INT64

    def _name_of(self, place: int) -> "memoryview[int]":
        first = place * _ENTRY_BYTES + 2 * _INT64
        return self._memory[first : first + _NAME_BYTES]
