"""Spans: where an operation belongs in its trace, as W3C Trace Context defines it.

    traceparent ──▸ request ──▸ Graph call             one trace
                       ╎ link, stored with the update
                       ▾
                    attempt of a handler ──▸ Graph call   a trace of its own

The span of the running operation is a context variable, so everything that runs on its behalf finds
it. An operation that continues in a callback of another task carries its context there. Without a
sink that receives spans there is no `Tracer`, and no operation has a span.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from random import getrandbits
from typing import Final, NamedTuple, TypeAlias

from wats.telemetry.contract.values import SpanName

_TRACEPARENT: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED: Final = 1
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class SpanContext(NamedTuple):
    """The identity of a span, as other services receive it.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        is_sampled: Whether the span is recorded.
    """

    trace_id: str
    span_id: str
    is_sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The value of the header `traceparent` for a request that belongs to the span."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


class Span(NamedTuple):
    """A span, without its name, times and attributes.

    Attributes:
        context: Its identity.
        parent: The span that it is a part of, of the same trace; `None` for the first of a trace.
        links: The spans of other traces that caused it.
    """

    context: SpanContext
    parent: SpanContext | None = None
    links: tuple[SpanContext, ...] = ()


Start: TypeAlias = Callable[[SpanContext | None], Span | None]
"""Starts a span below the parent, or a new trace; `None` if the operation gets no span."""

_CURRENT: Final[ContextVar[Span | None]] = ContextVar("wats.span", default=None)


def current_span() -> Span | None:
    """Return the span of the running request or handler; `None` if no sink receives spans."""
    return _CURRENT.get()


def read_traceparent(value: object) -> SpanContext | None:
    """Return the context in a header `traceparent` of version 00; `None` if it is not valid."""
    match = _TRACEPARENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return SpanContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def start_span(parent: SpanContext | None) -> Span:
    """Start a span below *parent*, sampled as that is; or a new trace, which is sampled."""
    span_id = f"{getrandbits(64) or 1:016x}"
    if parent is None:
        return Span(SpanContext(f"{getrandbits(128) or 1:032x}", span_id))
    return Span(parent._replace(span_id=span_id), parent)


def in_span(span: Span | None, function: Callable[..., object], *arguments: object) -> None:
    """Call *function* as a part of *span*."""
    token = _CURRENT.set(span)
    try:
        function(*arguments)
    finally:
        _CURRENT.reset(token)


def context_of(span: Span | None) -> Context:
    """Return a copy of the current context for a task that is a part of *span*."""
    context = copy_context()
    context.run(_CURRENT.set, span)
    return context


class Tracer:
    """Starts the spans of a service whose sink receives spans.

    Args:
        start: Starts a span, as `start_span` does. It must not raise.
    """

    def __init__(self, start: Start) -> None:
        self._start = start

    @contextmanager
    def request(self, traceparent: str | None = None) -> Iterator[None]:
        """Run a block as the span of a request with this header; continue its trace if valid."""
        token = _CURRENT.set(self._start(read_traceparent(traceparent)))
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def attempt(self, origin: SpanContext | None) -> Span | None:
        """Start the span of an attempt of a handler: a trace of its own, linked to *origin*."""
        # In an empty context: that of the caller may belong to any other request.
        span = Context().run(self._start, None)
        return span if span is None or origin is None else span._replace(links=(origin,))

    def ended(self, name: SpanName) -> Span | None:
        """Return the span of the operation *name*, which ends now."""
        current = _CURRENT.get()
        if current is None:
            return self._start(None)
        if name is SpanName.GRAPH_REQUEST:
            return start_span(current.context)
        return current
