"""A sink that passes telemetry to OpenTelemetry. Needs `wats[otel]`, as no other module does.

With a config file: `telemetry: {sink: "wats.telemetry.otel:from_environment"}`, and the endpoint in
the standard variables. With code: `OtelSink`, with providers of your own.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    SpanKind,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from typing_extensions import override

from wats.errors import ConfigError, ConfigIssue
from wats.telemetry.contract.families import FAMILIES, Family
from wats.telemetry.contract.values import Kind, SpanName
from wats.telemetry.sinks.isolation import Attributes, FailureLog
from wats.telemetry.sinks.semconv import Conventions, Metric, StableConventions, failed
from wats.telemetry.spans import Span, SpanContext, start_span
from wats.version import __version__

SCOPE: Final = "wats"
"""The name of the instrumentation scope."""

GRAPH_URL: Final = "https://graph.facebook.com"

CLOSE_SECONDS: Final = 5.0
"""How long `close` may take, in every state of the endpoint."""

_KINDS: Final[dict[str, SpanKind]] = {
    SpanName.HTTP_REQUEST: SpanKind.SERVER,
    SpanName.GRAPH_REQUEST: SpanKind.CLIENT,
    SpanName.DISPATCH: SpanKind.CONSUMER,
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Record: TypeAlias = Callable[[float, Attributes], None]


class OtelSink:
    """Records metrics, spans and life-cycle events with the OpenTelemetry API.

    Each instrument is created once, when the sink is made. As in every sink, the exported data
    holds no personal data.

    Under an instrumented server, where OpenTelemetry has a current span, a request is a child of
    that server's span. A dispatch never is: it may run long after the request that delivered its
    update, and is linked to it. The sampler of the provider decides at the start of a span, by its
    ids; a Graph call is sampled if its request is. With a provider other than that of
    OpenTelemetry's SDK, spans have the current span as parent, and no links.

    Life-cycle events are spans without length: the API for logs is still a private module of the
    Python package, and an event of a span needs a span that is open.

    Args:
        meter_provider: Where metrics go.
        tracer_provider: Where spans go.
        semconv: `wats` for the names and attributes of every sink, `stable` for OpenTelemetry's own
            where they exist; see `StableConventions`.
        url_scheme: The scheme that clients use, `http` or `https`; for `stable` only.
        graph_url: Graph's address; for `stable` only.
        shutdowns: Called by `close`: the `shutdown` of each provider that this sink owns.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider,
        tracer_provider: TracerProvider,
        semconv: Literal["wats", "stable"] = "wats",
        url_scheme: Literal["http", "https"] = "http",
        graph_url: str = GRAPH_URL,
        shutdowns: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._conventions = (
            StableConventions(url_scheme=url_scheme, graph_url=graph_url)
            if semconv == "stable"
            else Conventions()
        )
        schema = self._conventions.schema_url
        self._tracer = tracer_provider.get_tracer(SCOPE, __version__, schema)
        self._decided = _Decided.of(self._tracer)
        meter = meter_provider.get_meter(SCOPE, __version__, schema)
        self._records = {
            family.name: _record(meter, family, self._conventions.metric(family))
            for family in FAMILIES
            if family.attributes is not None
        }
        self._shutdowns = tuple(shutdowns)
        self._failures = FailureLog("wats.telemetry.sink.error")

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> None:
        """Add *value* to the counter *name*."""
        self._records[name](value, attributes)

    def record_histogram(self, name: str, value_seconds: float, attributes: Attributes) -> None:
        """Record a duration in the histogram *name*."""
        self._records[name](value_seconds, attributes)

    def set_gauge(self, name: str, value: float, attributes: Attributes) -> None:
        """Set the gauge *name*."""
        self._records[name](value, attributes)

    def start_span(self, parent: SpanContext | None) -> Span | None:
        """Start a span below the current one of OpenTelemetry, if there is one, or *parent*."""
        if self._decided is None:
            return None
        outer = get_current_span().get_span_context()
        return self._decided.decide(start_span(_ours(outer) if outer.is_valid else parent))

    def record_span(
        self,
        name: str,
        start: datetime,
        end: datetime,
        attributes: Attributes,
        span: Span | None = None,
    ) -> None:
        """Record a span, as an error without a description if its operation failed."""
        title, exported = self._conventions.span(name, attributes)
        begin = partial(
            self._tracer.start_span,
            title,
            kind=_KINDS.get(name, SpanKind.INTERNAL),
            attributes=exported,
            start_time=_nanoseconds(start),
        )
        if self._decided is None or span is None:
            recorded = begin(context=Context() if name == SpanName.DISPATCH else None)
        else:
            is_inner = name == SpanName.GRAPH_REQUEST
            recorded = self._decided.begin(begin, span, has_local_parent=is_inner)
        if failed(attributes):
            recorded.set_status(StatusCode.ERROR)
        recorded.end(_nanoseconds(end))

    def record_event(self, name: str, attributes: Attributes, timestamp: datetime) -> None:
        """Record an event in the life of the service."""
        moment = _nanoseconds(timestamp)
        span = self._tracer.start_span(
            name, context=Context(), attributes=attributes, start_time=moment
        )
        span.end(moment)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Export the remaining data and shut down, within *seconds*; the rest is lost.

        Providers that the sink was given are left running: their owner shuts them down.
        """
        shutdowns, self._shutdowns = self._shutdowns, ()
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._shut_down, args=(shutdown,), daemon=True)
            for shutdown in shutdowns
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _shut_down(self, shutdown: Callable[[], None]) -> None:
        try:
            shutdown()
        except Exception as error:
            self._failures.report("close", error)


class _Decided(threading.local, RandomIdGenerator, Sampler):
    """Gives the spans of our tracer the ids and the sampling that were decided at their start.

    Other spans, which the tracer records for life-cycle events, get random ids and are sampled.
    """

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self._sampler = sampler
        self._span: Span | None = None

    @classmethod
    def of(cls, tracer: object) -> "_Decided | None":
        """Return that of *tracer*; `None` if it is not a tracer of OpenTelemetry's SDK."""
        if not isinstance(tracer, sdk_trace.Tracer):
            return None
        if not isinstance(tracer.sampler, cls):  # a provider has one tracer for our scope
            tracer.sampler = tracer.id_generator = cls(tracer.sampler)
        return tracer.sampler

    def decide(self, span: Span) -> Span:
        """Return *span* with the decision of the provider's sampler."""
        context, parent, _ = span
        trace_id = int(context.trace_id, 16)
        result = self._sampler.should_sample(_below(parent), trace_id, SCOPE)
        return span._replace(
            context=context._replace(is_sampled=result.decision is Decision.RECORD_AND_SAMPLE)
        )

    def begin(
        self, begin: Callable[..., trace.Span], span: Span, *, has_local_parent: bool
    ) -> trace.Span:
        """Call *begin*, which begins a span with our tracer, for *span*."""
        context = _below(span.parent, is_remote=not has_local_parent)
        self._span = span
        try:
            return begin(context=context, links=[Link(_theirs(link)) for link in span.links])
        finally:
            self._span = None

    @override
    def generate_trace_id(self) -> int:
        span = self._span
        return super().generate_trace_id() if span is None else int(span.context.trace_id, 16)

    @override
    def generate_span_id(self) -> int:
        span = self._span
        return super().generate_span_id() if span is None else int(span.context.span_id, 16)

    @override
    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if self._span is None:
            return self._sampler.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
        is_sampled = self._span.context.is_sampled
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if is_sampled else Decision.DROP, attributes
        )

    @override
    def get_description(self) -> str:
        return self._sampler.get_description()


