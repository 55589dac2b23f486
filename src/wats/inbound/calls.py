"""Calls of handlers: their time limits, telemetry, failures and replies."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final

import msgspec
from typing_extensions import override

from wats.errors import NoHandlerCall
from wats.inbound.failures import HandlerFailures
from wats.inbound.handlers import Handlers, RetryLater
from wats.inbound.replies import OUTLET, Content
from wats.inbound.updates import Update
from wats.inbound.watchdog import Call, Watchdog
from wats.log import Log, write_json_line
from wats.sends import Reply, SendReply, Sent
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import Outcome, UpdateKind
from wats.telemetry.spans import Span, SpanContext, context_of, in_span

_SUCCESS: Final = Outcome.SUCCESS  # a look-up of 0.1 us in Python 3.11


async def refuse_reply(_: Reply) -> Sent:
    """Refuse to send, in place of a service.

    Raises:
        NoHandlerCall: Always.
    """
    raise NoHandlerCall


class HandlerCalls:
    """Calls handlers and isolates their failures.

    Attributes:
        telemetry: Receives calls and failures.
        send: Sends the replies of handlers.
        has_spans: Whether a sink receives the spans of calls.

    Args:
        timeout_seconds: The time limit of one call.
        log: Receives failures, without their texts.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        telemetry: Telemetry,
        timeout_seconds: float,
        log: Log = write_json_line,
        send: SendReply = refuse_reply,
    ) -> None:
        self._handlers = handlers
        self._tracer = telemetry.tracer
        self.telemetry = telemetry
        self._failures = HandlerFailures(log)
        self.send = send
        self.has_spans = self._tracer is not None
        self._watchdog = Watchdog(timeout_seconds)

    @property
    def is_exhausted(self) -> bool:
        """Whether the number of calls that ignore their cancellation has reached its limit."""
        return self._watchdog.is_exhausted

    def start(
        self,
        call: "HandlerCall",
        name: str,
        update: Update,
        origin: SpanContext | None = None,
        following: Sequence[Update] = (),
    ) -> None:
        """Call the handler *name*; record its exception, and pass it to `call.handled`.

        The span of the call, if there is a tracer, is linked to *origin*. The handler gets the
        updates *following* too, if there are any, for which it must have batches.
        """
        target = self._handlers[name]
        function: Callable[[Any], Awaitable[object]] = target.handler
        argument: object = update
        if following and target.batch is not None:
            function, argument = target.batch.handler, (update, *following)
        call.calls, call.name, call.place, call.kind = self, name, target.place, update.kind
        call.following, call.replies = following, 0
        call.began = perf_counter()
        if self._tracer is None:
            call.span = None
            self._watchdog.start(call, function, argument)
        else:
            call.span = self._tracer.attempt(origin)
            self._watchdog.start(call, function, argument, context_of(call.span))

    def outcome_of(self, name: str, kind: UpdateKind, failure: BaseException) -> Outcome:
        """Return the outcome of a call that raised *failure*; record it, if it is a failure."""
        if isinstance(failure, RetryLater):
            return Outcome.SKIPPED
        self.telemetry.errors.record(failure)
        self._failures.report(name, self._handlers[name].handler, kind, failure)
        return Outcome.ERROR


class HandlerCall(Call):
    """A call of a handler, recorded by telemetry.

    Attributes:
        calls: The calls that it belongs to.
        kind: The kind of the update.
        following: The other updates of the call.
        name: The name of the handler.
        place: The index of the handler in `Handlers.names`.
        replies: The number of replies without a key of their own so far.
        span: The span of the call, if it has one.
    """

    __slots__ = ("began", "calls", "following", "kind", "name", "place", "replies", "span")

    began: float
    calls: HandlerCalls
    following: Sequence[Update]
    kind: UpdateKind
    name: str
    place: int
    replies: int
    span: Span | None

    @override
    def enter(self) -> None:
        OUTLET.set(self)

    async def reply(
        self, message: Content, *, update_key: str, phone_number_id: str | None, name: str | None
    ) -> Sent:
        """Send *message* once; see `Outlet`. The handler's name is part of the key."""
        if name is None:
            self.replies += 1
        parts = msgspec.json.encode((update_key, self.name, self.replies if name is None else name))
        key = hashlib.sha256(parts).hexdigest()
        return await self.calls.send(
            Reply(message=message, phone_number_id=phone_number_id, key=key)
        )

    async def mark(self, message: Content, *, phone_number_id: str | None) -> None:
        """Send *message*, a read mark."""
        await self.calls.send(Reply(message=message, phone_number_id=phone_number_id, key=None))

    @override
    def ended(self, failure: BaseException | None) -> None:
        outcome = _SUCCESS
        if failure is not None:
            outcome = self.calls.outcome_of(self.name, self.kind, failure)
        record, seconds = self.calls.telemetry.webhooks.dispatched, perf_counter() - self.began
        if self.span is None:
            record(self.place, self.kind, outcome, seconds)
        else:
            in_span(self.span, record, self.place, self.kind, outcome, seconds)
        if failure is None:  # otherwise the attempt is that of the first update only
            for update in self.following:
                record(self.place, update.kind, outcome, seconds)
        self.handled(failure)

    def handled(self, failure: BaseException | None) -> None:
        """Called once, with the exception of the handler, of any class, or `None`."""
        raise NotImplementedError
