import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from itertools import pairwise
from types import MappingProxyType
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from wats.errors import ConfigError
from wats.telemetry import (
    UNMATCHED,
    Adapter,
    EndpointFamily,
    FamilySet,
    Method,
    Outcome,
    RouteLabel,
    StatusClass,
    StoreOperation,
    Telemetry,
    UpdateKind,
)
from wats.telemetry.vocabulary import LATENCY_BUCKETS, status_class

TEMPLATES = ("/healthz", "/messages/:id", UNMATCHED)
RECORDING = ("http_request", "webhook_update", "graph_operation", "send_outcome", "store_operation")


def telemetry_of_three_routes(**settings: Any) -> Telemetry:
    methods = {"/healthz": (Method.GET,), "/messages/:id": (Method.GET, Method.HEAD)}
    routes = [RouteLabel(template, methods.get(template, ())) for template in TEMPLATES]
    return Telemetry(routes=routes, adapter=Adapter.SQLITE, log=lambda _: None, **settings)


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(telemetry.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def touched(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {series: value for series, value in samples(telemetry).items() if value}


class Sink:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float, Mapping[str, object]]] = []

    def increment_counter(self, name: str, value: int, attributes: Mapping[str, object]) -> None:
        self.calls.append(("counter", name, value, attributes))

    def record_histogram(self, name: str, value: float, attributes: Mapping[str, object]) -> None:
        self.calls.append(("histogram", name, value, attributes))


def test_no_text_can_pass_the_seam():
    methods = inspect.getmembers(Telemetry, inspect.isfunction)
    public = {name: method for name, method in methods if not name.startswith("_")}

    assert set(RECORDING) <= set(public)
    for name, method in public.items():
        hints = get_type_hints(method)
        assert set(inspect.signature(method).parameters) == {"self", *hints} - {"return"}, name
        for parameter in set(hints) - {"return"}:
            assert issubclass(hints[parameter], Enum | int | float), (name, parameter)


durations = st.floats(min_value=0, max_value=1e6)
statuses = st.integers(min_value=0, max_value=700)
recordings = st.one_of(
    st.tuples(
        st.just("http_request"),
        st.integers(0, len(TEMPLATES) - 1),
        st.sampled_from(Method),
        statuses,
        durations,
    ),
    st.tuples(
        st.just("webhook_update"),
        st.sampled_from(UpdateKind),
        st.sampled_from(Outcome),
        st.integers(1, 1000),
    ),
    st.tuples(
        st.just("graph_operation"),
        st.sampled_from(EndpointFamily),
        statuses,
        st.sampled_from(Outcome),
        durations,
    ),
    st.tuples(st.just("send_outcome"), st.sampled_from(EndpointFamily), st.sampled_from(Outcome)),
    st.tuples(
        st.just("store_operation"),
        st.sampled_from(Adapter),
        st.sampled_from(StoreOperation),
        st.sampled_from(Outcome),
        durations,
    ),
)


class Model:
    """The plainest thing that counts the same: a dict from series to number."""

    def __init__(self) -> None:
        self.numbers: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, sample: str, amount: float, **labels: str) -> None:
        self.numbers[sample, tuple(sorted((k, str(v)) for k, v in labels.items()))] += amount

    def http_request(self, route: int, method: Method, status: int, seconds: float) -> None:
        cell = {"route": TEMPLATES[route], "status_class": status_class(status)}
        self.add("http_requests_total", 1, method=method, **cell)
        name = "http_request_duration_seconds"
        for bound in (*LATENCY_BUCKETS, float("inf")):
            le = "+Inf" if bound == float("inf") else f"{bound:g}"
            self.add(f"{name}_bucket", int(seconds <= bound), le=le, **cell)
        self.add(f"{name}_sum", seconds, **cell)
        self.add(f"{name}_count", 1, **cell)

    def webhook_update(self, kind: UpdateKind, outcome: Outcome, count: int) -> None:
        self.add("webhook_normalization_total", count, update_kind=kind, outcome=outcome)

    def graph_operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, _: float
    ) -> None:
        labels = {"outcome": outcome, "status_class": status_class(status)}
        self.add("graph_operations_total", 1, endpoint_family=family, **labels)

    def send_outcome(self, family: EndpointFamily, outcome: Outcome) -> None:
        self.add("send_outcomes_total", 1, endpoint_family=family, outcome=outcome)

    def store_operation(
        self, adapter: Adapter, _: StoreOperation, outcome: Outcome, __: float
    ) -> None:
        self.add("persistence_operations_total", 1, adapter=adapter, outcome=outcome)


