from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.semconv.schemas import Schemas

from wats.telemetry import OTEL_ATTR, EndpointFamily, Method, Outcome
from wats.telemetry.contract.families import (
    FAMILIES,
    GRAPH_DURATION,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    SEND_OUTCOMES,
)
from wats.telemetry.contract.values import SpanName, status_class
from wats.telemetry.sinks.semconv import (
    ERROR_TYPE,
    OTHER,
    SCHEMA_URL,
    SERVER_ADDRESS,
    SERVER_PORT,
    STATUS_CODE,
    URL_SCHEME,
    Conventions,
    StableConventions,
    failed,
)

EXPORTED = [family for family in FAMILIES if family.attributes is not None]


@pytest.fixture
def stable() -> StableConventions:
    return StableConventions(url_scheme="https", graph_url="https://graph.facebook.com")


def request(status: int, *, route: str = "/messages/:id", method: str = "GET") -> dict[str, Any]:
    return {
        OTEL_ATTR.HTTP_ROUTE: route,
        OTEL_ATTR.HTTP_METHOD: method,
        OTEL_ATTR.HTTP_STATUS_CODE: status,
        OTEL_ATTR.HTTP_STATUS_CLASS: status_class(status).value,
    }


def call(status: int, outcome: Outcome, family: str = EndpointFamily.MESSAGES) -> dict[str, Any]:
    return {
        OTEL_ATTR.GRAPH_ENDPOINT_FAMILY: str(family),
        OTEL_ATTR.HTTP_STATUS_CODE: status,
        OTEL_ATTR.HTTP_STATUS_CLASS: status_class(status).value,
        OTEL_ATTR.OPERATION_OUTCOME: outcome.value,
    }


def of_request(conventions: StableConventions, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    metric = conventions.metric(HTTP_REQUEST_DURATION)
    assert metric is not None
    return metric.translate(attributes)


def of_call(conventions: StableConventions, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    metric = conventions.metric(GRAPH_DURATION)
    assert metric is not None
    return metric.translate(attributes)


def test_the_stable_names_are_those_of_the_published_conventions(stable: StableConventions) -> None:
    metrics = [stable.metric(family) for family in (HTTP_REQUEST_DURATION, GRAPH_DURATION)]

    assert [metric.name for metric in metrics if metric] == [
        http_metrics.HTTP_SERVER_REQUEST_DURATION,
        http_metrics.HTTP_CLIENT_REQUEST_DURATION,
    ]
    assert [OTEL_ATTR.HTTP_ROUTE, OTEL_ATTR.HTTP_METHOD, STATUS_CODE, ERROR_TYPE] == [
        http_attributes.HTTP_ROUTE,
        http_attributes.HTTP_REQUEST_METHOD,
        http_attributes.HTTP_RESPONSE_STATUS_CODE,
        error_attributes.ERROR_TYPE,
    ]
    assert [URL_SCHEME, SERVER_ADDRESS, SERVER_PORT] == [
        url_attributes.URL_SCHEME,
        server_attributes.SERVER_ADDRESS,
        server_attributes.SERVER_PORT,
    ]
    assert error_attributes.ErrorTypeValues.OTHER.value == OTHER
    assert SCHEMA_URL in {schema.value for schema in Schemas}


def test_every_method_of_ours_is_one_of_the_conventions(stable: StableConventions) -> None:
    known = {method.value for method in http_attributes.HttpRequestMethodValues}

    translated = {
        of_request(stable, request(200, method=method.value))[OTEL_ATTR.HTTP_METHOD]
        for method in Method
    }

    assert translated == known


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param(
            request(200),
            {
                "http.route": "/messages/:id",
                "http.request.method": "GET",
                "http.response.status_code": 200,
                "url.scheme": "https",
            },
            id="answered",
        ),
        pytest.param(
            request(404, route="unmatched", method="unknown"),
            {
                "http.request.method": "_OTHER",
                "http.response.status_code": 404,
                "url.scheme": "https",
            },
            id="refused, on no route, with an invented method",
        ),
        pytest.param(
            request(503, method="POST"),
            {
                "http.route": "/messages/:id",
                "http.request.method": "POST",
                "http.response.status_code": 503,
                "error.type": "503",
                "url.scheme": "https",
            },
            id="failed",
        ),
        pytest.param(
            request(0),
            {
                "http.route": "/messages/:id",
                "http.request.method": "GET",
                "error.type": "_OTHER",
                "url.scheme": "https",
            },
            id="not answered",
        ),
    ],
)
def test_a_request_follows_the_stable_conventions(
    stable: StableConventions, attributes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert of_request(stable, attributes) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param(
            call(200, Outcome.SUCCESS),
            {"http.request.method": "POST", "http.response.status_code": 200},
            id="accepted",
        ),
        pytest.param(
            call(400, Outcome.ERROR),
            {
                "http.request.method": "POST",
                "http.response.status_code": 400,
                "error.type": "400",
            },
            id="refused",
        ),
        pytest.param(
            call(200, Outcome.ERROR, EndpointFamily.GROUPS),
            {
                "http.request.method": "_OTHER",
                "http.response.status_code": 200,
                "error.type": "_OTHER",
            },
            id="answered with what cannot be read",
        ),
        pytest.param(
            call(0, Outcome.ERROR, EndpointFamily.MEDIA),
            {"http.request.method": "_OTHER", "error.type": "_OTHER"},
            id="not answered",
        ),
    ],
)
def test_a_graph_call_follows_the_stable_conventions_in_addition_to_our_names(
    stable: StableConventions, attributes: dict[str, Any], expected: dict[str, Any]
) -> None:
    ours = ("wats.graph.endpoint_family", "wats.operation.outcome")

    assert of_call(stable, attributes) == {
        **expected,
        **{key: attributes[key] for key in ours},
        "server.address": "graph.facebook.com",
        "server.port": 443,
    }


