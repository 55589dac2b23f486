"""A rate limit for lines of the log that repeat."""

import time
from collections.abc import Callable, Hashable
from typing import Final

INTERVAL_SECONDS: Final = 60.0
MAX_KEYS: Final = 1000
"""The number of different lines that are counted; the oldest is forgotten."""


class Repeats:
    """Admits one line for each key and interval, and counts the others."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._due_at: dict[Hashable, float] = {}
        self._suppressed: dict[Hashable, int] = {}

    def admit(self, key: Hashable) -> int | None:
        """Return how many lines of *key* were omitted before this one; `None` to omit it."""
        moment = self._monotonic()
        if moment < self._due_at.get(key, moment):
            self._suppressed[key] = self._suppressed.get(key, 0) + 1
            return None
        self._due_at.pop(key, None)  # so that the keys are in the order of their last lines
        self._due_at[key] = moment + INTERVAL_SECONDS
        if len(self._due_at) > MAX_KEYS:
            oldest = next(iter(self._due_at))
            del self._due_at[oldest]
            self._suppressed.pop(oldest, None)
        return self._suppressed.pop(key, 0)
