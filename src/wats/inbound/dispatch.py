"""The leased half of the inbound flow: updates from the inbox to the handlers.

Each handler has its own deliveries, so one that fails holds up nobody else; and one conversation
is handed to a handler in the order in which it arrived, so a delivery that must be retried holds
up those behind it, of this conversation and for this handler, and no others.
"""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec

from wats.clock import Now, utc_now
from wats.config import InboxConfig
from wats.inbound import updates
from wats.inbound.handlers import HandlerCalls, Handlers
from wats.inbound.updates import Update
from wats.store import Store
from wats.store.records import Delivery, DeliveryState, Settlement
from wats.telemetry import Telemetry, error_name
from wats.telemetry.sinks import FailureLog, Log
from wats.telemetry.vocabulary import Outcome, UpdateKind
from wats.worker import Duties, Worker

FIRST_RETRY_SECONDS = 1.0
RETRY_FACTOR = 3.0
LONGEST_RETRY_SECONDS = 3600.0
POLL_SECONDS = 0.5


def retry_delay(attempt: int, jitter: float) -> timedelta:
    """Return how long to wait after the *attempt*-th failure: 1 s, 3 s, 9 s … to an hour.

    *jitter* from 0 to 1 takes up to a fifth off, so that what failed together comes back apart.
    """
    steps = min(attempt - 1, 10)
    seconds = min(FIRST_RETRY_SECONDS * RETRY_FACTOR**steps, LONGEST_RETRY_SECONDS)
    return timedelta(seconds=seconds * (1 - jitter / 5))


class Job(msgspec.Struct, frozen=True):
    """A delivery to be handled, and its update if that needs no decoding any more."""

    delivery: Delivery
    update: Update | None = None


class Handled(msgspec.Struct, frozen=True):
    """What became of a delivery, and of which kind its update is."""

    settlement: Settlement
    kind: UpdateKind


class Dispatcher:
    """Hands stored updates to the handlers until each has returned once, or is given up on."""

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
        self._now = now
        self._jitter = jitter
        self._calls = HandlerCalls(
            handlers, telemetry=telemetry, timeout_seconds=config.handler_timeout_seconds
        )
        self._worker = self._make_worker()

    def _make_worker(self) -> Worker[Sequence[Job], Sequence[Handled]]:
        return Worker(
            Duties(
                claim=self._claim,
                handle=self._handle_run,
                settle=self._settle,
                renew=self._renew,
                abandon=_abandoned,
                trouble=self._telemetry.errors.record,
                replaced=self._log_replaced,
            ),
            concurrency=self._config.concurrency,
            backlog=4 * self._config.concurrency,
            poll_seconds=POLL_SECONDS,
            renew_seconds=self._config.lease_seconds / 3,
        )

    def start(self) -> None:
        """Begin, also with what an earlier process left behind."""
        self._worker.start()

    @property
    def is_alive(self) -> bool:
        """Whether updates are dispatched: started, not stopping, and not blocked by handlers."""
        return self._worker.is_alive and not self._calls.is_exhausted

    @property
    def lease_seconds(self) -> float:
        """How long to lease for `take` what is stored next; 0 if there is no room for it."""
        return self._config.lease_seconds if self._worker.has_room else 0.0

    def take(self, update: Update, deliveries: Sequence[Delivery]) -> None:
        """Dispatch *update*, which was stored just now, with the deliveries that are leased."""
        for delivery in deliveries:
            self._worker.offer([Job(delivery, update)])

    def wake(self) -> None:
        """Say that something was stored that is not leased."""
        self._worker.wake()

    async def stop(self, drain_seconds: float) -> None:
        """Let handlers that run finish within *drain_seconds*; the rest stays in the inbox."""
        worker, self._worker = self._worker, self._make_worker()
        await worker.stop(drain_seconds)

    def _log_replaced(self, error: BaseException) -> None:
        self._interruptions.report("dispatch", error)

    async def _claim(self, limit: int) -> Sequence[Sequence[Job]]:
        deliveries = await self._store.claim_deliveries(
            targets=self._handlers.names,
            limit=limit,
            lease_seconds=self._config.lease_seconds,
            now=self._now(),
        )
        runs: dict[tuple[str, int], list[Job]] = {}
        for delivery in deliveries:
            runs.setdefault((delivery.target, delivery.lane), []).append(Job(delivery))
        return list(runs.values())

    async def _handle_run(self, run: Sequence[Job]) -> Sequence[Handled]:
        results: list[Handled] = []
        blocked = False
        for job in run:
            result = _given_back(job.delivery) if blocked else await self._handle(job)
            # What is behind a failure waits with it, so that it keeps its place.
            blocked = blocked or result.settlement.state is DeliveryState.RETRY
            results.append(result)
        return results

    async def _handle(self, job: Job) -> Handled:
        delivery, update = job.delivery, job.update
        if delivery.attempt > self._config.max_attempts:
            # Leased so often and never settled: the update, or what it leads to, kills processes.
            return self._dead(delivery, UpdateKind.UNKNOWN, "LeaseExpired")
        try:
            update = update or updates.decode(delivery.payload)
        except msgspec.MsgspecError as error:
            return self._dead(delivery, UpdateKind.UNKNOWN, error_name(error))
        failure = await self._calls.call(delivery.target, update)
        if failure is not None:
            return self._failed(delivery, update.kind, failure)
        return Handled(Settlement(delivery, DeliveryState.DONE), update.kind)

    def _failed(self, delivery: Delivery, kind: UpdateKind, error: BaseException) -> Handled:
        self._telemetry.webhook_update(kind, Outcome.ERROR)
        if delivery.attempt >= self._config.max_attempts:
            return self._dead(delivery, kind, error_name(error))
        due_at = self._now() + retry_delay(delivery.attempt, self._jitter())
        settlement = Settlement(delivery, DeliveryState.RETRY, due_at, error_name(error))
        return Handled(settlement, kind)

    def _dead(self, delivery: Delivery, kind: UpdateKind, name: str) -> Handled:
        self._log({"event": "wats.inbox.dead", "kind": kind.value, "errorName": name})
        return Handled(Settlement(delivery, DeliveryState.DEAD, error=name), kind)

    async def _settle(self, runs: Sequence[Sequence[Handled]]) -> None:
        results = [result for run in runs for result in run]
        settlements = [result.settlement for result in results]
        kinds = {result.settlement.delivery.update_id: result.kind for result in results}
        settled = await self._store.settle_deliveries(settlements, now=self._now())
        for update_id in settled.done:
            self._telemetry.webhook_update(kinds[update_id], Outcome.SUCCESS)
        if settled.more:
            self._worker.wake()

    async def _renew(self, runs: Sequence[Sequence[Job]]) -> None:
        deliveries = [job.delivery for run in runs for job in run]
        await self._store.renew_deliveries(
            deliveries, lease_seconds=self._config.lease_seconds, now=self._now()
        )


def _given_back(delivery: Delivery) -> Handled:
    return Handled(Settlement(delivery, DeliveryState.PENDING), UpdateKind.UNKNOWN)


def _abandoned(run: Sequence[Job]) -> Sequence[Handled]:
    return [_given_back(job.delivery) for job in run]
