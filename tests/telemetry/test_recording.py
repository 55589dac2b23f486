from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import pytest

from tests.telemetry.facade_model import (
    RECORDING,
    TEMPLATES,
    record,
    samples,
    telemetry_of_three_routes,
    touched,
)
from wats.telemetry import (
    OTEL_ATTR,
    UNMATCHED,
    Adapter,
    AuthSurface,
    Board,
    EndpointFamily,
    FamilySet,
    Method,
    Outcome,
    RouteLabel,
    StoreOperation,
    Telemetry,
    UpdateKind,
)
from wats.telemetry.contract.families import FAMILIES, MESSAGES_FINAL, SEND_OUTCOMES, Family
from wats.telemetry.contract.labels import OUTCOME, UPDATE_KIND, Subjects
from wats.telemetry.contract.values import Kind, LabelValue
from wats.telemetry.metrics.exposition import Exposition
from wats.telemetry.metrics.series import Registry
from wats.telemetry.recording import (
    MAX_KNOWN,
    Described,
    Destination,
    Lookup,
    Recorder,
    counted,
)
from wats.telemetry.sinks.isolation import FailureLog, IsolatedSink
from wats.testing import CapturingTelemetrySink, FakeClock

CONTRACT: Mapping[str, Any] = {"families": FamilySet.CONTRACT}


class Hostile:
    """Fails at whatever it is asked, with the error that a missing key gives."""

    def fail(self, *_: object) -> Any:
        raise KeyError

    __hash__ = __eq__ = __le__ = __lt__ = __ge__ = __gt__ = __float__ = __index__ = fail


class HostileNumber(float):
    """A number that is fine until it is compared."""

    def fail(self, *_: object) -> Any:
        raise KeyError

    __le__ = __lt__ = __ge__ = __gt__ = fail
    __hash__ = float.__hash__


def lookups(telemetry: Telemetry) -> list[Lookup]:
    recorders = [each for each in vars(telemetry).values() if isinstance(each, Recorder)]
    return [lookup for recorder in recorders for lookup in recorder.lookups.values()]


def valid_arguments(name: str) -> list[Any]:
    return [next(iter(of)) if issubclass(of, LabelValue) else 1 for of in RECORDING[name]]


@pytest.mark.parametrize("settings", [{}, CONTRACT, {"sink": CapturingTelemetrySink()}])
@pytest.mark.parametrize("hostile", [Hostile(), HostileNumber(1.0)])
@pytest.mark.parametrize("name", RECORDING)
def test_an_argument_that_fails_when_it_is_used_does_not_raise(
    name: str, hostile: object, settings: Mapping[str, Any]
):
    telemetry = telemetry_of_three_routes(**settings)
    valid = valid_arguments(name)

    for place in range(len(valid)):
        for _ in range(2):  # before and after the other values are known
            record(telemetry, name, [*valid[:place], hostile, *valid[place + 1 :]])
        record(telemetry, name, valid)


GAUGES = {
    *("store.inbox_depth", "store.inbox_oldest_age", "service.upkeep"),
    *("store.outbox_depth", "store.outbox_oldest_age"),
    *("store.outbox_fill", "store.outbox_paused"),
    *("webhooks.consumer_oldest_age", "webhooks.circuit_open"),
}


@pytest.mark.parametrize("name", RECORDING)
def test_an_event_is_counted_once_whether_its_values_are_known_or_not(name: str):
    telemetry = telemetry_of_three_routes()
    record(telemetry, name, valid_arguments(name))
    first = touched(telemetry)

    record(telemetry, name, valid_arguments(name))

    is_gauge = name in GAUGES
    times = 1 if is_gauge else 2
    assert touched(telemetry) == {series: value * times for series, value in first.items()}


def test_a_value_outside_its_list_is_not_kept():
    telemetry = telemetry_of_three_routes(sink=CapturingTelemetrySink())

    for junk in ("+4915112345678", 4915112345678, 0.5, None, (1, 2), True):
        for name in RECORDING:
            arguments = [junk if of is not float else 0.1 for of in RECORDING[name]]
            record(telemetry, name, arguments)

    kept = {value for each in lookups(telemetry) for values in each.slots for value in values}
    assert {type(value) for value in kept if not isinstance(value, LabelValue)} <= {
        int,
        type(None),
    }
    assert {value for value in kept if type(value) is int} <= {*range(-1, len(TEMPLATES)), 404}


def test_a_text_that_equals_a_value_counts_for_it_and_is_replaced():
    telemetry = telemetry_of_three_routes()

    telemetry.messages.send_outcome("messages", "success")  # type: ignore[arg-type]

    assert list(telemetry.messages.lookups["send_outcome"].slots) == [
        (EndpointFamily.MESSAGES, Outcome.SUCCESS)
    ]
    kept = next(iter(telemetry.messages.lookups["send_outcome"].slots))
    assert [type(value) for value in kept] == [EndpointFamily, Outcome]


