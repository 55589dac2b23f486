import pytest

from wats.telemetry.vocabulary import (
    FAMILIES,
    OTEL_ATTR,
    ErrorCategory,
    Family,
    FamilySet,
    Kind,
    LabelValue,
    Method,
    StatusClass,
    UpdateKind,
    families_of,
    status_class,
)

FORBIDDEN = (
    *("phone", "recipient", "sender", "message", "body", "token", "secret", "wamid"),
    *("filepath", "env", "config_path", "stack"),
)
ATTRIBUTES = {
    "http.route",
    "http.request.method",
    "http.status_code",
    "http.response.status.class",
    "wats.webhook.update_kind",
    "wats.graph.endpoint_family",
    "wats.persistence.adapter",
    "wats.operation.outcome",
}


def test_the_families_of_the_contract_are_these_and_no_others():
    assert {(f.name, f.kind.value, tuple(label.key for label in f.labels)) for f in FAMILIES} == {
        ("http_requests_total", "counter", ("method", "route", "status_class")),
        ("http_request_duration_seconds", "histogram", ("route", "status_class")),
        ("webhook_normalization_total", "counter", ("outcome", "update_kind")),
        ("graph_operations_total", "counter", ("endpoint_family", "outcome", "status_class")),
        ("send_outcomes_total", "counter", ("endpoint_family", "outcome")),
        ("persistence_operations_total", "counter", ("adapter", "outcome")),
        ("outbox_processed_total", "counter", ("outcome",)),
        ("outbox_depth", "gauge", ("adapter", "state")),
    }


def test_a_sink_can_receive_eight_attribute_keys():
    keys = {value for name, value in vars(OTEL_ATTR).items() if name.isupper()}

    assert keys == ATTRIBUTES
    assert {key for family in FAMILIES for key in family.attributes} == ATTRIBUTES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_are_sorted_closed_and_never_named_for_what_is_private(family: Family):
    keys = [label.key for label in family.labels]

    assert keys == sorted(keys)
    assert not [key for key in keys for word in FORBIDDEN if word in key]
    assert all(label.other in label.values for label in family.labels if label.key != "route")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_only_a_histogram_has_buckets_and_they_rise(family: Family):
    assert bool(family.buckets) == (family.kind is Kind.HISTOGRAM)
    assert list(family.buckets) == sorted(set(family.buckets))


def test_both_sets_hold_the_contract():
    assert families_of(FamilySet.CONTRACT) == FAMILIES
    assert families_of(FamilySet.OPERATOR) == FAMILIES


def test_the_first_update_kinds_are_those_that_dashboards_already_know():
    known = (
        "message status account unknown callConnect callTerminate callStatus groupLifecycle"
        " groupParticipants groupSettings groupStatus userPreferences system chatOpened"
    )

    assert [kind.value for kind in UpdateKind][:14] == known.split()


def test_every_label_value_is_found_by_its_text():
    for values in LabelValue.__subclasses__():
        by_member = {member: member.value for member in values}
        assert [by_member[value] for value in map(str, values)] == [m.value for m in values]


def test_error_categories_are_words_that_a_query_can_quote():
    assert all(category.value.replace("_", "").isalpha() for category in ErrorCategory)


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


def test_clamping_gives_plain_text_of_the_closed_list():
    label = next(label for label in FAMILIES[0].labels if label.key == "method")

    clamped = [label.clamp(value) for value in (Method.GET, "GET", "PROPFIND", "get", 7, None)]

    assert clamped == ["GET", "GET", "unknown", "unknown", "unknown", "unknown"]
    assert {type(value) for value in clamped} == {str}
