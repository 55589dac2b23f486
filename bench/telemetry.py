"""The cost of counting: wats compared with prometheus_client and the OpenTelemetry SDK.

All three record the same requests, each with a counter of method, route and status class and a
histogram of route and status class. Of wats alone, it also measures a stored webhook, with all
records from its arrival to its handler's return, and the extra cost of a sink. A process of its
own: it reads the time limit of each measurement from stdin and prints the result to stdout.
"""

import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from statistics import median
from typing import Any, TypeAlias

import msgspec
import prometheus_client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from wats.telemetry import (
    Adapter,
    Attributes,
    Board,
    FamilySet,
    Method,
    Outcome,
    RouteLabel,
    StoreOperation,
    Telemetry,
    TelemetrySink,
    UpdateKind,
)
from wats.telemetry.contract.families import (
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    LATENCY_BUCKETS,
    families_of,
)
from wats.telemetry.contract.labels import MAX_TARGETS, Subjects
from wats.telemetry.contract.values import Kind, StatusClass, status_class
from wats.telemetry.metrics.exposition import Exposition
from wats.telemetry.metrics.series import Block, Registry
from wats.telemetry.sinks.buffered import BufferedSink
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.table import route_table

TURNS = 5
SLOW_SECONDS = 0.001
_EVENTS = 1024
_SLOW_EVENTS = 32
_OPENMETRICS = "application/openmetrics-text"


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements.

    Attributes:
        request_ns: By the recorder's name, the cost of recording one HTTP request.
        stored_ns: By the set of families, the cost of recording all of a stored webhook.
        sink_us: By the kind of sink, the cost of one HTTP request with it, in microseconds.
        renders: The cost of rendering every possible series.
    """

    request_ns: dict[str, float]
    stored_ns: dict[str, float]
    sink_us: dict[str, float]
    renders: list["Render"]


class Render(msgspec.Struct, frozen=True, kw_only=True):
    """A scrape of all series of a set of families, in one form.

    Attributes:
        name: The set and the form.
        samples: The number of lines of samples.
        wats_ms: The duration for wats.
        prometheus_client_ms: The duration of `generate_latest` for the same samples.
    """

    name: str
    samples: int
    wats_ms: float
    prometheus_client_ms: float


class Event(msgspec.Struct, frozen=True):
    """One HTTP request, as the web edge records it."""

    route: int
    method: Method
    status: int
    seconds: float


Record: TypeAlias = Callable[[Event], None]


def _routes() -> Sequence[RouteLabel]:
    return route_labels(route_table(example_profile(), groups_enabled=True))


def _events(routes: Sequence[RouteLabel]) -> Sequence[Event]:
    """Return typical requests: mostly successful, mostly fast, on every route."""
    chosen = random.Random(1)
    served = [(place, method) for place, route in enumerate(routes) for method in route.methods]
    return [
        Event(
            *chosen.choice(served),
            chosen.choice((200, 200, 200, 202, 404, 503)),
            chosen.lognormvariate(-6, 1),
        )
        for _ in range(_EVENTS)
    ]


def _nothing(_: Sequence[RouteLabel]) -> Record:
    return lambda event: None


def _telemetry(routes: Sequence[RouteLabel], **more: Any) -> Telemetry:
    telemetry = Telemetry(routes=routes, adapter=Adapter.SQLITE, log=lambda _: None, **more)
    telemetry.use_targets(["shop.handlers:on_message"])
    return telemetry


def _wats(routes: Sequence[RouteLabel], **more: Any) -> Record:
    telemetry = _telemetry(routes, **more)

    def record(event: Event) -> None:
        telemetry.http.request(event.route, event.method, event.status, event.seconds)

    return record


def _wats_for_operators(routes: Sequence[RouteLabel]) -> Record:
    return _wats(routes, families=FamilySet.OPERATOR)


def _prometheus_families() -> tuple[prometheus_client.Counter, prometheus_client.Histogram]:
    registry = prometheus_client.CollectorRegistry()
    requests = prometheus_client.Counter(
        "http_requests", "Requests.", ("method", "route", "status_class"), registry=registry
    )
    durations = prometheus_client.Histogram(
        "http_request_duration_seconds",
        "Durations.",
        ("route", "status_class"),
        registry=registry,
        buckets=LATENCY_BUCKETS,
    )
    return requests, durations


def _prometheus_client(routes: Sequence[RouteLabel]) -> Record:
    requests, durations = _prometheus_families()

    def record(event: Event) -> None:
        route, answer = routes[event.route].template, status_class(event.status)
        requests.labels(event.method, route, answer).inc()
        durations.labels(route, answer).observe(event.seconds)

    return record


def _prometheus_children(routes: Sequence[RouteLabel]) -> Record:
    """Keep the children of both families, which saves their look-up by label."""
    requests, durations = _prometheus_families()
    templates = [route.template for route in routes]
    pairs = list(product(templates, StatusClass))
    counters = {
        (method, *pair): requests.labels(method, *pair) for method in Method for pair in pairs
    }
    histograms = {pair: durations.labels(*pair) for pair in pairs}

    def record(event: Event) -> None:
        route, answer = templates[event.route], status_class(event.status)
        counters[event.method, route, answer].inc()
        histograms[route, answer].observe(event.seconds)

    return record


def _opentelemetry(routes: Sequence[RouteLabel]) -> Record:
    buckets = View(
        instrument_name=HTTP_REQUEST_DURATION.name,
        aggregation=ExplicitBucketHistogramAggregation(LATENCY_BUCKETS),
    )
    provider = MeterProvider(
        metric_readers=[InMemoryMetricReader()], views=[buckets], shutdown_on_exit=False
    )
    meter = provider.get_meter("bench")
    requests = meter.create_counter(HTTP_REQUESTS.name)
    durations = meter.create_histogram(HTTP_REQUEST_DURATION.name)

    def record(event: Event) -> None:
        route = routes[event.route].template
        answer = status_class(event.status).value
        method = event.method.value
        requests.add(
            1,
            {
                "http.route": route,
                "http.request.method": method,
                "http.response.status.class": answer,
            },
        )
        durations.record(event.seconds, {"http.route": route, "http.response.status.class": answer})

    return record


RECORDERS: dict[str, Callable[[Sequence[RouteLabel]], Record]] = {
    "nothing": _nothing,
    "wats": _wats,
    "wats, families: operator": _wats_for_operators,
    "prometheus_client": _prometheus_client,
    "prometheus_client, children kept": _prometheus_children,
    "OpenTelemetry SDK": _opentelemetry,
}


def _request_ns(seconds: float) -> dict[str, float]:
    routes = _routes()
    events = _events(routes)
    records = {name: make(routes) for name, make in RECORDERS.items()}

    def all_of(record: Record) -> Callable[[], None]:
        def run() -> None:
            for event in events:
                record(event)

        return run

    costs = _compare({name: all_of(record) for name, record in records.items()}, seconds)
    return {name: cost / len(events) * 1e9 for name, cost in costs.items()}


def _stored_ns(seconds: float) -> dict[str, float]:
    """Record stored webhooks as the receiver, the store and the dispatcher do."""
    routes = _routes()
    events = _events(routes)
    # Looking up a member of an enum takes longer than some of the measured operations.
    kind, success, sqlite = UpdateKind.MESSAGE, Outcome.SUCCESS, Adapter.SQLITE
    receive, settle = StoreOperation.RECEIVE, StoreOperation.SETTLE

    def record_all(telemetry: Telemetry) -> Callable[[], None]:
        def run() -> None:
            for event in events:
                telemetry.store.operation(sqlite, receive, success, event.seconds)
                telemetry.webhooks.lag(event.seconds)
                telemetry.http.request(event.route, event.method, event.status, event.seconds)
                telemetry.webhooks.dispatched(0, kind, success, event.seconds)
                telemetry.store.operation(sqlite, settle, success, event.seconds)
                telemetry.webhooks.update(kind, success)

        return run

    runs: dict[str, Callable[[], object]] = {
        each.value: record_all(_telemetry(routes, families=each)) for each in FamilySet
    }
    return {name: cost / len(events) * 1e9 for name, cost in _compare(runs, seconds).items()}


class _Sink:
    """Receives calls, and takes time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> None:
        if self._seconds:
            time.sleep(self._seconds)

    def record_histogram(self, name: str, value_seconds: float, attributes: Attributes) -> None:
        if self._seconds:
            time.sleep(self._seconds)