@given(st.lists(recordings, max_size=40))
def test_the_exposition_reads_back_as_what_was_recorded(events: list[tuple[Any, ...]]):
    telemetry, model = telemetry_of_three_routes(), Model()

    for name, *arguments in events:
        getattr(telemetry, name)(*arguments)
        getattr(model, name)(*arguments)

    assert touched(telemetry) == {k: v for k, v in model.numbers.items() if v}


junk = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(),
    st.floats(),
    st.lists(st.integers(), max_size=1),
    st.sampled_from([*Method, *UpdateKind, *Outcome]),
)


@given(st.sampled_from(RECORDING), st.data())
def test_nothing_that_is_recorded_raises_or_leaves_the_closed_lists(name: str, data: st.DataObject):
    sink = Sink()
    telemetry = telemetry_of_three_routes(sink=sink)
    known = set(samples(telemetry))
    parameters = list(inspect.signature(getattr(telemetry, name)).parameters)

    getattr(telemetry, name)(*[data.draw(junk, label=parameter) for parameter in parameters])

    enums = (Method, StatusClass, UpdateKind, Outcome, EndpointFamily, Adapter)
    closed = {value.value for values in enums for value in values} | set(TEMPLATES)
    shown = {pair for series in set(samples(telemetry)) - known for pair in series[1]}
    told = {value for call in sink.calls for value in call[3].values()}
    assert {value for key, value in shown if key != "le"} <= closed
    assert {value for value in told if isinstance(value, str)} <= closed
    assert {type(value) for value in told} <= {str, int}


@pytest.mark.parametrize(
    "seconds", [-1.0, float("nan"), float("inf"), 1e12], ids=["negative", "nan", "inf", "ages"]
)
def test_what_is_no_duration_counts_as_none(telemetry: Telemetry, seconds: float):
    telemetry.http_request(0, Method.GET, 200, seconds)

    labels = (("route", "/healthz"), ("status_class", "2xx"))
    assert samples(telemetry)["http_request_duration_seconds_sum", labels] == 0
    assert samples(telemetry)["http_request_duration_seconds_count", labels] == 1


def test_a_duration_on_a_bound_belongs_to_the_bucket_of_that_bound(telemetry: Telemetry):
    telemetry.http_request(0, Method.GET, 200, 0.1)

    found = samples(telemetry)
    buckets = {
        le: found[
            "http_request_duration_seconds_bucket",
            (("le", le), ("route", "/healthz"), ("status_class", "2xx")),
        ]
        for le in ("0.05", "0.1")
    }
    assert buckets == {"0.05": 0, "0.1": 1}


def test_a_route_that_is_not_in_the_table_is_unmatched(telemetry: Telemetry):
    telemetry.http_request(99, Method.GET, 404, 0.0)
    telemetry.http_request(-1, Method.GET, 404, 0.0)

    labels = (("method", "GET"), ("route", UNMATCHED), ("status_class", "4xx"))
    assert samples(telemetry)["http_requests_total", labels] == 2


@pytest.mark.parametrize("name", RECORDING)
def test_what_cannot_be_recorded_is_logged_by_name(
    telemetry: Telemetry, logged: list[Mapping[str, object]], name: str
):
    method = getattr(telemetry, name)

    method(*[[] for _ in inspect.signature(method).parameters])

    assert [(line["event"], line["method"], line["errorName"]) for line in logged] == [
        ("wats.telemetry.error", name, "TypeError")
    ]


