import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.telemetry.facade_model import (
    RECORDERS,
    RECORDING,
    TARGETS,
    TEMPLATES,
    Model,
    record,
    samples,
    telemetry_of_three_routes,
    touched,
)
from wats.telemetry import (
    UNMATCHED,
    Adapter,
    AuthSurface,
    Board,
    EndpointFamily,
    InboxState,
    Method,
    Outcome,
    RouteLabel,
    StoreOperation,
    Telemetry,
    UpdateKind,
)
from wats.telemetry.contract.families import FAMILIES
from wats.telemetry.contract.values import LabelValue
from wats.testing import CapturingTelemetrySink
from wats.version import __version__

durations = st.floats(min_value=0, max_value=1e6)
numbers = st.integers(min_value=0, max_value=700)


def arguments_of(hints: Sequence[type]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(
        *(
            st.sampled_from(hint)
            if issubclass(hint, Enum)
            else numbers
            if hint is int
            else durations
            for hint in hints
        )
    )


recordings = st.sampled_from(list(RECORDING)).flatmap(
    lambda name: st.tuples(st.just(name), arguments_of(RECORDING[name]))
)


@settings(deadline=None)
@given(st.lists(recordings, max_size=40))
def test_the_exposition_reads_back_as_recorded(
    events: list[tuple[str, tuple[Any, ...]]],
):
    telemetry, model = telemetry_of_three_routes(), Model()

    for name, arguments in events:
        record(telemetry, name, arguments)
        model.record(name, arguments)

    assert touched(telemetry) == {k: v for k, v in model.numbers.items() if v}


junk = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(),
    st.floats(),
    st.lists(st.integers(), max_size=1),
    st.sampled_from([value for of in LabelValue.__subclasses__() for value in of]),
)
CLOSED = {value.value for of in LabelValue.__subclasses__() for value in of}
VERSIONS = {__version__, "unknown", "other"}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(RECORDING)), st.lists(junk, min_size=4, max_size=4)))
)
def test_nothing_that_is_recorded_raises_leaves_the_closed_lists_or_exceeds_the_budget(
    events: list[tuple[str, list[Any]]],
):
    sink = CapturingTelemetrySink()
    telemetry = telemetry_of_three_routes(sink=sink)

    for name, arguments in events:
        record(telemetry, name, arguments[: len(RECORDING[name])])

    found = samples(telemetry)
    shown = {value for _, labels in found for key, value in labels if key != "le"}
    values = {
        value
        for calls in (sink.counters, sink.histograms, sink.gauges, sink.spans)
        for call in calls
        for value in call.attributes.values()
    }
    closed = CLOSED | {*TEMPLATES, *TARGETS} | VERSIONS
    assert shown <= closed
    assert {value for value in values if isinstance(value, str)} <= closed
    assert {type(value) for value in values} <= {str, int}
    assert found["wats_series", (("kind", "live"),)] == len(found) <= telemetry.budget
    assert found["wats_series", (("kind", "budget"),)] == telemetry.budget


@pytest.mark.parametrize(
    "seconds", [-1.0, math.nan, math.inf, 1e12], ids=["negative", "nan", "inf", "ages"]
)
def test_an_invalid_duration_counts_as_zero(seconds: float):
    telemetry = telemetry_of_three_routes()

    telemetry.http.request(0, Method.GET, 200, seconds)
    telemetry.graph.operation(EndpointFamily.MESSAGES, 200, Outcome.SUCCESS, seconds)
    telemetry.store.operation(Adapter.SQLITE, StoreOperation.GET, Outcome.SUCCESS, seconds)
    telemetry.webhooks.lag(seconds)
    telemetry.store.inbox_oldest_age(seconds)

    found = samples(telemetry)
    assert found["wats_inbox_oldest_age_seconds", ()] == 0
    assert sum(value for (name, _), value in found.items() if name.endswith("_seconds_sum")) == 0
    assert sum(value for (name, _), value in found.items() if name.endswith("_seconds_count")) == 4


