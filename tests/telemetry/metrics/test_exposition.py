import gzip
import math
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from wats.telemetry import UNMATCHED, Adapter, Board, Method, Outcome, RouteLabel
from wats.telemetry.contract.families import (
    FAMILIES,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    INBOX_DEPTH,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    SERIES,
    WEBHOOK_LAG,
    Family,
)
from wats.telemetry.contract.labels import Subjects
from wats.telemetry.contract.values import Kind
from wats.telemetry.metrics.exposition import OPENMETRICS_TYPE, TEXT_TYPE, Exposition, format_number
from wats.telemetry.metrics.series import Block, Registry

OPENMETRICS = "application/openmetrics-text"

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


GOLDEN_OPENMETRICS = """\
# HELP send_outcomes Message send attempts by outcome.
# TYPE send_outcomes counter
send_outcomes_total{endpoint_family="flows",outcome="deduped"} 2
# HELP wats_webhook_lag_seconds Webhook lag in seconds, from Meta's timestamp of a new update to \
its arrival.
# TYPE wats_webhook_lag_seconds histogram
wats_webhook_lag_seconds_bucket{le="1.0"} 0
wats_webhook_lag_seconds_bucket{le="5.0"} 1
wats_webhook_lag_seconds_bucket{le="15.0"} 1
wats_webhook_lag_seconds_bucket{le="60.0"} 1
wats_webhook_lag_seconds_bucket{le="300.0"} 1
wats_webhook_lag_seconds_bucket{le="900.0"} 1
wats_webhook_lag_seconds_bucket{le="3600.0"} 1
wats_webhook_lag_seconds_bucket{le="21600.0"} 1
wats_webhook_lag_seconds_bucket{le="86400.0"} 1
wats_webhook_lag_seconds_bucket{le="+Inf"} 1
wats_webhook_lag_seconds_sum 2.5
wats_webhook_lag_seconds_count 1
# HELP wats_inbox_depth Stored deliveries, by state.
# TYPE wats_inbox_depth gauge
wats_inbox_depth{state="retry"} 7
# HELP wats_series Number of series in this exposition (live), and its upper bound (budget).
# TYPE wats_series gauge
wats_series{kind="live"} 16
wats_series{kind="budget"} 43
# EOF
"""


def registry_of(
    families: Iterable[Family], subjects: Subjects = SMALL, *, numbers: Iterable[float] = ()
) -> Registry:
    registry = Registry(families, subjects, board=Board())
    for slot, number in enumerate(numbers):
        registry.slots[slot] = number
    return registry


def block_of(registry: Registry, family: Family) -> Block:
    return next(block for block in registry.blocks if block.family is family)


def text_of(registry: Registry, accept: str | None = None) -> str:
    return Exposition(registry).render(accept).body.decode()


def test_a_small_state_has_exactly_this_text_exposition():
    registry = registry_of((HTTP_REQUESTS, HTTP_REQUEST_DURATION, PERSISTENCE_OPERATIONS))
    requests = block_of(registry, HTTP_REQUESTS).places
    durations = block_of(registry, HTTP_REQUEST_DURATION).places["/webhook", "2xx"]
    registry.slots[requests["POST", "/webhook", "2xx"]] = 3
    registry.slots[requests["PROPFIND", "/webhook", "4xx"]] = 1
    for bucket in (0, 5, 11):
        registry.slots[durations + bucket] = 1
    registry.slots[durations + 12] = 12.25
    operations = block_of(registry, PERSISTENCE_OPERATIONS).places
    registry.slots[operations["sqlite", Outcome.ERROR]] = 5

    assert text_of(registry) == GOLDEN


def test_a_small_state_has_exactly_this_openmetrics_exposition():
    untouched = replace(SEND_OUTCOMES, initial=lambda _: ())
    registry = registry_of((untouched, WEBHOOK_LAG, INBOX_DEPTH, SERIES))
    registry.slots[block_of(registry, untouched).places["flows", "deduped"]] = 2
    registry.slots[block_of(registry, WEBHOOK_LAG).places[()] + 1] = 1
    registry.slots[block_of(registry, WEBHOOK_LAG).places[()] + 10] = 2.5
    registry.gauges[block_of(registry, INBOX_DEPTH).places["retry",]] = 7

    assert text_of(registry, OPENMETRICS) == GOLDEN_OPENMETRICS


def test_a_family_without_a_subject_or_a_series_is_not_shown():
    nothing = Subjects(routes=SMALL.routes, adapter=None)
    untouched = replace(SEND_OUTCOMES, initial=lambda _: ())
    registry = registry_of([PERSISTENCE_OPERATIONS, untouched, INBOX_DEPTH], nothing)

    assert text_of(registry) == ""
    assert text_of(registry, OPENMETRICS) == "# EOF\n"


def test_a_gauge_that_was_never_set_is_absent_and_one_that_is_0_is_not():
    registry = registry_of([INBOX_DEPTH])
    registry.gauges[block_of(registry, INBOX_DEPTH).places["dead",]] = 0

    samples = [line for line in text_of(registry).splitlines() if not line.startswith("#")]

    assert samples == ['wats_inbox_depth{state="dead"} 0']


