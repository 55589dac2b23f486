import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from wats.telemetry import (
    UNMATCHED,
    Adapter,
    FamilySet,
    InboxState,
    Method,
    RouteLabel,
    Telemetry,
    UpkeepTask,
)
from wats.telemetry.contract.families import FAMILIES
from wats.telemetry.contract.values import OutboxState
from wats.telemetry.schema import BUDGETS, FamilySchema, LabelSchema, Schema, schema_of
from wats.testing import example_profile
from wats.web.app import route_labels
from wats.web.table import route_table


@pytest.fixture
def largest() -> tuple[RouteLabel, ...]:
    return route_labels(route_table(example_profile(), groups_enabled=True))


def test_the_largest_service_keeps_both_promises(largest: tuple[RouteLabel, ...]):
    sets = {each.set: each for each in schema_of(largest).sets}

    assert [each.budget for each in sets.values()] == [2000, 4000]
    assert sets["contract"].series <= 2000
    assert sets["operator"].series <= 4000


@pytest.mark.parametrize("families", FamilySet)
def test_a_service_exposes_the_budget_of_the_schema(
    largest: tuple[RouteLabel, ...], families: FamilySet
):
    schema = schema_of(largest)
    telemetry = Telemetry(routes=largest, adapter=Adapter.SQLITE, families=families)

    total = next(each.series for each in schema.sets if each.set == families.value)

    assert telemetry.budget == total
    chosen = {FamilySet.CONTRACT, families}
    assert total == sum(each.series for each in schema.families if each.set in chosen)


def test_the_schema_lists_the_series_of_a_service_with_every_subject(
    largest: tuple[RouteLabel, ...],
):
    telemetry = Telemetry(routes=largest, adapter=Adapter.SQLITE, families=FamilySet.OPERATOR)
    telemetry.store.inbox_depth(InboxState.PENDING, 0)
    telemetry.store.inbox_oldest_age(0.0)
    telemetry.store.outbox_depth(Adapter.SQLITE, OutboxState.PENDING, 0)
    telemetry.store.outbox_oldest_age(0.0)
    telemetry.store.outbox_fill(0.0)
    telemetry.store.outbox_paused(0)
    telemetry.use_targets(["batch"])
    telemetry.webhooks.consumer_oldest_age(0, 0.0)
    telemetry.webhooks.circuit_open(0, 0)
    telemetry.service.upkeep(UpkeepTask.PURGE, 0.0)

    exposed = list(text_string_to_metric_families(telemetry.render().body.decode()))

    assert [
        (f.name + "_total" if f.type == "counter" else f.name, f.type, f.documentation)
        for f in exposed
    ] == [(each.name, each.kind, each.help) for each in schema_of(largest).families]


def test_every_family_is_listed_in_the_order_of_the_exposition():
    schema = schema_of([RouteLabel(UNMATCHED)])

    assert [each.name for each in schema.families] == [family.name for family in FAMILIES]
    assert [each.set for each in schema.sets] == [chosen.value for chosen in BUDGETS]


def test_the_schema_has_the_documented_shape():
    schema = schema_of([RouteLabel("/healthz", (Method.GET,)), RouteLabel(UNMATCHED)])

    durations = next(each for each in schema.families if each.name.startswith("http_request_"))
    assert durations == FamilySchema(
        name="http_request_duration_seconds",
        kind="histogram",
        help="Request duration in seconds.",
        set="contract",
        needs="always",
        labels=(
            LabelSchema(
                key="route",
                attribute="http.route",
                values=None,
                described="the templates of the route table",
                other="unmatched",
            ),
            LabelSchema(
                key="status_class",
                attribute="http.response.status.class",
                values=("2xx", "3xx", "4xx", "5xx", "unknown"),
                described=None,
                other="unknown",
            ),
        ),
        attributes=(
            "http.route",
            "http.request.method",
            "http.status_code",
            "http.response.status.class",
        ),
        buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        series=(4 + 3) * 14,
    )
    assert msgspec.json.decode(msgspec.json.encode(schema), type=Schema) == schema
