"""The sites for nginx and Caddy are valid, and do what docs/operating.md promises."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from tests.pages import PAGES, blocks
from tests.walk import GATEWAY, Reader, Server, free_port, is_installed, is_open, wait_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not is_installed("curl", "nginx", "openssl", "caddy"), reason="a proxy is not installed"
    ),
]

CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=wats.example.org"
    " -keyout key.pem -out cert.pem"
)
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ }}
http {{
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{site}
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https off\n}}\n{site}"
BODY_LIMIT = 3 * 1024 * 1024


class Proxy(NamedTuple):
    """A proxy: the language of its blocks, its commands, and what a site needs to run here."""

    language: str
    check: str
    run: list[str]
    scheme: str
    made_local: Callable[[str, int], str]


def local_nginx(site: str, port: int) -> str:
    site = re.sub(r"(ssl_certificate_key) \S+;", r"\1 key.pem;", site)
    site = re.sub(r"(ssl_certificate) \S+;", r"\1 cert.pem;", site)
    return re.sub(r"listen 443 ", f"listen 127.0.0.1:{port} ", site)


def local_caddy(site: str, port: int) -> str:
    return re.sub(r"^wats\.example\.org ", f"http://127.0.0.1:{port} ", site)


PROXIES = [
    Proxy(
        "nginx",
        'nginx -t -p "$PWD" -c proxy.conf',
        ["nginx", "-p", ".", "-c", "proxy.conf"],
        "https",
        local_nginx,
    ),
    Proxy(
        "caddyfile",
        "caddy validate --config proxy.conf --adapter caddyfile",
        ["caddy", "run", "--config", "proxy.conf", "--adapter", "caddyfile"],
        "http",
        local_caddy,
    ),
]
each_proxy = pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.language)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    reader = Reader(tmp_path)
    assert reader.run(CERTIFICATE).code == 0
    return reader


def write_site(reader: Reader, proxy: Proxy, site: str, port: int) -> None:
    """Write the config of a proxy with one site, which listens on *port* of loopback."""
    frame = NGINX if proxy.language == "nginx" else CADDY
    local = proxy.made_local(site, port)
    reader.write("proxy.conf", frame.format(folder=reader.folder, site=local))


@each_proxy
def test_every_site_that_is_shown_is_accepted(reader: Reader, proxy: Proxy) -> None:
    for site in (each for page in PAGES for each in blocks(page, proxy.language)):
        write_site(reader, proxy, site, free_port())

        said = reader.run(proxy.check)

        assert said.code == 0, said.err
        assert "not formatted" not in said.err


class Received(NamedTuple):
    """A request as the gateway would get it from a proxy."""

    path: str
    headers: dict[str, str]
    size: int


@contextmanager
def recording(port: int) -> Iterator[list[Received]]:
    """Run a server in place of the gateway, which records its requests."""
    received: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            if len(body) < int(headers["content-length"]):
                return  # the proxy has broken the connection
            received.append(Received(self.path, headers, len(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running(reader: Reader, proxy: Proxy) -> Iterator[str]:
    """Run a proxy with the site of docs/operating.md; yield its URL."""
    port = free_port()
    (site,) = blocks("docs/operating.md", proxy.language)
    write_site(reader, proxy, site, port)
    server = Server(proxy.run, "proxy", reader.folder.parent, cwd=reader.folder, env=reader.environ)
    try:
        wait_for(lambda: is_open(port))
        yield f"{proxy.scheme}://127.0.0.1:{port}"
    finally:
        server.kill()


@each_proxy
def test_a_site_forwards_webhooks_only_and_without_upgrade(reader: Reader, proxy: Proxy) -> None:
    for name, size in (("usual", 20_000), ("largest", BODY_LIMIT), ("too-large", BODY_LIMIT + 1)):
        (reader.folder / name).write_bytes(b"x" * size)
    post = (
        "curl -sk -o /dev/null -w '%{http_code}' -H 'X-Hub-Signature-256: sha256=0'"
        " -H 'Connection: Upgrade' -H 'Upgrade: websocket' --data-binary @"
    )

    with recording(int(reader.placed(GATEWAY))) as received, running(reader, proxy) as url:
        codes = [
            reader.run(f"{post}{name} {url}{path}").out
            for name, path in (
                ("usual", "/webhooks/whatsapp"),
                ("largest", "/webhooks/whatsapp"),
                ("too-large", "/webhooks/whatsapp"),
                ("usual", "/api/messages"),
                ("usual", "/metrics"),
            )
        ]

    refused = codes.pop(2)
    assert refused in ("413", "502")  # Caddy finds the size while it forwards the body
    assert codes == ["200", "200", "404", "404"]
    assert [(each.path, each.size) for each in received] == [
        ("/webhooks/whatsapp", 20_000),
        ("/webhooks/whatsapp", BODY_LIMIT),
    ]
    for each in received:
        assert each.headers["x-hub-signature-256"] == "sha256=0"
        assert "upgrade" not in each.headers
        assert "upgrade" not in each.headers.get("connection", "").lower()
