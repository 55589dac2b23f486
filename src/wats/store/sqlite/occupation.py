"""The lock of a service on a database, so that no second one counts apart on the same database.

A separate file, since closing any descriptor of the database itself would drop the locks of SQLite.
"""

import fcntl
import os

from wats.errors import StoreInUse
from wats.store.sqlite.open_faults import explain


def lock(database: str) -> int:
    """Lock *database*; return a descriptor.

    The kernel releases the lock when the last process has closed the descriptor, which forked
    workers inherit.

    Raises:
        StoreInUse: Another service has locked it.
        StoreUnavailable: The file of the lock cannot be opened or locked.
    """
    try:
        path = f"{os.path.realpath(database)}-lock"  # the same through every link
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
    except BlockingIOError:
        raise StoreInUse from None
    except OSError as error:
        raise explain(error, database) from error
    return descriptor
