"""Options and variables of `wats serve` that deployments of other gateways use."""

import json
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from tests.cli.test_serve import fetch
from wats.testing import sign

pytestmark = pytest.mark.long

TEXT = {"from": "15550001234", "text": "Hi!"}


def greeting_of(service: Any) -> tuple[str, str]:
    """Return the token of a sandbox and the URL of its fake Meta."""
    assert service.process.stderr is not None
    text = ""
    while "Stop the sandbox with" not in text:
        text += service.process.stderr.readline()
    (token,) = re.findall(r"TOKEN=(\S+)", text)
    (meta,) = re.findall(r"META=(\S+)", text)
    return token, meta


MESSAGE = {
    "metadata": {"phone_number_id": "15551234567"},
    "messages": [
        {
            "id": "wamid.A",
            "from": "15550001234",
            "timestamp": "1790000000",
            "type": "text",
            "text": {"body": "Hi!"},
        }
    ],
}


def webhook(change: Any) -> dict[str, Any]:
    entry = {"id": "1", "time": 1_790_000_000, "changes": [change]}
    return {"object": "whatsapp_business_account", "entry": [entry]}


def signed(wats: Any, body: Any) -> dict[str, str]:
    signature = sign(json.dumps(body).encode(), wats.environ["WATS_APP_SECRET"])
    return {"x-hub-signature-256": signature}


def settle(meta: str) -> None:
    while fetch(f"{meta}/_simulator/state")[1]["pending"]:
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("options", [["--live"], ["--live", "--yes-live"]])
def test_options_that_confirm_a_live_start_change_nothing(wats, options: list[str]) -> None:
    with wats.running("serve", "--config", str(wats.config), "--port", "0", *options) as service:
        assert fetch(f"{service.url}/readyz")[0] == 200


def test_a_platform_names_the_port_and_every_address_is_bound(wats) -> None:
    port = free_port()
    wats.environ["PORT"] = str(port)

    with wats.running("serve", "--config", str(wats.config), "--paas") as service:
        assert service.url == f"http://0.0.0.0:{port}"
        assert fetch(f"http://127.0.0.1:{port}/healthz")[0] == 200


def test_host_and_port_override_those_of_a_platform(wats) -> None:
    options = ("--paas", "--host", "127.0.0.1", "--port", "0")

    with wats.running("serve", "--config", str(wats.config), *options) as service:
        assert service.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "port", [None, "", "0", "08787", "70000", "canary", "+80", "8 0", "\uff18\uff10"]
)
def test_a_platform_without_a_port_is_an_error(wats, port: str | None) -> None:
    environ = {"PORT": port} if port is not None else {}

    result = wats.invoke("serve", "--config", str(wats.config), "--paas", environ=environ)

    assert (result.code, result.out) == (1, "")
    shown = "PORT: Must be a whole number from 1 to 65535, for --paas. (invalid_service_port)"
    assert shown in result.err
    assert "canary" not in result.err