def test_the_series_that_people_alert_on_are_there_before_anything_happens(telemetry: Telemetry):
    found = samples(telemetry)

    requests = {labels for name, labels in found if name == "http_requests_total"}
    assert set(found.values()) == {0}
    assert requests == {
        (("method", method), ("route", route), ("status_class", status))
        for route, methods in {
            "/healthz": ("GET", "HEAD"),
            "/messages/:id": ("GET",),
            "/messages": ("GET", "POST"),
        }.items()
        for method in methods
        for status in ("2xx", "4xx", "5xx")
    } | {(("method", "GET"), ("route", UNMATCHED), ("status_class", "4xx"))}
    for family in (
        "webhook_normalization",
        "graph_operations",
        "send_outcomes",
        "persistence_operations",
    ):
        outcomes = {dict(labels)["outcome"] for name, labels in found if name == f"{family}_total"}
        assert outcomes == {"success", "error"}


def test_any_other_series_appears_once_it_was_touched(telemetry: Telemetry):
    before = set(samples(telemetry))

    telemetry.send_outcome(EndpointFamily.GROUPS, Outcome.SKIPPED)

    assert set(samples(telemetry)) - before == {
        ("send_outcomes_total", (("endpoint_family", "groups"), ("outcome", "skipped")))
    }


def test_families_without_a_subject_are_declared_and_not_exposed(
    make_telemetry: Callable[..., Telemetry],
):
    telemetry = make_telemetry(adapter=None)

    assert b"persistence" not in telemetry.render()
    assert b"outbox" not in telemetry.render()
    assert telemetry.metric_families() == (
        "http_requests_total",
        "webhook_normalization_total",
        "graph_operations_total",
        "send_outcomes_total",
        "persistence_operations_total",
        "outbox_processed_total",
        "http_request_duration_seconds",
        "outbox_depth",
    )


def test_the_same_state_gives_the_same_bytes_however_it_came_about(
    make_telemetry: Callable[..., Telemetry],
):
    events = [(0, Method.GET, 200, 0.25), (3, Method.PUT, 404, 0.5), (2, Method.POST, 500, 4.0)]
    forwards, backwards = make_telemetry(), make_telemetry(families=FamilySet.OPERATOR)

    for event in events:
        forwards.http_request(*event)
    for event in reversed(events):
        backwards.http_request(*event)

    assert forwards.render() == backwards.render() == forwards.render()


def test_every_worker_answers_for_all(make_telemetry: Callable[..., Telemetry]):
    telemetry = make_telemetry(rows=2)
    telemetry.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS)

    telemetry.use_row(1)
    telemetry.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS)

    labels = (("endpoint_family", "messages"), ("outcome", "success"))
    assert touched(telemetry) == {("send_outcomes_total", labels): 2}


def test_a_sink_is_told_counter_then_histogram_with_the_full_attributes(
    make_telemetry: Callable[..., Telemetry],
):
    sink = Sink()

    make_telemetry(sink=sink).http_request(1, Method.GET, 404, 0.125)

    attributes = {
        "http.route": "/messages/:id",
        "http.request.method": "GET",
        "http.status_code": 404,
        "http.response.status.class": "4xx",
    }
    assert sink.calls == [
        ("counter", "http_requests_total", 1, attributes),
        ("histogram", "http_request_duration_seconds", 0.125, attributes),
    ]
    assert list(sink.calls[0][3]) == list(attributes)


