"""Empty the write-ahead log, which contains erased content until it is truncated."""

from typing import Final

from apsw import Connection

LOCK_SECONDS: Final = 0.1
"""How long the truncation may wait for readers, while writers wait for the truncation."""

PASSIVE_ROUNDS: Final = 4
REMAINING_PAGES: Final = 500
"""The maximum number of pages left to the truncation, which copies them while writers wait."""


def checkpoint(connection: Connection) -> bool:
    """Copy the write-ahead log to the database file, and truncate it; return whether it is empty.

    Most pages are copied while other connections read and write. Only the remaining pages are
    copied, and the log is truncated, under the write lock. Call outside of a transaction, on a
    connection with a busy timeout of `LOCK_SECONDS`.
    """
    for _ in range(PASSIVE_ROUNDS):
        _, pages, copied = _run(connection, "PASSIVE")
        if pages - copied <= REMAINING_PAGES:
            break
    is_busy, _, _ = _run(connection, "TRUNCATE")
    return not is_busy


def _run(connection: Connection, mode: str) -> tuple[int, int, int]:
    is_busy, pages, copied = connection.execute(f"PRAGMA wal_checkpoint({mode})").get
    return is_busy, pages, copied
