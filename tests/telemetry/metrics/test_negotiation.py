import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.telemetry.metrics.negotiation import accepts_gzip, prefers_openmetrics

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
OPENMETRICS = "application/openmetrics-text"


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param(PROMETHEUS, id="what Prometheus sends"),
        pytest.param(OPENMETRICS, id="by name"),
        pytest.param("Application/OpenMetrics-Text; Version=1.0.0", id="in any case"),
        pytest.param(f'{OPENMETRICS}; version="1.0.0"; charset=utf-8', id="quoted"),
        pytest.param(f"text/plain;q=0.5, {OPENMETRICS};q=0.6", id="by weight"),
        pytest.param(f"*/*;q=0.1,{OPENMETRICS};q=0.2", id="before anything"),
        pytest.param("text/*;q=0.3, application/*;q=0.4", id="by its kind"),
        pytest.param(f"{OPENMETRICS};q=0.001", id="hardly"),
        pytest.param("text/plain;q=0, */*;q=0.5", id="anything but text"),
        pytest.param(
            f"{OPENMETRICS};version=0.0.1;q=0, {OPENMETRICS}", id="not in a version that is old"
        ),
    ],
)
def test_openmetrics_is_served_to_clients_that_prefer_it(accept: str):
    assert prefers_openmetrics(accept)


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param(None, id="no header"),
        pytest.param("", id="empty"),
        pytest.param("*/*", id="anything"),
        pytest.param("text/plain;version=0.0.4;q=1,*/*;q=0.1", id="text before anything"),
        pytest.param(f"text/plain, {OPENMETRICS}", id="both alike"),
        pytest.param(f"{OPENMETRICS};q=0", id="refused"),
        pytest.param(f"*/*, {OPENMETRICS};q=0.5", id="less than anything"),
        pytest.param(f"{OPENMETRICS};version=0.0.1", id="a version that is not ours"),
        pytest.param(f"{OPENMETRICS};version=2.0.0,*/*;q=0.1", id="a version to come"),
        pytest.param(f"{OPENMETRICS};version=1.0.0;q=0,{OPENMETRICS}", id="our version refused"),
        pytest.param(f"{OPENMETRICS};q=2", id="a weight that is none"),
        pytest.param(f"{OPENMETRICS};q=-1", id="a weight below nothing"),
        pytest.param(f"{OPENMETRICS};q=nan", id="a weight that is no number"),
        pytest.param(f"{OPENMETRICS};q=0.0001", id="a weight that is too exact"),
        pytest.param("text/html, application/json", id="neither"),
        pytest.param("application/openmetrics-textual", id="a longer name"),
        pytest.param(f"{' ' * 1024}{OPENMETRICS}", id="too far behind"),
    ],
)
def test_a_client_without_that_preference_gets_text(accept: str | None):
    assert not prefers_openmetrics(accept)


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("identity;q=0.6, gzip;q=0.5", False),
        ("identity, *;q=0.5", False),
        ("br", False),
        ("gzip;q=x", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_served_to_clients_that_accept_it(accept_encoding: str | None, expected: bool):
    assert accepts_gzip(accept_encoding) is expected


@given(st.text() | st.text(alphabet="gziptex/plan*;=q,.01 "))
def test_no_header_is_too_strange(header: str):
    assert isinstance(prefers_openmetrics(header), bool)
    assert isinstance(accepts_gzip(header), bool)
