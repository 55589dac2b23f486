"""A subscriber: a handler that passes updates on as signed HTTP requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from wats.clock import Now, utc_now
from wats.config import SubscriberConfig
from wats.errors import StoreError
from wats.graph.connections import connector
from wats.graph.responses import is_success
from wats.inbound.failures import EndpointFailure, status_of
from wats.inbound.handlers import RetryLater
from wats.inbound.updates import Update
from wats.log import Log
from wats.retry_after import read_retry_after
from wats.subscribers.addresses import AddressRefused, public_socket
from wats.subscribers.circuit import Circuit
from wats.subscribers.requests import MakeRequest
from wats.telemetry import error_name
from wats.telemetry.repeats import Repeats
from wats.version import __version__

CONNECT_SECONDS: Final = 5.0
"""The longest time for a connection, unless the time limit of the request is shorter."""

KEEP_ALIVE_SECONDS: Final = 15.0
"""How long an idle connection is kept; many servers close theirs after 60 seconds or less."""

MAX_RESPONSE_BYTES: Final = 65_536
"""The longest body that is read to keep its connection; a longer one closes the connection."""

DISCARD_SECONDS: Final = 1.0
"""How long the rest of a body is read for that."""

DEFAULT_WAIT_SECONDS: Final = 5.0
"""The pause after 429 without `Retry-After`, and the delay of an update that met 410."""

_DOWN: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)
"""The statuses that a proxy gives if the endpoint behind it does not respond."""


class SubscriberUnreachable(EndpointFailure):
    """There was no response in time, or a proxy reported that."""


class SubscriberTLSFailed(EndpointFailure):
    """The TLS handshake failed: usually, the certificate is not trusted, or for another name."""


class SubscriberRedirected(EndpointFailure):
    """The response was a redirect, which is not followed."""


class SubscriberRefused(EndpointFailure):
    """The status of the response was 4xx."""


class SubscriberFailed(EndpointFailure):
    """The status of the response was 5xx, or none that HTTP permits here."""


class SubscriberThrottled(EndpointFailure):
    """The status of the response was 429, or 503 with `Retry-After`."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(status)
        self.seconds = seconds


class SubscriberGone(EndpointFailure):
    """The status of the response was 410: the endpoint was removed."""

    seconds = DEFAULT_WAIT_SECONDS


async def _pause_nothing() -> None:
    """Pause no consumer, without a store."""


