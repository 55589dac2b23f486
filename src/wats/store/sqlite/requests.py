"""Idempotency keys in SQL.

Each function runs in the open transaction of its caller.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from apsw import Connection

from wats.store.pacing import Demand
from wats.store.records import MessageRecord, Reservation, ReservationOutcome
from wats.store.sqlite import messages, pacing
from wats.store.sqlite.connection import Writer, change

_RESERVE = """
INSERT INTO wats_requests (scope, key_hash, request_hash, state, reserved_until, expires_at)
VALUES (?1, ?2, ?3, 'reserved', ?4, ?5)
ON CONFLICT (scope, key_hash) DO UPDATE
SET request_hash = excluded.request_hash, state = 'reserved', response = NULL,
    reserved_until = excluded.reserved_until, expires_at = excluded.expires_at, outbox_id = NULL
WHERE expires_at <= ?6
"""

_READ = """
SELECT request_hash, state, reserved_until, response, outbox_id FROM wats_requests
WHERE scope = ? AND key_hash = ?
"""

_COMPLETE = """
UPDATE wats_requests SET state = 'completed', response = ? WHERE scope = ? AND key_hash = ?
"""

_DOUBT = """
UPDATE wats_requests SET state = 'unknown'
WHERE scope = ? AND key_hash = ? AND state = 'reserved'
"""

_FAIL = """
DELETE FROM wats_requests WHERE scope = ? AND key_hash = ? AND state <> 'completed'
"""

_PURGE = """
DELETE FROM wats_requests
WHERE rowid IN (SELECT rowid FROM wats_requests WHERE expires_at < ? LIMIT ?)
"""


_RESERVED = Reservation(outcome=ReservationOutcome.RESERVED)

Key: TypeAlias = tuple[str, bytes]
"""A scope, and the digest of an idempotency key within it."""


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key to reserve; see `RequestStore.reserve_request`."""

    key: Key
    request_hash: bytes
    reserve_seconds: float
    keep_seconds: float
    demand: Demand | None = None


def reserve_all(writer: Writer, keys: Sequence[NewKey]) -> Sequence[tuple[Key, Reservation]]:
    """Reserve *keys* one after the other; return each with its result."""
    return [(each.key, reserve(writer, each)) for each in keys]


def reserve(writer: Writer, new: NewKey) -> Reservation:
    """Reserve the key if it is free and the rate limits permit that; else return the reason."""
    now = writer.clock()
    reserved_until = now + round(new.reserve_seconds * 1000)
    expires_at = now + round(new.keep_seconds * 1000)
    if change(writer, _RESERVE, [(*new.key, new.request_hash, reserved_until, expires_at, now)]):
        return _RESERVED if new.demand is None else _paced(writer, new.key, new.demand)
    owner_hash, state, held_until, response, outbox_id = writer.execute(_READ, new.key).get
    if owner_hash != new.request_hash:
        return Reservation(outcome=ReservationOutcome.CONFLICT)
    outcome = ReservationOutcome.UNKNOWN
    if state == "completed":
        outcome = ReservationOutcome.REPLAY
    elif state == "reserved" and held_until > now:
        outcome = ReservationOutcome.IN_FLIGHT
    return Reservation(outcome=outcome, response=response or b"", outbox_id=outbox_id)


def _paced(writer: Writer, key: Key, demand: Demand) -> Reservation:
    permit = pacing.pace(writer, demand)
    outcome = ReservationOutcome.RESERVED
    if not permit.is_granted:
        outcome = ReservationOutcome.LIMITED
        writer.execute(_FAIL, key)
    return Reservation(outcome=outcome, wait_seconds=permit.wait_seconds)


def complete(
    writer: Writer, completions: Sequence[tuple[Key, bytes, MessageRecord | None]]
) -> Sequence[None]:
    """Store the responses of the requests with these keys, and record their messages."""
    writer.executemany(_COMPLETE, [(response, *key) for key, response, _ in completions])
    messages.record(writer, [message for _, _, message in completions if message is not None])
    return [None] * len(completions)


def doubt(connection: Connection, *, scope: str, key_hash: bytes) -> None:
    """Mark the outcome of the request with this key as unknown."""
    connection.execute(_DOUBT, (scope, key_hash))


def fail(connection: Connection, *, scope: str, key_hash: bytes) -> None:
    """Delete the key, unless it is completed."""
    connection.execute(_FAIL, (scope, key_hash))


def undo_reserve(connection: Connection, results: Sequence[tuple[Key, Reservation]]) -> None:
    """Give back the keys that were reserved too late: their requests have been refused."""
    is_new = ReservationOutcome.RESERVED
    connection.executemany(_FAIL, [key for key, each in results if each.outcome is is_new])


def purge(writer: Writer, limit: int) -> int:
    """Delete expired keys."""
    return change(writer, _PURGE, [(writer.clock(), limit)])
