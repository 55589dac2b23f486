import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.telemetry import UNMATCHED, Adapter, Method, Outcome, RouteLabel
from wats.telemetry.exposition import Exposition, format_number
from wats.telemetry.registry import Registry
from wats.telemetry.vocabulary import (
    FAMILIES,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    Subjects,
)

SMALL = Subjects(
    routes=(RouteLabel("/webhook", (Method.POST,)), RouteLabel(UNMATCHED)), adapter=Adapter.SQLITE
)

GOLDEN = """\
# HELP http_requests_total Inbound HTTP requests to the service.
# TYPE http_requests_total counter
http_requests_total{method="GET",route="unmatched",status_class="4xx"} 0
http_requests_total{method="POST",route="/webhook",status_class="2xx"} 3
http_requests_total{method="POST",route="/webhook",status_class="4xx"} 0
http_requests_total{method="POST",route="/webhook",status_class="5xx"} 0
http_requests_total{method="unknown",route="/webhook",status_class="4xx"} 1
# HELP http_request_duration_seconds Request duration in seconds.
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.005"} 1
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.01"} 1
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.025"} 1
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.05"} 1
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.1"} 1
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.25"} 2
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="0.5"} 2
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="1"} 2
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="2.5"} 2
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="5"} 2
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="10"} 2
http_request_duration_seconds_bucket{route="/webhook",status_class="2xx",le="+Inf"} 3
http_request_duration_seconds_sum{route="/webhook",status_class="2xx"} 12.25
http_request_duration_seconds_count{route="/webhook",status_class="2xx"} 3
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.005"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.01"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.025"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.05"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.1"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.25"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="0.5"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="1"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="2.5"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="5"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="10"} 0
http_request_duration_seconds_bucket{route="unmatched",status_class="4xx",le="+Inf"} 0
http_request_duration_seconds_sum{route="unmatched",status_class="4xx"} 0
http_request_duration_seconds_count{route="unmatched",status_class="4xx"} 0
# HELP persistence_operations_total Persistence store operations by adapter and outcome.
# TYPE persistence_operations_total counter
persistence_operations_total{adapter="sqlite",outcome="success"} 0
persistence_operations_total{adapter="sqlite",outcome="error"} 5
"""


def test_a_small_state_reads_exactly_like_this():
    registry = Registry((HTTP_REQUESTS, HTTP_REQUEST_DURATION, PERSISTENCE_OPERATIONS), SMALL)
    requests = registry.block(HTTP_REQUESTS)
    durations = registry.block(HTTP_REQUEST_DURATION).slot("/webhook", "2xx")
    registry.slots[requests.slot("POST", "/webhook", "2xx")] = 3
    registry.slots[requests.slot("PROPFIND", "/webhook", "4xx")] = 1
    for bucket in (0, 5, 11):
        registry.slots[durations + bucket] = 1
    registry.slots[durations + 12] = 12.25
    registry.slots[registry.block(PERSISTENCE_OPERATIONS).slot("sqlite", Outcome.ERROR)] = 5

    assert Exposition(registry).render().decode() == GOLDEN


def test_a_family_without_a_subject_or_a_series_says_nothing():
    nothing = Subjects(routes=SMALL.routes, adapter=None)
    untouched = replace(SEND_OUTCOMES, initial=lambda _: ())

    assert Exposition(Registry([PERSISTENCE_OPERATIONS, untouched], nothing)).render() == b""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (2.5, "2.5"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e16, "10000000000000000"),
        (2.0**69, "590295810358705700000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (0.00001, "0.00001"),
        (1.25e-6, "0.00000125"),
        (1e-7, "1e-7"),
        (2.5e-12, "2.5e-12"),
        (-4.0, "-4"),
    ],
    ids=str,
)
def test_numbers_are_written_as_javascript_writes_them(value: float, text: str):
    assert format_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_reads_back_as_itself(value: float):
    assert float(format_number(value)) == value


def test_label_values_are_escaped():
    routes = (RouteLabel('/a"b\\c\nd%s', (Method.GET,)), RouteLabel(UNMATCHED))
    registry = Registry([HTTP_REQUEST_DURATION], Subjects(routes=routes, adapter=None))

    text = Exposition(registry).render().decode()

    assert 'sum{route="/a\\"b\\\\c\\nd%s",status_class="2xx"} 0\n' in text


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_nothing_to_say():
    registry = Registry(FAMILIES, SMALL)
    for slot in range(len(registry.slots)):
        registry.slots[slot] = slot

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=Exposition(registry).render(),
        capture_output=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