def test_the_count_of_requests_is_exported_by_the_histogram(stable: StableConventions) -> None:
    assert stable.metric(HTTP_REQUESTS) is None


@pytest.mark.parametrize("family", EXPORTED, ids=lambda family: family.name)
def test_our_own_names_are_left_unchanged(family: Any) -> None:
    attributes = call(500, Outcome.ERROR)
    metric = Conventions().metric(family)
    assert metric is not None

    assert (metric.name, metric.description, metric.buckets) == (
        family.name,
        family.help,
        family.buckets,
    )
    assert metric.translate(attributes) is attributes
    assert Conventions().span(SpanName.GRAPH_REQUEST, attributes) == (
        "wats.graph.request",
        attributes,
    )


@pytest.mark.parametrize("family", EXPORTED, ids=lambda family: family.name)
def test_every_family_has_a_unit_that_agrees_with_its_name(family: Any) -> None:
    metric = Conventions().metric(family)

    assert metric is not None
    assert (metric.unit == "s") == family.name.endswith("_seconds")
    assert metric.unit


def test_events_other_than_http_keep_our_names(stable: StableConventions) -> None:
    attributes = {
        OTEL_ATTR.GRAPH_ENDPOINT_FAMILY: "messages",
        OTEL_ATTR.OPERATION_OUTCOME: "error",
    }
    metric = stable.metric(SEND_OUTCOMES)

    assert metric is not None
    assert (metric.name, metric.translate(attributes)) == ("send_outcomes_total", attributes)


def test_the_count_of_graph_calls_keeps_its_name_and_has_the_stable_attributes(
    stable: StableConventions,
) -> None:
    metric = stable.metric(GRAPH_OPERATIONS)

    assert metric is not None
    assert metric.name == "graph_operations_total"
    assert metric.translate(call(500, Outcome.ERROR)) == of_call(stable, call(500, Outcome.ERROR))


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        pytest.param(SpanName.HTTP_REQUEST, request(200), "GET /messages/:id", id="on a route"),
        pytest.param(SpanName.HTTP_REQUEST, request(404, route="unmatched"), "GET", id="on none"),
        pytest.param(
            SpanName.HTTP_REQUEST,
            request(405, method="unknown"),
            "HTTP /messages/:id",
            id="invented",
        ),
        pytest.param(SpanName.GRAPH_REQUEST, call(200, Outcome.SUCCESS), "POST", id="message"),
        pytest.param(
            SpanName.GRAPH_REQUEST,
            call(200, Outcome.SUCCESS, EndpointFamily.GROUPS),
            "HTTP",
            id="group",
        ),
        pytest.param(
            SpanName.DISPATCH, {"wats.operation.outcome": "success"}, "wats.dispatch", id="dispatch"
        ),
    ],
)
def test_a_span_is_named_by_method_and_route(
    stable: StableConventions, name: str, attributes: dict[str, Any], expected: str
) -> None:
    assert stable.span(name, attributes)[0] == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param(request(200), False, id="a request that was answered"),
        pytest.param(request(429), False, id="a request that was refused"),
        pytest.param(request(500), True, id="a request that failed"),
        pytest.param(request(0), True, id="a request whose client had gone"),
        pytest.param(call(200, Outcome.SUCCESS), False, id="a call that succeeded"),
        pytest.param(call(404, Outcome.ERROR), True, id="a call that was refused"),
        pytest.param({"wats.operation.outcome": "skipped"}, False, id="a postponed attempt"),
        pytest.param({}, False, id="an event"),
    ],
)
def test_a_failure_is_named_by_outcome_or_else_by_the_response(
    attributes: dict[str, Any], expected: bool
) -> None:
    assert failed(attributes) is expected


def test_a_dispatch_that_failed_has_an_error_type(stable: StableConventions) -> None:
    given = {"wats.dispatch.target": "other", "wats.operation.outcome": "error"}

    _, attributes = stable.span(SpanName.DISPATCH, given)

    assert attributes == {**given, "error.type": "_OTHER"}


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        pytest.param("http://127.0.0.1:8080/x", "127.0.0.1", 8080, id="with a port"),
        pytest.param("http://graph.example", "graph.example", 80, id="http"),
        pytest.param("https://graph.example/", "graph.example", 443, id="https"),
    ],
)
def test_graph_is_named_by_its_configured_address(url: str, address: str, port: int) -> None:
    conventions = StableConventions(url_scheme="http", graph_url=url)

    translated = of_call(conventions, call(200, Outcome.SUCCESS))

    assert (translated["server.address"], translated["server.port"]) == (address, port)


def test_a_graph_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="graph_url"):
        StableConventions(url_scheme="http", graph_url="graph.facebook.com")


def test_the_status_is_recorded_once(stable: StableConventions) -> None:
    translated = of_request(stable, request(200))

    assert translated.keys().isdisjoint({"http.status_code", "http.response.status.class"})
