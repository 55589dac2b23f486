"""Pullers: lease deliveries to the polls of applications, and settle their acknowledgements.

    poll ─▸ turn ─▸ claim ─▸ leased deliveries ─▸ response ─▸ acknowledgement, in any process
              ▲       │ nothing due
              └ woken ┘

A puller is a consumer of the one inbox without a worker: nothing is leased while no application
polls. Of the polls of the same kinds that wait in a process, one at a time claims and waits for
work, so that their number does not multiply the load of the database.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import msgspec

from wats.clock import Now, to_ms, utc_now
from wats.errors import StoreError, TooManyPolls
from wats.inbound import updates
from wats.inbound.failures import log_dead
from wats.inbound.receipts import Leased
from wats.inbound.retries import pause_of, retry_delay
from wats.inbound.updates import Update
from wats.log import Log, write_json_line
from wats.store import Store
from wats.store.records import Consumer, Delivery, DeliveryState, Settlement
from wats.telemetry import Telemetry, error_name
from wats.telemetry.contract.values import Outcome, UpdateKind
from wats.telemetry.spans import in_span, read_traceparent

POLL_SECONDS: Final = 0.5
"""The longest pause between the claims of a waiting poll: due retries are found after it."""

DRAIN_WAIT_SECONDS: Final = 1.0
"""The longest wait of a poll while the service drains."""

END_SECONDS: Final = 5.0
"""The time limit of a stop for open claims, and for the releases of unused leases."""

MAX_POLLS: Final = 64
"""The maximum number of waiting polls of a puller, in each process."""

MAX_CLAIM: Final = 32
"""The maximum number of deliveries of a claim: their content is in memory together."""

MAX_BYTES: Final = 1024 * 1024
"""The maximum size of the updates of a poll, unless the first one alone is larger."""

FAILED: Final = "PullerFailed"
"""The error of an update that an application could not handle."""

Retry: TypeAlias = bool | float
"""Whether an update failed, or the seconds by which it is postponed without counting an attempt."""

Kinds: TypeAlias = frozenset[UpdateKind]
"""The kinds of updates that a poll accepts; all if there are none."""

_Turns: TypeAlias = WeakValueDictionary[Kinds, asyncio.Lock]
"""The turns of waiting polls with the same kinds: one of them claims at a time."""

R = TypeVar("R")


class Pulled(NamedTuple):
    """A delivery that was leased to a poll, and its update."""

    delivery: Delivery
    update: Update


class Acknowledgement(NamedTuple):
    """What an application did with a leased delivery: handled it, unless it wants a *retry*."""

    leased: Leased
    retry: Retry = False


class AckResult(StrEnum):
    """The result of an acknowledgement.

    `retry` and `dead` follow from a retry that was asked for. After `lease_lost` the update is
    returned by another poll, or was already settled.
    """

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    LEASE_LOST = "lease_lost"
    INVALID_RECEIPT = "invalid_receipt"


class Puller:
    """Leases the deliveries of one consumer to polls.

    Args:
        name: The name of the consumer.
        place: Its index in the names that telemetry has.
        lease_seconds: How long a poll keeps its deliveries from other polls.
        max_attempts: The number of attempts before a delivery becomes a dead letter.
        now: The wall clock, for telemetry only.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        *,
        place: int,
        lease_seconds: float,
        max_attempts: int,
        telemetry: Telemetry,
        log: Log = write_json_line,
        now: Now = utc_now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._place = place
        self._now = now
        self.consumer = Consumer(name=name, lease_seconds=lease_seconds, max_attempts=max_attempts)
        self._store = store
        self._telemetry = telemetry
        self._log = log
        self._jitter = jitter
        self._waits: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turns: _Turns = WeakValueDictionary()
        self._has_work: dict[asyncio.Event, Kinds] = {}
        self._longest_seconds: float | None = 0.0

    def start(self) -> None:
        """Accept polls, on the running loop."""
        self._turns.clear()
        self._longest_seconds = None

    def note_work(self, kind: UpdateKind | None = None) -> None:
        """Note that deliveries were stored, or became due; all of *kind* if it is known."""
        for has_work, kinds in self._has_work.items():
            if kind is None or not kinds or kind in kinds:
                has_work.set()

    def drain(self) -> None:
        """Shorten the waits of polls, so that the server can close their connections."""
        self._shorten(DRAIN_WAIT_SECONDS)

    async def stop(self) -> None:
        """End all waits, and return when open claims have ended and unused leases are released."""
        self._shorten(0.0)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=END_SECONDS)
        if self._tasks:  # the releases of those claims
            await asyncio.wait(set(self._tasks), timeout=END_SECONDS)

    def _shorten(self, seconds: float) -> None:
        self._longest_seconds = seconds
        for wait in self._waits:
            until = asyncio.get_running_loop().time() + seconds
            if not wait.expired():
                wait.reschedule(min(wait.when() or until, until))

    async def poll(
        self, limit: int, wait_seconds: float, kinds: Kinds = frozenset()
    ) -> Sequence[Pulled]:
        """Lease up to *limit* deliveries, of different conversations; wait for the first one.

        If there are *kinds*, only deliveries of these kinds are leased.

        The caller must return the deliveries by `give_back` if its client does not get them. A
        cancelled poll returns its own.

        Raises:
            TooManyPolls: Too many polls of the puller wait in this process.
            StoreUnavailable: Nothing was leased.
        """
        if self._longest_seconds is not None:
            wait_seconds = min(wait_seconds, self._longest_seconds)
            if not self._longest_seconds:
                return ()
        if not wait_seconds:
            return await self._claim(limit, kinds)
        if len(self._waits) >= MAX_POLLS:
            raise TooManyPolls
        wait = asyncio.timeout(wait_seconds)
        self._waits.add(wait)
        turn = self._turns.setdefault(kinds, asyncio.Lock())
        try:
            async with wait, turn:
                return await self._wait_for_some(limit, kinds)
        except TimeoutError:
            return ()
        finally:
            self._waits.discard(wait)

    async def _wait_for_some(self, limit: int, kinds: Kinds) -> Sequence[Pulled]:
        has_work = asyncio.Event()
        self._has_work[has_work] = kinds
        try:
            while True:
                has_work.clear()
                if found := await self._claim(limit, kinds):
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await has_work.wait()
        finally:
            del self._has_work[has_work]

    async def _claim(self, limit: int, kinds: Kinds) -> Sequence[Pulled]:
        """Claim deliveries; if the caller is cancelled, they are released."""
        claiming = self._spawn(self._claim_usable(limit, kinds))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._give_back_result)
            raise

    def abandon(self, polling: "asyncio.Task[Sequence[Pulled]]") -> None:
        """Cancel *polling*, and release the deliveries that it has leased or still leases."""
        polling.cancel()
        polling.add_done_callback(self._give_back_result)

    def _give_back_result(self, ended: "asyncio.Task[Sequence[Pulled]]") -> None:
        if not ended.cancelled() and ended.exception() is None:
            self.give_back([each.delivery for each in ended.result()])

    def _spawn(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _claim_usable(self, limit: int, kinds: Kinds) -> Sequence[Pulled]:
        """Claim deliveries for a response within its bounds; see `_usable`."""
        found: list[Pulled] = []
        marks = [updates.mark_of(kind) for kind in kinds]
        size, more = 0, True
        while more and len(found) < limit and size < MAX_BYTES:
            count = min(limit - len(found), MAX_CLAIM)
            try:
                claimed = await self._store.claim(self.name, count, marks)
            except StoreError:
                if found:
                    break
                raise
            usable, follow = await self._usable(claimed.deliveries)
            found += usable
            size += sum(len(each.delivery.payload) for each in usable)
            more = claimed.more or follow
        return self._within_bounds(found)

    async def _usable(self, deliveries: Sequence[Delivery]) -> tuple[Sequence[Pulled], bool]:
        """Return the deliveries that can be returned, and whether others became due.

        A delivery that is exhausted or cannot be decoded becomes a dead letter.
        """
        found: list[Pulled] = []
        dead: list[Settlement] = []
        for delivery in deliveries:
            if delivery.is_exhausted:  # no attempt was acknowledged
                dead.append(Settlement(delivery, DeliveryState.DEAD, error="LeaseExpired"))
                continue
            try:
                found.append(Pulled(delivery, updates.decode(delivery.payload)))
            except (msgspec.MsgspecError, ValueError) as error:
                dead.append(Settlement(delivery, DeliveryState.DEAD, error=error_name(error)))
        if not dead:
            return found, False
        try:
            settled = await self._store.settle(dead)
        except StoreError:  # settled when their leases have expired
            return found, False
        for each in dead:
            log_dead(self._log, self.consumer.name, UpdateKind.UNKNOWN, each.error)
        return found, bool(settled.due)

    def _within_bounds(self, found: Sequence[Pulled]) -> Sequence[Pulled]:
        """Return the first deliveries of *found*, and release those that are too many bytes."""
        size = 0
        for place, each in enumerate(found):
            size += len(each.delivery.payload)
            if size > MAX_BYTES and place:
                self.give_back([each.delivery for each in found[place:]])
                return found[:place]
        return found

    def lease_of(self, pulled: Pulled) -> Leased:
        """Return the lease of *pulled*, for its receipt."""
        delivery, update = pulled
        has_spans = self._telemetry.tracer is not None
        origin = updates.traceparent_of(delivery.payload) if has_spans else None
        return Leased(
            consumer=delivery.consumer,
            number=delivery.phone_number_id,
            id=delivery.id,
            update_id=delivery.update_id,
            siblings=delivery.siblings,
            ordering_key=delivery.ordering_key,
            attempt=delivery.attempt,
            lease=delivery.lease,
            kind=update.kind,
            arrived_ms=to_ms(update.received_at),
            leased_ms=to_ms(self._now()),
            traceparent=origin if isinstance(origin, str) else "",
        )

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Release *deliveries*, which no client got: their attempts are not counted."""
        if deliveries:
            released = [Settlement(each, DeliveryState.PENDING) for each in deliveries]
            self._spawn(self._release(released))

    async def _release(self, released: Sequence[Settlement]) -> None:
        try:
            await self._store.settle(released)
        except Exception as error:  # their leases expire
            self._telemetry.errors.record(error)
        self.note_work()

    async def acknowledge(self, given: Sequence[Acknowledgement]) -> Sequence[AckResult]:
        """Settle the deliveries of *given*, which are different; return the results in order.

        Raises:
            StoreUnavailable: Nothing was settled.
        """
        settlements = [self._settlement(each) for each in given]
        settled = await self._store.acknowledge(settlements)
        lost = {(each.id, each.lease) for each in settled.lost}
        results: list[AckResult] = []
        kinds = {each.leased.update_id: each.leased.kind for each in given}
        for each, settlement in zip(given, settlements, strict=True):
            is_lost = (each.leased.id, each.leased.lease) in lost
            results.append(AckResult.LEASE_LOST if is_lost else _RESULTS[settlement.state])
            if not is_lost:
                self._record(each.leased, settlement)
        for kind, count in Counter([kinds[id_] for id_ in settled.done]).items():
            self._telemetry.webhooks.update(kind, Outcome.SUCCESS, count)
        if settled.due:
            self.note_work()
        return results

    def _settlement(self, given: Acknowledgement) -> Settlement:
        leased, retry = given
        delivery = leased.delivery
        if retry is False:
            return Settlement(delivery, DeliveryState.DONE)
        if retry is not True:
            return Settlement(delivery, DeliveryState.PENDING, pause_of(retry))
        if leased.attempt >= self.consumer.max_attempts:
            return Settlement(delivery, DeliveryState.DEAD, error=FAILED)
        seconds = retry_delay(leased.attempt, self._jitter())
        return Settlement(delivery, DeliveryState.RETRY, seconds, FAILED)

    def _record(self, leased: Leased, settlement: Settlement) -> None:
        """Record the end of an attempt, which began with the lease."""
        telemetry, outcome = self._telemetry, _OUTCOMES[settlement.state]
        if outcome is Outcome.ERROR:
            telemetry.webhooks.update(leased.kind, Outcome.ERROR)
        if settlement.state is DeliveryState.DEAD:
            log_dead(self._log, self.consumer.name, leased.kind, settlement.error)
        now = to_ms(self._now())
        if outcome is Outcome.SUCCESS:
            telemetry.webhooks.consumer_lag(self._place, (now - leased.arrived_ms) / 1000)
        event = self._place, leased.kind, outcome, (now - leased.leased_ms) / 1000
        if telemetry.tracer is None:
            telemetry.webhooks.dispatched(*event)
        else:
            span = telemetry.tracer.attempt(read_traceparent(leased.traceparent))
            in_span(span, telemetry.webhooks.dispatched, *event)


_RESULTS: Final = {
    DeliveryState.DONE: AckResult.DONE,
    DeliveryState.RETRY: AckResult.RETRY,
    DeliveryState.PENDING: AckResult.RETRY,
    DeliveryState.DEAD: AckResult.DEAD,
}
_OUTCOMES: Final = {
    DeliveryState.DONE: Outcome.SUCCESS,
    DeliveryState.RETRY: Outcome.ERROR,
    DeliveryState.PENDING: Outcome.SKIPPED,
    DeliveryState.DEAD: Outcome.ERROR,
}


class Pullers:
    """All pullers of a service, by name."""

    def __init__(self, pullers: Sequence[Puller] = ()) -> None:
        self._pullers: Mapping[str, Puller] = {each.name: each for each in pullers}

    @property
    def consumers(self) -> Sequence[Consumer]:
        """The consumers to register."""
        return [each.consumer for each in self._pullers.values()]

    def get(self, name: str) -> Puller | None:
        """Return the puller *name*."""
        return self._pullers.get(name)

    def start(self) -> None:
        """Accept polls, on the running loop."""
        for each in self._pullers.values():
            each.start()

    def wake(self) -> None:
        """Note that deliveries of any puller were stored or became due."""
        for each in self._pullers.values():
            each.note_work()

    def drain(self) -> None:
        """Shorten the waits of polls, so that the server can close their connections."""
        for each in self._pullers.values():
            each.drain()

    async def stop(self) -> None:
        """End all waits, and release unused leases."""
        await asyncio.gather(*(each.stop() for each in self._pullers.values()))

    async def acknowledge(self, given: Sequence[Acknowledgement | None]) -> Sequence[AckResult]:
        """Settle the deliveries of *given*; return the results in order.

        A receipt that appears again has no lease any more. `None` stands for an invalid receipt.

        Raises:
            StoreUnavailable: Some deliveries may have been settled; their receipts are void then.
        """
        results = [
            AckResult.INVALID_RECEIPT if each is None else AckResult.LEASE_LOST for each in given
        ]
        places: dict[str, dict[tuple[int, int], int]] = {}
        for place, each in enumerate(given):
            if each is not None:
                of_puller = places.setdefault(each.leased.consumer, {})
                of_puller.setdefault((each.leased.id, each.leased.lease), place)
        for name, of_puller in places.items():
            found = self._pullers.get(name)
            theirs = [each for place in of_puller.values() if (each := given[place]) is not None]
            ended = await found.acknowledge(theirs) if found is not None else ()
            for place, result in zip(of_puller.values(), ended, strict=False):
                results[place] = result
        return results
