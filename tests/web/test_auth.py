import pytest

from wats.privacy import Secret
from wats.web.auth import Access, Gate

GATE = Gate([Secret("service-one"), Secret("service-two")], [Secret("scraper")])


@pytest.mark.parametrize(
    ("header", "access"),
    [
        pytest.param(b"Bearer service-one", Access.ALL, id="service-token"),
        pytest.param(b"Bearer service-two", Access.ALL, id="second-token-of-a-rotation"),
        pytest.param(b"Bearer scraper", Access.TELEMETRY, id="telemetry-token"),
        pytest.param(b"bEaReR service-one", Access.ALL, id="scheme-in-any-case"),
        pytest.param(b"Bearer    service-one", Access.ALL, id="several-spaces"),
        pytest.param(b" Bearer service-one\t", Access.ALL, id="white-space-around"),
        pytest.param(b"", Access.NONE, id="empty"),
        pytest.param(b"Bearer", Access.NONE, id="scheme-alone"),
        pytest.param(b"Bearer ", Access.NONE, id="no-token"),
        pytest.param(b"Bearer\tservice-one", Access.NONE, id="tab"),
        pytest.param(b"Basic service-one", Access.NONE, id="other-scheme"),
        pytest.param(b"service-one", Access.NONE, id="no-scheme"),
        pytest.param(b"Bearer service-on", Access.NONE, id="too-short"),
        pytest.param(b"Bearer service-one2", Access.NONE, id="too-long"),
        pytest.param(b"Bearer SERVICE-ONE", Access.NONE, id="token-in-other-case"),
        pytest.param(b"Bearer \xff\xfe\x00", Access.NONE, id="no-text"),
        pytest.param(b"Bearer " + b"x" * 60_000, Access.NONE, id="very-long"),
    ],
)
def test_a_token_opens_its_own_surface_only(header: bytes, access: Access) -> None:
    assert GATE.judge([(b"host", b"x"), (b"authorization", header)]) is access


def test_without_the_header_no_surface_is_open() -> None:
    assert GATE.judge([(b"host", b"x")]) is Access.NONE


def test_two_authorization_headers_open_no_surface() -> None:
    header = (b"authorization", b"Bearer service-one")

    assert GATE.judge([header, header]) is Access.NONE


def test_an_empty_token_is_never_valid() -> None:
    assert Gate([], []).judge([(b"authorization", b"Bearer x")]) is Access.NONE
