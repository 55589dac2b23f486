"""Which of the processes on one file does the upkeep: one row, held like a lease."""

from typing import Final

from wats.store.sqlite.connection import Writer, change

TERM_MS: Final = 60_000
"""How long a leader that gives no sign of life stays the leader."""

_LEAD = """
INSERT INTO wats_leader (id, process, until) VALUES (1, ?1, ?2)
ON CONFLICT (id) DO UPDATE SET process = excluded.process, until = excluded.until
WHERE process = ?1 OR until <= ?3
"""


def lead(writer: Writer, process: int) -> bool:
    """Become or stay the leader, unless another process is."""
    now = writer.clock()
    return change(writer, _LEAD, [(process, now + TERM_MS, now)]) > 0
