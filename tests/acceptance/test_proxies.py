"""`wats serve` behind proxies that pass on the webhook path only, with hostile clients and Meta.

Two parties that disagree about the end of a request would let a client reach other routes, or make
a webhook of Meta part of another request: acknowledged with 200, and not stored.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_connections import Serving, running
from tests.process.http.wire import HOOK, OFFERS, TOKEN, chunked, head, post, statuses_of
from wats.testing import BEARER_TOKEN

pytestmark = pytest.mark.long

HOSTILE = 10_000
ATTACKERS = 3
PIPELINED = 2
INNER = (
    b"GET /healthz HTTP/1.1\r\nhost: s\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: s\r\nx-swallow: ",
    f"GET /status HTTP/1.1\r\nhost: s\r\n{TOKEN}\r\n\r\n".encode(),
)

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend f
  bind 127.0.0.1:{front}
  http-request deny if !{{ path /webhooks/whatsapp }}
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{back}
"""
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 400; }}
http {{
  access_log off; client_max_body_size 4m;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream w {{ server 127.0.0.1:{back}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{front};
    location = /webhooks/whatsapp {{
      proxy_pass http://w; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }}
    location / {{ return 403; }}
  }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http://:{front} {{
  bind 127.0.0.1
  handle /webhooks/whatsapp {{
    reverse_proxy 127.0.0.1:{back}
  }}
  handle {{
    respond "no" 403
  }}
}}
"""
PROXIES: dict[str, tuple[str, Callable[[str, str], list[str]]]] = {
    "haproxy": (HAPROXY, lambda file, _: ["-f", file, "-db", "-q"]),
    "nginx": (NGINX, lambda file, folder: ["-c", file, "-p", folder]),
    "caddy": (CADDY, lambda file, _: ["run", "--config", file, "--adapter", "caddyfile"]),
}


def installed() -> list[str]:
    return [name for name in PROXIES if _program(name)]


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port: int = some.getsockname()[1]
        return port


@contextlib.contextmanager
def proxy(name: str, folder: Path, back: int) -> Iterator[int]:
    """Run a proxy in front of the port *back*; yield its own port."""
    program, (text, arguments), front = _program(name), PROXIES[name], free_port()
    assert program is not None
    file = folder / f"{name}.conf"
    file.write_text(text.format(front=front, back=back, folder=folder))
    process = subprocess.Popen(
        [program, *arguments(str(file), str(folder))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
    )
    with process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", front)):
                break
            time.sleep(0.05)
        try:
            yield front
        finally:
            process.terminate()


def message(wamid: str) -> bytes:
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": "15551234567"},
        "contacts": [{"profile": {"name": "Test"}, "wa_id": "15550002222"}],
        "messages": [
            {
                "from": "15550002222",
                "id": wamid,
                "timestamp": str(int(time.time())),
                "type": "text",
                "text": {"body": "hi"},
            }
        ],
    }
    entry = {"id": "123456789012345", "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def hostile(choose: random.Random) -> bytes:
    inner = choose.choice(INNER)
    large = b"\r\n" * choose.choice((0, 10, 1_000, 40_000)) + inner
    offer = ("connection: upgrade", f"upgrade: {choose.choice(OFFERS)}")
    te, wrong = "transfer-encoding: chunked", "x-hub-signature-256: sha256=" + "0" * 64
    to_hook = f"POST {HOOK}"
    requests = (
        lambda: post(large, *offer, signature="x"),
        lambda: post(inner, *offer, signature="sha256=" + "0" * 64),
        lambda: post(inner, "expect: 100-continue", *offer, signature="x"),
        lambda: head(to_hook, te, *offer) + chunked(large, TOKEN, size=5_000),
        lambda: head(to_hook, te, wrong) + chunked(inner, TOKEN, wrong, extension=";a=b"),
        lambda: head(to_hook, te, "content-length: 5") + chunked(inner),
        lambda: head(to_hook, "transfer-encoding: gzip, chunked") + chunked(inner),
        lambda: head(to_hook, "transfer-encoding : chunked") + chunked(inner),
        lambda: head(to_hook, te, "host: y") + chunked(inner),
        lambda: head(f"CONNECT {HOOK}", f"content-length: {len(inner)}") + inner,
        lambda: head(f"GET {HOOK}", f"content-length: {len(inner)}", *offer) + inner,
        lambda: head(f"PUT {HOOK}", f"content-length: {len(large)}") + large,
        lambda: head(to_hook, wrong, "content-length: 900") + inner,
        lambda: head(to_hook, te) + b"5\r\nhello\r\n0\r\nx: " + b"y" * 9_000 + b"\r\n\r\n" + inner,
        lambda: inner,
    )
    return choose.choice(requests)()


def attack(front: int, seed: int, count: int) -> None:
    choose = random.Random(seed)
    for _ in range(count // PIPELINED):
        with contextlib.suppress(OSError), socket.socket() as client:
            client.settimeout(0.1)
            client.connect(("127.0.0.1", front))
            for _ in range(PIPELINED):
                client.sendall(hostile(choose))
            client.recv(65_536)


def deliver(front: int, wamid: str) -> list[int]:
    """Deliver a webhook as Meta does; return the statuses of the responses."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", front), 10) as client:
        client.sendall(post(message(wamid), "connection: close"))
        while received := client.recv(65_536):
            answer += received
    return statuses_of(answer)


def ask(service: Serving, path: str) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}{path}",
        headers={"authorization": f"Bearer {BEARER_TOKEN}"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - loopback
        body: bytes = answer.read()
        return body


@pytest.mark.skipif(not installed(), reason="neither haproxy nor nginx nor caddy is installed")
def test_behind_a_proxy_no_webhook_is_lost_and_no_other_route_reached(tmp_path: Path) -> None:
    names = installed()
    accepted: list[str] = []
    with running(tmp_path) as service:
        for name in names:
            with proxy(name, tmp_path, service.port) as front:
                each = HOSTILE // len(names) // ATTACKERS + PIPELINED
                attackers = [
                    threading.Thread(target=attack, args=(front, seed, each))
                    for seed in range(ATTACKERS)
                ]
                for attacker in attackers:
                    attacker.start()
                number = 0
                while any(attacker.is_alive() for attacker in attackers) or number < 20:
                    wamid = f"wamid.{name}{number}"
                    number += 1
                    if deliver(front, wamid) == [200]:
                        accepted.append(wamid)
        metrics = ask(service, "/metrics").decode()
        for wamid in accepted:
            assert json.loads(ask(service, f"/api/messages/{wamid}"))

    reached = {
        line.split('route="')[1].split('"')[0]
        for line in metrics.splitlines()
        if line.startswith("http_requests_total{") and not line.endswith(" 0")
    }
    assert reached <= {"/webhook", "unmatched"}
    assert len(accepted) >= 10 * len(names)