def _sink_us() -> dict[str, float]:
    routes = _routes()
    events = _events(routes)[:_SLOW_EVENTS]
    buffer = BufferedSink(_Sink(SLOW_SECONDS))
    sinks: dict[str, TelemetrySink] = {
        "a sink that does nothing": _Sink(0.0),
        "a sink that takes 1 ms": _Sink(SLOW_SECONDS),
        "the same behind a BufferedSink": buffer,
    }
    costs: dict[str, float] = {}
    for name, sink in sinks.items():
        record = _wats(routes, sink=sink)
        for event in events:
            record(event)  # attributes are made once, and kept
        times: list[float] = []
        for _ in range(TURNS):
            began = time.perf_counter()
            for event in events:
                record(event)
            times.append(time.perf_counter() - began)
        costs[name] = median(times) / len(events) * 1e6
    buffer.close(0.0)
    return costs


def _renders(seconds: float) -> list[Render]:
    subjects = Subjects(
        routes=tuple(_routes()),
        adapter=Adapter.SQLITE,
        targets=tuple(f"shop.handlers:on_{place}" for place in range(MAX_TARGETS)),
    )
    renders: list[Render] = []
    for chosen in FamilySet:
        registry = Registry(families_of(chosen), subjects, board=Board())
        rival = prometheus_client.CollectorRegistry()
        for slots in (registry.slots, registry.gauges):
            for slot in range(len(slots)):
                slots[slot] = 1.0
        for block in registry.blocks:
            _copy(block, rival)
        exposition = Exposition(registry)
        renders += [
            _render(f"{chosen}, text", exposition, "", partial(generate_text, rival), seconds),
            _render(
                f"{chosen}, OpenMetrics",
                exposition,
                _OPENMETRICS,
                partial(generate_openmetrics, rival),
                seconds,
            ),
        ]
    return renders


