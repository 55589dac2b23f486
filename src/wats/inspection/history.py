"""What was seen of a service since somebody began to watch it. No I/O."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wats.inspection.samples import Samples

MAX_STEPS: Final = 240
RECENT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """What happened between two looks at the service."""

    seconds: float
    increase: Samples


class History:
    """The last looks at one service, and all that it counted while they were taken.

    A look that failed leaves a gap. What happened meanwhile is found by the next one that does
    not, unless the service began anew: what it had counted since the last look is lost then.
    """

    def __init__(self) -> None:
        self.latest = Samples()
        self.watched = Samples()
        """All that happened since the first look."""
        self._steps: deque[Step | None] = deque(maxlen=MAX_STEPS)
        self._looked_at: float | None = None

    def look(self, at: float, samples: Samples) -> None:
        """Take in what the service said at *at*, in seconds of a clock that never goes back."""
        if self._looked_at is not None:
            step = Step(max(at - self._looked_at, 1e-3), samples.increase_since(self.latest))
            self._steps.append(step)
            self.watched = Samples.sum([self.watched, step.increase])
        self.latest = samples
        self._looked_at = at

    def miss(self) -> None:
        """Take in that the service said nothing."""
        self._steps.append(None)

    def rates(self, count: Callable[[Samples], float]) -> list[float | None]:
        """Return the rate of *count* in each step, the oldest first, with `None` for a gap."""
        return [
            None if step is None else count(step.increase) / step.seconds for step in self._steps
        ]

    def recent(self) -> Samples:
        """Return what happened in the last minute."""
        seconds, parts = 0.0, []
        for step in reversed(self._steps):
            if step is not None and seconds < RECENT_SECONDS:
                seconds += step.seconds
                parts.append(step.increase)
        return Samples.sum(parts)
