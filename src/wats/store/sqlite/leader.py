"""Election of the leader of the processes on one file: a row that is held like a lease."""

from typing import Final

from wats.store.sqlite.connection import Writer, change

TERM_MS: Final = 1_500_000
"""How long a process stays the leader without calling `lead`: 2.5 rounds of the upkeep."""

_LEAD = """
INSERT INTO wats_leader (id, process, until) VALUES (1, ?1, ?2)
ON CONFLICT (id) DO UPDATE SET process = excluded.process, until = excluded.until
WHERE process = ?1 OR until <= ?3
"""

_RESIGN = "DELETE FROM wats_leader WHERE process = ?"


def lead(writer: Writer, process: int) -> bool:
    """Become or stay the leader, unless another process is the leader; return the result."""
    now = writer.clock()
    return change(writer, _LEAD, [(process, now + TERM_MS, now)]) > 0


def resign(writer: Writer, process: int) -> None:
    """End the term of *process*, so that another process can lead immediately."""
    writer.execute(_RESIGN, (process,))
