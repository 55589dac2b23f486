import pytest

from wats.telemetry import Adapter, RouteLabel
from wats.telemetry.contract.families import (
    CONSUMER_BUCKETS,
    FAMILIES,
    LAG_BUCKETS,
    LATENCY_BUCKETS,
    SERIES,
    SPANS,
    Family,
    families_of,
)
from wats.telemetry.contract.labels import Subjects
from wats.telemetry.contract.values import OPERATOR_ATTR, OTEL_ATTR, FamilySet, Kind

FORBIDDEN = (
    *("phone", "recipient", "sender", "message", "body", "token", "secret", "wamid"),
    *("filepath", "env", "config_path", "stack"),
)

CONTRACT = {
    ("http_requests_total", "counter", ("method", "route", "status_class")),
    ("http_request_duration_seconds", "histogram", ("route", "status_class")),
    ("webhook_normalization_total", "counter", ("outcome", "update_kind")),
    ("graph_operations_total", "counter", ("endpoint_family", "outcome", "status_class")),
    ("send_outcomes_total", "counter", ("endpoint_family", "outcome")),
    ("persistence_operations_total", "counter", ("adapter", "outcome")),
    ("outbox_processed_total", "counter", ("outcome",)),
    ("outbox_depth", "gauge", ("adapter", "state")),
    ("wats_graph_errors_total", "counter", ("error_category",)),
    ("wats_webhook_rejections_total", "counter", ("reason",)),
}
OPERATOR = {
    ("wats_webhook_lag_seconds", "histogram", ()),
    ("wats_inbox_depth", "gauge", ("state",)),
    ("wats_inbox_oldest_age_seconds", "gauge", ()),
    ("wats_dispatch_total", "counter", ("outcome", "target")),
    ("wats_consumer_lag_seconds", "histogram", ("target",)),
    ("wats_consumer_oldest_age_seconds", "gauge", ("target",)),
    ("wats_circuit_open", "gauge", ("target",)),
    ("wats_outbox_oldest_age_seconds", "gauge", ()),
    ("wats_outbox_fill_ratio", "gauge", ()),
    ("wats_outbox_paused", "gauge", ()),
    ("wats_messages_final_total", "counter", ("error_category", "outcome")),
    ("wats_message_delivery_seconds", "histogram", ()),
    ("wats_graph_request_duration_seconds", "histogram", ("endpoint_family", "status_class")),
    ("wats_store_operation_duration_seconds", "histogram", ("adapter", "operation")),
    ("wats_upkeep_last_success_timestamp_seconds", "gauge", ("task",)),
    ("wats_auth_failures_total", "counter", ("surface",)),
    ("wats_sink_failures_total", "counter", ("method",)),
    ("wats_worker_processes", "gauge", ()),
    ("wats_worker_replacements_total", "counter", ()),
    ("wats_build_info", "gauge", ("graph_api_version", "version")),
    ("wats_series", "gauge", ("kind",)),
}


@pytest.fixture
def subjects(routes: tuple[RouteLabel, ...]) -> Subjects:
    return Subjects(routes=routes, adapter=Adapter.SQLITE, targets=("shop.handlers:on_order",))


def outlines(chosen: FamilySet) -> set[tuple[str, str, tuple[str, ...]]]:
    return {
        (family.name, family.kind.value, tuple(label.key for label in family.labels))
        for family in families_of(chosen)
    }


def test_the_families_of_the_contract_are_these_and_no_others():
    assert outlines(FamilySet.CONTRACT) == CONTRACT


def test_operators_can_have_these_as_well_and_no_others():
    assert outlines(FamilySet.OPERATOR) == CONTRACT | OPERATOR


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_are_sorted_closed_and_never_named_for_personal_data(
    family: Family, subjects: Subjects
):
    keys = [label.key for label in family.labels]

    assert keys == sorted(keys)
    assert not [key for key in keys for word in FORBIDDEN if word in key]
    assert all(label.other in label.values_of(subjects) for label in family.labels)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sinks_receive_every_label_of_a_family(family: Family):
    if family.attributes is not None:
        assert {label.attribute for label in family.labels} <= set(family.attributes)
        assert not any(word in key for key in family.attributes for word in FORBIDDEN)


def test_sinks_receive_only_keys_that_have_a_constant():
    constants = {
        value
        for of in (OTEL_ATTR, OPERATOR_ATTR)
        for name, value in vars(of).items()
        if name.isupper()
    }

    keys = {key for family in FAMILIES for key in family.attributes or ()}

    assert keys == constants
    assert {key for keys in SPANS.values() for key in keys} <= constants


def test_sinks_receive_every_family_except_those_about_telemetry():
    internal = {family.name for family in FAMILIES if family.attributes is None}

    assert internal == {
        "wats_sink_failures_total",
        "wats_worker_processes",
        "wats_build_info",
        "wats_series",
    }


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_series_shown_from_the_start_is_possible(family: Family, subjects: Subjects):
    if family.possible is not None:
        assert set(family.initial(subjects)) <= set(family.possible(subjects))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_only_histograms_have_buckets(family: Family):
    histograms = {LATENCY_BUCKETS, LAG_BUCKETS, CONSUMER_BUCKETS}
    buckets = histograms if family.kind is Kind.HISTOGRAM else {()}

    assert family.buckets in buckets
    assert list(family.buckets) == sorted(set(family.buckets))


def test_the_number_of_series_is_exposed_last_so_that_it_counts_itself():
    assert FAMILIES[-1] is SERIES
