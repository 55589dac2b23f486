"""Delivers webhooks as Meta does: signed, at least once, in no reliable order."""

import asyncio
import heapq
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import aiohttp

from wats.simulator.bodies import WebhookPart, envelope, signature
from wats.simulator.settings import Counts, SimulatorSettings

# Meta publishes no timetable, only "less and less often, for up to seven days".
_FIRST_RETRY_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_GIVE_UP_SECONDS: Final = 7 * 86400.0
_LATEST_DUPLICATE_SECONDS: Final = 30.0


@dataclass(order=True, slots=True)
class _Parcel:
    due: float
    order: int
    part: WebhookPart = field(compare=False)
    attempts: int = field(compare=False, default=0)
    paused_seconds: float = field(compare=False, default=0.0)  # of Meta's time, not scaled
    is_duplicate: bool = field(compare=False, default=False)


class Courier:
    """Holds parts until they are due and posts them in envelopes until they are accepted.

    A part is delivered when its POST gets a 200 response. Otherwise it is sent again after a
    growing pause of its own, in an envelope with the other parts that are due then.
    """

    def __init__(self, settings: SimulatorSettings, counts: Counts) -> None:
        self.webhook_url = settings.webhook_url
        self._settings = settings
        self._counts = counts
        self._random = random.Random(settings.seed)  # noqa: S311  # chance, not a secret
        self._parcels: list[_Parcel] = []
        self._carried = 0
        self._posted = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    @property
    def pending(self) -> int:
        """The number of undelivered parts, including those in progress."""
        return len(self._parcels) + self._carried

    async def start(self) -> None:
        """Begin to deliver."""
        timeout = aiohttp.ClientTimeout(total=self._settings.webhook_timeout_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._settings.couriers)]

    async def stop(self) -> None:
        """Stop immediately; undelivered parts are dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._session is not None:
            await self._session.close()
            self._session = None

    def schedule(self, part: WebhookPart, delay_seconds: float = 0.0) -> None:
        """Deliver *part* after *delay_seconds*."""
        due = time.monotonic() + delay_seconds
        self._push(_Parcel(due, self._next_order(), part))

    async def deliver_now(self, parts: Sequence[WebhookPart]) -> None:
        """Deliver *parts*, and return when they were accepted or failed once."""
        now = time.monotonic()
        await self._deliver([_Parcel(now, self._next_order(), part) for part in parts])

    async def idle(self) -> None:
        """Return when nothing is pending."""
        await self._idle.wait()

    async def verify(self, challenge: str) -> bool:
        """Ask the webhook to prove that it knows the verify token, as Meta does once."""
        if self._session is None or self.webhook_url is None:
            return False
        query = {
            "hub.mode": "subscribe",
            "hub.challenge": challenge,
            "hub.verify_token": self._settings.verify_token.reveal(),
        }
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.get(
                self.webhook_url, params=query, allow_redirects=False
            ) as response:
                answer = await response.read()
                return response.status == HTTPStatus.OK and answer == challenge.encode()
        return False

    def _next_order(self) -> int:
        self._posted += 1
        return self._posted

    def _push(self, parcel: _Parcel) -> None:
        heapq.heappush(self._parcels, parcel)
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._deliver(await self._next_batch())

    async def _next_batch(self) -> list[_Parcel]:
        while True:
            now = time.monotonic()
            batch: list[_Parcel] = []
            while (
                self._parcels
                and self._parcels[0].due <= now
                and len(batch) < self._settings.batch_size
            ):
                batch.append(heapq.heappop(self._parcels))
            if batch:
                return batch
            # Nothing runs between this look at the heap and the wait, so no wake-up is lost.
            self._wake.clear()
            pause = self._parcels[0].due - now if self._parcels else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _deliver(self, batch: list[_Parcel]) -> None:
        url = self.webhook_url
        self._carried += len(batch)
        try:
            if url is None:
                self._counts.dropped += len(batch)
            elif await self._post(url, [parcel.part for parcel in batch]):
                self._counts.delivered += len(batch)
                self._counts.duplicates += sum(parcel.is_duplicate for parcel in batch)
                self._maybe_repeat(batch)
            else:
                self._counts.webhook_failures += 1
                self._put_back(batch)
        finally:
            self._carried -= len(batch)
        if not self.pending:
            self._idle.set()

    async def _post(self, url: str, parts: Sequence[WebhookPart]) -> bool:
        if self._session is None:
            return False
        body = envelope(parts, self._settings, at=int(time.time()))
        headers = {
            "content-type": "application/json",
            "user-agent": "facebookexternalua",
            "x-hub-signature-256": signature(self._settings.app_secret, body),
        }
        self._counts.webhooks += 1
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                await response.read()
                return response.status == HTTPStatus.OK
        return False

    def _put_back(self, batch: list[_Parcel]) -> None:
        now = time.monotonic()
        for parcel in batch:
            # Only pauses count: a slow attempt does not use up a timetable that is scaled down.
            if parcel.paused_seconds > _GIVE_UP_SECONDS:
                self._counts.dropped += 1
                continue
            pause = min(_FIRST_RETRY_SECONDS * 2.0**parcel.attempts, _LONGEST_PAUSE_SECONDS)
            # Each part waits separately, so that the next envelope holds other parts than this one.
            pause *= self._random.uniform(0.5, 1.5)
            parcel.due = now + pause * self._settings.time_factor
            parcel.paused_seconds += pause
            parcel.attempts += 1
            self._counts.redeliveries += 1
            self._push(parcel)

    def _maybe_repeat(self, batch: list[_Parcel]) -> None:
        for parcel in batch:
            if parcel.is_duplicate or self._random.random() >= self._settings.duplicate_rate:
                continue
            pause = self._random.uniform(0, _LATEST_DUPLICATE_SECONDS) * self._settings.time_factor
            due = time.monotonic() + pause
            self._push(_Parcel(due, self._next_order(), parcel.part, is_duplicate=True))
