"""The observations of a service since it is watched. No I/O."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wats.inspection.samples import Samples

MAX_STEPS: Final = 240
RECENT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """The increase between two scrapes of the service."""

    seconds: float
    increase: Samples


class History:
    """The last scrapes of one service, and the increase between them.

    A scrape that failed leaves a gap. The next successful one includes the increase, unless the
    service restarted: then its counts since the last scrape are lost.
    """

    def __init__(self) -> None:
        self.latest = Samples()
        self.watched = Samples()
        """The increase since the first scrape."""
        self._steps: deque[Step | None] = deque(maxlen=MAX_STEPS)
        self._looked_at: float | None = None

    def look(self, at: float, samples: Samples) -> None:
        """Add the response of the service at *at*, in seconds of a monotonic clock."""
        if self._looked_at is not None:
            step = Step(max(at - self._looked_at, 1e-3), samples.increase_since(self.latest))
            self._steps.append(step)
            self.watched = Samples.sum([self.watched, step.increase])
        self.latest = samples
        self._looked_at = at

    def miss(self) -> None:
        """Add a failed scrape."""
        self._steps.append(None)

    def rates(self, count: Callable[[Samples], float]) -> list[float | None]:
        """Return the rate of *count* in each step, the oldest first, with `None` for a gap."""
        return [
            None if step is None else count(step.increase) / step.seconds for step in self._steps
        ]

    def recent(self) -> Samples:
        """Return the increase of the last minute."""
        seconds, parts = 0.0, []
        for step in reversed(self._steps):
            if step is not None and seconds < RECENT_SECONDS:
                seconds += step.seconds
                parts.append(step.increase)
        return Samples.sum(parts)
