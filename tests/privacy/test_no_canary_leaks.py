"""No data of a customer, a caller or Meta is visible to operators."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping

from tests.privacy.asking import GRAPH_WAYS, PULLER
from tests.privacy.conftest import Output, seen_in
from tests.privacy.fake_graph import QUERY_NAMES, TRACE
from tests.privacy.service import HOOK, TELEMETRY
from wats.graph.errors import RULES

SEEN = {
    "/openapi.json": [HOOK],
    "/openapi.json (telemetry)": [HOOK],
    "stderr": [TRACE],
    "answers": [TRACE],
}
"""Permitted: the webhook path for callers with a token, and Graph's trace ids.

That they are found shows as well that the others would be.
"""

SINK_METHODS = {
    "increment_counter",
    "record_histogram",
    "record_span",
    "record_event",
    "set_gauge",
}


def moved(output: Output, family: str, label: str) -> dict[str, float]:
    """Return the samples of *family*, summed up by *label*."""
    found: dict[str, float] = defaultdict(float)
    for series, value in output.samples.items():
        if series.startswith(f"{family}{{"):
            found[labels_of(series)[label]] += value
    return found


def labels_of(series: str) -> Mapping[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', series))


def test_no_canary_is_seen_where_it_may_not_be(output: Output) -> None:
    seen = seen_in(output.surfaces, output.canaries)
    # Without a store, the route responds before it reads the query.
    repeated = [] if output.variant == "no-store" else QUERY_NAMES
    assert seen == {**SEEN, "answers": [*repeated, TRACE]}


def test_a_hundred_thousand_canaries_were_used(output: Output) -> None:
    assert len(output.canaries) >= 100_000


def test_every_surface_returned_data(output: Output) -> None:
    telemetry = {name + whose for name in TELEMETRY for whose in ("", " (telemetry)")}
    others = {"/openapi.json (anonymous)", "processes", "stdout", "stderr", "sink", "answers"}

    assert output.surfaces.keys() == telemetry | others
    assert all(output.surfaces.values())
    assert output.surfaces["/metrics as OpenMetrics"].endswith("# EOF\n")
    assert "content-encoding: gzip" in output.surfaces["/metrics compressed"]
    assert output.surfaces["stdout"].count("\n") == 1
    assert "wats serve" in output.surfaces["processes"]


def test_a_sink_was_called_by_all_its_methods_and_always_failed(output: Output) -> None:
    calls = [json.loads(line) for line in output.surfaces["sink"].splitlines()]
    failures = moved(output, "wats_sink_failures_total", "method")

    # Without a store there is nothing that a gauge could be about.
    expected = SINK_METHODS - ({"set_gauge"} if output.variant == "no-store" else set())
    assert {call["method"] for call in calls} == expected | {"close"}
    assert {method for method, count in failures.items() if count} == expected
    assert failures["increment_counter"] > 1000
    assert failures["record_histogram"] > 1000
    assert failures["record_span"] > 1000


def test_every_webhook_was_taken_and_its_updates_understood(output: Output) -> None:
    webhooks = [asked for asked in output.asked if asked.ask.what == "webhook"]
    known = [asked for asked in webhooks if asked.ask.emits is not None]

    assert [
        asked.ask for asked in webhooks if (asked.answer.status == 200) != asked.ask.is_webhook
    ] == []
    received = [json.loads(asked.answer.body).get("received", 0) for asked in known]
    assert received == [asked.ask.emits for asked in known]
    assert len(webhooks) > 5000
    assert sum(received) > 200


def test_every_kind_of_update_was_handled_and_some_failed(output: Output) -> None:
    assert min(moved(output, "webhook_normalization_total", "update_kind").values()) > 0
    assert moved(output, "webhook_normalization_total", "outcome")["skipped"] > 1000
    dispatched = moved(output, "wats_dispatch_total", "outcome")
    assert dispatched["success"] > 1000
    assert dispatched["error"] > 1000
    named = {
        target for target, count in moved(output, "wats_dispatch_total", "target").items() if count
    }
    pulled = set() if output.variant == "no-store" else {PULLER}
    assert named == {"tests.privacy.hostile:fail", *pulled}


def test_every_kind_of_update_and_status_was_received(output: Output) -> None:
    assert min(moved(output, "wats_messages_final_total", "outcome").values()) > 0
    assert output.samples["wats_webhook_lag_seconds_count"] > 1000
    errors = moved(output, "wats_graph_errors_total", "error_category")
    known = {rule.category.value for rule in RULES} | {"unknown"}
    assert {category for category, count in errors.items() if count} == known
    if output.variant != "no-store":
        assert output.samples["wats_message_delivery_seconds_count"] > 0


def test_graph_sent_every_response_and_finally_none(output: Output) -> None:
    assert min(output.served.values()) > 0
    assert len(output.served) <= GRAPH_WAYS
    for family in ("messages", "groups", "media"):
        classes = {
            labels["status_class"]
            for series, value in output.samples.items()
            if series.startswith("graph_operations_total{") and value
            if (labels := labels_of(series))["endpoint_family"] == family
        }
        assert classes == {"2xx", "3xx", "4xx", "5xx", "unknown"}
    last = output.asked[-1]
    assert (last.ask.what, last.answer.status) == ("message without a Graph", 502)


def test_every_route_succeeded_and_refused(output: Output) -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for series, value in output.samples.items():
        if series.startswith("http_requests_total{") and value:
            labels = labels_of(series)
            answers[labels["route"]].add(labels["status_class"])

    kept = ("/api/messages", "/api/messages/:id", "/api/conversations/:phone/window")
    without = {"unmatched"}
    if output.variant == "no-store":
        without |= {*kept[1:], "/api/admin"}
    assert {route for route in answers if "2xx" not in answers[route]} == without
    assert {route for route in answers if "4xx" not in answers[route]} == set()
    assert len(answers) > 15


def test_every_kind_of_refusal_occurred(output: Output) -> None:
    labels = {"wats_webhook_rejections_total": "reason", "wats_auth_failures_total": "surface"}
    for family, label in labels.items():
        counts = moved(output, family, label)
        assert counts.pop("unknown", 0) == 0
        assert counts.pop("unknown_number", 0) == 0  # with otherNumbers: refuse only
        assert min(counts.values()) > 0
    about_keys = 501 if output.variant == "no-store" else 409
    assert {asked.answer.status for asked in output.asked} >= {
        *(400, 401, 404, 405, 413),
        *(502, 503, about_keys),
    }
