"""The difference between the clock of a server and that of this machine. No I/O."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

CLOCK_SECONDS: Final = 30.0
"""The largest permitted difference."""


def seconds_apart(date: str, moment: datetime) -> float:
    """Return the difference between the header *date* of a response and *moment*.

    Raises:
        ValueError: *date* is not a date.
        OverflowError: The date is too far away.
    """
    there = parsedate_to_datetime(date)
    return abs((moment - there.replace(tzinfo=UTC)).total_seconds())