@pytest.mark.parametrize("count", [0, -1, math.nan, math.inf, 10**12])
def test_an_invalid_count_is_not_counted(count: float):
    telemetry = telemetry_of_three_routes()

    telemetry.webhooks.update(UpdateKind.MESSAGE, Outcome.SUCCESS, count)  # type: ignore[arg-type]
    telemetry.http.auth_failure(AuthSurface.API, count)  # type: ignore[arg-type]

    assert touched(telemetry) == {}


def test_a_route_that_is_not_in_the_table_is_unmatched(telemetry: Telemetry):
    telemetry.http.request(99, Method.GET, 404, 0.0)
    telemetry.http.request(-1, Method.GET, 404, 0.0)

    labels = (("method", "GET"), ("route", UNMATCHED), ("status_class", "4xx"))
    assert samples(telemetry)["http_requests_total", labels] == 2


@pytest.mark.parametrize("name", RECORDING)
def test_a_value_that_cannot_be_recorded_is_logged_by_name(
    logged: list[Mapping[str, object]], name: str
):
    telemetry = telemetry_of_three_routes(sink=CapturingTelemetrySink(), log=logged.append)

    record(telemetry, name, [[] for _ in RECORDING[name]])

    flow, method = name.split(".")
    named = f"{RECORDERS[flow].__name__}.{method}"
    assert [(line["event"], line["method"]) for line in logged] == [("wats.telemetry.error", named)]
    assert {line["errorName"] for line in logged} <= {"TypeError", "ValueError"}


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
    ended = {"success", "error"}
    for family, expected in {
        "webhook_normalization": {*ended, "skipped"},
        "graph_operations": ended,
        "send_outcomes": ended,
        "persistence_operations": ended,
    }.items():
        outcomes = {dict(labels)["outcome"] for name, labels in found if name == f"{family}_total"}
        assert outcomes == expected


def test_every_counter_and_histogram_of_the_operators_is_there_before_anything_happens():
    names = {name for name, _ in samples(telemetry_of_three_routes())}

    unset = {
        "wats_inbox_depth",
        "wats_inbox_oldest_age_seconds",
        "outbox_depth",
        "wats_outbox_oldest_age_seconds",
        "wats_outbox_fill_ratio",
        "wats_outbox_paused",
        "wats_consumer_oldest_age_seconds",
        "wats_circuit_open",
        "wats_upkeep_last_success_timestamp_seconds",
    }
    expected = {family.name for family in FAMILIES} - unset
    shown = {
        name.removesuffix("_bucket") for name in names if not name.endswith(("_sum", "_count"))
    }
    assert shown == expected


def test_any_other_series_appears_once_it_was_touched(telemetry: Telemetry):
    before = set(samples(telemetry))

    telemetry.messages.send_outcome(EndpointFamily.GROUPS, Outcome.SKIPPED)

    assert set(samples(telemetry)) - before == {
        ("send_outcomes_total", (("endpoint_family", "groups"), ("outcome", "skipped")))
    }


def test_families_without_a_subject_are_declared_and_not_exposed(
    make_telemetry: Callable[..., Telemetry],
):
    telemetry = make_telemetry(adapter=None)

    assert b"persistence" not in telemetry.render().body
    assert b"outbox" not in telemetry.render().body
    assert telemetry.metric_families() == (
        "http_requests_total",
        "webhook_normalization_total",
        "graph_operations_total",
        "send_outcomes_total",
        "persistence_operations_total",
        "outbox_processed_total",
        "wats_webhook_rejections_total",
        "wats_graph_errors_total",
        "http_request_duration_seconds",
        "outbox_depth",
    )


def test_a_series_without_a_subject_or_of_another_set_is_neither_recorded_nor_sent(
    make_telemetry: Callable[..., Telemetry],
):
    sink = CapturingTelemetrySink()
    telemetry = make_telemetry(adapter=None, sink=sink)
    empty = telemetry.render()

    telemetry.store.operation(Adapter.SQLITE, StoreOperation.GET, Outcome.SUCCESS, 0.1)
    telemetry.webhooks.lag(1.0)
    telemetry.messages.delivered(1.0)
    telemetry.http.auth_failure(AuthSurface.API)
    telemetry.store.inbox_depth(InboxState.DEAD, 3)

    assert telemetry.render() == empty
    assert sink == CapturingTelemetrySink()


