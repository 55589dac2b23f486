import time

import msgspec
import pytest

from wats.inspection.samples import Samples
from wats.inspection.telemetry_contract import (
    Vocabulary,
    looks_private,
    shown_secrets,
    strings_of,
    unknown_fields,
)
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import (
    Adapter,
    EndpointFamily,
    FamilySet,
    InboxState,
    Method,
    Outcome,
    RouteLabel,
    StoreOperation,
    UpdateKind,
)
from wats.version import __version__
from wats.web.ops.status import Diagnostics, FeatureFlags, ServiceStatus

STATUS = ServiceStatus(
    service="wats",
    version=__version__,
    uptime_seconds=1,
    graph_api_version="v25.0",
    service_mode="webhook",
    routes=("/metrics", "/webhook"),
    feature_flags=FeatureFlags(group_routes=False, persistence=False),
    persistence=None,
)


def test_every_exposition_of_ours_is_of_the_vocabulary() -> None:
    routes = [RouteLabel(each, (Method.GET,)) for each in (*STATUS.routes, "unmatched")]
    telemetry = Telemetry(
        routes=routes,
        adapter=Adapter.SQLITE,
        families=FamilySet.OPERATOR,
        graph_api_version="v25.0",
    )
    telemetry.use_targets(["shop.handlers:answer", "Shop.__call__", "f.<locals>.g"])
    for place in range(4):
        telemetry.http.request(place, Method.GET, 200 + 100 * place, 0.1)
        telemetry.webhooks.dispatched(place, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)
    telemetry.store.inbox_depth(InboxState.PENDING, 3)
    telemetry.graph.operation(EndpointFamily.FLOWS, 0, Outcome.ERROR, 99.0)
    telemetry.store.operation(Adapter.SQLITE, StoreOperation.CLAIM, Outcome.SUCCESS, 1.0)

    samples = Samples.parse(telemetry.render().body.decode())

    assert len(samples) > 300
    assert Vocabulary(STATUS).objections(samples) == []


@pytest.mark.parametrize(
    ("sample", "objection"),
    [
        ("process_cpu_seconds_total 1", "an unknown family"),
        ("http_requests_total 1", "unknown labels of http_requests_total"),
        (
            'outbox_processed_total{outcome="success",to="1"} 1',
            "unknown labels of outbox_processed_total",
        ),
        (
            'outbox_processed_total{outcome="15550001234"} 1',
            "an unknown value of outcome in outbox_processed_total",
        ),
        (
            'http_requests_total{method="GET",route="/webhooks/secret",status_class="2xx"} 1',
            "an unknown value of route in http_requests_total",
        ),
        (
            'wats_build_info{graph_api_version="v25.0",version="9.9.9"} 1',
            "an unknown value of version in wats_build_info",
        ),
        (
            'wats_dispatch_total{outcome="success",target="to +1 555"} 1',
            "an unknown value of target in wats_dispatch_total",
        ),
        (
            'wats_webhook_lag_seconds_bucket{le="17"} 1',
            "an unknown bucket of wats_webhook_lag_seconds",
        ),
        (
            'wats_webhook_lag_seconds_sum{le="1"} 1',
            "unknown labels of wats_webhook_lag_seconds",
        ),
    ],
)
def test_a_value_outside_the_vocabulary_is_reported_without_the_value(sample, objection) -> None:
    samples = Samples.parse(f"{sample}\n")

    assert Vocabulary(STATUS).objections(samples) == [objection]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("+15550001234", "a phone number"),
        ("call 1 555 000-1234 now", "a phone number"),
        ("(1555) 0001234", "a phone number"),
        ("by user15550001234.", "a phone number"),
        ("wamid.HBgLMTU1NTAwMDEyMzQ", "a message id"),
        ("EAAJZCq0ZBpXyz", "a token"),
        ("Bearer x", "a token"),
        ("sha256=0a", "a token"),
        ("3f786850e387550fdab836ed7e6dc881", "a token"),
        ("jFz2vYb-7Qq_0uWk3mLxTn5RcEoHaSdi", "a token"),
        ("ada@example.org", "an e-mail address"),
        ("a" * 1025, "a text of more than 1024 characters"),
    ],
)
def test_personal_data_patterns_are_detected(text, kind) -> None:
    assert kind in looks_private(text)


@pytest.mark.parametrize(
    "text",
    [
        "http_request_duration_seconds",
        "/api/conversations/:phone/window",
        "v25.0",
        "1.0.0rc1",
        "[REDACTED_SQLITE_DATABASE]",
        "192.168.100.200",
        "webhook+persistence+groups",
        "le=86400",
        "ConversationWindowUnavailableErrorOfAVeryLongName",
        "2xx",
        "orders:handle_b2b_whatsapp_messages_v2",
        "OrdersOfWhatsappCustomersHandlerV2",
    ],
)
def test_telemetry_does_not_match_personal_data_patterns(text) -> None:
    assert looks_private(text) == []


@pytest.mark.parametrize("part", ["_", "0_", "a0", "a_", "0a_", "(0"])
def test_the_patterns_are_matched_in_a_moment(part) -> None:
    text = (part * 1024)[:1024]
    began_at = time.process_time()

    looks_private(text)

    assert time.process_time() - began_at < 1.0


def test_every_string_of_a_document_is_found() -> None:
    document = {"a": ["b", {"c": "d"}], "e": 1, "f": None}

    assert list(strings_of(document)) == ["a", "b", "c", "d", "e", "f"]


def test_the_documented_fields_are_known() -> None:
    assert unknown_fields(msgspec.to_builtins(STATUS), ServiceStatus) == []


def test_other_fields_are_found_at_any_depth_and_not_named() -> None:
    document = msgspec.to_builtins(STATUS)
    document["featureFlags"]["15550001234"] = True
    del document["version"]
    document["persistence"] = {"ok": True, "path": "/var/lib"}

    found = unknown_fields(document, ServiceStatus)

    assert found == [
        "version is missing",
        "featureFlags has an undocumented field",
        "persistence.backend is missing",
        "persistence.currentVersion is missing",
        "persistence.redactedLocation is missing",
        "persistence has an undocumented field",
    ]
    assert unknown_fields([], Diagnostics) == ["the document is not an object"]


def test_a_secret_of_the_config_shape_must_be_redacted() -> None:
    shape = {
        "auth": {"accessToken": "[REDACTED]"},
        "webhook": {"verifyToken": "x", "appSecret": "[REDACTED]"},
    }

    assert shown_secrets(shape) == ["webhook.verifyToken"]
    assert shown_secrets({}) == ["auth.accessToken", "webhook.verifyToken", "webhook.appSecret"]
