"""The circuit breaker of a subscriber: no requests while it is down, except for probes.

    closed ── failures in a row ──▸ open ── pause ──▸ one probe ── success ──▸ closed
       ▲                             ▲                     │
       │                             └──── longer pause ───┘ failure

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

    def room(self) -> float:
        """Return the number of further requests that may be sent now: all, a probe, or none."""
        if not self.is_open:
            return math.inf
        return 0 if self._is_probing or self._monotonic() < self._probe_at else 1

    def admit(self) -> bool:
        """Return whether a request may be sent now. Its result must be reported."""
        if not self.room():
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
        """Close the circuit; return whether it was open."""
        was_open = self.is_open
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
        self.is_open = True
        self._is_probing = False
        self._probe_at = self._monotonic() + seconds
