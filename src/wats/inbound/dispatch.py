"""Dispatching: stored updates to the handlers, until each has returned once or is given up.

Every handler is a consumer with a worker of its own: one that is slow or fails delays no other.
The updates of one conversation are handled in order of arrival, one at a time, so a delivery that
must be retried holds up those behind it: of this conversation and for this handler, no others.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic

import msgspec

from wats.clock import Now, utc_now
from wats.config import InboxConfig
from wats.inbound import updates
from wats.inbound.handlers import HandlerCalls, Handlers
from wats.inbound.updates import Update
from wats.store import Store
from wats.store.records import Arrival, Consumer, Delivery, DeliveryState, Received, Settlement
from wats.telemetry import Telemetry, error_name
from wats.telemetry.contract.values import Outcome, UpdateKind
from wats.telemetry.sinks.isolation import FailureLog, Log
from wats.worker import Cancel, Duties, Worker

FIRST_RETRY_SECONDS = 1.0
RETRY_FACTOR = 3.0
LONGEST_RETRY_SECONDS = 3600.0
POLL_SECONDS = 0.5


def retry_delay(attempt: int, jitter: float) -> float:
    """Return the pause in seconds after the *attempt*-th failure: 1, 3, 9 … up to an hour.

    *jitter* from 0 to 1 takes off up to a fifth, so that what failed together comes back apart.
    """
    steps = min(attempt - 1, 10)
    seconds = min(FIRST_RETRY_SECONDS * RETRY_FACTOR**steps, LONGEST_RETRY_SECONDS)
    return seconds * (1 - jitter / 5)


class Job(msgspec.Struct, frozen=True):
    """A leased delivery, its update if that needs no decoding, and when its lease expires."""

    delivery: Delivery
    expires: float
    update: Update | None = None


class Handled(msgspec.Struct, frozen=True):
    """The result of a job, and the kind of its update."""

    settlement: Settlement
    kind: UpdateKind


class Dispatcher:
    """Runs a worker for each handler."""

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
    ) -> None:
        self._store = store
        self._handlers = handlers
        self._config = config
        self._telemetry = telemetry
        self._log = log
        self._interruptions = FailureLog("wats.dispatch.interrupted", log=log, now=now)
        self._jitter = jitter
        self._calls = HandlerCalls(
            handlers, telemetry=telemetry, timeout_seconds=config.handler_timeout_seconds
        )
        self._workers: dict[str, Worker[Job, Handled]] = {}

    async def start(self) -> None:
        """Register the handlers, then dispatch, also what an earlier process left behind.

        Raises:
            StoreUnavailable: The handlers cannot be registered; nothing runs then.
        """
        names = self._handlers.names
        await self._store.register(
            [
                Consumer(
                    name=name,
                    lease_seconds=self._config.lease_seconds,
                    max_attempts=self._config.max_attempts,
                )
                for name in names
            ]
        )
        orphaned = sum((await self._store.depth()).orphaned.values())
        if orphaned:
            self._log({"event": "wats.inbox.orphaned", "updates": orphaned})
        self._workers = {name: self._make_worker(name) for name in names}
        for worker in self._workers.values():
            worker.start()
        self._store.on_work(self.wake)

    def _make_worker(self, name: str) -> Worker[Job, Handled]:
        return Worker(
            Duties(
                claim=partial(self._claim, name),
                begin=self._begin,
                release=self._release,
                settle=self._settle,
                renew=self._renew,
                trouble=self._telemetry.errors.record,
                replaced=self._log_replaced,
            ),
            concurrency=self._config.concurrency,
            poll_seconds=POLL_SECONDS,
            renew_seconds=self._config.lease_seconds / 3,
        )

    @property
    def is_alive(self) -> bool:
        """Whether updates are dispatched: started, not stopping, and not blocked by handlers."""
        return (
            len(self._workers) == len(self._handlers.names)
            and all(worker.is_alive for worker in self._workers.values())
            and not self._calls.is_exhausted
        )

    def _log_replaced(self, error: BaseException) -> None:
        self._interruptions.report("dispatch", error)

    def reserve(self, arrivals: Sequence[Arrival]) -> dict[str, int]:
        """Reserve a slot for each delivery of *arrivals*, as far as there are any.

        Returns:
            How many were reserved, by consumer. Each is used by `take` or given back.
        """
        workers, slots = self._workers, dict[str, int]()
        for arrival in arrivals:
            for name in arrival.consumers:
                worker = workers.get(name)
                if worker is not None and worker.reserve():
                    slots[name] = slots.get(name, 0) + 1
        return slots

    def give_back(self, slots: Mapping[str, int]) -> None:
        """Give back reserved slots."""
        for name, count in slots.items():
            if count:
                self._workers[name].give_back(count)

    def take(self, update: Update, received: Received, slots: dict[str, int]) -> None:
        """Dispatch *update*, which was stored just now; use reserved *slots* for its leases."""
        expires = monotonic() + self._config.lease_seconds
        for delivery in received.leased:
            slots[delivery.consumer] -= 1
            self._workers[delivery.consumer].offer(Job(delivery, expires, update))

    def note_work(self, consumers: Iterable[str]) -> None:
        """Note that deliveries of *consumers* were stored without a lease."""
        for name in consumers:
            if (worker := self._workers.get(name)) is not None:
                worker.note_work()

    def wake(self) -> None:
        """Note that another process stored deliveries."""
        for worker in self._workers.values():
            worker.wake()

    async def stop(self, drain_seconds: float) -> None:
        """Let handlers that run finish within *drain_seconds*; the rest stays in the inbox."""
        await asyncio.gather(*(each.stop(drain_seconds) for each in self._workers.values()))

    async def _claim(self, name: str, limit: int) -> tuple[Sequence[Job], bool]:
        expires = monotonic() + self._config.lease_seconds
        claimed = await self._store.claim(name, limit)
        return [Job(each, expires) for each in claimed.deliveries], claimed.more

    def _begin(self, job: Job, on_handled: Callable[[Handled], None]) -> Cancel:
        """Call the handler of *job*, if it can be called."""
        delivery, update = job.delivery, job.update
        if delivery.is_exhausted or monotonic() > job.expires:
            # The second: this process stood still, so another one may have the lease.
            on_handled(self._release(job))
            return _nothing
        try:
            update = update or updates.decode(delivery.payload)
        except (msgspec.MsgspecError, ValueError) as error:
            on_handled(self._dead(delivery, UpdateKind.UNKNOWN, error_name(error)))
            return _nothing
        end = partial(self._handled, delivery, update.kind, on_handled)
        return self._calls.start(delivery.consumer, update, end).cancel

    def _release(self, job: Job) -> Handled:
        if job.delivery.is_exhausted:
            # The process died in every permitted attempt: the update may be the reason.
            return self._dead(job.delivery, UpdateKind.UNKNOWN, "LeaseExpired")
        return Handled(Settlement(job.delivery, DeliveryState.PENDING), UpdateKind.UNKNOWN)

    def _handled(
        self,
        delivery: Delivery,
        kind: UpdateKind,
        on_handled: Callable[[Handled], None],
        failure: BaseException | None,
    ) -> None:
        if failure is not None:
            on_handled(self._failed(delivery, kind, failure))
        else:
            on_handled(Handled(Settlement(delivery, DeliveryState.DONE), kind))

    def _failed(self, delivery: Delivery, kind: UpdateKind, error: BaseException) -> Handled:
        self._telemetry.webhook_update(kind, Outcome.ERROR)
        if delivery.attempt >= self._config.max_attempts:
            return self._dead(delivery, kind, error_name(error))
        seconds = retry_delay(delivery.attempt, self._jitter())
        settlement = Settlement(delivery, DeliveryState.RETRY, seconds, error_name(error))
        return Handled(settlement, kind)

    def _dead(self, delivery: Delivery, kind: UpdateKind, name: str) -> Handled:
        self._log({"event": "wats.inbox.dead", "kind": kind.value, "errorName": name})
        return Handled(Settlement(delivery, DeliveryState.DEAD, error=name), kind)

    async def _settle(self, results: Sequence[Handled]) -> bool:
        settled = await self._store.settle([result.settlement for result in results])
        kinds = {result.settlement.delivery.update_id: result.kind for result in results}
        for update_id in settled.done:
            self._telemetry.webhook_update(kinds[update_id], Outcome.SUCCESS)
        return bool(settled.due)

    async def _renew(self, jobs: Sequence[Job]) -> None:
        await self._store.renew([job.delivery for job in jobs])


def _nothing() -> None:
    """Cancel what has ended."""
