"""The lock of a service on a database, so that no second one counts apart on the same database.

A separate file, since closing any descriptor of the database itself would drop the locks of SQLite.
The kernel releases the lock with the last process that has the descriptor: forked workers inherit
it.
"""

import fcntl
import os

from wats.errors import StoreInUse
from wats.store.sqlite.open_faults import explain


class Occupation:
    """The lock on the database *path*; not held at first."""

    def __init__(self, path: str) -> None:
        self._database = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the database, unless this object has.

        Raises:
            StoreInUse: Another service has locked it.
            StoreUnavailable: The file of the lock cannot be opened or locked.
        """
        if self._descriptor is not None:
            return
        try:
            path = f"{os.path.realpath(self._database)}-lock"  # the same through every link
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise explain(error, self._database) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise StoreInUse from None
            raise explain(error, self._database) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Unlock the database, if this object has locked it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
