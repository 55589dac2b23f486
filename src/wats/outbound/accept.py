"""The outbound transaction: a key is reserved, the message sent once, then we respond.

    reserve ─▶ window ─▶ Graph ─┬─ accepted          complete   replays get the same response
                  │             ├─ refused           fail       the key can be used again
                  └─ closed     └─ outcome unknown   doubt      the key is never sent again
                     fail

A process that dies in between leaves its key reserved, and the reservation expires into `doubt`.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec

from wats.clock import Now, utc_now
from wats.errors import (
    GraphError,
    IdempotencyConflict,
    IdempotencyInFlight,
    IdempotencyOutcomeUnknown,
    InvalidIdempotencyKey,
    StoreError,
    StoreNotConfigured,
    StoreUnavailable,
)
from wats.graph.calls import TOTAL_SECONDS
from wats.graph.client import GraphClient
from wats.log import Log
from wats.outbound import answers
from wats.outbound.failures import report_graph_failure
from wats.outbound.messages import Outgoing, canonical, is_plain
from wats.outbound.window import WindowGuard
from wats.store import Store
from wats.store.records import Direction, MessageRecord, ReservationOutcome
from wats.telemetry import EndpointFamily, Outcome, Telemetry, error_name

MAX_KEY_LENGTH: Final = 256
STORE_SECONDS: Final = 30.0
"""How long a reservation outlives the longest Graph call: time to write its outcome."""
RETRY_AFTER_SECONDS: Final = 2
"""When to retry a request in flight. Graph mostly responds within a second."""


Endpoint: TypeAlias = Literal["messages", "marketing_messages"]
"""An endpoint of a business number that sends messages, by its last path segment."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Meta accepted the request: its response as JSON, and whether it is a replay."""

    body: bytes
    replayed: bool


