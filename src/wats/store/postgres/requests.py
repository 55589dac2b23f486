"""Idempotency keys in SQL."""

from wats.store.pacing import Demand
from wats.store.postgres import pacing
from wats.store.postgres.connection import Connection
from wats.store.records import Reservation, ReservationOutcome

_RESERVE = """
INSERT INTO wats_requests AS request (
    scope, key_hash, request_hash, state, reserved_until, expires_at, nonce
)
SELECT $1::text, $2::bytea, $3::bytea, 'reserved', now + $4::bigint, now + $5::bigint, $6::bytea
FROM (SELECT wats_now() AS now OFFSET 0) AS clock
ON CONFLICT (scope, key_hash) DO UPDATE
SET request_hash = excluded.request_hash, state = 'reserved', response = NULL, outbox_id = NULL,
    reserved_until = excluded.reserved_until, expires_at = excluded.expires_at,
    nonce = excluded.nonce
WHERE request.expires_at <= (SELECT wats_now())
RETURNING true
"""

_READ = """
SELECT request_hash, state, reserved_until > (SELECT wats_now()) AS is_held, response,
    outbox_id
FROM wats_requests
WHERE scope = $1 AND key_hash = $2
"""

_COMPLETE = """
UPDATE wats_requests SET state = 'completed', response = $3 WHERE scope = $1 AND key_hash = $2
"""

_DOUBT = """
UPDATE wats_requests SET state = 'unknown'
WHERE scope = $1 AND key_hash = $2 AND state = 'reserved'
"""

_FAIL = """
DELETE FROM wats_requests WHERE scope = $1 AND key_hash = $2 AND state <> 'completed'
"""

# Waits for a transaction that is about to insert the key.
_OUTWAIT = """
INSERT INTO wats_requests (
    scope, key_hash, request_hash, state, reserved_until, expires_at, nonce
)
VALUES ($1, $2, '', 'reserved', 0, 0, $3)
ON CONFLICT DO NOTHING
"""

_UNDO = """
DELETE FROM wats_requests
WHERE scope = $1 AND key_hash = $2 AND state = 'reserved' AND nonce = $3
"""

MAX_LOOKS = 3
"""How often the state of a key is read if the key is deleted after a failed reservation."""


async def reserve(
    connection: Connection,
    *,
    scope: str,
    key_hash: bytes,
    request_hash: bytes,
    reserve_seconds: float,
    keep_seconds: float,
    demand: Demand | None = None,
    nonce: bytes | None = None,
) -> Reservation:
    """Reserve the key if it is free and the rate limits permit that; else return the reason.

    Each statement sees the latest commits of other processes, also inside a transaction. The
    *nonce* identifies the reservation for `undo_reserve`.
    """
    key = scope, key_hash
    times = round(reserve_seconds * 1000), round(keep_seconds * 1000)
    for _ in range(MAX_LOOKS):
        if await connection.fetchval(_RESERVE, *key, request_hash, *times, nonce):
            is_free = Reservation(outcome=ReservationOutcome.RESERVED)
            return is_free if demand is None else await _paced(connection, *key, demand)
        row = await connection.fetchrow(_READ, *key)
        if row is None:
            continue
        if row["request_hash"] != request_hash:
            return Reservation(outcome=ReservationOutcome.CONFLICT)
        outcome = ReservationOutcome.UNKNOWN
        if row["state"] == "completed":
            outcome = ReservationOutcome.REPLAY
        elif row["state"] == "reserved" and row["is_held"]:
            outcome = ReservationOutcome.IN_FLIGHT
        response, outbox_id = row["response"] or b"", row["outbox_id"]
        return Reservation(outcome=outcome, response=response, outbox_id=outbox_id)
    return Reservation(outcome=ReservationOutcome.IN_FLIGHT)


async def _paced(
    connection: Connection, scope: str, key_hash: bytes, demand: Demand
) -> Reservation:
    permit = await pacing.pace(connection, demand)
    outcome = ReservationOutcome.RESERVED
    if not permit.is_granted:
        outcome = ReservationOutcome.LIMITED
        await fail(connection, scope, key_hash)
    return Reservation(outcome=outcome, wait_seconds=permit.wait_seconds)


async def complete(connection: Connection, scope: str, key_hash: bytes, response: bytes) -> None:
    """Store the response of a completed request."""
    await connection.execute(_COMPLETE, scope, key_hash, response)


async def doubt(connection: Connection, scope: str, key_hash: bytes) -> None:
    """Mark the outcome of the request with this key as unknown."""
    await connection.execute(_DOUBT, scope, key_hash)


async def fail(connection: Connection, scope: str, key_hash: bytes) -> None:
    """Delete the key, unless it is completed."""
    await connection.execute(_FAIL, scope, key_hash)


async def undo_reserve(
    connection: Connection, reservation: Reservation, *, scope: str, key_hash: bytes, nonce: bytes
) -> None:
    """Give the key back if it was reserved for a request that was not sent.

    The transaction with the reservation may still be under way, if its connection was lost.
    """
    if reservation.outcome is ReservationOutcome.RESERVED:
        await connection.execute(_OUTWAIT, scope, key_hash, nonce)
        await connection.execute(_UNDO, scope, key_hash, nonce)
