"""The clock of the store: milliseconds since 1970 that never go back and never jump.

Leases and retries follow the time since boot, which no change of the wall clock touches. What is
added to it, so that the sum looks like the time of day, is written to the database once per boot,
so that all processes on one file agree.
"""

import time
from pathlib import Path
from typing import Any, Final

import apsw

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_READ = "SELECT boot, clock_offset, now FROM wats_queue WHERE id = 1"

_WRITE = "UPDATE wats_queue SET boot = ?, clock_offset = ? WHERE id = 1"


class StoreClock:
    """Reads the time of the store; `start` must come first."""

    def __init__(self) -> None:
        self._offset = 0

    def start(self, connection: apsw.Connection) -> None:
        """Take the offset of this boot from the database, or write it. In a transaction."""
        row: Any = connection.execute(_READ).fetchone()
        boot, offset, last_ms = row
        if boot is None or boot != _boot_id():
            # After a reboot with the wall clock behind, the time goes on where it stopped.
            offset = max(time.time_ns() // 1_000_000, last_ms) - _since_boot_ms()
            connection.execute(_WRITE, (_boot_id(), offset))
        self._offset = offset

    def __call__(self) -> int:
        """Return the time in milliseconds."""
        return _since_boot_ms() + self._offset


def _since_boot_ms() -> int:
    # With the time that a suspended machine slept, where the system counts it.
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
