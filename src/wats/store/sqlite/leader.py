"""Which of the processes on one file does the upkeep: one row, held like a lease."""

from typing import Final

from wats.store.sqlite.connection import Writer, change

TERM_MS: Final = 1_500_000
"""How long a leader that does not call stays the leader: two rounds of the upkeep, and a half."""

_LEAD = """
INSERT INTO wats_leader (id, process, until) VALUES (1, ?1, ?2)
ON CONFLICT (id) DO UPDATE SET process = excluded.process, until = excluded.until
WHERE process = ?1 OR until <= ?3
"""

_RESIGN = "DELETE FROM wats_leader WHERE process = ?"


def lead(writer: Writer, process: int) -> bool:
    """Become or stay the leader, unless another process is."""
    now = writer.clock()
    return change(writer, _LEAD, [(process, now + TERM_MS, now)]) > 0


def resign(writer: Writer, process: int) -> None:
    """Let another process become the leader at once."""
    writer.execute(_RESIGN, (process,))
