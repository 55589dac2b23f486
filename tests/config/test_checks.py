import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.config import checks

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
CHECKS = [check for check in vars(checks).values() if isinstance(check, checks.Check)]


@given(value=ANYTHING, check=st.sampled_from(CHECKS))
def test_no_value_makes_a_check_raise(value: object, check: checks.Check) -> None:
    check.accept(value)


@pytest.mark.parametrize(
    "value",
    [True, 1.0, "1", None, 0, 2, float("nan"), [1]],
    ids=repr,
)
def test_the_version_is_exactly_the_number_one(value: object) -> None:
    assert checks.version.accept(value) is None


def test_a_number_is_neither_a_bool_nor_text_nor_infinite() -> None:
    rule = checks.number(0.5, 9)

    accepted = [rule.accept(value) for value in (0.5, 9, True, "1", float("inf"), float("nan"))]

    assert accepted == [0.5, 9.0, None, None, None, None]


@pytest.mark.parametrize(
    "url",
    [
        "https://graph.facebook.com",
        "https://graph.facebook.com:8443/through/here",
        "http://127.0.0.1:9900",
        "http://127.9.9.9",
        "http://[::1]:9900",
        "http://localhost:9900",
        "HTTPS://Graph.Example",
    ],
)
def test_a_valid_base_url_of_graph_is_kept(url: str) -> None:
    assert checks.web_url.accept(url) == url
    assert not checks.is_plain_beyond_loopback(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1",
        "//graph.facebook.com",
        "graph.facebook.com",
        "https://",
        "https://:443",
        "https://user@graph.facebook.com",
        "https://user:word@graph.facebook.com",
        "https://graph.facebook.com?",
        "https://graph.facebook.com?a=b",
        "https://graph.facebook.com#",
        "https://graph.facebook.com:0",
        "https://graph.facebook.com:99999",
        "https://graph.facebook.com:port",
        "https://graph.face\nbook.com",
        "https://graph .com",
        "https://gräph.com",
        "https://[::1",
        "https://[::1%25lo]",
        "https://[v1.x:y]",
        "https://a\\b.example",
        "https://a_b%2e.example",
        "",
        7,
        None,
    ],
)
def test_an_invalid_base_url_of_graph_is_refused(url: object) -> None:
    assert checks.web_url.accept(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://graph.facebook.com",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://2130706433",
        "http://[::ffff:10.0.0.1]",
        "http://0.0.0.0",
        "HTTP://graph.facebook.com",
    ],
)
def test_plain_http_beyond_loopback_is_recognized(url: str) -> None:
    assert checks.is_plain_beyond_loopback(url)


def test_a_url_loses_its_trailing_slash() -> None:
    assert checks.web_url.accept("https://graph.facebook.com/") == "https://graph.facebook.com"


def test_the_public_url_may_be_plain_http() -> None:
    assert checks.web_url.accept("http://wats.example.org") == "http://wats.example.org"


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("/api", "/api"),
        ("/api/", "/api"),
        ("/web/hooks/whatsapp", "/web/hooks/whatsapp"),
        ("/with%20escape", "/with%20escape"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a..b", "/a..b"),
    ],
)
def test_a_safe_path_is_kept(path: str, accepted: str) -> None:
    assert checks.absolute_path.accept(path) == accepted


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "api",
        "//api",
        "/api//",
        "/a//b",
        "/a/../b",
        "/a/.",
        "/a/..",
        "/./a",
        "/a\\b",
        "/a?b",
        "/a#b",
        "/a:b",
        "/a*b",
        "/{a}",
        "/a b",
        "/a\tb",
        "/a\n",
        "/a\x7f",
        "/ä",
        "/\ud800",
        "/%2e%2e/b",
        "/.%2E/b",
        "/%252e/b",
        "/%25252e%2e/b",
        "/a%2fb",
        "/a%252Fb",
        "/a%5cb",
        "/a%25255Cb",
        "/" + "a" * 255,
        1,
        None,
    ],
)
def test_an_unsafe_path_is_refused(path: object) -> None:
    assert checks.absolute_path.accept(path) is None


