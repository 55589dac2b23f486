"""The outbox in SQL: its deliveries together with their idempotency keys.

Each function runs in the open transaction of its caller.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from apsw import Connection

from wats.store.admin import SCAN_DELIVERIES
from wats.store.outbox import (
    OUTCOME_UNKNOWN,
    QUEUE_SECONDS,
    NewSend,
    SendResult,
    SendState,
    SendView,
    arrival_of,
    proven_message,
    send_state,
)
from wats.store.records import (
    OUTBOX,
    DeliveryState,
    Reservation,
    ReservationOutcome,
    SendProof,
    Settled,
)
from wats.store.sqlite import admin, deliveries, messages, requests
from wats.store.sqlite.connection import Writer, change
from wats.store.sqlite.message_index import numbers

_LAST_ID = "SELECT last_id FROM wats_queue WHERE id = 1"

_INSERT = """
INSERT INTO wats_outbox (
    id, phone_number_id, nonce, scope, key_hash, request_hash, keep_ms, expires_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

_USE_KEY = "UPDATE wats_requests SET outbox_id = ? WHERE scope = ? AND key_hash = ?"

_OWN_KEY = """outbox_id = :id
    AND (scope, key_hash) = (SELECT scope, key_hash FROM wats_outbox WHERE id = :id)"""
"""Its own key only: after a failure, another request can use the key."""

_KEEP_UNTIL = ":now + (SELECT keep_ms FROM wats_outbox WHERE id = :id)"

_COMPLETE = f"""
UPDATE wats_requests SET state = 'completed', response = :response, expires_at = {_KEEP_UNTIL}
WHERE {_OWN_KEY}
"""

_END = "UPDATE wats_outbox SET expires_at = :now + keep_ms WHERE id = :id"

_DOUBT = f"UPDATE wats_requests SET state = 'unknown' WHERE {_OWN_KEY}"

_FREE = f"DELETE FROM wats_requests WHERE state <> 'completed' AND {_OWN_KEY}"

# Without the id of its item, so that a later proof or settlement finds no key.
_EMPTY = f"""
UPDATE wats_requests
SET state = 'completed', response = CAST('{{}}' AS BLOB), outbox_id = NULL,
    expires_at = {_KEEP_UNTIL}
WHERE state = 'reserved' AND {_OWN_KEY}
"""

_IS_OPEN = """
SELECT EXISTS (
    SELECT 1 FROM wats_outbox AS item JOIN wats_requests AS request USING (scope, key_hash)
    WHERE item.id = ? AND item.nonce = ? AND request.outbox_id = item.id
        AND request.state <> 'completed'
)
"""

_STORED = """
SELECT CASE WHEN lease IS NOT NULL THEN 'leased' WHEN attempts > 0 THEN 'retry' ELSE 'pending' END,
    attempts, error
FROM wats_deliveries WHERE id = ?1 AND consumer = 'outbox'
UNION ALL
SELECT 'dead', attempts, error FROM wats_dead_deliveries WHERE id = ?1 AND consumer = 'outbox'
"""

_NUMBER_OF = "SELECT phone_number_id FROM wats_outbox WHERE id = ?"

_ENDED = """
SELECT request.state, request.response
FROM wats_outbox AS item JOIN wats_requests AS request USING (scope, key_hash)
WHERE item.id = ? AND request.outbox_id = item.id AND request.state <> 'reserved'
"""

_DUE_NUMBERS = """
SELECT DISTINCT item.phone_number_id
FROM wats_deliveries AS head JOIN wats_outbox AS item ON item.id = head.id
WHERE head.consumer = 'outbox' AND head.due_at <= ?
"""

# Messages that no process sends are due first.
_ORPHANED = """
SELECT coalesce(sum(1 + head.followers), 0)
FROM (
    SELECT id, followers FROM wats_deliveries
    WHERE consumer = 'outbox' AND due_at IS NOT NULL ORDER BY due_at LIMIT ?
) AS head JOIN wats_outbox AS item ON item.id = head.id
WHERE item.phone_number_id NOT IN (SELECT value FROM json_each(?))
"""

_DEAD = """
SELECT id, error FROM wats_dead_deliveries WHERE id IN carray(?) AND consumer = 'outbox'
"""

_WAITING = """
SELECT id FROM wats_deliveries
WHERE id IN carray(?) AND consumer = 'outbox' AND lease IS NULL
"""

_RESERVE_AGAIN = """
INSERT INTO wats_requests (
    scope, key_hash, request_hash, state, reserved_until, expires_at, outbox_id
)
SELECT scope, key_hash, request_hash, 'reserved', :until, :until, id FROM wats_outbox WHERE id = :id
ON CONFLICT (scope, key_hash) DO UPDATE
SET request_hash = excluded.request_hash, state = 'reserved', response = NULL,
    reserved_until = excluded.reserved_until, expires_at = excluded.expires_at,
    outbox_id = excluded.outbox_id
WHERE expires_at <= :now OR (outbox_id = :id AND state = 'unknown')
"""

_EXTEND = "UPDATE wats_outbox SET expires_at = :until WHERE id = :id"

_PURGE = """
DELETE FROM wats_outbox WHERE id IN (SELECT id FROM wats_outbox WHERE expires_at < ? LIMIT ?)
"""


def enqueue(writer: Writer, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
    """Reserve the key of *send* and insert its delivery; or return why not."""
    key = send.scope, send.key_hash
    new = requests.NewKey(
        key=key,
        request_hash=send.request_hash,
        reserve_seconds=QUEUE_SECONDS,
        keep_seconds=QUEUE_SECONDS,
    )
    reservation = requests.reserve(writer, new)
    if reservation.outcome is not ReservationOutcome.RESERVED:
        return reservation
    if max_waiting is not None and writer.waiting(OUTBOX) >= max_waiting:
        requests.fail(writer, scope=send.scope, key_hash=send.key_hash)
        return Reservation(outcome=ReservationOutcome.FULL)
    deliveries.insert(writer, [arrival_of(send)], {})
    id_: int = writer.execute(_LAST_ID).get
    keep_ms, expires_at = round(send.keep_seconds * 1000), writer.time_after(QUEUE_SECONDS)
    values = id_, send.phone_number_id, send.nonce, *key, send.request_hash, keep_ms, expires_at
    writer.execute(_INSERT, values)
    writer.execute(_USE_KEY, (id_, *key))
    return Reservation(outcome=reservation.outcome, outbox_id=id_)


def undo_enqueue(writer: Writer, results: Sequence[Reservation]) -> None:
    """Remove items that were stored too late: their requests have been refused."""
    is_new = ReservationOutcome.RESERVED
    discard(writer, [each.outbox_id or 0 for each in results if each.outcome is is_new])


def settle(writer: Writer, results: Sequence[SendResult]) -> Settled:
    """Settle the deliveries of *results*, and their keys."""
    settlements = [each.settlement for each in results]
    dead = [
        each
        for each in settlements
        if each.state is DeliveryState.DEAD and deliveries.is_held(writer, each.delivery)
    ]
    settled = deliveries.settle(writer, settlements)
    sent = [each for each in results if each.settlement.state is DeliveryState.DONE]
    _finish(writer, {each.settlement.delivery.id: each.response for each in sent})
    messages.record(writer, [each.message for each in sent if each.message is not None])
    for each in dead:
        statement = _DOUBT if each.error == OUTCOME_UNKNOWN else _FREE
        writer.execute(statement, {"id": each.delivery.id})
    return settled


def _finish(writer: Writer, responses: Mapping[int, bytes]) -> None:
    """Complete the keys of items that were sent, and delete what is left of their deliveries."""
    if not responses:
        return
    admin.delete(writer, [*responses])
    now = writer.clock()
    rows = [{"id": id_, "response": each, "now": now} for id_, each in responses.items()]
    writer.executemany(_COMPLETE, rows)
    writer.executemany(_END, rows)


def prove(writer: Writer, proofs: Sequence[SendProof]) -> None:
    """Note that the messages of *proofs* were sent and record them, unless that is known."""
    for proof in proofs:
        if writer.execute(_IS_OPEN, (proof.id, proof.nonce)).get:
            message = proven_message(proof, admin.payload_of(writer, proof.id))
            _finish(writer, {proof.id: proof.response})
            messages.record(writer, [] if message is None else [message])


def get(connection: Connection, outbox_id: int) -> SendView | None:
    """Read the state of one item."""
    number: str = connection.execute(_NUMBER_OF, (outbox_id,)).get or ""
    item: dict[str, Any] = {"id": outbox_id, "phone_number_id": number}
    row: Any = connection.execute(_STORED, (outbox_id,)).fetchone()
    if row is not None:
        state, attempts, error = row
        found = send_state(DeliveryState(state), error)
        return SendView(**item, state=found, attempts=attempts, error=error)
    row = connection.execute(_ENDED, (outbox_id,)).fetchone()
    if row is None:
        return None
    state, response = row
    found = SendState.SENT if state == "completed" else SendState.UNKNOWN
    return SendView(**item, state=found, response=response or b"")


def due_numbers(connection: Connection, now: int) -> Collection[str]:
    """Read the business numbers of the messages that are due."""
    return {number for (number,) in connection.execute(_DUE_NUMBERS, (now,))}


def orphaned(connection: Connection, numbers: Collection[str]) -> int:
    """Count the messages of other numbers than *numbers*, among those due first."""
    values = SCAN_DELIVERIES, json.dumps([*numbers])
    count: int = connection.execute(_ORPHANED, values).get
    return count


def retry(writer: Writer, ids: Sequence[int], *, even_unknown: bool) -> int:
    """Reserve the keys of dead letters again, and insert their deliveries."""
    letters: list[Any] = writer.execute(_DEAD, (numbers(ids),)).fetchall()
    chosen = [
        id_
        for id_, error in letters
        if (even_unknown or error != OUTCOME_UNKNOWN) and _reserve_again(writer, id_)
    ]
    return admin.put_back(writer, chosen)


def _reserve_again(writer: Writer, outbox_id: int) -> bool:
    values = {"id": outbox_id, "now": writer.clock(), "until": writer.time_after(QUEUE_SECONDS)}
    if not change(writer, _RESERVE_AGAIN, [values]):
        return False
    writer.execute(_EXTEND, values)
    return True


def discard(writer: Writer, ids: Sequence[int]) -> int:
    """Delete items that are not leased, and dead letters; free the keys of unsent messages."""
    if not ids:
        return 0
    rows: list[Any] = writer.execute(_WAITING, (numbers(ids),)).fetchall()
    letters: list[Any] = writer.execute(_DEAD, (numbers(ids),)).fetchall()
    waiting, dead = [id_ for (id_,) in rows], [id_ for id_, _ in letters]
    writer.executemany(_FREE, [{"id": id_} for id_ in waiting])
    return admin.delete(writer, [*waiting, *dead])


def empty_keys(writer: Writer, ids: Sequence[int]) -> None:
    """Complete the keys of erased items with an empty response, so that they are not sent again."""
    for id_ in ids:
        row = {"id": id_, "now": writer.clock()}
        if change(writer, _EMPTY, [row]):
            writer.execute(_END, row)


def purge(writer: Writer, limit: int) -> int:
    """Delete expired items, of which nothing but their keys is left."""
    return change(writer, _PURGE, [(writer.clock(), limit)])
