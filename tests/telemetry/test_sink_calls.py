from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from tests.telemetry.facade_model import TARGETS, samples, telemetry_of_three_routes, touched
from wats.errors import ConfigError
from wats.telemetry import (
    Adapter,
    Attributes,
    AuthSurface,
    EndpointFamily,
    ErrorCategory,
    FinalOutcome,
    InboxState,
    LifecycleEvent,
    Method,
    Outcome,
    RejectionReason,
    StoreOperation,
    Telemetry,
    UpdateKind,
    UpkeepTask,
)
from wats.telemetry.contract.families import SPANS
from wats.testing import CapturingTelemetrySink, FakeClock

REQUEST = {
    "http.route": "/messages/:id",
    "http.request.method": "GET",
    "http.status_code": 404,
    "http.response.status.class": "4xx",
}
CALL = {
    "wats.graph.endpoint_family": "messages",
    "http.status_code": 201,
    "http.response.status.class": "2xx",
    "wats.operation.outcome": "success",
}


class Sink:
    """As little as a sink needs, and the very objects that it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float, Attributes]] = []

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> None:
        self.calls.append(("counter", name, value, attributes))

    def record_histogram(self, name: str, value: float, attributes: Attributes) -> None:
        self.calls.append(("histogram", name, value, attributes))


@pytest.fixture
def sink() -> CapturingTelemetrySink:
    return CapturingTelemetrySink()


@pytest.fixture
def telemetry(sink: CapturingTelemetrySink) -> Telemetry:
    return telemetry_of_three_routes(sink=sink, now=FakeClock())


def test_a_sink_receives_counter_then_histogram_with_the_full_attributes(
    make_telemetry: Callable[..., Telemetry],
):
    sink = Sink()

    make_telemetry(sink=sink).http.request(1, Method.GET, 404, 0.125)

    assert sink.calls == [
        ("counter", "http_requests_total", 1, REQUEST),
        ("histogram", "http_request_duration_seconds", 0.125, REQUEST),
    ]
    assert list(sink.calls[0][3]) == list(REQUEST)


@pytest.mark.parametrize(
    ("record", "name", "value", "attributes"),
    [
        pytest.param(
            lambda telemetry: telemetry.webhooks.update(
                UpdateKind.CALL_CONNECT, Outcome.DEDUPED, 3
            ),
            "webhook_normalization_total",
            3,
            {"wats.webhook.update_kind": "callConnect", "wats.operation.outcome": "deduped"},
            id="webhook_update",
        ),
        pytest.param(
            lambda telemetry: telemetry.webhooks.rejected(RejectionReason.INVALID_JSON),
            "wats_webhook_rejections_total",
            1,
            {"wats.webhook.rejection_reason": "invalid_json"},
            id="webhook_rejected",
        ),
        pytest.param(
            lambda telemetry: telemetry.webhooks.dispatched(
                1, UpdateKind.MESSAGE, Outcome.ERROR, 0.1
            ),
            "wats_dispatch_total",
            1,
            {"wats.dispatch.target": TARGETS[1], "wats.operation.outcome": "error"},
            id="dispatched",
        ),
        pytest.param(
            lambda telemetry: telemetry.graph.operation(
                EndpointFamily.MESSAGES, 201, Outcome.SUCCESS, 0.1
            ),
            "graph_operations_total",
            1,
            CALL,
            id="graph_operation",
        ),
        pytest.param(
            lambda telemetry: telemetry.graph.error(ErrorCategory.THROTTLING),
            "wats_graph_errors_total",
            1,
            {"wats.graph.error_category": "throttling"},
            id="graph_error",
        ),
        pytest.param(
            lambda telemetry: telemetry.messages.send_outcome(
                EndpointFamily.MESSAGES, Outcome.ERROR
            ),
            "send_outcomes_total",
            1,
            {"wats.graph.endpoint_family": "messages", "wats.operation.outcome": "error"},
            id="send_outcome",
        ),
        pytest.param(
            lambda telemetry: telemetry.messages.final_status(
                FinalOutcome.READ, ErrorCategory.UNKNOWN
            ),
            "wats_messages_final_total",
            1,
            {"wats.delivery.outcome": "read", "wats.graph.error_category": "none"},
            id="message_final",
        ),
        pytest.param(
            lambda telemetry: telemetry.http.auth_failure(AuthSurface.API),
            "wats_auth_failures_total",
            1,
            {"wats.auth.surface": "api"},
            id="auth_failure",
        ),
        pytest.param(
            lambda telemetry: telemetry.store.operation(
                Adapter.POSTGRES, StoreOperation.GET, Outcome.SUCCESS, 0.1
            ),
            "persistence_operations_total",
            1,
            {"wats.persistence.adapter": "postgres", "wats.operation.outcome": "success"},
            id="store_operation",
        ),
    ],
)
def test_a_sink_receives_counters(
    sink: CapturingTelemetrySink,
    telemetry: Telemetry,
    record: Callable[[Telemetry], None],
    name: str,
    value: int,
    attributes: dict[str, Any],
):
    record(telemetry)

    assert sink.counters == [(name, value, attributes)]
    assert list(sink.counters[0].attributes) == list(attributes)


def test_a_sink_receives_durations(sink: CapturingTelemetrySink, telemetry: Telemetry):
    telemetry.webhooks.lag(1.5)
    telemetry.messages.delivered(2.5)
    telemetry.graph.operation(EndpointFamily.MESSAGES, 201, Outcome.SUCCESS, 0.5)
    telemetry.store.operation(Adapter.SQLITE, StoreOperation.GET, Outcome.SUCCESS, 0.25)

    asked = {"wats.persistence.adapter": "sqlite", "wats.persistence.operation": "get"}
    assert sink.histograms == [
        ("wats_webhook_lag_seconds", 1.5, {}),
        ("wats_message_delivery_seconds", 2.5, {}),
        ("wats_graph_request_duration_seconds", 0.5, CALL),
        ("wats_store_operation_duration_seconds", 0.25, asked),
    ]


def test_in_the_contract_set_graph_calls_and_store_operations_are_counted_and_not_timed(
    make_telemetry: Callable[..., Telemetry],
):
    sink = Sink()
    telemetry = make_telemetry(sink=sink)

    telemetry.graph.operation(EndpointFamily.MESSAGES, 201, Outcome.SUCCESS, 0.5)
    telemetry.store.operation(Adapter.SQLITE, StoreOperation.GET, Outcome.SUCCESS, 0.25)

    counted = ["graph_operations_total", "persistence_operations_total"]
    assert [(kind, name) for kind, name, *_ in sink.calls] == [("counter", n) for n in counted]
    assert b"_duration_seconds_bucket{endpoint_family" not in telemetry.render().body
    assert b"wats_store_operation" not in telemetry.render().body


def test_a_sink_receives_every_gauge_that_is_set(
    sink: CapturingTelemetrySink, telemetry: Telemetry
):
    telemetry.store.inbox_depth(InboxState.RETRY, 3)
    telemetry.store.inbox_depth(InboxState.RETRY, 0)
    telemetry.store.inbox_oldest_age(1.5)
    telemetry.service.upkeep(UpkeepTask.CHECKPOINT, 1_790_000_000.5)

    assert sink.gauges == [
        ("wats_inbox_depth", 3, {"wats.inbox.state": "retry"}),
        ("wats_inbox_depth", 0, {"wats.inbox.state": "retry"}),
        ("wats_inbox_oldest_age_seconds", 1.5, {}),
        (
            "wats_upkeep_last_success_timestamp_seconds",
            1_790_000_000.5,
            {"wats.upkeep.task": "checkpoint"},
        ),
    ]


def test_a_sink_receives_spans_that_end_now(sink: CapturingTelemetrySink, telemetry: Telemetry):
    telemetry.http.request(1, Method.GET, 404, 0.125)
    telemetry.graph.operation(EndpointFamily.MESSAGES, 201, Outcome.SUCCESS, 0.5)
    telemetry.webhooks.dispatched(0, UpdateKind.STATUS, Outcome.SUCCESS, 2.0)

    dispatch = {
        "wats.dispatch.target": TARGETS[0],
        "wats.operation.outcome": "success",
        "wats.webhook.update_kind": "status",
    }
    end = FakeClock()()
    spans = {
        "wats.http.request": (0.125, REQUEST),
        "wats.graph.request": (0.5, CALL),
        "wats.dispatch": (2.0, dispatch),
    }
    assert [span[:4] for span in sink.spans] == [
        (name, end - timedelta(seconds=seconds), end, attributes)
        for name, (seconds, attributes) in spans.items()
    ]
    assert [tuple(span.attributes) for span in sink.spans] == list(SPANS.values())


def test_a_span_that_took_no_time_that_is_one_begins_when_it_ends(
    sink: CapturingTelemetrySink, telemetry: Telemetry
):
    for seconds in (-1.0, float("nan"), float("inf")):
        telemetry.http.request(0, Method.GET, 200, seconds)
        telemetry.graph.operation(EndpointFamily.MESSAGES, 200, Outcome.SUCCESS, seconds)
        telemetry.webhooks.dispatched(0, UpdateKind.STATUS, Outcome.SUCCESS, seconds)

    assert len(sink.spans) == 9
    assert all(span.start == span.end for span in sink.spans)


def test_spans_are_sent_for_every_configured_set(make_telemetry: Callable[..., Telemetry]):
    sink = CapturingTelemetrySink()
    telemetry = make_telemetry(sink=sink)

    telemetry.webhooks.dispatched(0, UpdateKind.STATUS, Outcome.SUCCESS, 2.0)

    assert [span.name for span in sink.spans] == ["wats.dispatch"]
    assert sink.counters == []


@pytest.mark.parametrize("event", LifecycleEvent)
def test_a_sink_receives_the_lifecycle_of_the_service(
    sink: CapturingTelemetrySink, telemetry: Telemetry, event: LifecycleEvent
):
    telemetry.service.event(event)

    assert sink.events == [(event.value, {}, datetime(2026, 11, 22, 12, tzinfo=UTC))]


OK, FAILED = Outcome.SUCCESS, Outcome.ERROR
READ, WRITE = StoreOperation.GET, StoreOperation.RECEIVE
LOST, BACK = "wats.store.lost", "wats.store.back"


@pytest.mark.parametrize(
    ("questions", "events"),
    [
        pytest.param([(WRITE, OK), (READ, OK)], [], id="a store that is well"),
        pytest.param([(WRITE, FAILED)], [LOST], id="the first failure"),
        pytest.param(
            [(WRITE, FAILED), (WRITE, FAILED), (READ, FAILED)], [LOST], id="reported once"
        ),
        pytest.param([(WRITE, FAILED), (WRITE, OK)], [LOST, BACK], id="the same question answered"),
        pytest.param([(WRITE, FAILED), (READ, OK)], [LOST], id="a full disk can still be read"),
        pytest.param(
            [(WRITE, FAILED), (READ, OK), (WRITE, OK), (READ, FAILED), (READ, OK)],
            [LOST, BACK, LOST, BACK],
            id="lost again",
        ),
        pytest.param([(WRITE, Outcome.SKIPPED)], [], id="no outcome of a store"),
    ],
)
def test_a_sink_receives_the_loss_and_return_of_the_store(
    sink: CapturingTelemetrySink,
    telemetry: Telemetry,
    questions: list[tuple[StoreOperation, Outcome]],
    events: list[str],
):
    for operation, outcome in questions:
        telemetry.store.operation(Adapter.SQLITE, operation, outcome, 0.1)

    assert [event.name for event in sink.events] == events


def test_adding_zero_runs_the_same_code_as_adding_one(
    sink: CapturingTelemetrySink, telemetry: Telemetry
):
    telemetry.http.auth_failure(AuthSurface.TELEMETRY, 0)

    attributes = {"wats.auth.surface": "telemetry"}
    assert sink.counters == [("wats_auth_failures_total", 0, attributes)]
    assert touched(telemetry) == {}


def test_the_attributes_of_a_series_are_one_immutable_object():
    sink = Sink()
    telemetry = telemetry_of_three_routes(sink=sink)

    for _ in range(3):
        telemetry.http.request(0, Method.GET, 200, 0.1)

    attributes_of_calls = [attributes for *_, attributes in sink.calls]
    assert len(attributes_of_calls) == 6
    assert all(each is attributes_of_calls[0] for each in attributes_of_calls)
    assert isinstance(attributes_of_calls[0], MappingProxyType)


def test_the_registry_is_updated_before_the_sink_is_called():
    seen: list[bool] = []

    class Scraping(Sink):
        def increment_counter(self, *_: object) -> None:
            seen.append(bool(touched(telemetry)))

    telemetry = telemetry_of_three_routes(sink=Scraping())

    telemetry.messages.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS)

    assert seen == [True]


def test_a_failing_sink_still_gets_the_histogram_and_costs_no_count(
    logged: list[Mapping[str, object]],
):
    class HalfFailing(Sink):
        def increment_counter(self, *_: object) -> None:
            raise OSError

    sink = HalfFailing()
    telemetry = telemetry_of_three_routes(sink=sink, log=logged.append)

    telemetry.http.request(0, Method.GET, 200, 0.1)

    failures = (("method", "increment_counter"),)
    assert [call[0] for call in sink.calls] == ["histogram"]
    assert samples(telemetry)["wats_sink_failures_total", failures] == 1
    assert [(line["event"], line["errorName"]) for line in logged] == [
        ("wats.telemetry.sink.error", "OSError")
    ]


def test_a_failing_sink_is_logged_in_the_set_of_the_contract_too(
    make_telemetry: Callable[..., Telemetry], logged: list[Mapping[str, object]]
):
    class Failing(Sink):
        def increment_counter(self, *_: object) -> None:
            raise OSError

    telemetry = make_telemetry(sink=Failing())

    telemetry.messages.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS)

    assert [line["errorName"] for line in logged] == ["OSError"]
    assert b"sink_failures" not in telemetry.render().body


def test_every_way_in_which_a_sink_can_fail_is_counted():
    class Failing:
        def fail(self, *_: object) -> None:
            raise OSError

        increment_counter = record_histogram = record_span = record_event = set_gauge = fail

    telemetry = telemetry_of_three_routes(sink=Failing())

    telemetry.http.request(0, Method.GET, 200, 0.1)
    telemetry.store.inbox_depth(InboxState.DEAD, 1)
    telemetry.service.event(LifecycleEvent.STARTED)

    counted = {
        dict(labels)["method"]: value
        for (name, labels), value in samples(telemetry).items()
        if name == "wats_sink_failures_total"
    }
    methods = ("increment_counter", "record_histogram", "record_span", "record_event", "set_gauge")
    assert counted == dict.fromkeys(methods, 1)


def test_a_sink_that_is_none_is_refused(make_telemetry: Callable[..., Telemetry]):
    with pytest.raises(ConfigError):
        make_telemetry(sink=object())
