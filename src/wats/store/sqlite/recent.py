"""The latest messages, which are found in another way than those before them.

The place of a message in an index of message ids is a random one, and so is that of its window: a
page each, which a commit writes as a whole. So both are written for some thousand messages at once,
in their order; these are gathered then. Until then the writer finds a message by a table of its own
in memory, `temp.wats_recent`, that it fills with what was recorded since, by whichever process; and
a reader reads all that are not gathered.

Each function runs inside a transaction that its caller opened.
"""

from typing import Any, NamedTuple

from apsw import Connection

GATHERED_MESSAGES = 4000
"""How many messages are gathered at once: enough that those of a hundred thousand customers share
pages, few enough that a reader has read them in half a millisecond."""

CREATE_RECENT = """
CREATE TEMP TABLE wats_recent (
    hash INTEGER NOT NULL, row_id INTEGER NOT NULL, PRIMARY KEY (hash, row_id)
) WITHOUT ROWID;
CREATE TEMP TABLE wats_seen (
    id INTEGER PRIMARY KEY, given INTEGER NOT NULL, gathered INTEGER NOT NULL
);
INSERT INTO temp.wats_seen (id, given, gathered) VALUES (1, 0, 0)
"""
"""For a new connection that will write. `wats_seen` has the marks when `wats_recent` was filled."""

ROW_IDS = """(
    SELECT row_id FROM wats_message_ids WHERE hash = ?1
    UNION ALL
    SELECT row_id FROM temp.wats_recent WHERE hash = ?1
)"""
"""The rows of the messages with hash ?1, for a statement of the connection that writes."""

MAY_BE_KNOWN = """
SELECT EXISTS (SELECT 1 FROM wats_message_ids WHERE hash = ?1)
    OR EXISTS (SELECT 1 FROM temp.wats_recent WHERE hash = ?1)
"""
"""Whether `ROW_IDS` has any, in half of its time."""

LAST_GATHERED = "(SELECT coalesce(max(gathered), 0) FROM wats_marks WHERE id = 1)"
"""The last row that is gathered."""

_MARKS = "SELECT given, gathered FROM wats_marks WHERE id = 1"

_MOVE_MARKS = """
INSERT INTO wats_marks (id, given, gathered) VALUES (1, ?, ?)
ON CONFLICT (id) DO UPDATE SET given = excluded.given, gathered = excluded.gathered
"""

_SEEN = "SELECT given, gathered FROM temp.wats_seen WHERE id = 1"

_MOVE_SEEN = "UPDATE temp.wats_seen SET given = ?, gathered = ? WHERE id = 1"

_SEE = """
INSERT INTO temp.wats_recent (hash, row_id)
SELECT wa_message_hash, row_id FROM wats_messages WHERE row_id > ?
"""

_LET_GO = "DELETE FROM temp.wats_recent"

_GATHER_IDS = """
INSERT INTO wats_message_ids (hash, row_id)
SELECT wa_message_hash, row_id FROM wats_messages WHERE row_id > ?
ORDER BY wa_message_hash, row_id
"""

_GATHER_WINDOWS = """
INSERT INTO wats_windows (digest, last_inbound_at)
SELECT window, max(opened_at) FROM wats_messages WHERE row_id > ? AND window IS NOT NULL
GROUP BY window
ON CONFLICT (digest) DO UPDATE SET last_inbound_at = excluded.last_inbound_at
WHERE excluded.last_inbound_at > last_inbound_at
"""


class Marks(NamedTuple):
    """How far messages came: the last row id that was *given* to one, and the last *gathered*.

    No row id is given twice, so what is known of one never speaks of another message.
    """

    given: int
    gathered: int


def marks(connection: Connection) -> Marks:
    """Read the marks."""
    row: Any = connection.execute(_MARKS).fetchone()
    return Marks(0, 0) if row is None else Marks(*row)


def give(connection: Connection, count: int) -> int:
    """Return the first of *count* row ids for new messages, to be inserted before `catch_up`."""
    given, gathered = marks(connection)
    connection.execute(_MOVE_MARKS, (given + count, gathered))
    return given + 1


def catch_up(connection: Connection) -> None:
    """Let `ROW_IDS` find every message that is recorded; gather when there are enough for that."""
    given, gathered = marks(connection)
    if given - gathered >= GATHERED_MESSAGES:
        connection.execute(_GATHER_IDS, (gathered,))
        connection.execute(_GATHER_WINDOWS, (gathered,))
        connection.execute(_MOVE_MARKS, (given, given))
        gathered = given
    row: Any = connection.execute(_SEEN).fetchone()
    seen = Marks(*row)
    if seen == (given, gathered):
        return
    after = seen.given
    if gathered > seen.gathered:  # here or by another process: what was held is in the index now
        connection.execute(_LET_GO)
        after = gathered
    connection.execute(_SEE, (after,))
    connection.execute(_MOVE_SEEN, (given, gathered))
