import asyncio
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.telemetry import (
    EndpointFamily,
    Method,
    Outcome,
    Span,
    SpanContext,
    Telemetry,
    UpdateKind,
    current_span,
)
from wats.telemetry.spans import (
    Tracer,
    context_of,
    in_span,
    read_traceparent,
    start_span,
)
from wats.testing import CapturingTelemetrySink

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("flags", "is_sampled"),
    [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)],
)
def test_a_traceparent_is_read_with_its_sampling(flags: str, is_sampled: bool) -> None:
    read = read_traceparent(f"00-{TRACE}-{SPAN}-{flags}")

    assert read == SpanContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        7,
        f"01-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-01-x",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-zz",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
    ],
)
def test_a_traceparent_that_is_not_exactly_valid_is_ignored(value: object) -> None:
    assert read_traceparent(value) is None


@given(st.text())
def test_no_text_makes_reading_raise(text: str) -> None:
    assert read_traceparent(text) is None


@pytest.mark.parametrize("is_sampled", [True, False])
def test_a_span_below_another_belongs_to_its_trace_and_is_sampled_alike(is_sampled: bool) -> None:
    parent = SpanContext(TRACE, SPAN, is_sampled)

    span = start_span(parent)

    assert span.parent == parent
    assert (span.context.trace_id, span.context.is_sampled) == (TRACE, is_sampled)
    assert span.context.span_id != SPAN
    assert read_traceparent(span.context.traceparent) == span.context


def test_a_new_trace_is_random_and_sampled() -> None:
    first, second = start_span(None), start_span(None)

    assert first.parent is None
    assert first.context.is_sampled
    assert first.context.trace_id != second.context.trace_id
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", first.context.traceparent)


def test_a_span_is_current_for_what_runs_on_its_behalf_and_no_longer() -> None:
    span, seen = start_span(None), []

    in_span(span, lambda: seen.append(current_span()))
    context_of(span).run(lambda: seen.append(current_span()))

    assert seen == [span, span]
    assert current_span() is None


def test_a_failure_leaves_no_span_behind() -> None:
    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        in_span(start_span(None), fail)
    with pytest.raises(LookupError), Tracer(start_span).request():
        fail()

    assert current_span() is None


def test_an_attempt_starts_a_trace_even_during_a_request() -> None:
    origin = SpanContext(TRACE, SPAN)
    started: list[Span | None] = []

    def start(parent: SpanContext | None) -> Span:
        started.append(current_span())
        return start_span(parent)

    tracer = Tracer(start)
    with tracer.request(origin.traceparent):
        attempt = tracer.attempt(origin)

    assert attempt is not None
    assert (attempt.parent, attempt.links) == (None, (origin,))
    assert attempt.context.trace_id != TRACE
    assert started == [None, None]


def test_an_attempt_without_a_known_request_has_no_link() -> None:
    attempt = Tracer(start_span).attempt(None)

    assert attempt is not None
    assert attempt.links == ()


def test_a_graph_call_without_a_request_begins_a_trace(
    make_telemetry: Callable[..., Telemetry],
) -> None:
    sink = CapturingTelemetrySink()

    make_telemetry(sink=sink).graph.operation(EndpointFamily.MESSAGES, 200, Outcome.SUCCESS, 0.1)

    (recorded,) = sink.spans
    assert recorded.span is not None
    assert recorded.span.parent is None


def test_operations_of_one_request_share_its_trace(
    make_telemetry: Callable[..., Telemetry],
) -> None:
    sink = CapturingTelemetrySink()
    telemetry = make_telemetry(sink=sink)
    assert telemetry.tracer is not None

    with telemetry.tracer.request(f"00-{TRACE}-{SPAN}-01"):
        telemetry.graph.operation(EndpointFamily.MESSAGES, 200, Outcome.SUCCESS, 0.1)
        telemetry.graph.operation(EndpointFamily.GROUPS, 200, Outcome.SUCCESS, 0.1)
        telemetry.http.request(0, Method.GET, 200, 0.1)

    *calls, request = [each.span for each in sink.spans if each.span is not None]
    assert request.parent == SpanContext(TRACE, SPAN)
    assert [call.parent for call in calls] == [request.context] * 2
    assert len({span.context.span_id for span in (*calls, request)}) == 3


async def test_tasks_of_a_request_belong_to_it_and_other_requests_do_not() -> None:
    tracer = Tracer(start_span)

    async def serve() -> tuple[Span | None, Span | None]:
        with tracer.request():
            own = current_span()
            await asyncio.sleep(0)
            return own, await asyncio.create_task(seen())

    async def seen() -> Span | None:
        return current_span()

    served = await asyncio.gather(serve(), serve())

    assert all(own is not None and own is inner for own, inner in served)
    assert len({own for own, _ in served}) == 2


def test_without_a_sink_for_traces_there_is_no_tracer(
    make_telemetry: Callable[..., Telemetry],
) -> None:
    assert make_telemetry().tracer is None


def test_no_metric_has_a_trace_in_it(make_telemetry: Callable[..., Telemetry]) -> None:
    sink = CapturingTelemetrySink()
    telemetry = make_telemetry(sink=sink)
    assert telemetry.tracer is not None

    with telemetry.tracer.request(f"00-{TRACE}-{SPAN}-01"):
        telemetry.http.request(0, Method.GET, 200, 0.1)
        telemetry.webhooks.dispatched(0, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

    assert TRACE not in telemetry.render().body.decode()
    assert TRACE not in str([sink.counters, sink.histograms, sink.gauges])
