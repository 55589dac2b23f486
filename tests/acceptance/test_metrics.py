"""Requests for `/metrics` and their responses, byte for byte."""

import gzip

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wats.config import TelemetryConfig
from wats.telemetry.schema import schema_of
from wats.testing import BEARER_TOKEN, example_profile
from wats.web.app import route_labels
from wats.web.table import route_table

TOKEN = {"authorization": f"Bearer {BEARER_TOKEN}"}
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
GZIP = {"accept-encoding": "gzip"}

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("accepted", "headers"),
    [
        pytest.param({}, {"content-type": TEXT_TYPE}, id="text"),
        pytest.param(OPENMETRICS, {"content-type": OPENMETRICS_TYPE}, id="OpenMetrics"),
        pytest.param(
            GZIP, {"content-type": TEXT_TYPE, "content-encoding": "gzip"}, id="text in gzip"
        ),
        pytest.param(
            {**OPENMETRICS, **GZIP},
            {"content-type": OPENMETRICS_TYPE, "content-encoding": "gzip"},
            id="OpenMetrics in gzip",
        ),
    ],
)
async def test_a_scraper_gets_the_format_that_it_requests(
    url, exchange, method, accepted, headers
) -> None:
    answer = await exchange(url, method, "/metrics", headers={**TOKEN, **accepted})

    assert answer.status == 200
    assert (
        dict(answer.headers).items()
        >= {
            **headers,
            "vary": "Accept, Accept-Encoding",
            "cache-control": "no-store",
        }.items()
    )
    assert ("content-encoding" in answer.names) is ("content-encoding" in headers)
    if method == "HEAD":
        assert (answer.body, int(answer["content-length"]) > 0) == (b"", True)
        return
    assert int(answer["content-length"]) == len(answer.body)
    text = gzip.decompress(answer.body) if "content-encoding" in headers else answer.body
    assert text.startswith(b"# HELP http_requests")
    assert text.endswith(b"# EOF\n") is ("openmetrics" in headers["content-type"])


@pytest.mark.parametrize("headers", [OPENMETRICS, GZIP, {**OPENMETRICS, **GZIP}])
async def test_without_a_token_metrics_are_hidden_for_every_accept_header(
    url, exchange, headers
) -> None:
    hidden = await exchange(url, "GET", "/metrics", headers=headers)
    missing = await exchange(url, "GET", "/nothing", headers=headers)

    named = [[pair for pair in each.headers if pair[0] != "date"] for each in (hidden, missing)]
    assert (hidden.status, hidden.body) == (missing.status, missing.body)
    assert hidden.status == 404
    assert named[0] == named[1]


async def test_a_service_exposes_the_families_of_the_schema_and_no_others(open_gateway) -> None:
    async with open_gateway(telemetry=TelemetryConfig(families="operator")) as gateway:
        answer = await gateway.ask("GET", "/metrics", headers=OPENMETRICS)

    found = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(answer.body.decode())
    }
    every = schema_of(route_labels(route_table(example_profile(), groups_enabled=True))).families
    gauges = {family.name for family in every if family.kind == "gauge"}
    assert found - gauges == {family.name for family in every if family.needs != "outbox"} - gauges
    assert found & gauges <= gauges
    assert {"wats_worker_processes", "wats_build_info", "wats_series"} <= found
