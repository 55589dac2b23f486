"""Time: aware UTC datetimes in memory, milliseconds in the store, ISO text on the wire. No I/O."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

Now: TypeAlias = Callable[[], datetime]
"""Code that needs the time is given a clock function, so that a test can control the time."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


utc_now: Final[Now] = partial(datetime.now, UTC)
"""Return the present moment in UTC."""


def to_ms(moment: datetime) -> int:
    """Return *moment* as whole milliseconds since 1970, rounded down."""
    return (moment - EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """Return the moment *milliseconds* after 1970."""
    return EPOCH + milliseconds * _MILLISECOND


def to_iso(moment: datetime) -> str:
    """Return *moment* as `2026-11-22T15:24:00.000Z`, always with three fractional digits."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
