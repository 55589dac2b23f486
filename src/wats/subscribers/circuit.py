"""The circuit breaker of a subscriber: no requests while it is down, except for probes.

    closed ── failures in a row ──▸ open ── pause ──▸ one probe ── success ──▸ closed
                                     ▲                     │
                                     └──── longer pause ───┘ failure

After an outage, the limit of requests at a time begins at one and doubles: what has waited must
neither overload the subscriber again nor delay what goes to the others.

The state belongs to one process; each process of a service finds out for itself.
"""

import math
import random
import time
from collections.abc import Callable, Hashable
from typing import Final

THRESHOLD: Final = 5
"""The number of failures in a row that opens the circuit."""

FIRST_PAUSE_SECONDS: Final = 1.0
PAUSE_FACTOR: Final = 2.0
LONGEST_PAUSE_SECONDS: Final = 60.0
"""The longest pause before a probe, unless the subscriber asked for a longer one."""

OUTAGE_PART: Final = 0.25
"""The part of the length of an outage after which the limit of requests doubles."""

LONGEST_DOUBLING_SECONDS: Final = 15.0
"""The longest time after which it doubles."""

DOUBLINGS: Final = 10
"""The number of doublings after which there is no limit."""


class Circuit:
    """Decides whether a request may be sent, from the results of the earlier ones.

    Attributes:
        is_open: Whether only probes are sent.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.is_open = False
        self._monotonic = monotonic
        self._jitter = jitter
        self._failed: set[Hashable] = set()
        self._pause = FIRST_PAUSE_SECONDS
        self._probe_at = 0.0
        self._is_probing = False
        self._opened_at = 0.0
        self._closed_at: float | None = None  # while there is a limit

    def limit(self) -> float:
        """Return the number of requests that may be in progress now."""
        if self.is_open:
            return 1 if self._is_probing or self._monotonic() >= self._probe_at else 0
        if self._closed_at is None:
            return math.inf
        part = OUTAGE_PART * (self._closed_at - self._opened_at)
        doubling_seconds = min(part, LONGEST_DOUBLING_SECONDS)
        since = self._monotonic() - self._closed_at
        if since >= DOUBLINGS * doubling_seconds:
            self._closed_at = None
            return math.inf
        return float(2 ** int(since / doubling_seconds))

    def admit(self) -> bool:
        """Return whether a request may be sent now. Its result must be reported."""
        if self._is_probing or not self.limit():
            return False
        self._is_probing = self.is_open
        return True

    def pause(self) -> float:
        """Return the seconds to wait before a request that was not admitted.

        Deliveries that wait together are not due together: the first is the probe.
        """
        remaining = self._probe_at - self._monotonic()
        return max(remaining, FIRST_PAUSE_SECONDS) * (1 + self._jitter() / 5)

    def succeed(self) -> bool:
        """Close the circuit; return whether it was open.

        The success of a request from before it opened does not end the pause.
        """
        was_open = self.is_open
        if was_open:
            if not self._is_probing:
                return False
            self._closed_at = self._monotonic()
        self.is_open = self._is_probing = False
        self._failed.clear()
        self._pause = FIRST_PAUSE_SECONDS
        return was_open

    def fail(self, cause: Hashable) -> bool:
        """Note a failure; return whether it opened the circuit.

        Failures with the same *cause* count once: an update that the subscriber never accepts must
        not stop the others.
        """
        if self.is_open:
            if self._is_probing:
                self._pause = min(self._pause * PAUSE_FACTOR, LONGEST_PAUSE_SECONDS)
                self._open(self._pause)
            return False
        self._failed.add(cause)
        if len(self._failed) < THRESHOLD:
            return False
        self._open(self._pause)
        return True

    def hold(self, seconds: float) -> bool:
        """Open the circuit for *seconds*; return whether it was closed."""
        was_open = self.is_open
        self._open(seconds)
        return not was_open

    def abandon(self) -> None:
        """Note that a request was cancelled, which says nothing about the subscriber."""
        self._is_probing = False

    def _open(self, seconds: float) -> None:
        now = self._monotonic()
        if not self.is_open:
            self._opened_at = now
        self.is_open = True
        self._is_probing = False
        self._probe_at = now + seconds