def _theirs(context: SpanContext, *, is_remote: bool = True) -> trace.SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    trace_id, span_id = int(context.trace_id, 16), int(context.span_id, 16)
    return trace.SpanContext(trace_id, span_id, is_remote, flags)


def _ours(context: trace.SpanContext) -> SpanContext:
    is_sampled = context.trace_flags.sampled
    return SpanContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", is_sampled)


def _below(parent: SpanContext | None, *, is_remote: bool = True) -> Context:
    """Return a context in which *parent* is the current span; without one if it is `None`."""
    if parent is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(_theirs(parent, is_remote=is_remote)), Context())


def from_environment(
    *, url_scheme: Literal["http", "https"] = "http", graph_url: str = GRAPH_URL
) -> OtelSink:
    """Make a sink that exports with OTLP over HTTP, as configured by the `OTEL_*` variables.

    A signal is exported if it has an endpoint, in `OTEL_EXPORTER_OTLP_ENDPOINT` or in
    `OTEL_EXPORTER_OTLP_{TRACES,METRICS}_ENDPOINT`; there is no default one. Nothing is exported
    with `OTEL_SDK_DISABLED=true`, and a signal is not with `OTEL_{TRACES,METRICS}_EXPORTER=none`.
    The exporters themselves read headers, timeouts, compression, certificates, intervals and the
    sampler. `OTEL_SEMCONV_STABILITY_OPT_IN` with `http` among its values, or `http/dup`, which
    counts as the same, chooses the stable conventions.

    The resource is `service.name` (`wats` by default), `service.version`, a random
    `service.instance.id`, and the attributes that `OTEL_SERVICE_NAME` and
    `OTEL_RESOURCE_ATTRIBUTES` add or replace. Host, process and runtime are not inspected.

    Make it in the process that uses it: its threads do not survive a fork.

    Args:
        url_scheme: The scheme that clients use; for the stable conventions only.
        graph_url: Graph's address; for the stable conventions only.

    Raises:
        ConfigError: A variable has a value that cannot be used.
    """
    exported = {signal for signal in ("METRICS", "TRACES") if _is_exported(signal)}
    opted_in = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").replace(" ", "").split(",")
    meter_provider: MeterProvider = NoOpMeterProvider()
    tracer_provider: TracerProvider = NoOpTracerProvider()
    shutdowns: list[Callable[[], None]] = []
    try:
        resource = _resource()
        if "METRICS" in exported:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            meters = sdk_metrics.MeterProvider([reader], resource=resource, shutdown_on_exit=False)
            shutdowns.append(meters.shutdown)
            meter_provider = meters
        if "TRACES" in exported:
            tracers = sdk_trace.TracerProvider(resource=resource, shutdown_on_exit=False)
            tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            shutdowns.append(tracers.shutdown)
            tracer_provider = tracers
    except Exception as error:
        raise _refusal(
            "OTEL_*", "an environment variable of OpenTelemetry has an invalid value"
        ) from error
    return OtelSink(
        meter_provider=meter_provider,
        tracer_provider=tracer_provider,
        semconv="stable" if {"http", "http/dup"}.intersection(opted_in) else "wats",
        url_scheme=url_scheme,
        graph_url=graph_url,
        shutdowns=shutdowns,
    )


