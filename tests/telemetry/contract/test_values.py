import pytest

from wats.telemetry.contract.values import (
    OPERATOR_ATTR,
    OTEL_ATTR,
    ErrorCategory,
    LabelValue,
    LifecycleEvent,
    SinkMethod,
    SpanName,
    StatusClass,
    UpdateKind,
    status_class,
)

CONTRACT_ATTRIBUTES = {
    "http.route",
    "http.request.method",
    "http.status_code",
    "http.response.status.class",
    "wats.webhook.update_kind",
    "wats.graph.endpoint_family",
    "wats.persistence.adapter",
    "wats.operation.outcome",
}


def constants(of: type) -> set[str]:
    return {value for name, value in vars(of).items() if name.isupper()}


def test_the_contract_has_eight_attribute_keys():
    assert constants(OTEL_ATTR) == CONTRACT_ATTRIBUTES


def test_no_attribute_key_of_the_operators_is_one_of_the_contract():
    assert constants(OPERATOR_ATTR).isdisjoint(CONTRACT_ATTRIBUTES)


def test_the_first_update_kinds_keep_their_order_for_dashboards():
    known = (
        "message status account unknown callConnect callTerminate callStatus groupLifecycle"
        " groupParticipants groupSettings groupStatus userPreferences system chatOpened"
    )

    assert [kind.value for kind in UpdateKind][:14] == known.split()


def test_every_label_value_is_found_by_its_text():
    for values in LabelValue.__subclasses__():
        by_member = {member: member.value for member in values}
        assert [by_member[value] for value in map(str, values)] == [m.value for m in values]


def test_error_categories_can_be_quoted_in_a_query():
    assert all(category.value.replace("_", "").isalpha() for category in ErrorCategory)


def test_the_names_sent_to_sinks_are_exactly_these():
    assert [*SpanName, *LifecycleEvent] == [
        "wats.http.request",
        "wats.graph.request",
        "wats.dispatch",
        "wats.started",
        "wats.draining",
        "wats.worker.replaced",
        "wats.store.lost",
        "wats.store.back",
    ]
    assert list(SinkMethod) == [
        "increment_counter",
        "record_histogram",
        "record_span",
        "record_event",
        "set_gauge",
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, StatusClass.SUCCESS),
        (299, StatusClass.SUCCESS),
        (304, StatusClass.REDIRECTION),
        (404, StatusClass.CLIENT_ERROR),
        (503, StatusClass.SERVER_ERROR),
        (101, StatusClass.UNKNOWN),
        (0, StatusClass.UNKNOWN),
        (-404, StatusClass.UNKNOWN),
        (600, StatusClass.UNKNOWN),
    ],
)
def test_a_status_has_the_class_of_its_first_digit(status: int, expected: StatusClass):
    assert status_class(status) is expected