class Subscriber:
    """Posts updates to an HTTP endpoint. A call that returns means a response of 2xx.

    Args:
        config: The endpoint, and its limits.
        make_request: Makes the signed requests.
        log: Receives the start and the end of an outage, by the name of the subscriber.
        pause: Pauses the consumer of the subscriber, so that its updates wait for an operator.
        circuit: The circuit breaker.
        on_circuit: Receives 1 after a failure that opens the circuit or leaves it open, and 0 after
            each success that closes it or finds it closed.
    """

    def __init__(
        self,
        config: SubscriberConfig,
        make_request: MakeRequest,
        *,
        log: Log,
        now: Now = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[], Awaitable[object]] = _pause_nothing,
        circuit: Circuit | None = None,
        on_circuit: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.config = config
        self._url = URL(config.url, encoded=True)
        self._make_request = make_request
        self._log = log
        self._now = now
        self._repeats = Repeats(monotonic)
        self._pause = pause
        self._monotonic = monotonic
        self._down_since: float | None = None
        self._on_circuit = on_circuit
        self._circuit = circuit or Circuit(monotonic=monotonic)
        self._timeout = aiohttp.ClientTimeout(
            total=config.timeout_seconds, connect=min(CONNECT_SECONDS, config.timeout_seconds)
        )
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the pool of connections. Is idempotent."""
        if self._session is None:
            self._on_circuit(int(self._circuit.is_open))
            self._session = aiohttp.ClientSession(
                connector=connector(
                    limit=self.config.concurrency,
                    keep_alive_seconds=KEEP_ALIVE_SECONDS,
                    socket_factory=None if self.config.allow_private_network else public_socket,
                    max_response_bytes=2 * MAX_RESPONSE_BYTES,
                ),
                headers={"user-agent": f"wats/{__version__}"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )

    async def stop(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def limit(self) -> float:
        """Return the number of requests that may be in progress now."""
        return self._circuit.limit()

    async def __call__(self, update: Update) -> None:
        """Post *update*; see `post`."""
        await self.post([update])

    async def post(self, updates: Sequence[Update]) -> None:
        """Post *updates* of one conversation as one request.

        Raises:
            RetryLater: The circuit is open, or the subscriber asked for a pause.
            Exception: The request failed; an attempt is counted.
        """
        if not self._circuit.admit():
            raise RetryLater(self._circuit.pause())
        try:
            failure = await self._post(updates)
        except BaseException:
            self._circuit.abandon()
            raise
        if failure is not None:
            error = self._record_failure(updates[0], failure)
            if self._must_pause(failure):
                await self._pause_consumer(failure)
            raise error from None
        self._down_since = None
        has_closed = self._circuit.succeed()
        if not self._circuit.is_open:
            # Also without a change: another process, which had it open, may get no delivery.
            self._on_circuit(0)
        if has_closed:
            self._report_recovery()

    def _record_failure(self, update: Update, failure: Exception) -> Exception:
        """Report *failure* to the circuit breaker; return the exception for the dispatcher."""
        if isinstance(failure, SubscriberThrottled | SubscriberGone):
            has_opened = self._circuit.hold(failure.seconds)
        else:
            # An update that is refused again and again is not an outage.
            is_answer = isinstance(failure, SubscriberRefused | SubscriberFailed)
            has_opened = self._circuit.fail(update.key if is_answer else object())
        if self._circuit.is_open:
            self._on_circuit(1)
        if has_opened:
            self._report_outage(failure)
        return RetryLater(self._circuit.pause()) if self._circuit.is_open else failure

    def _must_pause(self, failure: Exception) -> bool:
        """Note how long the endpoint has been down; return whether its consumer must be paused.

        It must be paused if the endpoint was removed, or is down for longer than is permitted.
        """
        if isinstance(failure, SubscriberGone):
            return True
        if isinstance(failure, SubscriberThrottled) or not self._circuit.is_open:
            self._down_since = None
            return False
        now = self._monotonic()
        if self._down_since is None:
            self._down_since = now
        hours = self.config.disable_after_hours
        return hours is not None and now - self._down_since >= 3600 * hours

    async def _pause_consumer(self, failure: Exception) -> None:
        try:
            await self._pause()
        except StoreError:
            return  # the next failure pauses it
        self._down_since = None
        suppressed = self._repeats.admit("wats.subscriber.paused")
        if suppressed is not None:
            self._log(
                {
                    "event": "wats.subscriber.paused",
                    "subscriber": self.config.name,
                    "errorName": error_name(failure),
                    "suppressed": suppressed,
                }
            )

    async def _post(self, updates: Sequence[Update]) -> Exception | None:
        """Return the failure of the request, if it failed."""
        session = self._session
        if session is None:
            return SubscriberUnreachable()
        request = self._make_request(updates, self._now())
        try:
            async with session.post(
                self._url,
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                timeout=self._timeout,
            ) as response:
                await _discard(response)
                return _failure_of(response.status, response.headers, self._now())
        except aiohttp.ClientSSLError:
            return SubscriberTLSFailed()
        except aiohttp.ClientConnectorError as error:
            is_refused = isinstance(error.os_error, AddressRefused)
            return AddressRefused() if is_refused else SubscriberUnreachable()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return SubscriberUnreachable()

    def _report_recovery(self) -> None:
        suppressed = self._repeats.admit("wats.subscriber.recovered")
        if suppressed is not None:
            self._log(
                {
                    "event": "wats.subscriber.recovered",
                    "subscriber": self.config.name,
                    "suppressed": suppressed,
                }
            )

    def _report_outage(self, failure: Exception) -> None:
        suppressed = self._repeats.admit("wats.subscriber.unreachable")
        if suppressed is not None:
            self._log(
                {
                    "event": "wats.subscriber.unreachable",
                    "subscriber": self.config.name,
                    "errorName": error_name(failure),
                    "status": status_of(failure),
                    "suppressed": suppressed,
                }
            )


async def _discard(response: aiohttp.ClientResponse) -> None:
    """Read a short body, so that its connection can be used again; cut off any other."""
    if response.content.is_eof():  # usual: it arrived with the head, and the connection is free
        return
    size = 0
    with suppress(aiohttp.ClientError, TimeoutError):  # the status suffices
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in response.content.iter_chunked(MAX_RESPONSE_BYTES):
                size += len(chunk)
                if size > MAX_RESPONSE_BYTES:
                    break
            else:
                return
    response.close()


def _failure_of(status: int, headers: Mapping[str, str], now: datetime) -> Exception | None:
    if is_success(status):
        return None
    asked = read_retry_after(headers.get("retry-after"), now)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return SubscriberThrottled(status, DEFAULT_WAIT_SECONDS if asked is None else asked)
    if status == HTTPStatus.SERVICE_UNAVAILABLE and asked is not None:
        return SubscriberThrottled(status, asked)
    if status == HTTPStatus.GONE:
        return SubscriberGone(status)
    if status in _DOWN:
        return SubscriberUnreachable(status)
    kinds = {3: SubscriberRedirected, 4: SubscriberRefused}
    return kinds.get(status // 100, SubscriberFailed)(status)