def test_nothing_is_dispatched_in_the_set_of_the_contract(telemetry: Telemetry):
    empty = telemetry.render()

    telemetry.webhooks.dispatched(0, UpdateKind.MESSAGE, Outcome.SUCCESS, 1.0)

    assert telemetry.render() == empty


def test_the_same_state_gives_the_same_bytes_in_any_order_of_events(
    make_telemetry: Callable[..., Telemetry],
):
    events = [(0, Method.GET, 200, 0.25), (3, Method.PUT, 404, 0.5), (2, Method.POST, 500, 4.0)]
    forwards, backwards = make_telemetry(), make_telemetry()

    for event in events:
        forwards.http.request(*event)
    for event in reversed(events):
        backwards.http.request(*event)

    assert forwards.render() == backwards.render() == forwards.render()


def test_every_worker_exposes_the_counts_of_all():
    board = Board(2)
    workers = [telemetry_of_three_routes(board=board, row=row) for row in range(2)]

    for worker in workers:
        worker.messages.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS)
    workers[0].store.inbox_depth(InboxState.DEAD, 3)
    workers[1].errors.record(ValueError())

    labels = (("endpoint_family", "messages"), ("outcome", "success"))
    expected = {("send_outcomes_total", labels): 2, ("wats_inbox_depth", (("state", "dead"),)): 3}
    assert [touched(worker) for worker in workers] == [expected, expected]
    assert [worker.errors.snapshot() for worker in workers] == [{"ValueError": 1}] * 2


def test_a_replacement_worker_continues_the_counts():
    board = Board()
    telemetry_of_three_routes(board=board).messages.send_outcome(
        EndpointFamily.MEDIA, Outcome.ERROR
    )

    replacing = telemetry_of_three_routes(board=board)
    replacing.messages.send_outcome(EndpointFamily.MEDIA, Outcome.ERROR)

    labels = (("endpoint_family", "media"), ("outcome", "error"))
    assert touched(replacing) == {("send_outcomes_total", labels): 2}


def test_the_current_number_of_workers_is_exposed():
    board = Board(4)
    telemetry = telemetry_of_three_routes(board=board)

    before = samples(telemetry)["wats_worker_processes", ()]
    board.workers = 3

    assert (before, samples(telemetry)["wats_worker_processes", ()]) == (1, 3)


def test_a_row_outside_shared_memory_is_refused():
    with pytest.raises(IndexError):
        telemetry_of_three_routes(board=Board(2), row=2)


def test_names_of_handlers_beyond_the_31st_are_other():
    telemetry = telemetry_of_three_routes()
    names = [f"shop:handler_{place}" for place in range(40)]

    telemetry.use_targets(names)
    for target in range(-1, 40):
        telemetry.webhooks.dispatched(target, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

    counts = {
        dict(labels)["target"]: value
        for (name, labels), value in touched(telemetry).items()
        if name == "wats_dispatch_total"
    }
    assert counts == {**dict.fromkeys(names[:31], 1), "other": 10}


def test_a_handler_keeps_its_counts_when_the_names_are_set_again():
    telemetry = telemetry_of_three_routes()
    telemetry.webhooks.dispatched(1, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

    telemetry.use_targets(TARGETS)

    labels = (("outcome", "success"), ("target", TARGETS[1]))
    assert touched(telemetry) == {("wats_dispatch_total", labels): 1}


def test_a_name_is_a_module_and_a_qualified_name_or_that_of_a_service():
    of_code = ["shop.orders:Orders.take", "shop:make.<locals>.handle", "shop:<lambda>"]
    names = [*of_code, "order-service", "unused-30", "other"]
    telemetry = telemetry_of_three_routes()

    telemetry.use_targets(names)

    shown = {dict(labels).get("target") for _, labels in samples(telemetry)} - {None}
    assert shown == set(names)


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
