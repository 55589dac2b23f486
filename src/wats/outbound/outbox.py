"""The outbox: messages that are accepted now and sent by a worker, with retries.

    put ─▸ store ─▸ claim ─▸ window ─▸ start ─▸ Graph ─┬─ accepted             sent
                      ▲                               ├─ refused, for now     retry, after a pause
                      └────── retry ──────────────────┤─ refused              failed
                                                      └─ outcome unknown      unknown

The outbox is a consumer of the queue of deliveries (`wats.store.outbox`), with a worker like that
of a handler. The store records the start of each call. A lease that expires after that was a call
that may have been carried out, so the message is never sent again automatically; a lease that
expires before it is claimed again.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Final

import msgspec

from wats.clock import Now, utc_now
from wats.config import OutboxConfig
from wats.errors import GraphError, StoreError, StoreOutcomeUnknown, StoreUnavailable, WindowClosed
from wats.graph.errors import Action, find_rule
from wats.log import Log
from wats.outbound import answers
from wats.outbound.call_starts import CallStarts
from wats.outbound.failures import OUTCOMES
from wats.outbound.items import decode_item
from wats.outbound.pacing import Pacer
from wats.outbound.transmit import Transmitter
from wats.retry_after import read_retry_after
from wats.store import Store
from wats.store.outbox import OUTCOME_UNKNOWN, UNLIMITED_ATTEMPTS, NewSend, SendResult
from wats.store.pacing import Pace
from wats.store.records import (
    OUTBOX,
    Consumer,
    Delivery,
    DeliveryState,
    Reservation,
    ReservationOutcome,
    Settlement,
)
from wats.telemetry import Telemetry, error_name
from wats.telemetry.contract.values import Outcome
from wats.telemetry.sinks.isolation import WorkerFailures
from wats.worker import Duties, Worker

FIRST_RETRY_SECONDS: Final = 2.0
LONGEST_RETRY_SECONDS: Final = 3600.0
POLL_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 30.0
"""How long a lease outlives the longest call of Graph: time to write its outcome."""


def retry_seconds(attempt: int, retry_after: str | None, now: datetime, jitter: float) -> float:
    """Return the pause after the *attempt*-th failure: 2, 4, 8 … seconds up to an hour.

    *retry_after* is the header of Meta's response, whose pause may be longer. *jitter*, from 0 to
    1, lengthens the pause by up to a fifth.
    """
    backoff = FIRST_RETRY_SECONDS * 2.0 ** min(attempt - 1, 20)
    pause = max(backoff, read_retry_after(retry_after, now) or 0.0)
    return min(pause, LONGEST_RETRY_SECONDS) * (1 + jitter / 5)


class Outbox:
    """Stores messages, and sends them with a worker.

    Args:
        store: The store.
        transmitter: Sends a message.
        pacer: Has the rate limits of all numbers.
        config: The policy of the worker.
        graph_seconds: The longest possible call of Graph.
        telemetry: Records outcomes.
        log: Receives failures. It must not raise.
        now: The clock.
        jitter: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        store: Store,
        transmitter: Transmitter,
        pacer: Pacer,
        config: OutboxConfig,
        *,
        graph_seconds: float,
        telemetry: Telemetry,
        log: Log,
        now: Now = utc_now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self.transmitter = transmitter
        self.pacer = pacer
        self._config = config
        self.telemetry = telemetry
        self.log = log
        self._now = now
        self._jitter = jitter
        self.consumer = Consumer(
            name=OUTBOX,
            lease_seconds=graph_seconds + SETTLE_SECONDS,
            max_attempts=UNLIMITED_ATTEMPTS,
        )
        self._call_starts = CallStarts(store)
        self._failures = WorkerFailures("outbox", errors=telemetry.errors, log=log, now=now)
        self._paces: Mapping[str, Pace] = {}
        self._claimable: dict[str, None] = {}  # numbers that may have due messages, in turn
        self._look_at = 0.0
        self._worker: Worker[SendJob] | None = None
        self._turn: asyncio.TimerHandle | None = None

    async def put(self, send: NewSend) -> Reservation:
        """Store *send*, unless its key is in use or the outbox is full.

        If it is unknown whether the store has it, it is stored again: its key shows that it was.

        Raises:
            StoreUnavailable: The store cannot be used; nothing was stored.
            StoreOutcomeUnknown: The store cannot be used, and may have *send*.
        """
        enqueue = partial(self._store.enqueue, send, max_waiting=self._config.max_waiting)
        try:
            reservation = await enqueue()
        except StoreOutcomeUnknown as unknown:
            try:
                reservation = await enqueue()
            except StoreError:
                raise unknown from None
        except StoreError as error:
            raise StoreUnavailable from error
        if reservation.outcome is ReservationOutcome.RESERVED and self._worker is not None:
            self._claimable[send.phone_number_id] = None
            self._worker.note_work()
        return reservation

    async def start(self) -> None:
        """Send stored messages, including those of earlier processes.

        The consumer must be registered. Messages of numbers that are not configured wait.

        Raises:
            StoreUnavailable: The store cannot be used. No worker runs.
        """
        self._paces = {each.phone_number_id: each for each in self.pacer.paces}
        orphaned = await self._store.orphaned_sends(self.pacer.numbers)
        if orphaned:
            self.log({"event": "wats.outbox.orphaned", "messages": orphaned})
        self._worker = Worker(
            Duties(
                claim=self._claim,
                settle=self._settle,
                renew=self._renew,
                trouble=self._failures.trouble,
                replaced=self._failures.replaced,
            ),
            concurrency=self._config.concurrency,
            poll_seconds=POLL_SECONDS,
            renew_seconds=self.consumer.lease_seconds / 3,
        )
        self._worker.start()
        self._store.on_work(self._wake)

    async def stop(self, drain_seconds: float) -> None:
        """Finish running calls for *drain_seconds*; other messages stay in the outbox."""
        if self._turn is not None:
            self._turn.cancel()
        if self._worker is not None:
            await self._worker.stop(drain_seconds)
            self._worker = None

    def _wake(self) -> None:
        """Note that another process stored messages."""
        self._look_at = 0.0
        if self._worker is not None:
            self._worker.wake()

    async def _claim(self, limit: int) -> tuple[Sequence["SendJob"], bool]:
        expires = monotonic() + self.consumer.lease_seconds
        jobs: list[SendJob] = []
        waits: list[float] = []
        has_more = False
        for number in await self._due_numbers():
            # Removed before the claim: a message that is stored during the claim adds it again.
            self._claimable.pop(number, None)
            try:
                claimed = await self._store.claim(
                    OUTBOX, limit - len(jobs), pace=self._paces[number]
                )
            except StoreError:
                self._claimable[number] = None
                if not jobs:
                    raise
                break  # those that are leased are sent
            jobs += [SendJob(self, each, number, expires) for each in claimed.deliveries]
            has_more |= claimed.more
            waits += [claimed.wait_seconds] if claimed.wait_seconds else []
            if claimed.deliveries or claimed.more or claimed.wait_seconds:
                self._claimable[number] = None
            if len(jobs) == limit:
                has_more = True
                break
        if waits:
            self._claim_after(min(waits), limit)
        return jobs, has_more

    async def _due_numbers(self) -> Sequence[str]:
        """Return the configured numbers that may have due messages, in turn.

        A claim of each number would cost a transaction for each, also while nothing is due.
        """
        if len(self._paces) == 1:
            return [*self._paces]
        if monotonic() >= self._look_at:
            self._look_at = monotonic() + POLL_SECONDS
            self._claimable |= dict.fromkeys(await self._store.due_numbers())
        return [number for number in self._claimable if number in self._paces]

    def _claim_after(self, seconds: float, limit: int) -> None:
        """Claim again when the rate limit permits the next message."""
        if self._turn is not None:
            self._turn.cancel()
        if self._worker is not None:
            loop = asyncio.get_running_loop()
            self._turn = loop.call_later(seconds, self._worker.note_work, limit)

    async def _settle(self, jobs: Sequence["SendJob"]) -> bool:
        settled = await self._store.settle_sends([job.result for job in jobs])
        for job in jobs:
            if job.result.settlement.state in _OUTCOMES:
                self.telemetry.store.outbox_processed(_OUTCOMES[job.result.settlement.state])
        if settled.due:
            self._claimable |= dict.fromkeys(job.number for job in jobs)
        return bool(settled.due)

    async def _renew(self, jobs: Sequence["SendJob"]) -> None:
        await self._store.renew([job.delivery for job in jobs])

    async def record_start(self, delivery: Delivery) -> bool:
        """Record that the call of *delivery* starts; return whether there may be a call."""
        try:
            return await self._call_starts.record(delivery)
        except StoreError as error:
            self._failures.trouble(error)
            return False

    def after(self, delivery: Delivery, error: GraphError) -> Settlement:
        """Return how the lease of *delivery* ends after *error*."""
        if error.may_have_happened:
            return Settlement(delivery, DeliveryState.DEAD, error=OUTCOME_UNKNOWN)
        name = error.diagnostics.name if error.is_reported else error_name(error)
        if not self._may_retry(delivery, error):
            return Settlement(delivery, DeliveryState.DEAD, error=name)
        pause = retry_seconds(delivery.attempt, error.retry_after, self._now(), self._jitter())
        return Settlement(delivery, DeliveryState.RETRY, pause, name)

    def _may_retry(self, delivery: Delivery, error: GraphError) -> bool:
        rule = find_rule(error.diagnostics.meta_code, error.diagnostics.meta_subcode)
        is_once = rule is not None and rule.action is Action.RETRY_ONCE
        is_passing = error.diagnostics.retryable or getattr(error, "throttled", False)
        return (
            is_passing
            and delivery.attempt < (2 if is_once else self._config.max_attempts)
            and delivery.age_seconds < self._config.max_age_hours * 3600
        )


