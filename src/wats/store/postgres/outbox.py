"""The outbox in SQL: its deliveries together with their idempotency keys.

Heads are locked before keys, as in `receive`; a new key has no head yet.
"""

from collections.abc import Mapping, Sequence

import asyncpg

from wats.store.outbox import (
    OUTCOME_UNKNOWN,
    QUEUE_SECONDS,
    NewSend,
    SendResult,
    SendState,
    SendView,
    proven_message,
    send_state,
)
from wats.store.postgres import admin, deliveries, messages, requests
from wats.store.postgres.connection import Connection
from wats.store.postgres.rows import by_number, clean, numbers
from wats.store.records import (
    OUTBOX,
    Arrival,
    DeliveryState,
    Reservation,
    ReservationOutcome,
    SendProof,
    Settled,
)

_INSERT = """
INSERT INTO wats_outbox (
    phone_number_id, id, nonce, scope, key_hash, request_hash, keep_ms, expires_at
)
SELECT $1::text, $2::bigint, $3::bigint, $4::text, $5::bytea, $6::bytea, $7::bigint,
    (SELECT wats_now()) + $8::bigint
"""

_USE_KEY = "UPDATE wats_requests SET outbox_id = $3 WHERE scope = $1 AND key_hash = $2"

# In the order in which `settle` locks heads.
_HELD = """
SELECT head.id FROM unnest($3::bigint[], $4::bigint[]) AS held (id, lease)
CROSS JOIN LATERAL (
    SELECT id FROM wats_deliveries
    WHERE phone_number_id = $1 AND consumer = $2 AND id = held.id AND lease = held.lease
    FOR UPDATE
) AS head
"""

_ITEMS = """
SELECT id, nonce, scope, key_hash, request_hash, keep_ms FROM wats_outbox
WHERE phone_number_id = $1 AND id = ANY($2::bigint[])
ORDER BY scope, key_hash
"""

# Of its own key only: after a failure, another request can use the key.
_COMPLETE = """
UPDATE wats_requests
SET state = 'completed', response = $4, expires_at = (SELECT wats_now()) + $5::bigint
WHERE scope = $1 AND key_hash = $2 AND outbox_id = $3
"""

_EXPIRE = """
UPDATE wats_outbox SET expires_at = (SELECT wats_now()) + $3::bigint
WHERE phone_number_id = $1 AND id = $2
"""

_DOUBT = """
UPDATE wats_requests SET state = 'unknown' WHERE scope = $1 AND key_hash = $2 AND outbox_id = $3
"""

_FREE = """
DELETE FROM wats_requests
WHERE scope = $1 AND key_hash = $2 AND outbox_id = $3 AND state <> 'completed'
"""

# Without the id of its item, so that a later proof or settlement finds no key.
_EMPTY = """
UPDATE wats_requests
SET state = 'completed', response = '{}', outbox_id = NULL,
    expires_at = (SELECT wats_now()) + $4::bigint
WHERE scope = $1 AND key_hash = $2 AND outbox_id = $3 AND state = 'reserved'
RETURNING true
"""

_KEY = """
SELECT state, response FROM wats_requests WHERE scope = $1 AND key_hash = $2 AND outbox_id = $3
"""

_OUTSTANDING = """
SELECT CASE WHEN lease IS NOT NULL THEN 'leased' WHEN attempts > 0 THEN 'retry' ELSE 'pending' END
    AS state, attempts, error
FROM wats_deliveries WHERE phone_number_id = $1 AND consumer = $2 AND id = $3
UNION ALL
SELECT 'dead', attempts, error FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = $3
"""

_PAYLOADS = """
SELECT id, payload FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
UNION ALL
SELECT id, payload FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
"""

_DEAD = """
SELECT id, error FROM wats_dead_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[])
FOR UPDATE
"""

_WAITING = """
SELECT id FROM wats_deliveries
WHERE phone_number_id = $1 AND consumer = $2 AND id = ANY($3::bigint[]) AND lease IS NULL
ORDER BY ordering_key
FOR UPDATE
"""