@pytest.mark.parametrize(
    "path",
    ["/hook", "/hook/", "/web/hooks/5e1f-A_b.c~d/", "/.well-known/x", "/a..b", "/key=="],
)
def test_a_webhook_path_is_kept_as_written(path: str) -> None:
    assert checks.webhook_path.accept(path) == path


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/a+b", id="plus"),
        pytest.param("/a b", id="space"),
        pytest.param("/a%20b", id="encoded-space"),
        pytest.param("/%61", id="encoded-letter"),
        pytest.param("/a;b", id="parameter"),
        pytest.param("/a&b", id="ampersand"),
        pytest.param('/a"b', id="quote"),
        pytest.param("/a|b", id="bar"),
        pytest.param("/a^b", id="caret"),
        pytest.param("/a<b>", id="angle-brackets"),
        pytest.param("/ä", id="not-ascii"),
        pytest.param("/hook//", id="two-slashes"),
        pytest.param("/a/../b", id="dot-segments"),
        pytest.param("/a/./", id="dot-segment"),
        pytest.param("/", id="slash"),
        pytest.param("hook", id="no-slash"),
        pytest.param("/hook\n", id="line-break"),
        pytest.param("/" + "a" * 255, id="too-long"),
        pytest.param(None, id="null"),
    ],
)
def test_a_webhook_path_that_meta_or_a_proxy_may_rewrite_is_refused(path: object) -> None:
    assert checks.webhook_path.accept(path) is None


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("123", "123"),
        (123, "123"),
        (10**31, "1" + "0" * 31),
        (10**32, None),
        (0, None),
        (-5, None),
        (True, None),
        (1.5, None),
        ("12a", None),
        ("١٢٣", None),  # Arabic digits
        ("1" * 33, None),
        ("", None),
    ],
    ids=repr,
)
def test_a_phone_number_id_is_digits_with_or_without_quotes(
    value: object, accepted: str | None
) -> None:
    assert checks.phone_number_id.accept(value) == accepted


def test_an_account_id_is_one_line_that_can_be_encoded() -> None:
    values = ["waba-1", "1\n2", "\ud800", " ", "a" * 257, 10**5000]

    assert [checks.account_id.accept(value) for value in values] == ["waba-1", *[None] * 5]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///wats.db",
        "sqlite:////var/lib/wats.db",
        "sqlite:///:memory:",
        "sqlite:///a folder/wäts.db",
    ],
)
def test_a_valid_url_of_a_database_is_kept(url: str) -> None:
    assert checks.database_url.accept(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///",
        "sqlite://wats.db",
        "sqlite:///a\nb",
        "mysql://db/wats",
        "sqlite:///wats.db?mode=ro",
        "sqlite:///wats.db#a",
        "sqlite:///\ud800",
        "wats.db",
        7,
    ],
)
def test_an_invalid_url_of_a_database_is_refused(url: object) -> None:
    assert checks.database_url.accept(url) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("abcdefgh12345678", id="sixteen-characters"),
        pytest.param("abcdefgh" * 2, id="eight-different-ones"),
        pytest.param("!~" + "abcdef" * 3, id="any-visible-ascii"),
        pytest.param("abcdefgh" * 512, id="as-long-as-can-be"),
    ],
)
def test_a_strong_bearer_token_is_accepted(value: str) -> None:
    assert checks.bearer_token.accept(value) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("abcdefgh1234567", id="fifteen-characters"),
        pytest.param("abcdefg" * 100, id="seven-different-ones"),
        pytest.param("abcdefgh 12345678", id="space"),
        pytest.param("abcdefgh12345678\n", id="line-break"),
        pytest.param("äbcdefgh12345678", id="other-letters"),
        pytest.param("abcdefgh" * 513, id="too-long"),
        pytest.param(1234567812345678, id="number"),
    ],
)
def test_a_weak_or_malformed_bearer_token_is_refused(value: object) -> None:
    assert checks.bearer_token.accept(value) is None


@given(value=st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126)))
def test_a_bearer_token_has_sixteen_characters_and_eight_different_ones(value: str) -> None:
    is_strong = 16 <= len(value) <= 4096 and len(set(value)) >= 8

    assert (checks.bearer_token.accept(value) is not None) == is_strong


@pytest.mark.parametrize("name", ["127.0.0.1", "0.0.0.0", "::1", "fe80::1%eth0", "wats.internal"])
def test_a_valid_listen_address_is_accepted(name: str) -> None:
    assert checks.bind_host.accept(name) == name


@pytest.mark.parametrize("name", ["", " ", "a b", "[::1]", "a\n", "a/b", "ä", 1])
def test_an_invalid_listen_address_is_refused(name: object) -> None:
    assert checks.bind_host.accept(name) is None