def _is_exported(signal: str) -> bool:
    """Return whether *signal* has an endpoint, and refuse an endpoint that cannot work."""
    endpoint_key, endpoint = _setting(signal, "ENDPOINT")
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    if disabled or not endpoint or exporter == "none":
        return False
    if exporter != "otlp":
        raise _refusal(f"OTEL_{signal}_EXPORTER", "must be otlp or none")
    if not endpoint.startswith(("http://", "https://")):
        raise _refusal(endpoint_key, "must begin with http:// or https://")
    protocol_key, protocol = _setting(signal, "PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise _refusal(protocol_key, "must be http/protobuf")
    return True


def _setting(signal: str, name: str) -> tuple[str, str]:
    """Return the variable that sets *name* for *signal*, and its value."""
    own, common = f"OTEL_EXPORTER_OTLP_{signal}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
    key = own if os.environ.get(own) else common
    return key, os.environ.get(key, "")


def _refusal(variable: str, reason: str) -> ConfigError:
    issue = ConfigIssue("invalid_telemetry_sink", variable, reason)
    return ConfigError([issue], "The telemetry sink cannot be made.")


def _resource() -> Resource:
    ours = Resource(
        {
            "service.name": SCOPE,
            "service.version": __version__,
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    return ours.merge(OTELResourceDetector().detect())


def _record(meter: Meter, family: Family, metric: Metric | None) -> Record:
    """Return the recorder of *family*; it does nothing if there is no metric."""
    if metric is None:
        return lambda value, attributes: None
    measure: Record
    named = (metric.name, metric.unit, metric.description)
    if family.kind is Kind.COUNTER:
        measure = meter.create_counter(*named).add
    elif family.kind is Kind.GAUGE:
        measure = meter.create_gauge(*named).set
    else:
        bounds = metric.buckets
        measure = meter.create_histogram(*named, explicit_bucket_boundaries_advisory=bounds).record
    translate = metric.translate
    return lambda value, attributes: measure(value, translate(attributes))


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND * 1000
