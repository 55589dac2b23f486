"""Tools for tests of applications on wats, and for our own tests.

A signer for webhooks, a clock under the control of the test, a sink that records, a recorder of
replies, a configuration, and a way to serve an application on a free port. The fake Meta is
`wats.simulator`.
"""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from wats.config import (
    GraphConfig,
    PersistenceConfig,
    Profile,
    Secrets,
    ServiceConfig,
    WebhookConfig,
    WhatsAppConfig,
)
from wats.inbound.replies import OUTLET, Content
from wats.outbound.sender import encode_message
from wats.privacy import Secret
from wats.process.server import Server, bind
from wats.sends import Sent
from wats.service.app import WatsApp
from wats.telemetry import Attributes, Span

__all__ = [
    "APP_SECRET",
    "BEARER_TOKEN",
    "VERIFY_TOKEN",
    "CapturingTelemetrySink",
    "FakeClock",
    "Recorded",
    "RecordedEvent",
    "RecordedReply",
    "RecordedSpan",
    "example_profile",
    "example_secrets",
    "recorded_replies",
    "serving",
    "sign",
]

APP_SECRET = "an-app-secret-for-tests"  # noqa: S105 - public, opens nothing
VERIFY_TOKEN = "a-verify-token-for-tests"  # noqa: S105
BEARER_TOKEN = "a-service-token-for-tests"  # noqa: S105


def sign(body: bytes, app_secret: str = APP_SECRET) -> str:
    """Return the value of the header `X-Hub-Signature-256` that Meta would send with *body*."""
    return "sha256=" + hmac.digest(app_secret.encode(), body, hashlib.sha256).hex()


class FakeClock:
    """A clock for a service or a handler, which moves only on request.

    Call it for the present moment, an aware `datetime` in UTC.
    """

    def __init__(self, moment: datetime = datetime(2026, 11, 22, 12, tzinfo=UTC)) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        """Return the present moment."""
        return self.moment

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*."""
        self.moment += timedelta(seconds=seconds)


class Recorded(NamedTuple):
    """A call of a sink with a value: of a counter, a histogram or a gauge.

    The value of a histogram is in seconds.
    """

    name: str
    value: float
    attributes: dict[str, Any]


class RecordedSpan(NamedTuple):
    """A span that a sink received."""

    name: str
    start: datetime
    end: datetime
    attributes: dict[str, Any]
    span: Span | None = None


class RecordedEvent(NamedTuple):
    """An event in the life of the service that a sink received."""

    name: str
    attributes: dict[str, Any]
    timestamp: datetime


@dataclass(slots=True)
class CapturingTelemetrySink:
    """A telemetry sink that records the calls of each kind, in order."""

    counters: list[Recorded] = field(default_factory=list)
    histograms: list[Recorded] = field(default_factory=list)
    gauges: list[Recorded] = field(default_factory=list)
    spans: list[RecordedSpan] = field(default_factory=list)
    events: list[RecordedEvent] = field(default_factory=list)

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> None:
        """Add the call to `counters`."""
        self.counters.append(Recorded(name, value, dict(attributes)))

    def record_histogram(self, name: str, value_seconds: float, attributes: Attributes) -> None:
        """Add the call to `histograms`."""
        self.histograms.append(Recorded(name, value_seconds, dict(attributes)))

    def set_gauge(self, name: str, value: float, attributes: Attributes) -> None:
        """Add the call to `gauges`."""
        self.gauges.append(Recorded(name, value, dict(attributes)))

    def record_span(
        self,
        name: str,
        start: datetime,
        end: datetime,
        attributes: Attributes,
        span: Span | None = None,
    ) -> None:
        """Add the call to `spans`."""
        self.spans.append(RecordedSpan(name, start, end, dict(attributes), span))

    def record_event(self, name: str, attributes: Attributes, timestamp: datetime) -> None:
        """Add the call to `events`."""
        self.events.append(RecordedEvent(name, dict(attributes), timestamp))


class RecordedReply(NamedTuple):
    """A reply of a handler, or a read mark.

    Attributes:
        message: The message in Graph's format, with its recipient.
        phone_number_id: The business number that sends it.
        key: The `key` that the handler gave.
    """

    message: dict[str, Any]
    phone_number_id: str | None
    key: str | None


class _ReplyRecorder:
    """An outlet that records replies, and sends none."""

    name = "recorded"

    def __init__(self) -> None:
        self.replies: list[RecordedReply] = []

    async def reply(
        self, message: Content, *, update_key: str, phone_number_id: str | None, name: str | None
    ) -> Sent:
        self._record(message, phone_number_id, name)
        return Sent(message_id=f"wamid.{len(self.replies)}")

    async def mark(self, message: Content, *, phone_number_id: str | None) -> None:
        self._record(message, phone_number_id, None)

    def _record(self, message: Content, phone_number_id: str | None, key: str | None) -> None:
        encode_message(message, groups_enabled=True)
        self.replies.append(RecordedReply(dict(message), phone_number_id, key))


@contextmanager
def recorded_replies() -> Iterator[list[RecordedReply]]:
    """Record the replies of handlers that the test calls itself, without a service.

    A reply that a service with groups refuses raises `MalformedRequest` here too. Most of the
    content of a type is checked by Meta only, and some of that by `wats.simulator`.

    Yields:
        The replies and read marks so far, in order.
    """
    recorder = _ReplyRecorder()
    token = OUTLET.set(recorder)
    try:
        yield recorder.replies
    finally:
        OUTLET.reset(token)


def example_profile(*, graph_url: str = "http://127.0.0.1:9", **changes: Any) -> Profile:
    """Return a profile for tests, without a real Graph behind it unless *graph_url* is given.

    *changes* replace whole sections, as in
    `example_profile(groups=dataclasses.replace(example_profile().groups, enabled=True))`.
    """
    profile = Profile(
        name="test",
        graph=GraphConfig(api_version="v25.0", base_url=graph_url),
        whatsapp=WhatsAppConfig(waba_id="123456789012345", phone_number_id="15551234567"),
        webhook=WebhookConfig(path="/webhooks/whatsapp"),
        service=ServiceConfig(host="127.0.0.1", port=8787, api_prefix="/api"),
        persistence=PersistenceConfig(url=None),
    )
    return replace(profile, **changes)


def example_secrets(**changes: Any) -> Secrets:
    """Return secrets for tests; *changes* replace some secrets."""
    secrets = Secrets(
        access_token=Secret("an-access-token-for-tests"),
        verify_token=Secret(VERIFY_TOKEN),
        app_secrets=(Secret(APP_SECRET),),
        bearer_tokens=(Secret(BEARER_TOKEN),),
    )
    return replace(secrets, **changes)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve *app*, an ASGI application, on a free loopback port of the running loop.

    Yields:
        Its URL, without a slash at the end.

    Raises:
        WatsError: *app* is a `WatsApp` that cannot start, for example without its database.
    """
    if isinstance(app, WatsApp):
        await app.start()  # the server would exit, and only log the reason of a failure
    listener = bind("127.0.0.1", 0)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = Server(app, ready=ready.set_result)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    both: tuple[asyncio.Future[Any], ...] = (running, ready)
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield ready.result()
    finally:
        server.should_exit = True
        await running
