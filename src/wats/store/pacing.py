"""Token buckets for Meta's rate limits, by the generic cell rate algorithm. No I/O.

A bucket is one time: that at which it would be full. A message moves it on by the interval of the
limit, and is permitted as long as that time is at most the tolerance ahead. So a bucket needs no
clock of its own, and a row that lies in the past can be deleted.

    now ──────────────────────────┬──────────────▸
         │◂──── tolerance ────▸│  full_at: the next message waits until full_at - tolerance

An observed throttle adapts a bucket: it is blocked for a pause, and each level doubles its
interval. A level is lost for every `RECOVERY_US` after the pause. Times are microseconds.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import msgspec

RECOVERY_US: Final = 60_000_000
MAX_LEVEL: Final = 6
"""The highest level: a bucket is at most 64 times slower than its limit."""

SECOND_US: Final = 1_000_000


class Limit(msgspec.Struct, frozen=True):
    """One message for each *interval_us*, and bursts that use up to *tolerance_us* in advance."""

    interval_us: int
    tolerance_us: int


SHORT_PAUSE_US: Final = SECOND_US // 10
"""The rest of a pause for which a permitted message waits without another permit: that of a message
whose turn is the end of the pause may begin a little early."""


class Bucket(msgspec.Struct, frozen=True):
    """The state of a token bucket; the default is a full one that was never throttled.

    Attributes:
        full_at: When it is full, if no message follows.
        level: How often it was throttled.
        level_at: The end of the last pause.
    """

    full_at: int = 0
    level: int = 0
    level_at: int = 0

    def level_now(self, now: int) -> int:
        """Return the level that is left."""
        return max(self.level - max(now - self.level_at, 0) // RECOVERY_US, 0)

    def wait(self, limit: Limit, now: int) -> int:
        """Return how long the next message has to wait."""
        return max(self.full_at - limit.tolerance_us - now, 0)

    def pause(self, now: int) -> int:
        """Return how long the pause after a refusal by Meta lasts."""
        return max(self.level_at - now, 0)

    def taken(self, limit: Limit, now: int) -> "Bucket":
        """Return the bucket after one message."""
        interval = limit.interval_us << self.level_now(now)
        return Bucket(max(self.full_at, now) + interval, self.level, self.level_at)

    def throttled(self, limit: Limit, penalty: "Penalty", now: int) -> "Bucket":
        """Return the bucket after Meta refused a message; nothing is permitted during the pause.

        Refusals of further messages, which were on their way, count once with the first.
        """
        level, is_paused = self.level_now(now), now < self.level_at
        pause = max(penalty.pauses_us[min(level, len(penalty.pauses_us) - 1)], penalty.least_us)
        ends = max(self.level_at, now + penalty.least_us) if is_paused else now + pause
        level = level if is_paused else min(level + 1, MAX_LEVEL)
        return Bucket(max(self.full_at, ends + limit.tolerance_us), level, ends)

    def is_usual(self, now: int) -> bool:
        """Return whether the bucket need not be stored: it is full, and not throttled."""
        return self.full_at <= now and self.level_now(now) == 0


class Penalty(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal by Meta because of a rate limit.

    Attributes:
        bucket: The bucket of the limit.
        pauses_us: The pauses, by the level of the bucket.
        least_us: The pause that Meta asked for, or 0.
    """

    bucket: int
    pauses_us: tuple[int, ...]
    least_us: int = 0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one business number.

    Attributes:
        phone_number_id: The business number.
        number: The limit of all its messages.
        pair: The limit of its messages to one recipient.
    """

    phone_number_id: str
    number: Limit
    pair: Limit

    @property
    def is_unlimited(self) -> bool:
        """Whether every message is permitted, so that its buckets need not be stored."""
        return self.number.interval_us == 0

    def limit_of(self, bucket: int) -> Limit:
        """Return the limit of *bucket*."""
        return self.number if bucket == NUMBER_BUCKET else self.pair


NUMBER_BUCKET: Final = -1
"""The bucket of all messages of a number. That of a recipient is the ordering key, if it is not
negative: Meta does not limit the messages to a group."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """One message that needs the permission of *pace*.

    Attributes:
        ordering_key: That of its recipient.
        patience_us: The longest wait for which the message is permitted in advance.
        is_permitted: Whether it was permitted in advance and its turn has come. It is permitted
            again only if a bucket was paused since.
    """

    pace: Pace
    ordering_key: int
    patience_us: int = 0
    is_permitted: bool = False

    @property
    def limits(self) -> dict[int, Limit]:
        """The limits of the message by their buckets."""
        pair = {self.ordering_key: self.pace.pair} if self.ordering_key >= 0 else {}
        return {NUMBER_BUCKET: self.pace.number, **pair}


class Permit(msgspec.Struct, frozen=True):
    """Whether a message is permitted, and how long it has to wait, in either case."""

    is_granted: bool
    wait_us: int = 0

    @property
    def wait_seconds(self) -> float:
        """The wait in seconds."""
        return self.wait_us / SECOND_US


def take(buckets: dict[int, Bucket], demand: Demand, now: int) -> Permit:
    """Permit the message of *demand*, and change its *buckets*; or refuse it and change none."""
    limits = demand.limits
    if demand.is_permitted:
        pause = max(buckets.get(key, Bucket()).pause(now) for key in limits)
        if pause <= SHORT_PAUSE_US:
            return Permit(is_granted=True, wait_us=pause)
    wait = max(buckets.get(key, Bucket()).wait(limit, now) for key, limit in limits.items())
    if wait > demand.patience_us:
        return Permit(is_granted=False, wait_us=wait)
    for key, limit in limits.items():
        buckets[key] = buckets.get(key, Bucket()).taken(limit, now)
    return Permit(is_granted=True, wait_us=wait)


class Candidate(msgspec.Struct, frozen=True):
    """A message that could be sent now, if the limits permit it."""

    id: int
    ordering_key: int
    is_exhausted: bool


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The messages whose turn it is.

    Attributes:
        ids: The permitted messages, and exhausted ones, which are not sent again.
        postponed: By id, the times in milliseconds at which the recipients of others permit them.
        wait_us: How long the number has to wait for its next message; 0 if it need not.
    """

    ids: frozenset[int]
    postponed: Mapping[int, int]
    wait_us: int


