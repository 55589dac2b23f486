"""The header `Retry-After`: seconds, or a date in one of the three forms of HTTP. No I/O."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_SECONDS: Final = 3600.0
"""The longest pause that another service can ask for."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}")


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the pause in seconds that *value* asks for at *now*, 0 to `LONGEST_SECONDS`.

    See RFC 9110, 10.2.3. `None` if there is no value, or an invalid one.
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
            seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
        except (ValueError, OverflowError, IndexError):  # of parts that are out of range
            return None
    return min(max(seconds, 0.0), LONGEST_SECONDS)
