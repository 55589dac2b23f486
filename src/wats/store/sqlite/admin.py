"""Consumers and deliveries for operators and the upkeep, in SQL.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from apsw import Connection

from wats.clock import from_ms
from wats.store.admin import (
    HEAD_BYTES,
    SCAN_DELIVERIES,
    ConsumerState,
    DeliveryFilter,
    DeliveryPage,
    StoredDelivery,
    deliveries_page,
)
from wats.store.records import OUTBOX, DeliveryState, Depth, InboxDepth, Retention
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.deliveries import TAKE_IDS, keep_registered, promote, unleased
from wats.store.sqlite.message_index import numbers

_CONSUMERS = """
SELECT name, is_paused, pending, leased, retry, dead FROM wats_consumers ORDER BY name
"""

_OLDEST = "SELECT consumer, arrived_at FROM wats_deliveries ORDER BY id LIMIT ?"

_OLDEST_OF = """
SELECT min(arrived_at) FROM (
    SELECT arrived_at FROM wats_deliveries
    WHERE consumer = ? AND due_at IS NOT NULL ORDER BY due_at LIMIT ?
)
"""

_MOST_ROWS = 5000
"""The maximum number of rows read to find the oldest delivery of a consumer."""

_PAUSE = "UPDATE wats_consumers SET is_paused = ? WHERE name = ?"

_OUTSTANDING = """
SELECT id, update_id, consumer, attempts, error, arrived_at, due_at, lease IS NOT NULL, NULL,
    length(payload), substr(payload, 1, ?)
FROM wats_deliveries
"""

_DEAD = """
SELECT id, update_id, consumer, attempts, error, arrived_at, NULL, 0, died_at, length(payload),
    substr(payload, 1, ?)