@pytest.mark.parametrize(
    ("accept", "content_type"), [(None, TEXT_TYPE), (OPENMETRICS, OPENMETRICS_TYPE)]
)
def test_gzip_holds_the_same_text_in_fewer_bytes(accept: str | None, content_type: str):
    exposition = Exposition(registry_of(FAMILIES))

    plain = exposition.render(accept)
    packed = exposition.render(accept, "gzip")

    assert (plain.content_type, plain.content_encoding) == (content_type, None)
    assert (packed.content_type, packed.content_encoding) == (content_type, "gzip")
    assert gzip.decompress(packed.body) == plain.body
    assert 5 * len(packed.body) < len(plain.body)
    assert packed.body[4:8] == bytes(4)  # the time, which would make it another each second


@pytest.mark.parametrize("accept_encoding", [None, "gzip"])
@pytest.mark.parametrize("accept", [None, OPENMETRICS])
def test_the_same_state_gives_the_same_bytes(accept: str | None, accept_encoding: str | None):
    one, other = (Exposition(registry_of(FAMILIES, numbers=range(100))) for _ in range(2))

    bodies = {each.render(accept, accept_encoding).body for each in (one, other, one)}

    assert len(bodies) == 1


def test_a_series_that_appears_later_is_shown_at_its_place():
    registry = registry_of(FAMILIES)
    exposition = Exposition(registry)
    exposition.render()

    registry.slots[block_of(registry, SEND_OUTCOMES).places["flows", "deduped"]] = 2

    assert exposition.render() == Exposition(registry).render()


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


def test_label_values_are_escaped_as_each_format_requires():
    routes = (RouteLabel('/a"b\\c\nd%s', (Method.GET,)), RouteLabel(UNMATCHED))
    family = replace(HTTP_REQUEST_DURATION, help='A "quoted"\\\n100 % text.')
    registry = registry_of([family], Subjects(routes=routes, adapter=None))

    text, om = text_of(registry), text_of(registry, OPENMETRICS)

    sample = '_sum{route="/a\\"b\\\\c\\nd%s",status_class="2xx"} 0\n'
    assert sample in text
    assert sample in om
    assert ' A "quoted"\\\\\\n100 % text.\n' in text
    assert ' A \\"quoted\\"\\\\\\n100 % text.\n' in om


@st.composite
def states(draw: st.DrawFn) -> Registry:
    """A registry of any routes in any state that recording could bring about."""
    templates = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=3))
    routes = tuple(
        RouteLabel(template, tuple(draw(st.sets(st.sampled_from(Method), max_size=2))))
        for template in dict.fromkeys((*templates, UNMATCHED))
        if template != UNMATCHED
    )
    subjects = Subjects(
        routes=(*routes, RouteLabel(UNMATCHED)),
        adapter=draw(st.sampled_from([None, Adapter.SQLITE, Adapter.POSTGRES])),
        targets=tuple(draw(st.sets(st.from_regex(r"[a-z.]+:[a-z]+", fullmatch=True), max_size=3))),
        version="0.1.0",
    )
    registry = Registry(FAMILIES, subjects, board=Board())
    counts = st.integers(0, 2**40)
    for block in registry.blocks:
        if block.family.kind is Kind.GAUGE:
            for slot in range(block.offset, block.end):
                registry.gauges[slot] = draw(st.floats(0, 1e15) | st.just(math.nan))
        else:
            values = draw(st.sampled_from(block.series))
            first = block.places[values]
            for slot in range(first, first + block.width):
                registry.slots[slot] = draw(counts)
            if block.width > 1:
                registry.slots[first + block.width - 1] = draw(st.floats(0, 1e300))
    return registry


def samples_of(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the parsed samples, with `le` as a number, which the two formats write differently."""
    return {
        (
            sample.name,
            frozenset((k, str(float(v)) if k == "le" else v) for k, v in sample.labels.items()),
        ): sample.value
        for family in families
        for sample in family.samples
    }


@given(states())
def test_both_parsers_of_prometheus_client_read_the_same_of_any_state(registry: Registry):
    text, om = text_of(registry), text_of(registry, OPENMETRICS)

    of_text = samples_of(parser.text_string_to_metric_families(text))
    of_om = samples_of(openmetrics_parser.text_string_to_metric_families(om))

    assert of_text == of_om
    assert len(of_text) == sum(not line.startswith("#") for line in text.split("\n")[:-1])


@given(states())
def test_every_state_exposes_its_number_of_series_within_the_budget(registry: Registry):
    shown = samples_of(parser.text_string_to_metric_families(text_of(registry)))

    exposed = {
        kind: shown["wats_series", frozenset({("kind", kind)})] for kind in ("live", "budget")
    }

    assert exposed["live"] == len(shown) <= exposed["budget"] == registry.budget


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@settings(max_examples=settings.default.max_examples // 4)
@given(states())
def test_promtool_accepts_every_state(registry: Registry):
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text_of(registry).encode(),
        capture_output=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