def test_the_variable_of_a_platform_is_ignored_unless_asked_for(wats) -> None:
    wats.environ["PORT"] = "canary"

    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        assert fetch(f"{service.url}/healthz")[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_routes_are_printed_before_the_service_is_ready(wats, workers: str) -> None:
    wats.write(groups={"enabled": True})
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", workers)

    with wats.running(*command, "--print-routes") as service:
        lines = [service.ready_line]
        while not lines[-1].startswith("{"):
            lines.append(service.process.stdout.readline())

    columns = [line.replace(", ", ",").split() for line in lines[:-1]]
    routes = {path: methods for methods, path in columns}
    assert json.loads(lines[-1])["event"] == "wats.ready"
    assert routes["/webhooks/whatsapp"] == "GET,HEAD,POST"
    assert routes["/api/groups/:groupId/participants"] == "DELETE"
    assert routes["/metrics"] == "GET,HEAD"


@pytest.mark.parametrize("option", ["--dry-run", "--sandbox"])
def test_a_dry_run_tries_a_config_with_a_fake_meta(wats, option: str) -> None:
    document = json.loads(wats.config.read_text())
    profile = document["profiles"]["local"]
    profile["service"] |= {"apiPrefix": "/v1", "workers": 2, "host": "0.0.0.0"}
    profile["webhook"]["path"] = "/hook/"
    wats.config.write_text(json.dumps(document))
    for name in [name for name in wats.environ if name.startswith("WATS_")]:
        del wats.environ[name]
    command = ("serve", "--config", str(wats.config), option, "--port", "0")

    with wats.running(*command) as service:
        token, meta = greeting_of(service)
        assert service.url.startswith("http://127.0.0.1:")
        _, written = fetch(f"{meta}/_simulator/inbound", TEXT)
        settle(meta)
        headers = {"authorization": f"Bearer {token}"}
        listed = fetch(f"{service.url}/v1/messages", headers=headers)[1]

    assert [item["waMessageId"] for item in listed["items"]] == written["ids"]
    assert list(wats.folder.glob("*.db*")) == []


@pytest.mark.parametrize("has_store", [True, False])
def test_received_updates_are_logged_on_request(wats, has_store: bool) -> None:
    wats.write(**({} if has_store else {"persistence": "none"}))
    wats.environ["WATS_LOG_WEBHOOK_EVENTS"] = "true"
    body = webhook({"field": "account_update", "value": {"event": "X"}})

    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        for _ in range(2):
            fetch(f"{service.url}/webhooks/whatsapp", body, signed(wats, body))
        lines = [json.loads(line) for line in service.end().err.splitlines()]

    updates = [line for line in lines if line["event"] == "wats.webhook.update"]
    assert [line["kind"] for line in updates] == ["account", "account"]
    outcomes = ["accepted", "deduped"] if has_store else ["success", "success"]
    assert [line["outcome"] for line in updates] == outcomes
    assert len({line["updateId"] for line in updates}) == 1


@pytest.mark.parametrize("value", ["", "0", "yes"])
def test_updates_are_not_logged_unless_the_switch_is_on(wats, value: str) -> None:
    wats.environ["WATS_LOG_WEBHOOK_EVENTS"] = value

    with wats.running("serve", "--sandbox", "--port", "0") as service:
        _, meta = greeting_of(service)
        fetch(f"{meta}/_simulator/inbound", TEXT)
        settle(meta)
        assert "wats.webhook.update" not in service.end().err


def test_the_echo_of_a_sandbox_replies_once_and_never_to_its_own_text(wats) -> None:
    wats.environ |= {"WATS_ECHO_REPLY": "1", "WATS_LOG_WEBHOOK_EVENTS": "1"}

    with wats.running("serve", "--sandbox", "--port", "0") as service:
        token, meta = greeting_of(service)
        replies: list[Any] = []
        for text in ("Hi!", "Your message has arrived.", "Bye!"):
            fetch(f"{meta}/_simulator/inbound", {**TEXT, "text": text})
            settle(meta)
        while len(replies) < 2:
            headers = {"authorization": f"Bearer {token}"}
            listed = fetch(f"{service.url}/api/messages", headers=headers)[1]["items"]
            replies = [item for item in listed if item["direction"] == "outbound"]
        settle(meta)
        events = [json.loads(line) for line in service.end().err.splitlines()]

    assert [item["toPhone"] for item in replies] == ["15550001234"] * 2
    echoes = [event for event in events if event["event"] == "wats.echo.reply"]
    assert [event["outcome"] for event in echoes] == ["sent", "sent"]


def test_an_echo_that_meta_rejects_is_logged_with_its_code(wats) -> None:
    wats.environ["WATS_ECHO_REPLY"] = "true"

    with wats.running("serve", "--sandbox", "--port", "0") as service:
        _, meta = greeting_of(service)
        # The fake Meta rejects messages to this number with the code 190.
        fetch(f"{meta}/_simulator/inbound", {**TEXT, "from": "15550000005"})
        line = ""
        while "wats.echo.reply" not in line:
            line = service.process.stderr.readline()

    event = json.loads(line)
    assert (event["outcome"], event["metaCode"]) == ("failed", 190)


def test_there_is_no_echo_outside_of_a_sandbox(wats) -> None:
    wats.environ["WATS_ECHO_REPLY"] = "1"

    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        body = webhook({"field": "messages", "value": MESSAGE})
        fetch(f"{service.url}/webhooks/whatsapp", body, signed(wats, body))
        token = {"authorization": f"Bearer {wats.environ['WATS_SERVICE_BEARER_TOKEN']}"}
        listed = fetch(f"{service.url}/api/messages", headers=token)[1]
        ended = service.end()

    assert [item["direction"] for item in listed["items"]] == ["inbound"]
    assert (ended.code, ended.err) == (0, "")


def sandbox_of(wats: Any, **sections: Any) -> tuple[str, ...]:
    """Return the command of a sandbox with a config that has these *sections*."""
    wats.write(**sections)
    return ("serve", "--sandbox", "--config", str(wats.config), "--port", "0")


def test_a_sandbox_sends_updates_to_the_subscribers_with_their_secrets(wats) -> None:
    received: Queue[tuple[bytes, Any]] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.put((body, self.headers["x-hub-signature-256"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        address = f"http://127.0.0.1:{server.server_port}/crm"
        crm = {"name": "crm", "url": address, "format": "meta", "secret": {"env": "CRM_SECRET"}}
        command = sandbox_of(wats, subscribers=[{**crm, "allowPrivateNetwork": True}])
        (wats.folder / "wats.env").write_text("CRM_SECRET=a-secret-of-the-subscriber\n")
        try:
            with wats.running(*command) as service:
                _, meta = greeting_of(service)
                fetch(f"{meta}/_simulator/inbound", TEXT)
                body, signature = received.get(timeout=60)
        finally:
            server.shutdown()

    assert b'"Hi!"' in body
    assert signature == sign(body, "a-secret-of-the-subscriber")


def test_a_sandbox_leaves_out_clients_without_secrets_and_names_them(wats) -> None:
    crm = {"name": "crm", "url": "https://crm.example/", "secret": {"env": "CRM_SECRET"}}
    shop = {"name": "shop", "token": {"file": "shop-token"}, "scopes": ["messages:read"]}
    service = {"host": "127.0.0.1", "port": 8787, "apiPrefix": "/api", "tokens": [shop]}
    service["bearerToken"] = {"env": "WATS_SERVICE_BEARER_TOKEN"}
    command = sandbox_of(wats, subscribers=[crm], service=service, pullers=[{"name": "batch"}])

    with wats.running(*command) as running:
        shown = running.end().err

    names = "subscriber crm, token shop"
    assert shown.startswith(f"Left out, because their secrets are not set: {names}.\n")


def test_a_sandbox_accepts_the_token_of_a_client_and_polls_of_a_puller(wats) -> None:
    shop = {"name": "shop", "token": {"env": "SHOP"}, "scopes": ["messages:read"]}
    service = {"host": "127.0.0.1", "port": 8787, "apiPrefix": "/api", "tokens": [shop]}
    service["bearerToken"] = {"env": "WATS_SERVICE_BEARER_TOKEN"}
    berlin = {"name": "berlin", "phoneNumberId": "200000000000003", "wabaId": "100000000000001"}
    berlin["accessToken"] = {"env": "BERLIN"}
    command = sandbox_of(wats, service=service, pullers=[{"name": "batch"}], numbers=[berlin])
    wats.environ["SHOP"] = "the-token-of-the-shop-for-tests"

    with wats.running(*command) as running:
        token, meta = greeting_of(running)
        fetch(f"{meta}/_simulator/inbound", {**TEXT, "number": "200000000000003"})
        settle(meta)
        by_shop = {"authorization": f"Bearer {wats.environ['SHOP']}"}
        own = {"authorization": f"Bearer {token}"}
        listed = fetch(f"{running.url}/api/messages", headers=by_shop)[1]["items"]
        polled = fetch(f"{running.url}/api/updates?consumer=batch", headers=own)
        sent = fetch(
            f"{running.url}/api/numbers/200000000000003/messages/text",
            {"to": "15550001234", "text": "Hello"},
            own,
        )

    assert [item["direction"] for item in listed] == ["inbound"]
    assert polled[0] == 200
    assert sent[0] == 200


def test_a_sandbox_reports_an_invalid_secret_of_a_client(wats) -> None:
    crm = {"name": "crm", "url": "https://crm.example/", "secret": {"env": "CRM_SECRET"}}
    command = sandbox_of(wats, subscribers=[crm])

    result = wats.run(*command, environ={**wats.environ, "CRM_SECRET": "not-a-key-of-webhooks"})

    assert result.code == 1
    assert "'CRM_SECRET' must hold 'whsec_'" in result.err


def test_a_sandbox_names_the_config_that_it_does_not_use(wats) -> None:
    (wats.folder / "wats.config.yaml").write_text("version: 1\n")

    with wats.running("serve", "--sandbox", "--port", "0") as service:
        shown = service.end().err

    assert shown.startswith("wats.config.yaml is not used; give --config to use it.\n")