@pytest.mark.parametrize("status", [HTTPStatus.OK, 200.0], ids=["enum", "float"])
def test_a_number_that_equals_a_status_counts_for_it(status: Any):
    telemetry = telemetry_of_three_routes()

    telemetry.http.request(0, Method.GET, status, 0.1)

    labels = (("method", "GET"), ("route", TEMPLATES[0]), ("status_class", "2xx"))
    assert samples(telemetry)["http_requests_total", labels] == 1


def test_the_combinations_of_values_that_are_kept_have_a_limit():
    telemetry = telemetry_of_three_routes()
    statuses, kinds = range(1000), (*EndpointFamily,)

    for family in kinds:
        for status in statuses:
            telemetry.graph.operation(family, status, Outcome.ERROR, 0.1)

    assert len(telemetry.graph.lookups["operation"].slots) <= MAX_KNOWN
    counted = [
        value for (name, _), value in samples(telemetry).items() if name == "graph_operations_total"
    ]
    assert sum(counted) == len(kinds) * len(statuses)


def test_the_first_404_of_every_path_takes_the_same_code():
    known = telemetry_of_three_routes().http.lookups["request"].slots

    assert set(known) == {
        (route, method, 404) for route in range(len(TEMPLATES)) for method in Method
    }


def test_an_event_without_a_reader_does_no_look_up():
    telemetry = telemetry_of_three_routes(**CONTRACT)

    telemetry.webhooks.dispatched(0, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)
    telemetry.webhooks.lag(0.1)
    telemetry.http.auth_failure(AuthSurface.API)

    unread = (
        telemetry.webhooks.lookups["dispatched"],
        telemetry.webhooks.lookups["lag"],
        telemetry.http.lookups["auth_failure"],
    )
    assert [dict(each.slots) for each in unread] == [{}, {}, {}]


def test_an_event_that_is_only_sent_counts_for_no_series():
    telemetry = telemetry_of_three_routes(sink=CapturingTelemetrySink(), **CONTRACT)
    before = samples(telemetry)

    telemetry.webhooks.dispatched(0, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

    assert samples(telemetry) == before


def test_an_operation_of_the_store_can_be_passed_on_as_a_function():
    telemetry = telemetry_of_three_routes()
    observe = telemetry.store.operation

    observe(Adapter.SQLITE, StoreOperation.GET, Outcome.SUCCESS, 0.1)

    labels = (("adapter", "sqlite"), ("outcome", "success"))
    assert samples(telemetry)["persistence_operations_total", labels] == 1


def test_an_event_with_too_many_values_is_refused():
    class Wide(Recorder):
        @counted(MESSAGES_FINAL)
        def event(
            self, one: UpdateKind, two: Outcome, three: Adapter, count: int = 1, /
        ) -> Described:
            return {}

    with pytest.raises(TypeError, match="values"):
        Wide(telemetry_of_three_routes().graph.destination)


def test_an_event_that_lacks_an_attribute_of_its_family_is_logged_and_not_counted(
    logged: list[Mapping[str, object]],
):
    class Lacking(Recorder):
        @counted(SEND_OUTCOMES)
        def event(self, outcome: Outcome, count: int = 1, /) -> Described:
            return {}

    telemetry = telemetry_of_three_routes(log=logged.append)
    Lacking(telemetry.graph.destination).event(Outcome.SUCCESS)

    assert [line["errorName"] for line in logged] == ["KeyError"]
    assert touched(telemetry) == {}


def test_a_new_family_needs_no_more_than_a_method_of_a_recorder():
    replies = Family(
        name="wats_replies_total",
        kind=Kind.COUNTER,
        help="Replies.",
        labels=(OUTCOME, UPDATE_KIND),
        attributes=(OTEL_ATTR.OPERATION_OUTCOME,),
    )

    class ReplyRecorder(Recorder):
        @counted(replies)
        def reply(self, kind: UpdateKind, outcome: Outcome, count: int = 1, /) -> Described:
            return {OTEL_ATTR.WEBHOOK_UPDATE_KIND: kind, OTEL_ATTR.OPERATION_OUTCOME: outcome}

    subjects = Subjects(routes=(RouteLabel(UNMATCHED),), adapter=None)
    registry = Registry((*FAMILIES, replies), subjects, board=Board())
    ignored: list[object] = []
    failures = FailureLog("wats.telemetry.error", log=ignored.append)
    sink = CapturingTelemetrySink()
    destination = Destination(
        registry=registry, sink=IsolatedSink(sink, failures), failures=failures, now=FakeClock()
    )

    ReplyRecorder(destination).reply(UpdateKind.MESSAGE, Outcome.SUCCESS, 2)

    exposed = Exposition(registry).render().body.decode().splitlines()
    assert 'wats_replies_total{outcome="success",update_kind="message"} 2' in exposed
    assert sink.counters == [("wats_replies_total", 2, {"wats.operation.outcome": "success"})]
    assert ignored == []