class _Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a request, as the store has it: the key itself is not kept."""

    scope: str
    key_hash: bytes


class _Send(msgspec.Struct, frozen=True):
    """A request to Graph: its JSON, number and endpoint, and the message, if it is one."""

    payload: bytes
    phone_number_id: str
    endpoint: Endpoint
    message: Outgoing | None


class Acceptor:
    """Sends messages, and each request that has an `Idempotency-Key` once.

    Args:
        graph: The client for sending messages.
        own_graphs: The clients of numbers with an access token of their own, by phone number id.
        store: The store of keys and messages; without one, requests with a key are refused.
        telemetry: Records the outcome of each attempt to send.
        phone_number_id: The number that sends the messages, unless a request names another one.
        log: Receives failures. It must not raise.
        guard: Refuses messages outside of the service window, if given.
        idempotency_hours: The retention of a key.
        graph_seconds: The longest possible call of *graph*.
        now: The clock.
    """

    def __init__(
        self,
        *,
        graph: GraphClient,
        store: Store | None,
        telemetry: Telemetry,
        phone_number_id: str,
        log: Log,
        own_graphs: Mapping[str, GraphClient] = MappingProxyType({}),
        guard: WindowGuard | None = None,
        idempotency_hours: float = 24,
        graph_seconds: float = TOTAL_SECONDS,
        now: Now = utc_now,
    ) -> None:
        self._graph = graph
        self._own_graphs = own_graphs
        self._store = store
        self._telemetry = telemetry
        self._phone_number_id = phone_number_id
        self._log = log
        self._guard = guard
        self._keep_seconds = idempotency_hours * 3600
        self._reserve_seconds = graph_seconds + STORE_SECONDS
        self._now = now
        self._writes: set[asyncio.Task[None]] = set()

    async def accept(
        self,
        payload: bytes,
        *,
        scope: str,
        idempotency_key: str | None,
        request_body: bytes,
        message: Outgoing | None,
        phone_number_id: str | None = None,
        endpoint: Endpoint = "messages",
        keep_seconds: float = 0,
    ) -> Accepted:
        """Send *payload*, or return the response of an earlier request with this key.

        Once Meta has accepted it, no later failure turns that into an error: a message that cannot
        be recorded is logged, and a key that cannot be completed has an unknown outcome later.

        Args:
            payload: The Graph JSON, sent unchanged.
            scope: The route of the request. One key may be used once on each.
            idempotency_key: The caller's key, if there is one.
            request_body: The caller's JSON, which a request with the same key must repeat.
            message: Its record; `None` if *payload* is not a message.
            phone_number_id: The number that sends it; the one of the service by default.
            endpoint: The endpoint of Graph that takes it.
            keep_seconds: The retention of the key, if longer than that of all keys.

        Raises:
            InvalidIdempotencyKey: Nothing was sent.
            StoreNotConfigured: A key was given and there is no store; nothing was sent.
            StoreUnavailable: The key could not be reserved; nothing was sent.
            IdempotencyConflict: The key was used with another body.
            IdempotencyInFlight: Another request holds the key now.
            IdempotencyOutcomeUnknown: It is unknown whether a request with the key was sent.
            WindowClosed: The guard refused it; nothing was sent, and the key can be used again.
            GraphRefused: Meta refused it; the key can be used again.
            GraphUnreachable: Nothing was sent; the key can be used again.
            GraphOutcomeUnknown: Meta may have accepted it; the key will not be sent again.
        """
        number = phone_number_id or self._phone_number_id
        send = _Send(payload, number, endpoint, message)
        if idempotency_key is None:
            return await self._send_once(self._store, send)
        if not is_plain(idempotency_key, MAX_KEY_LENGTH):
            raise InvalidIdempotencyKey
        if self._store is None:
            raise StoreNotConfigured("Idempotency-Key requires a persistence store.")
        claim = _Claim(
            # One key may be used once with each number: each number has callers of its own.
            scope=f"{number}{scope}",
            key_hash=hashlib.sha256(idempotency_key.encode()).digest(),
        )
        keep_seconds = max(keep_seconds, self._keep_seconds)
        replay = await self._reserve(self._store, claim, canonical(request_body), keep_seconds)
        if replay is not None:
            return Accepted(body=replay, replayed=True)
        return await self._send_claimed(self._store, claim, send)

    async def _reserve(
        self, store: Store, claim: _Claim, request: bytes, keep_seconds: float
    ) -> bytes | None:
        """Reserve the key of *claim*, or return its earlier response."""
        try:
            reservation = await store.reserve_request(
                scope=claim.scope,
                key_hash=claim.key_hash,
                request_hash=hashlib.sha256(request).digest(),
                reserve_seconds=self._reserve_seconds,
                keep_seconds=keep_seconds,
            )
        except StoreError as error:
            raise StoreUnavailable from error
        match reservation.outcome:
            case ReservationOutcome.RESERVED:
                return None
            case ReservationOutcome.REPLAY:
                return reservation.response
            case ReservationOutcome.CONFLICT:
                raise IdempotencyConflict
            case ReservationOutcome.IN_FLIGHT:
                raise IdempotencyInFlight(RETRY_AFTER_SECONDS)
            case _:
                raise IdempotencyOutcomeUnknown

    async def _send_once(self, store: Store | None, send: _Send) -> Accepted:
        await self._check_window(send)
        answer = await self._send(send)
        record = self._record_of(answer, send)
        if store is not None and record is not None:
            await self._to_the_end(store.record_sent(record))
        return Accepted(body=answers.encode(answer), replayed=False)

    async def _send_claimed(self, store: Store, claim: _Claim, send: _Send) -> Accepted:
        scope, key_hash = claim.scope, claim.key_hash
        try:
            await self._check_window(send)
        except BaseException:
            await self._to_the_end(store.fail_request(scope=scope, key_hash=key_hash))
            raise
        try:
            answer = await self._send(send)
        except BaseException as error:
            # A call that was cancelled, or failed in an unforeseen way, may have been carried out.
            if isinstance(error, GraphError) and not error.may_have_happened:
                await self._to_the_end(store.fail_request(scope=scope, key_hash=key_hash))
            else:
                await self._to_the_end(store.doubt_request(scope=scope, key_hash=key_hash))
            raise
        body = answers.encode(answer)
        record = self._record_of(answer, send)
        await self._to_the_end(
            store.complete_request(scope=scope, key_hash=key_hash, response=body, message=record)
        )
        return Accepted(body=body, replayed=False)

    async def _check_window(self, send: _Send) -> None:
        if self._guard is not None and send.message is not None:
            await self._guard.check(send.message, send.phone_number_id)

    async def _send(self, send: _Send) -> Any:
        message = send.message
        outcome = Outcome.ERROR
        try:
            graph = self._own_graphs.get(send.phone_number_id, self._graph)
            answer = await graph.call(
                EndpointFamily.MESSAGES,
                "POST",
                (send.phone_number_id, send.endpoint),
                payload=send.payload,
            )
            outcome = Outcome.SUCCESS
        except GraphError as error:
            names = message.names if message is not None else None
            report_graph_failure(error, telemetry=self._telemetry, log=self._log, names=names)
            raise
        finally:
            if message is not None:
                self._telemetry.messages.send_outcome(EndpointFamily.MESSAGES, outcome)
        return answer.payload

    def _record_of(self, answer: Any, send: _Send) -> MessageRecord | None:
        message = send.message
        wamid = answers.message_id(answer)
        if message is None or wamid is None:
            return None
        now = self._now()
        return MessageRecord(
            phone_number_id=send.phone_number_id,
            wa_message_id=wamid,
            direction=Direction.OUTBOUND,
            to_phone=message.recipient,
            type=message.type,
            status=answers.message_status(answer),
            graph_message_id=wamid,
            created_at=now,
            updated_at=now,
        )

    async def _to_the_end(self, write: Coroutine[Any, Any, None]) -> None:
        """Let *write* end, even if its caller is cancelled; it cannot fail the caller."""
        task = asyncio.create_task(self._attempt(write))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        await asyncio.shield(task)

    async def _attempt(self, write: Coroutine[Any, Any, None]) -> None:
        try:
            await write
        except Exception as error:
            self._telemetry.errors.record(error)
            self._log({"event": "wats.message.unrecorded", "errorName": error_name(error)})