_RESERVE_AGAIN = """
INSERT INTO wats_requests AS request (
    scope, key_hash, request_hash, state, reserved_until, expires_at, outbox_id
)
SELECT $1::text, $2::bytea, $3::bytea, 'reserved', now + $5::bigint, now + $5::bigint, $4::bigint
FROM (SELECT wats_now() AS now OFFSET 0) AS clock
ON CONFLICT (scope, key_hash) DO UPDATE
SET request_hash = excluded.request_hash, state = 'reserved', response = NULL,
    reserved_until = excluded.reserved_until, expires_at = excluded.expires_at,
    outbox_id = excluded.outbox_id
WHERE request.expires_at <= (SELECT wats_now())
    OR (request.outbox_id = excluded.outbox_id AND request.state = 'unknown')
RETURNING true
"""

_QUEUE_MS = round(QUEUE_SECONDS * 1000)


async def reserve(connection: Connection, send: NewSend) -> Reservation:
    """Reserve the key of *send*, or return its state."""
    return await requests.reserve(
        connection,
        scope=send.scope,
        key_hash=send.key_hash,
        request_hash=send.request_hash,
        reserve_seconds=QUEUE_SECONDS,
        keep_seconds=QUEUE_SECONDS,
    )


async def insert(connection: Connection, number: str, outbox_id: int, send: NewSend) -> None:
    """Insert the item *outbox_id*, whose key is reserved and whose delivery is stored."""
    keep_ms = round(send.keep_seconds * 1000)
    key = send.scope, send.key_hash
    values = outbox_id, send.nonce, *key, send.request_hash, keep_ms, _QUEUE_MS
    await connection.execute(_INSERT, number, *values)
    await connection.execute(_USE_KEY, *key, outbox_id)


async def undo_enqueue(connection: Connection, reservation: Reservation) -> None:
    """Remove an item that was stored for a request that has been cancelled, unless it is leased."""
    if reservation.outcome is ReservationOutcome.RESERVED:
        await discard(connection, [reservation.outbox_id or 0])


async def settle(connection: Connection, results: Sequence[SendResult]) -> Settled:
    """Settle the deliveries of *results*, and their keys."""
    by_key = sorted(results, key=lambda each: each.settlement.delivery.ordering_key)
    groups = by_number(by_key, lambda each: each.settlement.delivery.phone_number_id)
    held = {number: await _held(connection, number, group) for number, group in groups.items()}
    settled = await deliveries.settle(connection, [each.settlement for each in results])
    for number, group in groups.items():
        sent = {
            each.settlement.delivery.id: each.response
            for each in group
            if each.settlement.state is DeliveryState.DONE
        }
        await _finish(connection, number, sent)
        await _end_keys(connection, number, [each for each in group if _id(each) in held[number]])
    for each in results:
        if each.settlement.state is DeliveryState.DONE and each.message is not None:
            await messages.record(connection, each.message)
    return settled


def _id(result: SendResult) -> int:
    return result.settlement.delivery.id


async def _held(connection: Connection, number: str, group: Sequence[SendResult]) -> frozenset[int]:
    leases = [each.settlement.delivery.lease for each in group]
    ids = list(map(_id, group))
    return frozenset(row[0] for row in await connection.fetch(_HELD, number, OUTBOX, ids, leases))


async def _finish(connection: Connection, number: str, responses: Mapping[int, bytes]) -> None:
    """Complete the keys of items that were sent, and delete what is left of their deliveries."""
    if not responses:
        return
    await admin.discard(connection, [*responses], [OUTBOX])
    for item in await connection.fetch(_ITEMS, number, [*responses]):
        id_, key = item["id"], (item["scope"], item["key_hash"])
        await connection.execute(_COMPLETE, *key, id_, responses[id_], item["keep_ms"])
        await connection.execute(_EXPIRE, number, id_, item["keep_ms"])


async def _end_keys(connection: Connection, number: str, group: Sequence[SendResult]) -> None:
    """Free the keys of dead letters that were not sent, and block those that may have been."""
    errors = {
        _id(each): each.settlement.error
        for each in group
        if each.settlement.state is DeliveryState.DEAD
    }
    for item in await connection.fetch(_ITEMS, number, [*errors]) if errors else ():
        statement = _DOUBT if errors[item["id"]] == OUTCOME_UNKNOWN else _FREE
        await connection.execute(statement, item["scope"], item["key_hash"], item["id"])


