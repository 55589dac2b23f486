"""The outbound transaction: a key is reserved, the message sent once, then we respond.

    reserve ─▶ window ─▶ Graph ─┬─ accepted          complete   replays get the same response
                  │             ├─ refused           fail       the key can be used again
                  └─ closed     └─ outcome unknown   unknown    the key is never sent again
                     fail

A process that dies in between leaves its key reserved; when the reservation expires, the outcome is
unknown.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable
from typing import Final

import msgspec

from wats.errors import (
    GraphError,
    IdempotencyConflict,
    IdempotencyInFlight,
    IdempotencyOutcomeUnknown,
    InvalidIdempotencyKey,
    MalformedRequest,
    OutboxFull,
    RateLimited,
    StoreError,
    StoreNotConfigured,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from wats.graph.calls import TOTAL_SECONDS
from wats.log import Log
from wats.outbound import answers
from wats.outbound.items import encode_item
from wats.outbound.messages import Outgoing, canonical, is_plain
from wats.outbound.outbox import Outbox
from wats.outbound.pacing import REQUEST_SECONDS, MemoryBuckets, Pacer, ordering_key
from wats.outbound.transmit import Endpoint, Transmission, Transmitter
from wats.store import Store
from wats.store.outbox import NewSend
from wats.store.pacing import Demand
from wats.store.records import Reservation, ReservationOutcome
from wats.telemetry import Telemetry, error_name

MAX_KEY_LENGTH: Final = 256
STORE_SECONDS: Final = 30.0
"""How long a reservation outlives the longest Graph call: time to write its outcome."""
RETRY_AFTER_SECONDS: Final = 2
"""When to retry a request in flight. Graph mostly responds within a second."""

NONCE_BITS: Final = 62
MAYBE_QUEUED: Final = (
    "It is unknown whether the outbox has the message, and sends it. Only a request with an "
    "Idempotency-Key can be repeated."
)

_OUTBOX_SCOPE: Final = "/outbox"
"""The scope of the keys of items whose callers gave no key."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Meta accepted the request: its response as JSON, and whether it is a replay."""

    body: bytes
    replayed: bool


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the outbox has the message, and whether an earlier request stored it."""

    outbox_id: int
    replayed: bool


class SendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to send a message.

    Attributes:
        payload: The Graph JSON, sent unchanged.
        scope: The route of the request. One key may be used once on each.
        idempotency_key: The caller's key, if there is one.
        request_body: The caller's JSON, which a request with the same key must repeat.
        message: Its record; `None` if *payload* is not a message.
        phone_number_id: The number that sends it; the one of the service by default.
        endpoint: The endpoint of Graph that takes it.
        keep_seconds: The retention of the key, if longer than that of all keys.
        patience_seconds: The longest wait for the rate limits of Meta.
    """

    payload: bytes
    scope: str
    idempotency_key: str | None
    request_body: bytes
    message: Outgoing | None
    phone_number_id: str | None = None
    endpoint: Endpoint = "messages"
    keep_seconds: float = 0
    patience_seconds: float = REQUEST_SECONDS

    @property
    def digest(self) -> bytes:
        """The digest of *request_body*, which two forms of the same JSON share."""
        return hashlib.sha256(canonical(self.request_body)).digest()


