"""Without a token, operator endpoints match nonexistent paths in every byte of the response.

Requests go to the sockets of `wats serve` exactly as written here. Responses are compared
completely, except for the time in `date`: the status line, names, order and values of the headers,
the body, and whether the connection stays open.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.settings import SECRETS, config_of
from wats.testing import BEARER_TOKEN, example_profile
from wats.web.routing import Posture
from wats.web.table import route_table

SCRAPER_TOKEN = "a-scraper-token-for-tests"
TELEMETRY = ("/metrics", "/status", "/debug/diagnostics")
ADMIN = tuple(
    re.sub(r"[:*]\w+", "1", row.path)
    for row in route_table(example_profile(), groups_enabled=False)
    if row.posture is Posture.ADMIN
)
HIDDEN = (*TELEMETRY, *ADMIN)
UNKNOWN = "/nothing-is-here"
PATIENCE_SECONDS = 30.0
GOOD, SCRAPER = (f"authorization: Bearer {token}\r\n" for token in (BEARER_TOKEN, SCRAPER_TOKEN))
LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

INVENTED = "SCRAPE"
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"),
    *("PROPFIND", "REPORT", INVENTED),
)
VERSIONS = ("1.1", "1.0")
METHODS_OF_A_RING = [
    pytest.param(
        method, marks=() if method in {"GET", "HEAD", "POST", INVENTED} else pytest.mark.long
    )
    for method in METHODS
]
VERSIONS_OF_A_RING = ["1.1", pytest.param("1.0", marks=pytest.mark.long)]
STRANGERS = {
    "no-token": "",
    "empty": "authorization: \r\n",
    "scheme-alone": "authorization: Bearer\r\n",
    "scheme-and-space": "authorization: Bearer \r\n",
    "no-scheme": f"authorization: {BEARER_TOKEN}\r\n",
    "wrong-scheme": f"authorization: Basic {BEARER_TOKEN}\r\n",
    "wrong-token": "authorization: Bearer not-the-token\r\n",
    "token-and-one-more": GOOD.replace("\r\n", "2\r\n"),
    "token-but-one": GOOD.replace("s\r\n", "\r\n"),
    "token-in-capitals": f"authorization: Bearer {BEARER_TOKEN.upper()}\r\n",
    "token-behind-a-tab": f"authorization: Bearer\t{BEARER_TOKEN}\r\n",
    "token-twice": GOOD * 2,
    "token-and-a-wrong-one": GOOD + "Authorization: Bearer not-the-token\r\n",
    "two-in-one": f"authorization: Bearer {BEARER_TOKEN}, Bearer {BEARER_TOKEN}\r\n",
    "not-ascii": "authorization: Bearer \xe9\xff\r\n",
    "of-a-proxy": f"proxy-authorization: Bearer {BEARER_TOKEN}\r\n",
    "cookie": f"cookie: token={BEARER_TOKEN}\r\n",
} | {
    f"{length}-characters": f"authorization: Bearer {'x' * length}\r\n"
    for length in (1, 15, len(BEARER_TOKEN), 64, 1024, 8192, 65_000)
}
HEADERS = {
    "openmetrics": "accept: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
    "gzip": "accept-encoding: gzip, br\r\n",
    "as-prometheus": "accept: text/plain;version=0.0.4\r\naccept-encoding: gzip\r\n"
    "user-agent: Prometheus/3.5.0\r\nx-prometheus-scrape-timeout-seconds: 10\r\n",
    "if-none-match": "if-none-match: *\r\n",
    "if-modified-since": "if-modified-since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    "range": "range: bytes=0-10\r\n",
    "expect": "expect: 100-continue\r\n",
    "close": "connection: close\r\n",
    "keep-alive": "connection: keep-alive\r\n",
    "web-socket": "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "http-2": "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n",
    "other-method": "x-http-method-override: GET\r\n",
    "other-target": "x-original-url: /metrics\r\nx-rewrite-url: /metrics\r\n",
    "forwarded": "x-forwarded-for: 127.0.0.1\r\nx-forwarded-prefix: /metrics\r\n",
    "another-host": "host: localhost\r\n",
    "cors": "origin: https://x.example\r\naccess-control-request-method: GET\r\n",
    "no-bytes": "content-length: 0\r\n",
    "two-lengths": "content-length: 1\r\ncontent-length: 2\r\n",
    "no-header": "x\r\n",
}
BODIES = {
    "none": ("\r\n", ""),
    "small": ("content-length: 5\r\n\r\nhello", ""),
    "chunked": ("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ""),
    "late": ("content-length: 5\r\n\r\n", "hello"),
    "late-chunks": ("transfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    "late-and-expected": ("expect: 100-continue\r\ncontent-length: 5\r\n\r\n", "hello"),
    "broken-chunk": ("transfer-encoding: chunked\r\n\r\nhello\r\n", ""),
}
LARGE = 1024 * 1024 + 1
LARGE_BODIES = (
    f"content-length: {LARGE}\r\n\r\n{'x' * LARGE}",
    f"transfer-encoding: chunked\r\n\r\n{LARGE:x}\r\n{'x' * LARGE}\r\n0\r\n\r\n",
)
SHAPES = {
    "slash-behind": "{}/",
    "slash-before": "/{}",
    "query": "{}?name[]=up",
    "token-in-query": "{}?access_token=" + BEARER_TOKEN,
    "fragment": "{}#top",
    "parameter": "{};v=1",
    "absolute": "http://x{}",
    "dot": "/.{}",
    "dots": "/x/..{}",
    "encoded-dots": "/x/%2e%2E{}",
    "dots-behind": "{}/x/..",
    "extension": "{}.json",
    "null": "{}%00",
    "not-ascii": "{}\xe9",
    "space": "{} x",
    "below-the-api": "/api{}",
    "below-the-webhook": "/webhooks/whatsapp{}",
}


class Setup(NamedTuple):
    """The paths and tokens of one service."""

    groups: bool = False
    scraper_token: bool = False
    workers: int = 1


class Service(NamedTuple):
    """A running `wats serve`."""

    port: int
    setup: Setup


SETUPS = {
    "groups-off": Setup(),
    "groups-on": Setup(groups=True),
    "groups-off-two-tokens": Setup(scraper_token=True),
    "groups-on-two-tokens": Setup(groups=True, scraper_token=True),
    "two-workers": Setup(groups=True, scraper_token=True, workers=2),
}


def document_of(setup: Setup) -> dict[str, Any]:
    token = {"bearerToken": {"env": "SCRAPER_TOKEN"}} if setup.scraper_token else {}
    document = config_of(
        groups={"enabled": setup.groups}, telemetry={"families": "operator", **token}
    )
    document["profiles"]["local"]["service"]["workers"] = setup.workers
    return document


IN_THE_FIRST_RING = {"groups-off", "two-workers"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in IN_THE_FIRST_RING else pytest.mark.long)
        for name in SETUPS
    ],
)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    setup = SETUPS[request.param]
    folder = tmp_path_factory.mktemp("service")
    (folder / "config.json").write_text(json.dumps(document_of(setup)))
    process = subprocess.Popen(
        [sys.executable, "-m", "wats", "serve", "--config", "config.json", "--port", "0"],
        cwd=folder,
        env={**os.environ, **SECRETS, "SCRAPER_TOKEN": SCRAPER_TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process:
        ready = json.loads(process.stdout.readline())
        port = int(ready["url"].rpartition(":")[2])
        yield Service(port, setup)
        process.terminate()


def request(
    target: str, method: str = "GET", version: str = "1.1", headers: str = "", body: str = "\r\n"
) -> bytes:
    return f"{method} {target} HTTP/{version}\r\nhost: x\r\n{headers}{body}".encode("latin-1")


def exchange(service: Service, sent: bytes, late: str = "") -> bytes:
    """Return all bytes received; *late* and `LAST` are sent once *sent* has its first response."""
    with connect(service) as connection:
        answer = ask(connection, sent)
        with suppress(ConnectionError):  # it may be closed after the first response
            connection.sendall(late.encode() + LAST)
            while received := connection.recv(65_536):
                answer += received
    return undated(answer)


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_SECONDS)


def ask(connection: socket.socket, sent: bytes) -> bytes:
    """Return the bytes received up to the end of the first response."""
    connection.sendall(sent)
    answer = b""
    while not is_whole(answer, is_head=sent.startswith(b"HEAD ")):
        received = connection.recv(65_536)
        assert received, "A request was not answered."
        answer += received
    return answer


def is_whole(answer: bytes, *, is_head: bool) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return bool(end) and (is_head or len(body) >= int(length[1] if length else 0))


def undated(answer: bytes) -> bytes:
    return re.sub(rb"\r\ndate: [^\r]+", b"\r\ndate: -", answer)


def assert_hidden(service: Service, *, late: str = "", shape: str = "{}", **asked: str) -> bytes:
    """Return the response to an unknown path, once every hidden path had the same."""
    unknown = exchange(service, request(shape.format(UNKNOWN), **asked), late)
    for path in HIDDEN:
        assert exchange(service, request(shape.format(path), **asked), late) == unknown, path
    return unknown


@pytest.mark.parametrize("version", VERSIONS_OF_A_RING)
@pytest.mark.parametrize("method", METHODS_OF_A_RING)
def test_without_a_valid_token_operator_endpoints_do_not_exist(
    service: Service, method: str, version: str
) -> None:
    # The parser refuses an unknown method before the path is read.
    status = b"HTTP/1.1 400 " if method == INVENTED else b"HTTP/1.1 404 "
    for headers in STRANGERS.values():
        answer = assert_hidden(service, method=method, version=version, headers=headers)
        assert answer.startswith(status)


@pytest.mark.parametrize("version", VERSIONS_OF_A_RING)
@pytest.mark.parametrize("method", METHODS_OF_A_RING)
def test_no_header_makes_a_difference(service: Service, method: str, version: str) -> None:
    for headers in HEADERS.values():
        assert_hidden(service, method=method, version=version, headers=headers)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PROPFIND"])
def test_no_body_makes_a_difference(service: Service, method: str, version: str) -> None:
    for body, late in BODIES.values():
        assert_hidden(service, method=method, version=version, body=body, late=late)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PROPFIND"])
def test_no_body_is_too_large_to_make_no_difference(service: Service, method: str) -> None:
    for body in LARGE_BODIES:
        assert_hidden(service, method=method, body=body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_spelling_of_a_path_makes_a_difference(service: Service, method: str) -> None:
    for shape, headers in product(SHAPES.values(), ("", GOOD * 2)):
        assert_hidden(service, shape=shape, method=method, headers=headers)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_before_or_after_the_token_make_no_difference(service: Service, version: str) -> None:
    for other in (b"", request("/healthz"), request("/openapi.json", headers=GOOD)):
        conversations = [
            other + request(path, version=version) * 3 + other for path in (UNKNOWN, *HIDDEN)
        ]
        unknown, *hidden = (exchange(service, conversation) for conversation in conversations)
        assert hidden == [unknown] * len(HIDDEN)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda name: name not in {"connection", "expect", "upgrade"}
)
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40)
RANDOM_HEADERS = st.lists(st.builds("{}: {}\r\n".format, NAMES, VALUES), max_size=3).map("".join)
TOKENS = st.builds("authorization: {}{}\r\n".format, st.sampled_from(["", "Bearer "]), VALUES)
HEADS = st.lists(
    RANDOM_HEADERS | TOKENS | st.sampled_from([*STRANGERS.values(), *HEADERS.values()]), max_size=4
).map("".join)
METHOD_NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ-", min_size=1, max_size=12)
SEGMENTS = st.text("abcdefghijklmnopqrstuvwxyzABC019-_~!$&'()*+,;=:@", min_size=1, max_size=20)


@given(
    method=METHOD_NAMES | st.sampled_from(METHODS),
    version=st.sampled_from(VERSIONS),
    headers=HEADS,
    body=st.sampled_from(list(BODIES)),
    shape=st.just("{}") | st.sampled_from(list(SHAPES.values())),
)
def test_no_generated_request_makes_a_difference(
    service: Service, method: str, version: str, headers: str, body: str, shape: str
) -> None:
    text, late = BODIES[body]
    asked = {"method": method, "version": version, "headers": headers, "body": text}

    assert_hidden(service, **asked, late=late, shape=shape)


@given(path=st.lists(SEGMENTS, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts)))
@example(path="/")
@example(path="/metric")
@example(path="/metricss")
@example(path="/METRICS")
@example(path="/debug")
@example(path="/debug/")
@example(path="/debug/pprof")
def test_all_unknown_paths_get_the_same_response(service: Service, path: str) -> None:
    assume(path not in {*HIDDEN, "/healthz", "/readyz"} and not path.startswith("/api/"))

    assert exchange(service, request(path)) == exchange(service, request("/metrics"))


def test_no_process_makes_a_difference(service: Service) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(service)) for _ in range(16)]
        answers = {
            undated(ask(connection, request(path)))
            for path in (UNKNOWN, *HIDDEN)
            for connection in connections
        }
        metrics = ask(connections[0], request("/metrics", headers=GOOD))

    assert len(answers) == 1
    assert b"\nwats_worker_processes %d\n" % service.setup.workers in metrics


def test_a_valid_token_opens_hidden_endpoints(service: Service) -> None:
    for headers in (GOOD, SCRAPER) if service.setup.scraper_token else (GOOD,):
        for path in TELEMETRY:
            answers = [
                exchange(service, request(path, method, headers=headers))
                for method in ("GET", "HEAD", "POST")
            ]
            assert [answer[:13] for answer in answers] == [
                b"HTTP/1.1 200 ",
                b"HTTP/1.1 200 ",
                b"HTTP/1.1 405 ",
            ]
            assert b"\r\nallow: GET, HEAD\r\n" in answers[2]


def test_no_token_of_scrapers_opens_an_admin_route(service: Service) -> None:
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        unknown = exchange(service, request(UNKNOWN, method, headers=SCRAPER))
        for path in ADMIN:
            assert exchange(service, request(path, method, headers=SCRAPER)) == unknown


def test_a_service_token_opens_admin_routes(service: Service) -> None:
    answers = [exchange(service, request(path, "PUT", headers=GOOD))[:13] for path in ADMIN]

    assert answers == [b"HTTP/1.1 405 "] * len(ADMIN)


def test_the_token_of_scrapers_is_only_one_where_it_is_configured(service: Service) -> None:
    if not service.setup.scraper_token:
        assert_hidden(service, headers=SCRAPER)
    closed = exchange(service, request("/api/messages", headers=SCRAPER))

    status = 403 if service.setup.scraper_token else 401
    assert closed.startswith(b"HTTP/1.1 %d " % status)


def test_the_404_is_59_bytes_of_json(service: Service) -> None:
    answer = exchange(service, request(UNKNOWN, headers="connection: close\r\n"))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b'{"error":{"code":"not_found","message":"Route not found."}}'
    assert b"\r\ncontent-length: 59\r\n" in head + b"\r\n"
    assert b"server:" not in head


def test_the_token_is_checked_before_the_method(service: Service) -> None:
    updates = "/api/updates", "/api/updates?consumer=batch", "/api/updates/ack"
    for path in ("/api/messages", "/api/messages/text", "/api/messages/x", *updates):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = exchange(service, request(path, method))
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"\r\nwww-authenticate: Bearer\r\n" in answer


def test_the_document_lists_hidden_routes_for_callers_only(service: Service) -> None:
    anonymous = exchange(service, request("/openapi.json"))
    complete = exchange(service, request("/openapi.json", headers=GOOD))

    assert anonymous.startswith(b"HTTP/1.1 200 ")
    for hidden in (*TELEMETRY, "/api/admin", "/webhooks/whatsapp"):
        assert hidden.encode() not in anonymous
        assert hidden.encode() in complete


def test_a_head_without_end_is_cut_off(service: Service) -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(2000))
    with connect(service) as connection:
        with suppress(ConnectionError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + lines)

        with suppress(ConnectionError):
            assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