def _render(
    name: str,
    exposition: Exposition,
    accept: str,
    generate: Callable[[], bytes],
    seconds: float,
) -> Render:
    (samples,) = {_samples(exposition.render(accept).body), _samples(generate())}
    runs: dict[str, Callable[[], object]] = {
        "wats": partial(exposition.render, accept),
        "prometheus_client": generate,
    }
    costs = _compare(runs, seconds)
    return Render(
        name=name,
        samples=samples,
        wats_ms=costs["wats"] * 1e3,
        prometheus_client_ms=costs["prometheus_client"] * 1e3,
    )


def _copy(block: Block, registry: prometheus_client.CollectorRegistry) -> None:
    """Make *block* once more with prometheus_client, with every series touched."""
    family = block.family
    keys = tuple(label.key for label in family.labels)
    options: dict[str, Any] = {"buckets": family.buckets} if family.buckets else {}
    metric = _KINDS[family.kind](family.name, family.help, keys, registry=registry, **options)
    for values in block.series:
        child = metric.labels(*values) if values else metric
        if isinstance(child, prometheus_client.Histogram):
            child.observe(0.02)
        else:
            child.inc()


_KINDS: dict[Kind, Any] = {
    Kind.COUNTER: prometheus_client.Counter,
    Kind.HISTOGRAM: prometheus_client.Histogram,
    Kind.GAUGE: prometheus_client.Gauge,
}


def _samples(exposition: bytes) -> int:
    return sum(not line.startswith(b"#") for line in exposition.splitlines())


def _compare(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the median seconds of each of *runs*, which take turns of *seconds* each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, run) in product(range(TURNS), runs.items()):
        run()
        ended = time.perf_counter()
        until = ended + seconds
        while not times[name] or ended < until:
            began = time.perf_counter()
            run()
            ended = time.perf_counter()
            times[name].append(ended - began)
    return {name: median(each) for name, each in times.items()}


def main() -> None:
    seconds = float(sys.stdin.read())
    prometheus_client.disable_created_metrics()
    gc.disable()
    costs = Costs(
        request_ns=_request_ns(seconds),
        stored_ns=_stored_ns(seconds),
        sink_us=_sink_us(),
        renders=_renders(seconds),
    )
    sys.stdout.buffer.write(msgspec.json.encode(costs))


if __name__ == "__main__":
    main()