def take_turn(
    buckets: dict[int, Bucket], pace: Pace, candidates: Iterable[Candidate], now: int
) -> Turn:
    """Permit those of *candidates* whose turn it is, in their order, and change their *buckets*."""
    ids: set[int] = set()
    postponed: dict[int, int] = {}
    wait_us = 0
    for candidate in candidates:
        if candidate.is_exhausted:
            ids.add(candidate.id)
            continue
        if wait_us := buckets.get(NUMBER_BUCKET, Bucket()).wait(pace.number, now):
            break
        permit = take(buckets, Demand(pace=pace, ordering_key=candidate.ordering_key), now)
        if permit.is_granted:
            ids.add(candidate.id)
        else:
            postponed[candidate.id] = -(-(now + permit.wait_us) // 1000)
    return Turn(ids=frozenset(ids), postponed=postponed, wait_us=wait_us)


NUMBER_SHARE: Final = 0.95
"""The part of the throughput of a number that is used without a pause. The rest is the burst."""

PAIR_SECONDS: Final = 6
PAIR_BURST: Final = 45


def pace_of(phone_number_id: str, throughput: int) -> Pace:
    """Return the limits of a number with *throughput* messages a second.

    In no second more messages than that are permitted. To one recipient, 45 messages are permitted
    in a burst, then one every six seconds.
    """
    burst = max(round(throughput * (1 - NUMBER_SHARE)), 1)
    interval = round(SECOND_US / max(throughput - burst, 1))
    pair = PAIR_SECONDS * SECOND_US
    return Pace(
        phone_number_id=phone_number_id,
        number=Limit(interval, (burst - 1) * interval),
        pair=Limit(pair, (PAIR_BURST - 1) * pair),
    )


def unlimited(phone_number_id: str) -> Pace:
    """Return limits that permit every message."""
    free = Limit(0, 2**40)
    return Pace(phone_number_id=phone_number_id, number=free, pair=free)


class PacingStore(Protocol):
    """Token buckets that all processes of one database share.

    `RequestStore.reserve_request` and `InboxStore.claim` change them too, each in its transaction.
    """

    async def pace(self, demand: Demand) -> Permit:
        """Permit one message, or refuse it."""

    async def throttle(self, pace: Pace, penalty: Penalty) -> None:
        """Pause a bucket of *pace*, and slow it down."""
