"""The clock of the store: milliseconds since 1970 that never go back and never jump.

Leases and retries follow the time since boot, which is independent of changes of the wall clock. An
offset makes it resemble the time of day. The offset is written to the database once per boot, so
all processes on one file use the same.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_READ = "SELECT boot, clock_offset, now FROM wats_queue WHERE id = 1"

_WRITE = "UPDATE wats_queue SET boot = ?, clock_offset = ? WHERE id = 1"


def _since_boot_ms() -> int:
    # CLOCK_BOOTTIME, where it exists, includes the time in which the machine was suspended.
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class StoreClock:
    """The clock of a store. Call `start` first.

    Args:
        boot_id: Returns an id of the current boot of the machine, if the system has one.
        since_boot_ms: Returns the time since boot.
        wall_ms: Returns the time of day.
    """

    def __init__(
        self,
        *,
        boot_id: Callable[[], str | None] = _boot_id,
        since_boot_ms: Callable[[], int] = _since_boot_ms,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._boot_id = boot_id
        self._since_boot_ms = since_boot_ms
        self._wall_ms = wall_ms
        self._offset = 0

    def start(self, connection: apsw.Connection) -> None:
        """Read the offset of this boot, or write it. Call it inside a transaction."""
        boot, offset, last_ms = connection.execute(_READ).get
        goes_back = self._since_boot_ms() + offset < last_ms
        if boot is None or boot != self._boot_id() or goes_back:
            # If the wall clock was set back before the reboot, or a virtual machine was restored
            # from a snapshot, time continues where it stopped.
            offset = max(self._wall_ms(), last_ms) - self._since_boot_ms()
            connection.execute(_WRITE, (self._boot_id(), offset))
        self._offset = offset

    def __call__(self) -> int:
        """Return the time in milliseconds."""
        return self._since_boot_ms() + self._offset