_OUTCOMES: Final = {DeliveryState.DONE: Outcome.SUCCESS, DeliveryState.DEAD: Outcome.ERROR}


class SendJob:
    """A leased item, the call of Graph, and the result.

    Args:
        outbox: The outbox.
        delivery: The leased item.
        number: The business number that sends it.
        expires: The end of the lease on the clock `monotonic`.
    """

    def __init__(self, outbox: Outbox, delivery: Delivery, number: str, expires: float) -> None:
        self._outbox = outbox
        self.number = number
        self._expires = expires
        self._task: asyncio.Task[None] | None = None
        self.delivery = delivery
        self.release()

    def begin(self, on_end: "Callable[[SendJob], None]") -> None:
        """Send the message, unless its lease has expired."""
        if self.delivery.is_exhausted or monotonic() > self._expires:
            if self.delivery.is_exhausted:
                self._report()
            on_end(self)
            return
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(partial(self._ended, on_end))

    def cancel(self) -> None:
        """Cancel the call, after which its outcome is unknown."""
        if self._task is not None:
            self._task.cancel()

    def release(self) -> None:
        """End without a call. The call of an exhausted lease may have been carried out."""
        if self.delivery.is_exhausted:
            settlement = Settlement(self.delivery, DeliveryState.DEAD, error=OUTCOME_UNKNOWN)
        else:
            settlement = Settlement(self.delivery, DeliveryState.PENDING)
        self.result = SendResult(settlement=settlement)

    def _ended(self, on_end: "Callable[[SendJob], None]", task: "asyncio.Task[None]") -> None:
        with suppress(asyncio.CancelledError):
            if (error := task.exception()) is not None:
                self._outbox.telemetry.errors.record(error)
        if self.result.settlement.state is DeliveryState.DEAD:
            self._report()
        on_end(self)

    async def _run(self) -> None:
        """Send the message. At each position, `result` is right if the task is cancelled there."""
        transmitter = self._outbox.transmitter
        try:
            send = decode_item(self.delivery.payload).transmission(self.delivery.id)
            await transmitter.check_window(send)
        except (msgspec.MsgspecError, WindowClosed) as error:
            self._end(DeliveryState.DEAD, error=error_name(error))
            return
        if not await self._outbox.record_start(self.delivery):
            return  # released; if the lease was lost, another process has the message
        self._end(DeliveryState.DEAD, error=OUTCOME_UNKNOWN)
        try:
            answer: Any = await transmitter.send(send)
        except GraphError as error:
            self.result = SendResult(settlement=self._outbox.after(self.delivery, error))
            await self._outbox.pacer.note(send.phone_number_id, send.message, error)
            return
        self.result = SendResult(
            settlement=Settlement(self.delivery, DeliveryState.DONE),
            response=answers.encode(answer),
            message=transmitter.record_of(answer, send),
        )

    def _end(self, state: DeliveryState, *, error: str) -> None:
        self.result = SendResult(settlement=Settlement(self.delivery, state, error=error))

    def _report(self) -> None:
        name = self.result.settlement.error
        outcome = OUTCOMES[name == OUTCOME_UNKNOWN]
        self._outbox.log({"event": "wats.outbox.dead", "errorName": name, "outcome": outcome})