def test_a_sink_is_told_of_everything_else_as_a_counter(make_telemetry: Callable[..., Telemetry]):
    sink = Sink()
    telemetry = make_telemetry(sink=sink)

    telemetry.webhook_update(UpdateKind.CALL_CONNECT, Outcome.DEDUPED, 3)
    telemetry.webhook_update(UpdateKind.MESSAGE, Outcome.SKIPPED, 0)
    telemetry.graph_operation(EndpointFamily.MESSAGES, 201, Outcome.SUCCESS, 0.1)
    telemetry.send_outcome(EndpointFamily.MESSAGES, Outcome.ERROR)
    telemetry.store_operation(Adapter.POSTGRES, StoreOperation.GET, Outcome.SUCCESS, 0.1)

    assert [
        (name, value, list(attributes.items())) for _, name, value, attributes in sink.calls
    ] == [
        (
            "webhook_normalization_total",
            3,
            [("wats.webhook.update_kind", "callConnect"), ("wats.operation.outcome", "deduped")],
        ),
        (
            "graph_operations_total",
            1,
            [
                ("wats.graph.endpoint_family", "messages"),
                ("http.status_code", 201),
                ("http.response.status.class", "2xx"),
                ("wats.operation.outcome", "success"),
            ],
        ),
        (
            "send_outcomes_total",
            1,
            [("wats.graph.endpoint_family", "messages"), ("wats.operation.outcome", "error")],
        ),
        (
            "persistence_operations_total",
            1,
            [("wats.persistence.adapter", "postgres"), ("wats.operation.outcome", "success")],
        ),
    ]


def test_the_attributes_of_a_series_are_one_object_that_nobody_can_change(
    make_telemetry: Callable[..., Telemetry],
):
    sink = Sink()
    telemetry = make_telemetry(sink=sink)

    for _ in range(3):
        telemetry.http_request(0, Method.GET, 200, 0.1)

    given = [attributes for *_, attributes in sink.calls]
    assert all(one is other for one, other in pairwise(given))
    assert isinstance(given[0], MappingProxyType)


def test_the_registry_has_the_event_when_the_sink_is_told(
    make_telemetry: Callable[..., Telemetry],
):
    seen: list[bool] = []

    class Scraping(Sink):
        def increment_counter(self, *_: object) -> None:
            seen.append(bool(touched(telemetry)))

    telemetry = make_telemetry(sink=Scraping())

    telemetry.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS)

    assert seen == [True]


def test_a_failing_sink_still_gets_the_histogram_and_costs_no_count(
    make_telemetry: Callable[..., Telemetry], logged: list[Mapping[str, object]]
):
    class HalfFailing(Sink):
        def increment_counter(self, *_: object) -> None:
            raise OSError

    sink = HalfFailing()
    telemetry = make_telemetry(sink=sink)

    telemetry.http_request(0, Method.GET, 200, 0.1)

    assert [call[0] for call in sink.calls] == ["histogram"]
    assert len(touched(telemetry)) > 1
    assert [(line["event"], line["errorName"]) for line in logged] == [
        ("wats.telemetry.sink.error", "OSError")
    ]


def test_a_sink_that_is_none_is_refused(make_telemetry: Callable[..., Telemetry]):
    with pytest.raises(ConfigError):
        make_telemetry(sink=object())


@pytest.mark.parametrize(
    "templates",
    [(), ("/healthz",), ("/a", "/a", UNMATCHED), (UNMATCHED, "/a")],
    ids=["none", "no last", "twice", "not last"],
)
def test_a_route_table_that_would_make_wrong_series_is_refused(
    make_telemetry: Callable[..., Telemetry], templates: tuple[str, ...]
):
    with pytest.raises(ValueError, match="unmatched"):
        make_telemetry(routes=[RouteLabel(template) for template in templates])


def test_the_ledger_knows_the_names_that_it_was_given(make_telemetry: Callable[..., Telemetry]):
    telemetry = make_telemetry(error_names=["TemplatePausedError"])

    telemetry.errors.record_name("TemplatePausedError")
    telemetry.errors.record(ValueError())

    assert telemetry.errors.snapshot() == {"TemplatePausedError": 1, "ValueError": 1}
