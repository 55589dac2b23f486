"""Idempotency keys in SQL.

Each function runs inside a transaction that its caller opened.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

import msgspec
from apsw import Connection

from wats.clock import from_ms, to_ms
from wats.store.records import MessageRecord, Reservation, ReservationOutcome
from wats.store.sqlite import messages
from wats.store.sqlite.connection import change

_RESERVE = """
INSERT INTO wats_requests (scope, key_hash, request_hash, state, reserved_until, expires_at)
VALUES (:scope, :key_hash, :request_hash, 'reserved', :reserved_until, :expires_at)
ON CONFLICT (scope, key_hash) DO UPDATE
SET request_hash = excluded.request_hash, state = 'reserved', response = NULL,
    reserved_until = excluded.reserved_until, expires_at = excluded.expires_at
WHERE expires_at <= :now
"""

_READ = """
SELECT request_hash, state, reserved_until, response FROM wats_requests
WHERE scope = :scope AND key_hash = :key_hash
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


Key: TypeAlias = tuple[str, bytes]
"""A scope, and the digest of an idempotency key within it."""


def reserve(
    connection: Connection,
    *,
    key: Key,
    request_hash: bytes,
    now: datetime,
    reserved_until: datetime,
    expires_at: datetime,
) -> Reservation:
    """Take the key if it is free, and tell what it is otherwise."""
    values = {
        "scope": key[0],
        "key_hash": key[1],
        "request_hash": request_hash,
        "reserved_until": to_ms(reserved_until),
        "expires_at": to_ms(expires_at),
        "now": to_ms(now),
    }
    if change(connection, _RESERVE, [values]):
        return Reservation(outcome=ReservationOutcome.RESERVED)
    owner_hash, state, held_until, response = connection.execute(_READ, values).get
    if owner_hash != request_hash:
        return Reservation(outcome=ReservationOutcome.CONFLICT)
    if state == "completed":
        return Reservation(outcome=ReservationOutcome.REPLAY, response=response)
    if state == "reserved" and held_until > to_ms(now):
        return Reservation(outcome=ReservationOutcome.IN_FLIGHT, reserved_until=from_ms(held_until))
    return Reservation(outcome=ReservationOutcome.UNKNOWN)


class Completion(msgspec.Struct, frozen=True):
    """The answer to a key, and the message that it is about."""

    key: Key
    response: bytes
    message: MessageRecord | None


def complete(connection: Connection, completions: Sequence[Completion]) -> Sequence[None]:
    """Keep the answers to some keys, and record their messages."""
    connection.executemany(_COMPLETE, [(each.response, *each.key) for each in completions])
    found = [each.message for each in completions if each.message is not None]
    messages.record(connection, found)
    return [None] * len(completions)


def doubt(connection: Connection, *, key: Key) -> None:
    """Say that nobody knows how the request of this key ended."""
    connection.execute(_DOUBT, key)


def fail(connection: Connection, *, key: Key) -> None:
    """Give the key back."""
    connection.execute(_FAIL, key)


def purge(connection: Connection, before: datetime, limit: int) -> int:
    """Delete keys that expired before *before*."""
    return change(connection, _PURGE, [(to_ms(before), limit)])
