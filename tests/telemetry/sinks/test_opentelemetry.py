import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider as MeterProviderApi
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from wats.errors import ConfigError
from wats.log import drain_output
from wats.telemetry import Telemetry
from wats.telemetry.contract.families import FAMILIES, LAG_BUCKETS, LATENCY_BUCKETS
from wats.telemetry.contract.values import (
    EndpointFamily,
    FamilySet,
    InboxState,
    Kind,
    LifecycleEvent,
    Method,
    Outcome,
    UpdateKind,
)
from wats.telemetry.sinks.isolation import FailureLog, IsolatedSink
from wats.telemetry.sinks.opentelemetry import OtelSink, from_environment
from wats.telemetry.sinks.semconv import DURATION_BUCKETS
from wats.telemetry.spans import SpanContext, start_span
from wats.version import __version__

BEGAN = datetime(2026, 11, 22, 15, 24, 59, 999_999, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=0.25)
REQUEST = MappingProxyType(
    {
        "http.route": "/messages/:id",
        "http.request.method": "GET",
        "http.status_code": 500,
        "http.response.status.class": "5xx",
    }
)
CALL = MappingProxyType(
    {
        "wats.graph.endpoint_family": "messages",
        "http.status_code": 200,
        "http.response.status.class": "2xx",
        "wats.operation.outcome": "success",
    }
)
DISPATCH = MappingProxyType({"wats.dispatch.target": "other", "wats.operation.outcome": "error"})


