"""Rate limits of the simulated Meta: token buckets, independent of those of the gateway. No I/O."""

from collections.abc import Callable
from time import monotonic


class RateLimit:
    """A token bucket for each key.

    Args:
        capacity: The number of tokens of a full bucket; 0 for no limit.
        per_second: The number of tokens that are added in a second.
        now: The clock.
    """

    def __init__(
        self, capacity: float, per_second: float, now: Callable[[], float] = monotonic
    ) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def is_exceeded(self, key: str) -> bool:
        """Take a token of *key*; return whether there was none."""
        if not self._capacity:
            return False
        now = self._now()
        tokens, at = self._buckets.get(key, (self._capacity, now))
        tokens = min(tokens + (now - at) * self._per_second, self._capacity)
        self._buckets[key] = (tokens - 1 if tokens >= 1 else tokens), now
        return tokens < 1