FROM wats_dead_deliveries
"""

_PAGE = "WHERE id > ? ORDER BY id LIMIT ?"

_PAYLOAD = """
SELECT payload FROM wats_deliveries WHERE id = ?1
UNION ALL
SELECT payload FROM wats_dead_deliveries WHERE id = ?1
"""

_TAKE_DEAD = """
DELETE FROM wats_dead_deliveries WHERE id IN carray(?)
RETURNING id, update_id, siblings, consumer, ordering_key, arrived_at, payload
"""

_HEAD_OF = """
SELECT id, lease IS NOT NULL, followers FROM wats_deliveries
WHERE ordering_key = ? AND consumer = ? AND due_at IS NOT NULL
"""

_DEMOTE = "UPDATE wats_deliveries SET due_at = NULL, followers = 0 WHERE id = ?"

_INSERT = """
INSERT INTO wats_deliveries (
    id, update_id, siblings, consumer, ordering_key, arrived_at, payload, due_at, followers
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_ADD_FOLLOWERS = "UPDATE wats_deliveries SET followers = followers + ? WHERE id = ?"

_OF_UPDATES = f"""
SELECT id FROM wats_deliveries WHERE id IN carray(?1) AND consumer <> '{OUTBOX}'
UNION ALL
SELECT id FROM wats_dead_deliveries WHERE id IN carray(?1) AND consumer <> '{OUTBOX}'
"""

_EXPEDITE = """
UPDATE wats_deliveries SET due_at = arrived_at
WHERE id IN carray(?) AND lease IS NULL AND due_at > ?
"""

_IS_KNOWN = "SELECT EXISTS (SELECT 1 FROM wats_consumers WHERE name = ?)"

_UPDATES = """
SELECT id, ordering_key, payload FROM wats_deliveries WHERE id IN carray(?1)
UNION ALL
SELECT id, ordering_key, payload FROM wats_dead_deliveries WHERE id IN carray(?1)
ORDER BY 1
"""

# A row for each of the two partial indexes.
_IS_OUTSTANDING = """
SELECT EXISTS (
    SELECT 1 FROM wats_deliveries
    WHERE ordering_key = ?1 AND consumer = ?2 AND due_at IS NOT NULL AND payload = ?3
) OR EXISTS (
    SELECT 1 FROM wats_deliveries
    WHERE ordering_key = ?1 AND consumer = ?2 AND due_at IS NULL AND payload = ?3
)
"""

_DEAD_OF = """
SELECT id FROM wats_dead_deliveries WHERE ordering_key = ? AND consumer = ? AND payload = ?
ORDER BY id LIMIT 1
"""

_DELETE_DEAD = "DELETE FROM wats_dead_deliveries WHERE id IN carray(?) RETURNING id"

_DELETE = """
DELETE FROM wats_deliveries WHERE id = ?
RETURNING consumer, ordering_key, due_at IS NOT NULL, lease IS NOT NULL, attempts, followers
"""

_OLD_DEAD = "SELECT id FROM wats_dead_deliveries WHERE died_at < ? ORDER BY died_at LIMIT ?"

_ABANDONED = "SELECT name FROM wats_consumers WHERE seen_at < ?"

# Followers before their heads, so that none has to be promoted.
_DELIVERIES_OF = """
WITH head AS MATERIALIZED (
    SELECT id, ordering_key FROM wats_deliveries
    WHERE consumer = ?1 AND due_at IS NOT NULL ORDER BY due_at LIMIT ?2
)
SELECT follower.id FROM head CROSS JOIN wats_deliveries AS follower
WHERE follower.ordering_key = head.ordering_key AND consumer = ?1 AND due_at IS NULL
UNION ALL
SELECT id FROM head
LIMIT ?2
"""

_FORGET_CONSUMER = """
DELETE FROM wats_consumers
WHERE seen_at < ? AND pending = 0 AND leased = 0 AND retry = 0 AND dead = 0
"""


def consumers(
    connection: Connection, configured: frozenset[str], now: int
) -> Sequence[ConsumerState]:
    """Read all consumers, with the age of the oldest delivery of each."""
    return [
        ConsumerState(
            name=name,
            is_configured=name in configured,
            is_paused=is_paused,
            depth=depth,
            oldest_seconds=_oldest_seconds(connection, name, now),
        )
        for name, is_paused, depth in _counts(connection)
    ]


def _counts(connection: Connection) -> Iterator[tuple[str, bool, Depth]]:
    for name, is_paused, pending, leased, retry, dead in connection.execute(_CONSUMERS):
        depth = Depth(pending=pending, leased=leased, retry=retry, dead=dead)
        yield name, bool(is_paused), depth


def depth(connection: Connection, configured: frozenset[str], now: int) -> InboxDepth:
    """Read the depth of every consumer, and the age of the oldest delivery."""
    consumers = {name: depth for name, _, depth in _counts(connection)}
    found = InboxDepth(consumers=consumers, configured=configured)
    is_mixed = found.orphaned or found.outbox.outstanding
    oldest = _oldest(connection, found.inbound if is_mixed else None)
    return msgspec.structs.replace(
        found,
        oldest_seconds=_age(oldest, now),
        outbox_seconds=_oldest_seconds(connection, OUTBOX, now),
    )


def _oldest_seconds(connection: Connection, consumer: str, now: int) -> float:
    """Read the age of the oldest delivery of *consumer*, or 0.

    The oldest delivery is a head. It is found among the first `_MOST_ROWS` that are due.
    """
    oldest: int | None = connection.execute(_OLDEST_OF, (consumer, _MOST_ROWS)).get
    return _age(oldest, now)


def _age(oldest: int | None, now: int) -> float:
    return 0.0 if oldest is None else max(now - oldest, 0) / 1000


def _oldest(connection: Connection, consumers: frozenset[str] | None) -> int | None:
    """Return the arrival time of the oldest delivery of *consumers*, or of all if `None`.

    At most `_MOST_ROWS` rows are read. If none belongs to *consumers*, the arrival time of the
    last row is returned.
    """
    rows: list[Any] = connection.execute(
        _OLDEST, (1 if consumers is None else _MOST_ROWS,)
    ).fetchall()
    for consumer, arrived_at in rows:
        if consumers is None or consumer in consumers:
            oldest: int = arrived_at
            return oldest
    return rows[-1][1] if len(rows) == _MOST_ROWS else None


def pause(writer: Writer, consumer: str, is_paused: bool) -> bool:
    """Pause or resume *consumer*."""
    is_known = bool(change(writer, _PAUSE, [(is_paused, consumer)]))
    writer.leaves_work = writer.leaves_work or (is_known and not is_paused)
    return is_known


def page(
    connection: Connection, wanted: DeliveryFilter, limit: int, after: int = 0
) -> DeliveryPage:
    """Read the *wanted* deliveries after *after*."""
    statement = (_DEAD if wanted.is_dead else _OUTSTANDING) + _PAGE
    rows = connection.execute(statement, (HEAD_BYTES, after, SCAN_DELIVERIES + 1))
    return deliveries_page(map(_stored, rows), limit, wanted)


def _stored(row: Any) -> StoredDelivery:
    id_, update_id, consumer, attempts, error, arrived_at, due_at, is_leased, died_at, *rest = row
    state = DeliveryState.LEASED if is_leased else unleased(attempts)
    return StoredDelivery(
        id=id_,
        update_id=update_id,
        consumer=consumer,
        state=state if died_at is None else DeliveryState.DEAD,
        attempts=attempts,
        error=error,
        arrived_at=from_ms(arrived_at),
        due_at=None if due_at is None else from_ms(due_at),
        died_at=None if died_at is None else from_ms(died_at),
        payload_bytes=rest[0],
        head=rest[1],
    )


def read(connection: Connection, delivery_id: int) -> tuple[StoredDelivery, bytes] | None:
    """Read one delivery or dead letter, with its payload."""
    statement = f"{_OUTSTANDING} WHERE id = ? UNION ALL {_DEAD} WHERE id = ?"
    values = HEAD_BYTES, delivery_id, HEAD_BYTES, delivery_id
    row = connection.execute(statement, values).fetchone()
    payload = payload_of(connection, delivery_id)
    return None if row is None or payload is None else (_stored(row), payload)


def payload_of(connection: Connection, delivery_id: int) -> bytes | None:
    """Read the payload of one delivery or dead letter."""
    payload: bytes | None = connection.execute(_PAYLOAD, (delivery_id,)).get
    return payload


def _of_updates(connection: Connection, ids: Sequence[int]) -> Sequence[int]:
    """Return those of *ids* that are not items of the outbox, which has operations of its own."""
    return _ids(connection, _OF_UPDATES, numbers(ids)) if ids else ()


def retry_dead(writer: Writer, ids: Sequence[int]) -> int:
    """Insert the dead letters *ids* as deliveries, except for those of the outbox."""
    return put_back(writer, _of_updates(writer, ids))


def put_back(writer: Writer, ids: Sequence[int]) -> int:
    """Insert the dead letters *ids* as deliveries, each in its place by id."""
    if not ids:
        return 0
    letters: list[Any] = sorted(writer.execute(_TAKE_DEAD, (numbers(ids),)).fetchall())
    for letter in letters:
        _insert_in_order(writer, letter)
    return len(letters)


def _insert_in_order(writer: Writer, letter: tuple[Any, ...]) -> None:
    id_, _, _, consumer, ordering_key, arrived_at, _ = letter
    writer.count(consumer, DeliveryState.PENDING, 1)
    writer.leaves_work = True
    row: Any = writer.execute(_HEAD_OF, (ordering_key, consumer)).fetchone()
    if row is None:
        writer.execute(_INSERT, (*letter, arrived_at, 0))
        return
    head, is_leased, followers = row
    if is_leased or head < id_:
        writer.execute(_INSERT, (*letter, None, 0))
        writer.execute(_ADD_FOLLOWERS, (1, head))
    else:
        writer.execute(_DEMOTE, (head,))
        writer.execute(_INSERT, (*letter, arrived_at, followers + 1))


def expedite(writer: Writer, ids: Sequence[int]) -> int:
    """Make the heads *ids* that wait for a retry due."""
    found = _of_updates(writer, ids)
    if not found:
        return 0
    count = change(writer, _EXPEDITE, [(numbers(found), writer.clock())])
    writer.leaves_work = writer.leaves_work or bool(count)
    return count


def replay(writer: Writer, ids: Sequence[int], consumer: str) -> int | None:
    """Give *consumer* the updates of the deliveries and dead letters *ids* again."""
    if consumer == OUTBOX or not writer.execute(_IS_KNOWN, (consumer,)).get:
        return None
    found = _of_updates(writer, ids)
    if not found:
        return 0
    updates: list[Any] = writer.execute(_UPDATES, (numbers(found),)).fetchall()
    return sum(_replay_one(writer, consumer, key, payload) for _, key, payload in updates)


def _replay_one(writer: Writer, consumer: str, ordering_key: int, payload: bytes) -> int:
    values = ordering_key, consumer, payload
    if writer.execute(_IS_OUTSTANDING, values).get:
        return 0
    dead: int | None = writer.execute(_DEAD_OF, values).get
    if dead is not None:
        return put_back(writer, [dead])
    id_: int = writer.execute(TAKE_IDS, (1,)).get
    _insert_in_order(writer, (id_, id_, 1, consumer, ordering_key, writer.clock(), payload))
    return 1


def discard(writer: Writer, ids: Sequence[int]) -> int:
    """Delete the deliveries and dead letters *ids*, except for those of the outbox."""
    return delete(writer, _of_updates(writer, ids))


def delete(writer: Writer, ids: Sequence[int]) -> int:
    """Delete the deliveries and dead letters *ids*; return their number."""
    return _delete_dead(writer, ids) + sum(_delete(writer, id_) for id_ in ids)


def _delete_dead(writer: Writer, ids: Sequence[int]) -> int:
    return len(writer.execute(_DELETE_DEAD, (numbers(ids),)).fetchall()) if ids else 0


def _delete(writer: Writer, delivery_id: int) -> bool:
    row: Any = writer.execute(_DELETE, (delivery_id,)).fetchone()
    if row is None:
        return False
    consumer, ordering_key, is_head, is_leased, attempts, followers = row
    writer.count(consumer, DeliveryState.LEASED if is_leased else unleased(attempts), -1)
    if followers:
        promote(writer, consumer, ordering_key, followers)
        writer.leaves_work = True
    if not is_head:
        head: Any = writer.execute(_HEAD_OF, (ordering_key, consumer)).fetchone()
        writer.execute(_ADD_FOLLOWERS, (-1, head[0]))
    return True


def purge(writer: Writer, retention: Retention, limit: int) -> int:
    """Delete old dead letters, and deliveries of consumers that are not registered any more."""
    dead_before = writer.clock() - round(retention.dead * 1000)
    deleted = _delete_dead(writer, _ids(writer, _OLD_DEAD, dead_before, limit))
    keep_registered(writer)
    before = writer.clock() - round(retention.unseen * 1000)
    abandoned: list[Any] = writer.execute(_ABANDONED, (before,)).fetchall()
    for (name,) in abandoned:
        ids = _ids(writer, _DELIVERIES_OF, name, limit)
        deleted += sum(_delete(writer, id_) for id_ in ids)
    writer.execute(_FORGET_CONSUMER, (before,))
    return deleted


def _ids(connection: Connection, statement: str, *values: object) -> Sequence[int]:
    return [id_ for (id_,) in connection.execute(statement, values)]