class Collected:
    """The calls that the SDK received in this test."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        resource = Resource({})
        self.meters = MeterProvider([self.reader], resource=resource, shutdown_on_exit=False)
        self.tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))

    def sink(self, **options: Any) -> OtelSink:
        return OtelSink(meter_provider=self.meters, tracer_provider=self.tracers, **options)

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics that have data, by name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@pytest.fixture
def collected() -> Iterator[Collected]:
    collected = Collected()
    yield collected
    collected.meters.shutdown()
    collected.tracers.shutdown()


def test_a_counter_a_histogram_and_a_gauge_arrive_unchanged(collected: Collected) -> None:
    sink = collected.sink()

    sink.increment_counter("http_requests_total", 1, REQUEST)
    sink.increment_counter("http_requests_total", 2, REQUEST)
    sink.record_histogram("http_request_duration_seconds", 0.25, REQUEST)
    sink.set_gauge("wats_inbox_depth", 7, {"wats.inbox.state": "pending"})
    sink.set_gauge("wats_inbox_depth", 3, {"wats.inbox.state": "pending"})

    metrics = collected.metrics
    points = {name: metric.data.data_points[0] for name, metric in metrics.items()}
    assert {
        name: (metric.unit, dict(points[name].attributes)) for name, metric in metrics.items()
    } == {
        "http_requests_total": ("{request}", dict(REQUEST)),
        "http_request_duration_seconds": ("s", dict(REQUEST)),
        "wats_inbox_depth": ("{update}", {"wats.inbox.state": "pending"}),
    }
    assert points["http_requests_total"].value == 3
    assert metrics["http_requests_total"].data.is_monotonic
    assert points["http_request_duration_seconds"].sum == 0.25
    assert points["http_request_duration_seconds"].explicit_bounds == LATENCY_BUCKETS
    assert points["wats_inbox_depth"].value == 3


def test_a_histogram_of_minutes_has_its_own_bounds(collected: Collected) -> None:
    collected.sink().record_histogram("wats_webhook_lag_seconds", 42.0, {})

    (point,) = collected.metrics["wats_webhook_lag_seconds"].data.data_points
    assert point.explicit_bounds == LAG_BUCKETS


def test_in_the_stable_conventions_requests_and_calls_are_durations(collected: Collected) -> None:
    sink = collected.sink(semconv="stable")

    sink.increment_counter("http_requests_total", 1, REQUEST)
    sink.record_histogram("http_request_duration_seconds", 0.25, REQUEST)
    sink.record_histogram("wats_graph_request_duration_seconds", 0.5, CALL)

    exported = {
        name: (metric.unit, point.count, dict(point.attributes), point.explicit_bounds)
        for name, metric in collected.metrics.items()
        for point in metric.data.data_points
    }
    assert exported == {
        "http.server.request.duration": (
            "s",
            1,
            {
                "http.route": "/messages/:id",
                "http.request.method": "GET",
                "http.response.status_code": 500,
                "error.type": "500",
                "url.scheme": "http",
            },
            DURATION_BUCKETS,
        ),
        "http.client.request.duration": (
            "s",
            1,
            {
                "wats.graph.endpoint_family": "messages",
                "wats.operation.outcome": "success",
                "http.request.method": "POST",
                "http.response.status_code": 200,
                "server.address": "graph.facebook.com",
                "server.port": 443,
            },
            DURATION_BUCKETS,
        ),
    }


class CountingMeter:
    def __init__(self, meter: Any, created: Counter[str]) -> None:
        self._meter = meter
        self._created = created

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def create(name: str, *rest: Any, **options: Any) -> Any:
            self._created[name] += 1
            return getattr(self._meter, method)(name, *rest, **options)

        return create


class CountingMeterProvider(MeterProviderApi):
    """Counts how often an instrument is created."""

    def __init__(self, provider: MeterProviderApi) -> None:
        self._provider = provider
        self.created: Counter[str] = Counter()

    def get_meter(self, *scope: Any, **options: Any) -> Any:
        return CountingMeter(self._provider.get_meter(*scope, **options), self.created)


@pytest.mark.parametrize("semconv", ["wats", "stable"])
def test_every_instrument_is_created_once(collected: Collected, semconv: Any) -> None:
    provider = CountingMeterProvider(collected.meters)
    sink = OtelSink(meter_provider=provider, tracer_provider=collected.tracers, semconv=semconv)

    for _ in range(100):
        sink.increment_counter("http_requests_total", 1, REQUEST)
        sink.increment_counter("send_outcomes_total", 1, CALL)
        sink.record_histogram("http_request_duration_seconds", 0.25, REQUEST)
        sink.set_gauge("wats_inbox_depth", 7, {"wats.inbox.state": "pending"})

    exported = [family for family in FAMILIES if family.attributes is not None]
    assert set(provider.created.values()) == {1}
    assert len(provider.created) == len(exported) - (semconv == "stable")


@pytest.mark.parametrize(
    ("name", "attributes", "kind", "status"),
    [
        pytest.param("wats.http.request", REQUEST, SpanKind.SERVER, StatusCode.ERROR, id="request"),
        pytest.param("wats.graph.request", CALL, SpanKind.CLIENT, StatusCode.UNSET, id="call"),
        pytest.param("wats.dispatch", DISPATCH, SpanKind.CONSUMER, StatusCode.ERROR, id="dispatch"),
    ],
)
def test_a_span_has_its_kind_its_times_and_a_status_without_description(
    collected: Collected, name: str, attributes: Any, kind: SpanKind, status: StatusCode
) -> None:
    collected.sink().record_span(name, BEGAN, ENDED, attributes)

    (span,) = collected.spans
    assert (span.name, span.kind, span.status.status_code) == (name, kind, status)
    assert (span.start_time, span.end_time) == (1795361099999999000, 1795361100249999000)
    assert dict(span.attributes or {}) == dict(attributes)
    assert (span.status.description, span.events, span.parent) == (None, (), None)


def test_in_the_stable_conventions_a_span_is_named_by_method_and_route(
    collected: Collected,
) -> None:
    collected.sink(semconv="stable").record_span("wats.http.request", BEGAN, ENDED, REQUEST)

    (span,) = collected.spans
    assert span.name == "GET /messages/:id"
    assert dict(span.attributes or {}) == {
        "http.route": "/messages/:id",
        "http.request.method": "GET",
        "http.response.status_code": 500,
        "error.type": "500",
        "url.scheme": "http",
    }


def test_spans_hang_below_the_current_one_but_a_dispatch_does_not(collected: Collected) -> None:
    sink = collected.sink()

    with collected.tracers.get_tracer("theirs").start_as_current_span("theirs") as theirs:
        sink.record_span("wats.http.request", BEGAN, ENDED, REQUEST)
        sink.record_span("wats.graph.request", BEGAN, ENDED, CALL)
        sink.record_span("wats.dispatch", BEGAN, ENDED, DISPATCH)
        sink.record_event("wats.draining", {}, ENDED)

    parents = {span.name: span.parent and span.parent.span_id for span in collected.spans}
    assert parents == {
        "wats.http.request": theirs.get_span_context().span_id,
        "wats.graph.request": theirs.get_span_context().span_id,
        "wats.dispatch": None,
        "wats.draining": None,
        "theirs": None,
    }


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = SpanContext(TRACE, "00f067aa0ba902b7")


def identity(context: SpanContext) -> tuple[int, int]:
    return int(context.trace_id, 16), int(context.span_id, 16)


def test_a_span_has_the_ids_the_parent_and_the_links_of_its_place(collected: Collected) -> None:
    sink = collected.sink()
    request = sink.start_span(CALLER)
    assert request is not None
    attempt = start_span(None)._replace(links=(request.context,))

    sink.record_span("wats.http.request", BEGAN, ENDED, REQUEST, request)
    sink.record_span("wats.graph.request", BEGAN, ENDED, CALL, start_span(request.context))
    sink.record_span("wats.dispatch", BEGAN, ENDED, DISPATCH, attempt)

    of_request, of_call, of_attempt = collected.spans
    (link,) = of_attempt.links
    assert of_request.parent is not None
    assert of_call.parent is not None
    assert of_attempt.parent is None
    found = (
        of_request.context,
        of_request.parent,
        of_call.parent,
        of_attempt.context,
        link.context,
    )
    assert [(each.trace_id, each.span_id) for each in found] == [
        identity(request.context),
        identity(CALLER),
        identity(request.context),
        identity(attempt.context),
        identity(request.context),
    ]
    assert (of_request.parent.is_remote, of_call.parent.is_remote) == (True, False)


def test_under_an_instrumented_server_a_request_belongs_to_the_span_of_that_server(
    collected: Collected,
) -> None:
    sink = collected.sink()

    with collected.tracers.get_tracer("theirs").start_as_current_span("theirs") as theirs:
        span = sink.start_span(CALLER)

    outer = theirs.get_span_context()
    assert span is not None
    assert span.parent is not None
    assert identity(span.parent) == (outer.trace_id, outer.span_id)
    assert span.context.trace_id == span.parent.trace_id


class Asked(Sampler):
    """A sampler that drops every trace, and counts its decisions."""

    def __init__(self) -> None:
        self.decisions = 0

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        self.decisions += 1
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "asked"


def test_the_sampler_decides_once_for_a_request_and_its_graph_calls() -> None:
    sampler = Asked()
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(sampler, resource=Resource({}), shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    sink = OtelSink(meter_provider=NoOpMeterProvider(), tracer_provider=tracers)

    request = sink.start_span(None)
    assert request is not None
    sink.record_span("wats.graph.request", BEGAN, ENDED, CALL, start_span(request.context))
    sink.record_span("wats.http.request", BEGAN, ENDED, REQUEST, request)
    tracers.shutdown()

    assert not request.context.is_sampled
    assert sampler.decisions == 1
    assert exporter.get_finished_spans() == ()


def test_two_sinks_of_one_provider_do_not_mix_their_spans(collected: Collected) -> None:
    first, second = collected.sink(), collected.sink()
    spans = [first.start_span(None), second.start_span(None)]

    second.record_span("wats.http.request", BEGAN, ENDED, REQUEST, spans[1])
    first.record_span("wats.http.request", BEGAN, ENDED, REQUEST, spans[0])
    first.record_event("wats.started", {}, BEGAN)

    *recorded, event = (span.context.span_id for span in collected.spans)
    assert recorded == [identity(span.context)[1] for span in reversed(spans) if span]
    assert event not in recorded


def test_a_sink_that_exports_no_spans_starts_none(environment: pytest.MonkeyPatch) -> None:
    sink = from_environment()

    assert sink.start_span(CALLER) is None


def test_an_event_of_the_service_is_a_span_without_length(collected: Collected) -> None:
    collected.sink().record_event("wats.store.lost", {}, BEGAN)

    (span,) = collected.spans
    assert (span.name, span.kind, span.status.status_code) == (
        "wats.store.lost",
        SpanKind.INTERNAL,
        StatusCode.UNSET,
    )
    assert span.start_time == span.end_time == 1795361099999999000


@pytest.mark.parametrize(
    ("semconv", "schema"),
    [("wats", ""), ("stable", "https://opentelemetry.io/schemas/1.44.0")],
)
def test_the_scope_is_wats_and_names_its_schema(
    collected: Collected, semconv: Any, schema: str
) -> None:
    collected.sink(semconv=semconv).record_event("wats.started", {}, BEGAN)

    (span,) = collected.spans
    scope = span.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version, scope.schema_url or "") == ("wats", __version__, schema)


@pytest.mark.parametrize("semconv", ["wats", "stable"])
def test_every_family_of_a_sink_arrives(collected: Collected, semconv: Any) -> None:
    sink = collected.sink(semconv=semconv)
    tell = {
        Kind.COUNTER: sink.increment_counter,
        Kind.HISTOGRAM: sink.record_histogram,
        Kind.GAUGE: sink.set_gauge,
    }
    exported = [family for family in FAMILIES if family.attributes is not None]

    for family in exported:
        tell[family.kind](family.name, 1, dict.fromkeys(family.attributes or (), "x"))

    assert len(collected.metrics) == len(exported) - (semconv == "stable")


def test_a_working_exporter_causes_no_failure_report(
    collected: Collected, make_telemetry: Callable[..., Telemetry], logged: list[Any]
) -> None:
    telemetry = make_telemetry(sink=collected.sink(), families=FamilySet.OPERATOR)

    telemetry.http.request(1, Method.GET, 200, 0.25)
    telemetry.graph.operation(EndpointFamily.MESSAGES, 200, Outcome.SUCCESS, 0.5)
    telemetry.webhooks.dispatched(0, UpdateKind.MESSAGE, Outcome.ERROR, 0.5)
    telemetry.store.inbox_depth(InboxState.PENDING, 3)
    telemetry.service.event(LifecycleEvent.STARTED)

    assert logged == []
    assert collected.metrics.keys() >= {
        "http_requests_total",
        "http_request_duration_seconds",
        "graph_operations_total",
        "wats_graph_request_duration_seconds",
        "wats_dispatch_total",
        "wats_inbox_depth",
    }
    assert {span.name: span.kind for span in collected.spans} == {
        "wats.http.request": SpanKind.SERVER,
        "wats.graph.request": SpanKind.CLIENT,
        "wats.dispatch": SpanKind.CONSUMER,
        "wats.started": SpanKind.INTERNAL,
    }


def test_providers_that_were_given_stay_open(collected: Collected) -> None:
    sink = collected.sink()

    sink.close()
    sink.increment_counter("http_requests_total", 1, REQUEST)
    sink.record_event("wats.started", {}, BEGAN)

    assert "http_requests_total" in collected.metrics
    assert len(collected.spans) == 1


def test_closing_shuts_down_once_without_waiting(collected: Collected) -> None:
    calls: list[str] = []
    stuck, ended = threading.Event(), threading.Event()

    def quick() -> None:
        calls.append("quick")

    def slow() -> None:
        calls.append("slow")
        stuck.wait(60)
        ended.set()

    sink = collected.sink(shutdowns=[slow, quick])
    sink.close(0.2)
    sink.close(0.2)
    has_waited = ended.is_set()
    stuck.set()
    assert ended.wait(60)

    assert not has_waited
    assert sorted(calls) == ["quick", "slow"]


def test_a_shutdown_that_fails_is_logged_by_the_name_of_its_error(
    collected: Collected, capsys: pytest.CaptureFixture[str]
) -> None:
    def shutdown() -> None:
        raise OSError("private")

    collected.sink(shutdowns=[shutdown]).close()

    drain_output()
    out, err = capsys.readouterr()
    assert (out, "OSError" in err, "private" in err) == ("", True, False)


VARIABLES = (
    "OTEL_SDK_DISABLED",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_SEMCONV_STABILITY_OPT_IN",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("Otel")}


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="no endpoint"),
        pytest.param({"OTEL_TRACES_EXPORTER": "otlp"}, id="an exporter and no endpoint"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "TRUE"},
            id="disabled",
        ),
        pytest.param(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_METRICS_EXPORTER": "none",
            },
            id="no exporters",
        ),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, id="an empty endpoint"),
    ],
)
def test_nothing_is_exported_without_an_endpoint(
    environment: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)

    sink = from_environment()
    sink.increment_counter("http_requests_total", 1, REQUEST)
    sink.record_span("wats.http.request", BEGAN, ENDED, REQUEST)

    assert threads() == set()
    sink.close()


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        pytest.param({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER", id="exporter"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL", id="protocol"
        ),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            id="protocol of one signal",
        ),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "secret:4317"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            id="endpoint",
        ),
        pytest.param({"OTEL_METRIC_EXPORT_INTERVAL": "-5"}, "OTEL_*", id="what only the SDK knows"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused_without_its_value(
    environment: pytest.MonkeyPatch, variables: dict[str, str], refused: str
) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in variables.items():
        environment.setenv(name, value)

    with pytest.raises(ConfigError) as refusal:
        from_environment()

    assert [issue.path for issue in refusal.value.issues] == [refused]
    assert not any(value in str(refusal.value) for value in variables.values())


def test_a_sink_of_the_environment_is_one_that_telemetry_accepts(
    environment: pytest.MonkeyPatch,
) -> None:
    failures: list[Any] = []
    isolated = IsolatedSink(from_environment(), FailureLog("wats.test", log=failures.append))

    isolated.call("record_event", "wats.started", {}, BEGAN)
    isolated.call("set_gauge", "wats_inbox_depth", 1, {"wats.inbox.state": "dead"})

    assert failures == []


def test_the_global_providers_are_left_alone(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    before = trace.get_tracer_provider(), metrics.get_meter_provider()

    from_environment().close()

    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before
