"""Dispatching: calls handlers with stored updates, until each delivery is done or dead.

Every handler is a consumer with a worker of its own, so a slow or failing handler delays no other.
The updates of one conversation are handled in order of arrival, one at a time. A delivery that must
be retried therefore blocks later deliveries of the same conversation and handler, and no others.

A handler with batches gets a delivery together with its followers. If such a call fails, only the
first delivery has failed. The next calls of this handler have one update each, until one succeeds,
so an update that always fails neither blocks nor kills the updates with which it was sent.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Final

import msgspec
from typing_extensions import override

from wats.clock import Now, utc_now
from wats.config import InboxConfig
from wats.inbound import updates
from wats.inbound.calls import HandlerCall, HandlerCalls, refuse_reply
from wats.inbound.failures import failure_name, log_dead
from wats.inbound.handlers import Handlers, RetryLater
from wats.inbound.pullers import Pullers
from wats.inbound.retries import pause_of, retry_delay, shortened
from wats.inbound.updates import Update
from wats.log import Log
from wats.sends import SendReply
from wats.store import Slots, Store
from wats.store.records import Arrival, Consumer, Delivery, DeliveryState, Received, Settlement
from wats.telemetry import Telemetry, error_name
from wats.telemetry.contract.values import Outcome, UpdateKind
from wats.telemetry.sinks.isolation import WorkerFailures
from wats.telemetry.spans import read_traceparent
from wats.worker import Duties, Worker

# Looked up once: Python 3.11 needs 0.1 us for a member of an Enum.
_UNKNOWN: Final = UpdateKind.UNKNOWN
_DONE: Final = DeliveryState.DONE

POLL_SECONDS = 0.5


class DeliveryCall(HandlerCall):
    """A leased delivery, the call of its handler, and the resulting settlement.

    Args:
        expires: The end of the lease on the clock `monotonic`.
        update: The decoded update, if it is at hand.
    """

    __slots__ = ("_dispatcher", "_on_end", "delivery", "expires", "settlement", "update")

    settlement: Settlement
    _on_end: "Callable[[DeliveryCall], None]"

    def __init__(
        self,
        dispatcher: "Dispatcher",
        delivery: Delivery,
        expires: float,
        update: Update | None = None,
    ) -> None:
        self.kind = _UNKNOWN
        self._dispatcher = dispatcher
        self.delivery = delivery
        self.expires = expires
        self.update = update

    def begin(self, on_end: "Callable[[DeliveryCall], None]") -> None:
        """Call the handler; end without a call if the lease or the update does not allow one."""
        delivery = self.delivery
        self._on_end = on_end
        if delivery.is_exhausted or monotonic() > self.expires:
            # If the time is over, this process was suspended: another one may hold the lease.
            self.release()
            on_end(self)
            return
        try:
            update = self.update or updates.decode(delivery.payload)
        except (msgspec.MsgspecError, ValueError) as error:
            self._settle_as_dead(error_name(error))
            on_end(self)
            return
        self.update = update
        calls = self._dispatcher.calls
        origin = None
        if calls.has_spans:
            origin = read_traceparent(updates.traceparent_of(delivery.payload))
        following = self._dispatcher.following(delivery) if delivery.followers else ()
        calls.start(self, delivery.consumer, update, origin, following)

    def release(self) -> None:
        """End without a call, so that the attempt is not counted."""
        if self.delivery.is_exhausted:
            # A process died in every permitted attempt, possibly because of the update.
            self._settle_as_dead("LeaseExpired")
        else:
            self.settlement = Settlement(self.delivery, DeliveryState.PENDING)

    @override
    def handled(self, failure: BaseException | None) -> None:
        delivery, dispatcher = self.delivery, self._dispatcher
        if failure is None:
            dispatcher.failing.discard(delivery.consumer)
            also = delivery.followers[: len(self.following)]
            self.settlement = Settlement(delivery, _DONE, also=also)
            if dispatcher.shows_lag and self.update is not None:
                for update in (self.update, *self.following):
                    lag = dispatcher.now() - update.received_at
                    self.calls.telemetry.webhooks.consumer_lag(self.place, lag.total_seconds())
        else:
            dispatcher.failing.add(delivery.consumer)
            if isinstance(failure, RetryLater):
                seconds = pause_of(failure.seconds)
                self.settlement = Settlement(delivery, DeliveryState.PENDING, seconds)
            else:
                self._fail(failure)
        self._on_end(self)

    def _fail(self, failure: BaseException) -> None:
        self.calls.telemetry.webhooks.update(self.kind, Outcome.ERROR)
        seconds = self._dispatcher.retry_seconds(self.delivery.consumer, self.delivery.attempt)
        error = failure_name(failure)
        if seconds is None:
            self._settle_as_dead(error_name(failure), error)
        else:
            self.settlement = Settlement(self.delivery, DeliveryState.RETRY, seconds, error)

    def _settle_as_dead(self, name: str, error: str | None = None) -> None:
        log_dead(self._dispatcher.log, self.delivery.consumer, self.kind, name)
        self.settlement = Settlement(self.delivery, DeliveryState.DEAD, error=error or name)


class Dispatcher(Slots):
    """Runs a worker for each handler, and wakes the polls of pullers.

    It registers *others* too, the consumers of this process that have workers of their own.

    Attributes:
        failing: The handlers whose last call failed.
    """

    def __init__(
        self,
        store: Store,
        handlers: Handlers,
        config: InboxConfig,
        *,
        telemetry: Telemetry,
        log: Log,
        now: Now = utc_now,
        jitter: Callable[[], float] = random.random,
        send: SendReply = refuse_reply,
        others: Sequence[Consumer] = (),
        pullers: Pullers | None = None,
    ) -> None:
        self._store = store
        self._others = others
        self._handlers = handlers
        self._config = config
        self.telemetry = telemetry
        self.log = log
        self.now = now
        self.shows_lag = telemetry.shows_lag
        self._failures = WorkerFailures("dispatch", errors=telemetry.errors, log=log, now=now)
        self._jitter = jitter
        self.calls = HandlerCalls(
            handlers,
            telemetry=telemetry,
            timeout_seconds=config.handler_timeout_seconds,
            log=log,
            send=send,
        )
        self.failing: set[str] = set()
        self._workers: dict[str, Worker[DeliveryCall]] = {}
        self._pullers = pullers or Pullers()

    async def start(self) -> None:
        """Register the consumers, then dispatch new deliveries and those of earlier processes.

        Raises:
            StoreUnavailable: The consumers cannot be registered. No worker runs.
        """
        called = [
            Consumer(
                name=name,
                lease_seconds=self._config.lease_seconds,
                max_attempts=self._max_attempts(name),
                batch=batch.size if (batch := self._handlers[name].batch) else 1,
            )
            for name in self._handlers.called
        ]
        await self._store.register([*called, *self._pullers.consumers, *self._others])
        orphaned = sum((await self._store.depth()).orphaned.values())
        if orphaned:
            self.log({"event": "wats.inbox.orphaned", "updates": orphaned})
        self._workers = {name: self._make_worker(name) for name in self._handlers.called}
        for worker in self._workers.values():
            worker.start()
        self._pullers.start()
        self._store.on_work(self.wake)

    def _make_worker(self, name: str) -> Worker[DeliveryCall]:
        return Worker(
            Duties(
                claim=partial(self._claim, name),
                settle=self._settle,
                renew=self._renew,
                trouble=self._failures.trouble,
                replaced=self._failures.replaced,
            ),
            concurrency=self._handlers[name].concurrency or self._config.concurrency,
            limit=self._handlers[name].limit,
            poll_seconds=POLL_SECONDS,
            renew_seconds=self._config.lease_seconds / 3,
        )

    @property
    def is_alive(self) -> bool:
        """Whether updates are dispatched: all workers run, and calls can still be abandoned."""
        return (
            len(self._workers) == len(self._handlers.called)
            and all(worker.is_alive for worker in self._workers.values())
            and not self.calls.is_exhausted
        )

    def retry_seconds(self, name: str, attempt: int) -> float | None:
        """Return the pause after the failure of *attempt*; `None` after the last attempt."""
        if attempt >= self._max_attempts(name):
            return None
        schedule = self._handlers[name].schedule
        if schedule:
            return shortened(schedule[attempt - 1], self._jitter())
        return retry_delay(attempt, self._jitter())

    def following(self, delivery: Delivery) -> Sequence[Update]:
        """Return the updates to handle together with *delivery*, in order."""
        found: list[Update] = []
        if delivery.consumer not in self.failing:
            with suppress(msgspec.MsgspecError, ValueError):  # is a dead letter when it is first
                found.extend(updates.decode(each.payload) for each in delivery.followers)
        return found

    def _max_attempts(self, name: str) -> int:
        schedule = self._handlers[name].schedule
        return len(schedule) + 1 if schedule else self._config.max_attempts

    @override
    def reserve(self, arrivals: Sequence[Arrival]) -> Mapping[str, int]:
        wanted = Counter([name for each in arrivals for name in each.consumers])
        return {
            name: self._workers[name].reserve(count)
            for name, count in wanted.items()
            if name in self._workers
        }

    @override
    def give_back(self, reserved: Mapping[str, int]) -> None:
        for name, count in reserved.items():
            self._workers[name].give_back(count)

    def take(
        self, update: Update, received: Received, consumers: Sequence[str], began: float
    ) -> None:
        """Dispatch *update*, which was stored for *consumers* after *began* on `monotonic`.

        Leases given since then may have expired already, if the loop was blocked.
        """
        if received.waiting:
            leased = {delivery.consumer for delivery in received.leased}
            for name in consumers:
                if name in self._workers and name not in leased:
                    self._workers[name].note_work()
                elif (puller := self._pullers.get(name)) is not None:
                    puller.note_work(update.kind)
        expires = began + self._config.lease_seconds
        for delivery in received.leased:
            call = DeliveryCall(self, delivery, expires, update)
            self._workers[delivery.consumer].offer(call)

    def wake(self) -> None:
        """Note that another process stored deliveries."""
        for worker in self._workers.values():
            worker.wake()
        self._pullers.wake()

    async def stop(self, drain_seconds: float) -> None:
        """Drain running handlers for *drain_seconds*; other deliveries stay in the inbox."""
        workers = (each.stop(drain_seconds) for each in self._workers.values())
        await asyncio.gather(self._pullers.stop(), *workers)

    async def _claim(self, name: str, limit: int) -> tuple[Sequence[DeliveryCall], bool]:
        expires = monotonic() + self._config.lease_seconds
        claimed = await self._store.claim(name, limit)
        return [DeliveryCall(self, each, expires) for each in claimed.deliveries], claimed.more

    async def _settle(self, jobs: Sequence[DeliveryCall]) -> bool:
        settled = await self._store.settle([job.settlement for job in jobs])
        kinds = {job.delivery.update_id: job.kind for job in jobs}
        for job in jobs:
            if job.settlement.also:
                also = zip(job.settlement.also, job.following, strict=True)
                kinds |= {follower.update_id: update.kind for follower, update in also}
        for kind, count in Counter([kinds[update_id] for update_id in settled.done]).items():
            self.telemetry.webhooks.update(kind, Outcome.SUCCESS, count)
        return bool(settled.due)

    async def _renew(self, jobs: Sequence[DeliveryCall]) -> None:
        await self._store.renew([job.delivery for job in jobs])
