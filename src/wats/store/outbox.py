"""The outbox: messages that are accepted now and sent later, as deliveries of one consumer.

An item of the outbox is a delivery of the consumer `outbox`, together with an idempotency key that
stays reserved until the outcome of the send is known. Both change in one transaction, so a message
is sent once for its key, whether its caller waits for the result or not.

    enqueue ─▸ queued ─▸ sending ─▸ sent       the delivery is deleted, the key completed
                 ▲          ├─▸ retry          certainly not sent; sent again after a pause
                 │          ├─▸ failed         certainly not sent: a dead letter, the key is free
                 │          └─▸ unknown        maybe sent: a dead letter, the key stays blocked
                 └── operator ──┘

A claim does not permit the send yet. `renew` makes the attempt final just before the call: a lease
that expires after that is an unknown outcome; before it, nothing was sent, and the item is claimed
again.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from wats.clock import EPOCH
from wats.sends import read_item_head
from wats.store.records import (
    OUTBOX,
    Arrival,
    DeliveryState,
    MessageRecord,
    Reservation,
    SendProof,
    Settled,
    Settlement,
)

OUTCOME_UNKNOWN: Final = "OutcomeUnknown"
"""The error of a dead letter whose message may have been sent."""

UNLIMITED_ATTEMPTS: Final = 2**31 - 1
"""The attempts of the consumer, so that no claim alone is final. The worker limits retries."""

QUEUE_SECONDS: Final = 90 * 86_400.0
"""The retention of the key of an item that is not sent, so that no other request can use it."""


class SendState(StrEnum):
    """The states of an item; `SEND_TRANSITIONS` lists the permitted steps."""

    QUEUED = "queued"
    SENDING = "sending"
    RETRY = "retry"
    SENT = "sent"
    FAILED = "failed"
    UNKNOWN = "unknown"


SEND_TRANSITIONS: Final[Mapping[SendState, frozenset[SendState]]] = {
    SendState.QUEUED: frozenset({SendState.SENDING}),
    SendState.SENDING: frozenset(
        {
            SendState.SENT,
            SendState.RETRY,
            SendState.FAILED,
            SendState.UNKNOWN,
            SendState.QUEUED,  # released unused
            SendState.SENDING,  # leased again: its process died before the call
        }
    ),
    SendState.RETRY: frozenset({SendState.SENDING}),
    SendState.SENT: frozenset(),
    SendState.FAILED: frozenset({SendState.QUEUED}),  # retried by an operator
    # A status webhook proves the send, or an operator accepts that it may be sent twice.
    SendState.UNKNOWN: frozenset({SendState.SENT, SendState.QUEUED}),
}
"""All transitions of an item. The stores write no others."""

_OF_DELIVERY: Final[Mapping[DeliveryState, SendState]] = {
    DeliveryState.PENDING: SendState.QUEUED,
    DeliveryState.LEASED: SendState.SENDING,
    DeliveryState.RETRY: SendState.RETRY,
    DeliveryState.DONE: SendState.SENT,
}


def send_state(state: DeliveryState, error: str | None) -> SendState:
    """Return the state of an item whose delivery, or dead letter, has *state* and *error*."""
    if state is DeliveryState.DEAD:
        return SendState.UNKNOWN if error == OUTCOME_UNKNOWN else SendState.FAILED
    return _OF_DELIVERY[state]


class NewSend(msgspec.Struct, frozen=True, kw_only=True):
    """A message to accept into the outbox, with its idempotency key.

    Attributes:
        phone_number_id: The business number that sends it.
        ordering_key: The number shared by all messages to a recipient, which are kept in order.
        payload: The encoded message; opaque here.
        nonce: A random number of 62 bits.
        scope: The scope of the idempotency key.
        key_hash: The digest of the key, or a random one if the caller gave no key.
        request_hash: The digest of the request.
        keep_seconds: The retention of the key after the send.
    """

    phone_number_id: str
    ordering_key: int
    payload: bytes
    nonce: int
    scope: str
    key_hash: bytes
    request_hash: bytes
    keep_seconds: float


def arrival_of(send: NewSend) -> Arrival:
    """Return *send* as an arrival, of which the stores use the parts of the delivery only."""
    return Arrival(
        key=b"",
        occurred_at=EPOCH,
        received_at=EPOCH,
        kind=OUTBOX,
        phone_number_id=send.phone_number_id,
        ordering_key=send.ordering_key,
        payload=send.payload,
        consumers=(OUTBOX,),
    )


def proven_message(proof: SendProof, payload: bytes | None) -> MessageRecord | None:
    """Return the record of the message of *proof*, whose item has *payload* unless discarded."""
    head = None if payload is None else read_item_head(payload)
    if proof.message is None or head is None:
        return proof.message
    return msgspec.structs.replace(proof.message, type=head.type, to_phone=head.recipient)


class SendResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one attempt to send an item.

    Attributes:
        settlement: `DONE` after Meta accepted the message; `DEAD` with the error `OUTCOME_UNKNOWN`
            if it may have accepted it; in every other state it was certainly not sent.
        response: The response for the idempotency key, after `DONE`.
        message: The record of the message, after `DONE`, if Meta named its id.
    """

    settlement: Settlement
    response: bytes = b""
    message: MessageRecord | None = None


class SendView(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an item.

    Attributes:
        phone_number_id: The business number that sends it.
        attempts: The number of attempts; `None` after the send, since it is not kept.
        error: The class of the last error, before the send.
        response: The response for the idempotency key, after the send.
    """

    id: int
    phone_number_id: str
    state: SendState
    attempts: int | None = None
    error: str | None = None
    response: bytes = b""


class OutboxStore(Protocol):
    """Messages that are sent later. Claims and renewals are those of the inbox."""

    async def enqueue(self, send: NewSend, *, max_waiting: int | None = None) -> Reservation:
        """Reserve the key of *send* and store it as a delivery, or return the state of the key.

        The outcomes are those of `reserve_request`; `outbox_id` is the id of the item that uses the
        key, if one does. The reservation ends with the item: it does not expire before.

        With *max_waiting*, a key that would be reserved also needs a free place: the outcome is
        `FULL` if as many items wait, in all processes. On PostgreSQL, concurrent calls may exceed
        the limit by their number.
        """

    async def settle_sends(self, results: Sequence[SendResult]) -> Settled:
        """End the leases of items, and complete, release or block their keys.

        A message that was sent is settled even if its lease was lost: nothing sends it again.
        """

    async def get_send(self, outbox_id: int) -> SendView | None:
        """Return the state of the item *outbox_id*, until its key expires; or `None`."""

    async def due_numbers(self) -> Collection[str]:
        """Return the business numbers for which a claim may find items.

        Its cost depends on the items that are due and not on the number of business numbers.
        """

    async def orphaned_sends(self, numbers: Collection[str]) -> int:
        """Return the number of waiting items of other business numbers than *numbers*.

        On SQLite, only the `SCAN_DELIVERIES` recipients whose messages are due first are searched.
        """

    async def retry_sends(self, ids: Sequence[int], *, even_unknown: bool) -> int:
        """Make those dead letters *ids* of the outbox deliveries again whose keys are free.

        Each gets its old place in the order of its recipient. A dead letter with an unknown outcome
        is left unless *even_unknown*, because its message may be sent twice.

        Returns:
            The number of items.
        """

    async def discard_sends(self, ids: Sequence[int]) -> int:
        """Delete items and dead letters *ids* that are not being sent; return their number.

        The key of a message that was certainly not sent can be used again.
        """
