import pytest

from wats.privacy import Secret
from wats.web.access import FULL_ACCESS, NO_ACCESS, TELEMETRY_ACCESS, Access
from wats.web.auth import Authenticator

AUTHENTICATOR = Authenticator(
    [
        (Secret("service-one"), FULL_ACCESS),
        (Secret("service-two"), FULL_ACCESS),
        (Secret("scraper"), TELEMETRY_ACCESS),
    ]
)


@pytest.mark.parametrize(
    ("header", "access"),
    [
        pytest.param(b"Bearer service-one", FULL_ACCESS, id="service-token"),
        pytest.param(b"Bearer service-two", FULL_ACCESS, id="second-token-of-a-rotation"),
        pytest.param(b"Bearer scraper", TELEMETRY_ACCESS, id="telemetry-token"),
        pytest.param(b"bEaReR service-one", FULL_ACCESS, id="scheme-in-any-case"),
        pytest.param(b"Bearer    service-one", FULL_ACCESS, id="several-spaces"),
        pytest.param(b" Bearer service-one\t", FULL_ACCESS, id="white-space-around"),
        pytest.param(b"", NO_ACCESS, id="empty"),
        pytest.param(b"Bearer", NO_ACCESS, id="scheme-alone"),
        pytest.param(b"Bearer ", NO_ACCESS, id="no-token"),
        pytest.param(b"Bearer\tservice-one", NO_ACCESS, id="tab"),
        pytest.param(b"Basic service-one", NO_ACCESS, id="other-scheme"),
        pytest.param(b"service-one", NO_ACCESS, id="no-scheme"),
        pytest.param(b"Bearer service-on", NO_ACCESS, id="too-short"),
        pytest.param(b"Bearer service-one2", NO_ACCESS, id="too-long"),
        pytest.param(b"Bearer SERVICE-ONE", NO_ACCESS, id="token-in-other-case"),
        pytest.param(b"Bearer \xff\xfe\x00", NO_ACCESS, id="no-text"),
        pytest.param(b"Bearer " + b"x" * 60_000, NO_ACCESS, id="very-long"),
    ],
)
def test_a_token_opens_its_own_surface_only(header: bytes, access: Access) -> None:
    assert AUTHENTICATOR.access_of([(b"host", b"x"), (b"authorization", header)]) is access


def test_without_the_header_no_surface_is_open() -> None:
    assert AUTHENTICATOR.access_of([(b"host", b"x")]) is NO_ACCESS


def test_two_authorization_headers_open_no_surface() -> None:
    header = (b"authorization", b"Bearer service-one")

    assert AUTHENTICATOR.access_of([header, header]) is NO_ACCESS


def test_an_empty_token_is_never_valid() -> None:
    assert Authenticator([]).access_of([(b"authorization", b"Bearer x")]) is NO_ACCESS
