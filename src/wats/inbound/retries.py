"""The pauses between the attempts of a delivery. No I/O."""

from wats.config import InboxConfig

FIRST_RETRY_SECONDS = 1.0
RETRY_FACTOR = 3.0
LONGEST_RETRY_SECONDS = 3600.0
SHORTEST_PAUSE_SECONDS = 0.1
"""The shortest pause of a postponed delivery: calls without a pause would keep the store busy."""


def retry_delay(attempt: int, jitter: float) -> float:
    """Return the pause in seconds after the *attempt*-th failure: 1, 3, 9 … up to an hour.

    *jitter*, from 0 to 1, shortens the pause by up to a fifth, so that deliveries that failed
    together are retried at different times.
    """
    steps = min(attempt - 1, 10)
    seconds = min(FIRST_RETRY_SECONDS * RETRY_FACTOR**steps, LONGEST_RETRY_SECONDS)
    return shortened(seconds, jitter)


def shortened(seconds: float, jitter: float) -> float:
    """Return a pause of *seconds*, shortened by up to a fifth by *jitter*."""
    return seconds * (1 - jitter / 5)


def retry_span(config: InboxConfig) -> float:
    """Return the longest time in seconds from the first attempt of a delivery to its last one."""
    attempts = range(1, config.max_attempts)
    ends = config.handler_timeout_seconds + config.lease_seconds
    return sum(retry_delay(attempt, jitter=0) + ends for attempt in attempts)


def pause_of(seconds: float) -> float:
    """Return the pause of a delivery that its consumer postponed by *seconds*."""
    return min(max(seconds, SHORTEST_PAUSE_SECONDS), LONGEST_RETRY_SECONDS)