async def prove(connection: Connection, arrivals: Sequence[Arrival]) -> None:
    """Note that the messages of the proofs in *arrivals* were sent, unless that is known.

    Their records are inserted last, as by `settle`.
    """
    for number, group in by_number(
        arrivals, lambda each: clean(each.phone_number_id or "")
    ).items():
        proofs = {each.proof.id: each.proof for each in group if each.proof is not None}
        proven: dict[int, SendProof] = {}
        for item in await connection.fetch(_ITEMS, number, [*proofs]):
            proof = proofs[item["id"]]
            key = await connection.fetchrow(_KEY, item["scope"], item["key_hash"], proof.id)
            if key is not None and key["state"] != "completed" and proof.nonce == item["nonce"]:
                proven[proof.id] = proof
        if not proven:
            continue
        found = await connection.fetch(_PAYLOADS, number, OUTBOX, [*proven])
        payloads = {row["id"]: row["payload"] for row in found}
        await _finish(connection, number, {id_: each.response for id_, each in proven.items()})
        for id_, proof in proven.items():
            if (message := proven_message(proof, payloads.get(id_))) is not None:
                await messages.record(connection, message)


async def get(connection: Connection, outbox_id: int) -> SendView | None:
    """Read the state of one item."""
    for number in await numbers(connection):
        row = await connection.fetchrow(_OUTSTANDING, number, OUTBOX, outbox_id)
        if row is not None:
            found = send_state(DeliveryState(row["state"]), row["error"])
            attempts, error = row["attempts"], row["error"]
            return SendView(
                id=outbox_id, phone_number_id=number, state=found, attempts=attempts, error=error
            )
        for item in await connection.fetch(_ITEMS, number, [outbox_id]):
            key = await connection.fetchrow(_KEY, item["scope"], item["key_hash"], outbox_id)
            if key is not None:
                return _ended(outbox_id, number, key)
    return None


def _ended(outbox_id: int, number: str, key: asyncpg.Record) -> SendView | None:
    match key["state"]:
        case "completed":
            return SendView(
                id=outbox_id,
                phone_number_id=number,
                state=SendState.SENT,
                response=key["response"],
            )
        case "unknown":
            return SendView(id=outbox_id, phone_number_id=number, state=SendState.UNKNOWN)
        case _:
            return None


async def retry(connection: Connection, ids: Sequence[int], *, even_unknown: bool) -> int:
    """Reserve the keys of dead letters again, and insert their deliveries."""
    chosen: list[int] = []
    for number in await numbers(connection):
        letters = [
            id_
            for id_, error in await connection.fetch(_DEAD, number, OUTBOX, ids)
            if even_unknown or error != OUTCOME_UNKNOWN
        ]
        items = await connection.fetch(_ITEMS, number, letters)
        chosen += [each["id"] for each in items if await _reserve_again(connection, number, each)]
    return await admin.retry_dead(connection, chosen, [OUTBOX])


async def _reserve_again(connection: Connection, number: str, item: asyncpg.Record) -> bool:
    key = item["scope"], item["key_hash"], item["request_hash"]
    if not await connection.fetchval(_RESERVE_AGAIN, *key, item["id"], _QUEUE_MS):
        return False
    await connection.execute(_EXPIRE, number, item["id"], _QUEUE_MS)
    return True


async def discard(connection: Connection, ids: Sequence[int]) -> int:
    """Delete items that are not leased, and dead letters; free the keys of unsent messages."""
    chosen: list[int] = []
    for number in await numbers(connection):
        waiting = [id_ for (id_,) in await connection.fetch(_WAITING, number, OUTBOX, ids)]
        chosen += waiting
        chosen += [id_ for id_, _ in await connection.fetch(_DEAD, number, OUTBOX, ids)]
        for item in await connection.fetch(_ITEMS, number, waiting):
            await connection.execute(_FREE, item["scope"], item["key_hash"], item["id"])
    return await admin.discard(connection, chosen, [OUTBOX])


async def empty_keys(connection: Connection, number: str, ids: Sequence[int]) -> None:
    """Complete the keys of erased items with an empty response, so that they are not sent again."""
    for item in await connection.fetch(_ITEMS, number, ids):
        id_, keep_ms = item["id"], item["keep_ms"]
        if await connection.fetchval(_EMPTY, item["scope"], item["key_hash"], id_, keep_ms):
            await connection.execute(_EXPIRE, number, id_, keep_ms)
