"""What it costs to count: wats beside prometheus_client and the OpenTelemetry SDK.

All three record the same requests, each with a counter of method, route and status class and a
histogram of route and status class. A process of its own: how long each may take comes in on
stdin, the result goes out on stdout.
"""

import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median
from typing import TypeAlias

import msgspec
import prometheus_client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from wats.telemetry import Adapter, FamilySet, Method, RouteLabel, Telemetry
from wats.telemetry.exposition import Exposition
from wats.telemetry.registry import Block, Registry
from wats.telemetry.vocabulary import (
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    LATENCY_BUCKETS,
    Kind,
    StatusClass,
    Subjects,
    families_of,
    status_class,
)
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.routes import route_table

TURNS = 5
_EVENTS = 1024


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        request_ns: By the recorder's name, what it costs to record one HTTP request.
        render_ms: By the recorder's name, what it costs to render every series once.
        samples: How many lines of samples that is.
    """

    request_ns: dict[str, float]
    render_ms: dict[str, float]
    samples: int


class Event(msgspec.Struct, frozen=True):
    """One HTTP request, as the web edge knows it when it has answered."""

    route: int
    method: Method
    status: int
    seconds: float


Record: TypeAlias = Callable[[Event], None]


def _routes() -> Sequence[RouteLabel]:
    return route_labels(route_table(example_profile(), groups_enabled=True))


def _events(routes: Sequence[RouteLabel]) -> Sequence[Event]:
    """Return requests as they come: mostly served, mostly fast, on every route."""
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


def _wats(routes: Sequence[RouteLabel]) -> Record:
    telemetry = Telemetry(routes=routes, adapter=Adapter.SQLITE)

    def record(event: Event) -> None:
        telemetry.http_request(event.route, event.method, event.status, event.seconds)

    return record


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
    """Keep the children of both families, which spares their look-up by label."""
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


RECORDERS = {
    "wats": _wats,
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


def _render_ms(seconds: float) -> tuple[dict[str, float], int]:
    subjects = Subjects(routes=tuple(_routes()), adapter=Adapter.SQLITE)
    registry = Registry(families_of(FamilySet.OPERATOR), subjects)
    for slot in range(len(registry.slots)):
        registry.slots[slot] = 1.0
    exposition = Exposition(registry)
    rival = prometheus_client.CollectorRegistry()
    for block in registry.blocks:
        if block.exposed:
            _copy(block, rival)
    renders: dict[str, Callable[[], object]] = {
        "wats": exposition.render,
        "prometheus_client": lambda: prometheus_client.generate_latest(rival),
    }
    samples = {_samples(exposition.render()), _samples(prometheus_client.generate_latest(rival))}
    if len(samples) > 1:
        msg = "Both must render the same number of samples."
        raise RuntimeError(msg)
    costs = _compare(renders, seconds)
    return {name: cost * 1e3 for name, cost in costs.items()}, samples.pop()


def _copy(block: Block, registry: prometheus_client.CollectorRegistry) -> None:
    """Make *block* once more with prometheus_client, every series of it touched."""
    family = block.family
    keys = tuple(label.key for label in family.labels)
    if family.kind is Kind.HISTOGRAM:
        histogram = prometheus_client.Histogram(
            family.name, family.help, keys, registry=registry, buckets=family.buckets
        )
        for values in block.series():
            histogram.labels(*values).observe(0.02)
    else:
        counter = prometheus_client.Counter(family.name, family.help, keys, registry=registry)
        for values in block.series():
            counter.labels(*values).inc()


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
    request_ns = _request_ns(seconds)
    render_ms, samples = _render_ms(seconds)
    costs = Costs(request_ns=request_ns, render_ms=render_ms, samples=samples)
    sys.stdout.buffer.write(msgspec.json.encode(costs))


if __name__ == "__main__":
    main()
