"""Pacing: messages wait for their turn under Meta's rate limits, before Graph is called.

    keyed ─▸ reservation of the key ─┐
    no key ─▸ transaction of its own ┼─▸ buckets ─▸ short wait ─▸ Graph ── throttled ─▸ buckets
    outbox ─▸ claim ─────────────────┘      └─▸ 429 rate_limited, or postponed

The buckets are in the store, so that all processes share them; without a store, in memory.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic_ns
from typing import Final

from msgspec.structs import replace
from typing_extensions import override

from wats.clock import Now, utc_now
from wats.errors import GraphError, GraphRefused, RateLimited, StoreError
from wats.outbound.messages import Outgoing
from wats.privacy import fingerprint
from wats.retry_after import read_retry_after
from wats.store.pacing import (
    NUMBER_BUCKET,
    SECOND_US,
    Bucket,
    Demand,
    Pace,
    PacingStore,
    Penalty,
    Permit,
    pace_of,
    take,
    unlimited,
)
from wats.telemetry import Telemetry

REQUEST_SECONDS: Final = 1.0
"""How long a request waits for its turn before it is refused."""
REPLY_SECONDS: Final = 10.0
"""How long a reply of a handler waits: a failed handler would be called again anyway."""

MAX_BUCKETS: Final = 10_000
"""The number of buckets in memory from which on full ones are forgotten."""

_PAIR_CODE: Final = 131056
_SPAM_CODE: Final = 131048
_NUMBER_PAUSES: Final = (1, 2, 4, 8, 16, 32, 60)
_PAIR_PAUSES: Final = (4, 16, 64, 256, 300)
_SPAM_PAUSES: Final = (60, 120, 300, 600, 1200, 2400, 3600)
"""The pauses in seconds after refusals by Meta, by how often that happened lately: of the number,
of one recipient, and of a number that recipients have reported."""


def ordering_key(phone_number_id: str, message: Outgoing) -> int:
    """Return the number that all messages from this number to one recipient share.

    That of a group is negative.
    """
    pair = abs(fingerprint(f"{phone_number_id} {message.recipient}")) >> 1
    return -pair - 1 if message.is_group else pair


class MemoryBuckets(PacingStore):
    """Token buckets of one process.

    Args:
        max_buckets: The number of buckets from which on full ones are forgotten.
        clock: A monotonic clock, in nanoseconds.
    """

    def __init__(
        self, *, max_buckets: int = MAX_BUCKETS, clock: Callable[[], int] = monotonic_ns
    ) -> None:
        self._max_buckets = max_buckets
        self._clock = clock
        self._buckets: dict[tuple[str, int], Bucket] = {}

    @override
    async def pace(self, demand: Demand) -> Permit:
        """Permit one message, or refuse it."""
        now, number = self._now(), demand.pace.phone_number_id
        buckets = {key: self._buckets.get((number, key), Bucket()) for key in demand.limits}
        permit = take(buckets, demand, now)
        self._keep(number, buckets, now)
        return permit

    @override
    async def throttle(self, pace: Pace, penalty: Penalty) -> None:
        """Pause a bucket of *pace*, and slow it down."""
        now, key = self._now(), penalty.bucket
        bucket = self._buckets.get((pace.phone_number_id, key), Bucket())
        throttled = bucket.throttled(pace.limit_of(key), penalty, now)
        self._keep(pace.phone_number_id, {key: throttled}, now)

    def _keep(self, number: str, buckets: dict[int, Bucket], now: int) -> None:
        if len(self._buckets) >= self._max_buckets:
            found = self._buckets.items()
            self._buckets = {key: each for key, each in found if not each.is_usual(now)}
        self._buckets.update(((number, key), each) for key, each in buckets.items())

    def _now(self) -> int:
        return self._clock() // 1000


class Pacer:
    """Lets messages wait for their turn.

    Attributes:
        numbers: The configured business numbers.

    Args:
        buckets: The store, or buckets in memory.
        throughputs: The number of messages a second of each number; 0 for no pacing.
        telemetry: Records failures of the store.
        now: The clock.
    """

    def __init__(
        self,
        buckets: PacingStore,
        throughputs: Mapping[str, int],
        telemetry: Telemetry,
        now: Now = utc_now,
    ) -> None:
        self._buckets = buckets
        self._paces = {
            number: pace_of(number, throughput)
            for number, throughput in throughputs.items()
            if throughput
        }
        self.numbers = tuple(throughputs)
        self._telemetry = telemetry
        self._now = now
        self._spare = MemoryBuckets()

    def pace_of(self, phone_number_id: str) -> Pace | None:
        """Return the limits of a number; `None` if it is not paced."""
        return self._paces.get(phone_number_id)

    @property
    def paces(self) -> Sequence[Pace]:
        """The limits of all configured numbers, for claims: messages of other numbers wait."""
        return [self._paces.get(number) or unlimited(number) for number in self.numbers]

    def demand_of(
        self, phone_number_id: str, message: Outgoing | None, patience_seconds: float
    ) -> Demand | None:
        """Return the demand of *message*; `None` if it is not limited, as a read mark."""
        pace = self.pace_of(phone_number_id) if message is not None else None
        if pace is None or message is None:
            return None
        key = ordering_key(phone_number_id, message)
        patience_us = round(patience_seconds * SECOND_US)
        return Demand(pace=pace, ordering_key=key, patience_us=patience_us)

    async def wait(self, demand: Demand | None) -> None:
        """Return when it is the turn of a message without a key.

        Without a key, a message is sent even if the store is gone; then each process paces alone.

        Raises:
            RateLimited: The wait would be too long.
        """
        if demand is not None:
            permit = await self._permit(demand)
            await self.wait_for_turn(demand, permit.wait_seconds)

    async def wait_for_turn(self, demand: Demand, wait_seconds: float) -> None:
        """Wait *wait_seconds*, after which *demand* is permitted, and for a pause that began since.

        Raises:
            RateLimited: The pause would be too long.
        """
        while wait_seconds:
            await asyncio.sleep(wait_seconds)
            patience_us = max(demand.patience_us - round(wait_seconds * SECOND_US), 0)
            demand = replace(demand, patience_us=patience_us, is_permitted=True)
            wait_seconds = (await self._permit(demand)).wait_seconds

    async def _permit(self, demand: Demand) -> Permit:
        """Return the permit of *demand*.

        Raises:
            RateLimited: The wait would be too long.
        """
        try:
            permit = await self._buckets.pace(demand)
        except StoreError as error:
            self._telemetry.errors.record(error)
            permit = await self._spare.pace(demand)
        if not permit.is_granted:
            raise RateLimited(permit.wait_seconds)
        return permit

    async def note(self, phone_number_id: str, message: Outgoing | None, error: GraphError) -> None:
        """Slow down after *error*, if Meta limited the rate. A failure of the store is counted."""
        pace = self.pace_of(phone_number_id)
        is_limit = isinstance(error, GraphRefused) and error.throttled
        if pace is None or message is None or not is_limit:
            return
        try:
            penalty = penalty_of(phone_number_id, message, error, self._now())
            await self._buckets.throttle(pace, penalty)
        except StoreError as failure:
            self._telemetry.errors.record(failure)


def penalty_of(
    phone_number_id: str, message: Outgoing, error: GraphError, now: datetime
) -> Penalty:
    """Return the pause after *error*, a rate limit; it is Meta's, if that is longer than ours."""
    code, bucket = error.diagnostics.meta_code, NUMBER_BUCKET
    pauses: Sequence[int] = _SPAM_PAUSES if code == _SPAM_CODE else _NUMBER_PAUSES
    if code == _PAIR_CODE and not message.is_group:
        bucket, pauses = ordering_key(phone_number_id, message), _PAIR_PAUSES
    return Penalty(
        bucket=bucket,
        pauses_us=tuple(each * SECOND_US for each in pauses),
        least_us=round((read_retry_after(error.retry_after, now) or 0.0) * SECOND_US),
    )