class _Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a request, as the store has it: the key itself is not kept."""

    scope: str
    key_hash: bytes


class Acceptor:
    """Sends messages, and each request that has an `Idempotency-Key` once.

    Args:
        transmitter: Calls Graph, once for each message.
        store: The store of keys and messages; without one, requests with a key are refused.
        telemetry: Records the outcome of each attempt to send.
        phone_number_id: The number that sends the messages, unless a request names another one.
        log: Receives failures. It must not raise.
        outbox: Takes the messages that are sent later; there is one if there is a store.
        pacer: Lets messages wait for their turn; by default they need not wait.
        idempotency_hours: The retention of a key.
        graph_seconds: The longest possible call of Graph.
    """

    def __init__(
        self,
        *,
        transmitter: Transmitter,
        store: Store | None,
        telemetry: Telemetry,
        phone_number_id: str,
        log: Log,
        outbox: Outbox | None = None,
        pacer: Pacer | None = None,
        idempotency_hours: float = 24,
        graph_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._transmitter = transmitter
        self._store = store
        self._outbox = outbox
        self._pacer = pacer if pacer is not None else Pacer(MemoryBuckets(), {}, telemetry)
        self._telemetry = telemetry
        self._phone_number_id = phone_number_id
        self._log = log
        self._keep_seconds = idempotency_hours * 3600
        self._reserve_seconds = graph_seconds + STORE_SECONDS

    async def accept(self, request: SendRequest) -> Accepted:
        """Send *request*, or return the response of an earlier request with the same key.

        Once Meta has accepted it, no later failure turns that into an error: a message that cannot
        be recorded is logged, and a key that cannot be completed has an unknown outcome later.

        Raises:
            InvalidIdempotencyKey: Nothing was sent.
            StoreNotConfigured: A key was given and there is no store; nothing was sent.
            StoreUnavailable: The key could not be reserved; nothing was sent.
            IdempotencyConflict: The key was used with another body.
            IdempotencyInFlight: Another request holds the key now.
            IdempotencyOutcomeUnknown: It is unknown whether a request with the key was sent.
            RateLimited: The rate limits permit it later only; nothing was sent, and the key can be
                used again.
            WindowClosed: The guard refused it; nothing was sent, and the key can be used again.
            GraphRefused: Meta refused it; the key can be used again.
            GraphUnreachable: Nothing was sent; the key can be used again.
            GraphOutcomeUnknown: Meta may have accepted it; the key will not be sent again.
        """
        number = request.phone_number_id or self._phone_number_id
        send = Transmission(request.payload, number, request.endpoint, request.message)
        demand = self._pacer.demand_of(number, request.message, request.patience_seconds)
        if request.idempotency_key is None:
            await self._pacer.wait(demand)
            return await self._send_once(self._store, send)
        claim = _claim(number, request.scope, request.idempotency_key)
        if self._store is None:
            raise StoreNotConfigured("Idempotency-Key requires a persistence store.")
        reservation = await self._reserve(self._store, claim, request, demand)
        if reservation.outcome is not ReservationOutcome.RESERVED:
            return Accepted(body=_replay(reservation), replayed=True)
        turn = None if demand is None else (demand, reservation.wait_seconds)
        return await self._send_claimed(self._store, claim, send, turn)

    async def accept_later(self, request: SendRequest) -> Queued | Accepted:
        """Store *request* in the outbox, or return the item or response of an earlier request.

        Raises:
            MalformedRequest: The request is not a message; nothing was stored.
            InvalidIdempotencyKey: Nothing was stored.
            StoreNotConfigured: There is no store; nothing was stored.
            StoreUnavailable: Nothing was stored; or the message has a key and can be repeated.
            OutboxFull: Too many messages wait; nothing was stored, and the key can be used again.
            IdempotencyConflict: The key was used with another body.
            IdempotencyInFlight: A request that waits for its result holds the key now.
            IdempotencyOutcomeUnknown: It is unknown whether such a request was sent; or whether the
                outbox has a message without a key.
        """
        message, key = request.message, request.idempotency_key
        if message is None:
            raise MalformedRequest("malformed_body", "A read mark cannot be sent later.")
        if self._outbox is None:
            raise StoreNotConfigured("The outbox requires a persistence store.")
        number = request.phone_number_id or self._phone_number_id
        nonce = secrets.randbits(NONCE_BITS)
        claim = (
            _claim(number, _OUTBOX_SCOPE, secrets.token_urlsafe())
            if key is None
            else _claim(number, request.scope, key)
        )
        send = Transmission(request.payload, number, request.endpoint, message)
        putting = self._outbox.put(
            NewSend(
                phone_number_id=number,
                ordering_key=ordering_key(number, message),
                payload=encode_item(send, message, nonce=nonce),
                nonce=nonce,
                scope=claim.scope,
                key_hash=claim.key_hash,
                request_hash=request.digest,
                keep_seconds=self._keep_seconds,
            )
        )
        # With a key, a retry may have the item already, so a cancellation must not undo it.
        if key is not None:
            return _queued(await asyncio.shield(putting))
        try:
            queued = _queued(await putting)
        except StoreOutcomeUnknown as error:
            raise IdempotencyOutcomeUnknown(MAYBE_QUEUED) from error
        return msgspec.structs.replace(queued, replayed=False)  # no other request has its key

    async def _reserve(
        self, store: Store, claim: _Claim, request: SendRequest, demand: Demand | None
    ) -> Reservation:
        """Reserve the key of *claim*, or return its state."""
        try:
            return await store.reserve_request(
                scope=claim.scope,
                key_hash=claim.key_hash,
                request_hash=request.digest,
                reserve_seconds=self._reserve_seconds,
                keep_seconds=max(request.keep_seconds, self._keep_seconds),
                demand=demand,
            )
        except StoreError as error:
            raise StoreUnavailable from error

    async def _send_once(self, store: Store | None, send: Transmission) -> Accepted:
        await self._transmitter.check_window(send)
        try:
            answer = await self._transmitter.send(send)
        except GraphError as error:
            await self._pacer.note(send.phone_number_id, send.message, error)
            raise
        if store is not None and (record := self._transmitter.record_of(answer, send)) is not None:
            await self._record(store.record_sent(record))
        return Accepted(body=answers.encode(answer), replayed=False)

    async def _send_claimed(
        self, store: Store, claim: _Claim, send: Transmission, turn: tuple[Demand, float] | None
    ) -> Accepted:
        scope, key_hash = claim.scope, claim.key_hash
        try:
            if turn is not None:
                await self._pacer.wait_for_turn(*turn)
            await self._transmitter.check_window(send)
        except BaseException:
            await self._record(store.fail_request(scope=scope, key_hash=key_hash))
            raise
        try:
            answer = await self._transmitter.send(send)
        except BaseException as error:
            # A call that was cancelled, or failed in an unforeseen way, may have been carried out.
            if isinstance(error, GraphError) and not error.may_have_happened:
                await self._record(store.fail_request(scope=scope, key_hash=key_hash))
                await self._pacer.note(send.phone_number_id, send.message, error)
            else:
                await self._record(store.doubt_request(scope=scope, key_hash=key_hash))
            raise
        body = answers.encode(answer)
        record = self._transmitter.record_of(answer, send)
        await self._record(
            store.complete_request(scope=scope, key_hash=key_hash, response=body, message=record)
        )
        return Accepted(body=body, replayed=False)

    async def _record(self, write: Awaitable[None]) -> None:
        """Await *write*; its failure is no failure of the caller.

        The store carries it out even if the caller is cancelled.
        """
        try:
            await write
        except Exception as error:
            self._telemetry.errors.record(error)
            self._log({"event": "wats.message.unrecorded", "errorName": error_name(error)})


def _claim(number: str, scope: str, key: str) -> _Claim:
    """Return the claim of *key*.

    Raises:
        InvalidIdempotencyKey: The key is not usable.
    """
    if not is_plain(key, MAX_KEY_LENGTH):
        raise InvalidIdempotencyKey
    # Services for several numbers may share a database, and each has its own callers.
    return _Claim(scope=f"{number}{scope}", key_hash=hashlib.sha256(key.encode()).digest())


def _queued(reservation: Reservation) -> Queued | Accepted:
    """Return the item that has the message, or the response of a request that sent it."""
    is_new = reservation.outcome is ReservationOutcome.RESERVED
    if reservation.outbox_id is None or reservation.outcome is ReservationOutcome.CONFLICT:
        return Accepted(body=_replay(reservation), replayed=True)
    return Queued(outbox_id=reservation.outbox_id, replayed=not is_new)


def _replay(reservation: Reservation) -> bytes:
    """Return the response of the earlier request with the key.

    Raises:
        IdempotencyError: There is none.
        RateLimited: The message has to wait too long.
        OutboxFull: Too many messages wait in the outbox.
    """
    match reservation.outcome:
        case ReservationOutcome.REPLAY:
            return reservation.response
        case ReservationOutcome.CONFLICT:
            raise IdempotencyConflict
        case ReservationOutcome.IN_FLIGHT:
            raise IdempotencyInFlight(RETRY_AFTER_SECONDS)
        case ReservationOutcome.FULL:
            raise OutboxFull
        case ReservationOutcome.LIMITED:
            raise RateLimited(reservation.wait_seconds)
        case _:
            raise IdempotencyOutcomeUnknown
