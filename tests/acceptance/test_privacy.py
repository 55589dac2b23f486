"""Nothing that belongs to a customer, a caller or Meta leaves by the operators' door."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from wats.config import GroupsConfig, InboxConfig
from wats.telemetry.sinks import write_json_line
from wats.testing import (
    APP_SECRET,
    BEARER_TOKEN,
    VERIFY_TOKEN,
    CapturingTelemetrySink,
    example_secrets,
)

HOOK = "/webhooks/whatsapp"
SECRETS = (
    APP_SECRET,
    VERIFY_TOKEN,
    BEARER_TOKEN,
    example_secrets().access_token.reveal(),
)
IDENTIFIERS = (HOOK, "123456789012345", "15551234567")


class Canaries:
    """Gives out words that occur nowhere else, each for one place in which somebody may write."""

    def __init__(self) -> None:
        self.all: dict[str, str] = {}

    def word(self, place: str) -> str:
        return self.all.setdefault(place, f"Kanarie{len(self.all):02d}{place.title()}")

    def number(self, place: str, suffix: str = "") -> str:
        """Return a phone number; the simulator goes by its last digits."""
        return self.all.setdefault(place, f"4930{77000 + len(self.all)}{suffix or '2345'}")

    def found_in(self, text: str) -> list[str]:
        return [place for place, canary in self.all.items() if canary in text]


def message(canaries: Canaries, **changes: Any) -> dict[str, Any]:
    customer = canaries.number("customer")
    item = {
        "from": customer,
        "from_user_id": canaries.word("user-id"),
        "id": f"wamid.{canaries.word('wamid')}",
        "timestamp": "1790000000",
        "type": "text",
        "text": {"body": canaries.word("text")},
        **changes,
    }
    contact = {
        "profile": {"name": canaries.word("name"), "username": canaries.word("username")},
        "wa_id": customer,
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": "15551234567"},
        "contacts": [contact],
        "messages": [item],
        canaries.word("member"): {"x": 1},
    }
    return envelope(canaries, "messages", value)


def envelope(canaries: Canaries, field: str, value: Any) -> dict[str, Any]:
    entry = {
        "id": canaries.word("waba"),
        "time": 1_790_000_000,
        "changes": [{"field": field, "value": value}],
    }
    return {"object": "whatsapp_business_account", "entry": [entry]}


async def be_everybody(client: Any, canaries: Canaries) -> None:
    """Ask everything, and leave a canary wherever one can be left."""
    word, number = canaries.word, canaries.number
    signed = {"x-wats-canary": word("header"), "user-agent": word("agent")}

    await client.webhook(message(canaries))
    await client.webhook(message(canaries, type=word("type")))
    await client.webhook(envelope(canaries, word("field"), {word("key"): word("value")}))
    await client.webhook({"object": word("object"), "entry": []})
    await client.webhook(json.dumps(word("json")).encode())
    await client.webhook(word("broken").encode())
    await client.webhook(message(canaries), signature=word("signature"))
    query = f"hub.mode={word('mode')}&hub.verify_token={word('verify')}&hub.challenge=1"
    await client.ask("GET", f"{HOOK}?{query}", token=None)
    query = f"hub.mode=subscribe&hub.verify_token={word('verify')}&hub.challenge=1"
    await client.ask("GET", f"{HOOK}?{query}", token=None)

    for place, suffix in {"sent": "2345", "failing": "0001"}.items():
        await client.send_text(number(place, suffix), word("outgoing"), key=word("key-used"))
    for suffix in ("0003", "0005", "0006", "0007", "0009", "0011", "0012", "0013"):
        await client.send_text(number(f"refused-{suffix}", suffix), word("outgoing"))
    await client.send_text(word("no-number"), word("outgoing"))
    await client.send_text(number("sent", "2345"), word("outgoing") + "\x00")
    template = {"name": word("template"), "language": {"code": "en"}}
    native = {"messaging_product": "whatsapp", "to": number("native"), "type": "template"}
    await client.ask("POST", "/api/messages", {**native, "template": template}, headers=signed)
    await client.ask("POST", "/api/messages", {**native, "type": word("native-type")})
    await client.ask("POST", "/api/messages", {word("native-key"): 1})
    await client.ask("POST", "/api/messages/text", word("no-json").encode())

    await client.ask("GET", f"/api/messages/{word('message-id')}")
    await client.ask("GET", f"/api/messages?cursor={word('cursor')}&limit={word('limit')}")
    await client.ask("GET", f"/api/conversations/{number('window')}/window")
    await client.ask("GET", f"/api/conversations/{word('no-window')}/window")
    await client.ask("POST", "/api/groups", {"subject": word("subject"), word("group-key"): 1})
    await client.ask("POST", "/api/groups", {"subject": word("subject")})
    await client.ask("GET", f"/api/groups/{word('group')}?fields={word('fields')}")
    await client.ask("GET", f"/{word('path')}/x?{word('query')}={word('query-value')}")
    await client.ask("GET", "/metrics", token=word("token"), headers=signed)
    await client.ask(word("method").upper(), "/healthz")
    canaries.all["method"] = canaries.all["method"].upper()


class Quoting:
    """A handler that fails with an error whose text and class name quote the customer."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, update: Any) -> None:
        self.calls += 1
        said = json.dumps(update.raw)
        raise type(str(update.raw.get("from", "Error")), (RuntimeError,), {})(said)


@pytest.mark.parametrize("has_store", [True, False], ids=["store", "no-store"])
async def test_no_canary_comes_out_where_operators_look(
    open_gateway, until, capfd, has_store
) -> None:
    canaries, sink, handler = Canaries(), CapturingTelemetrySink(), Quoting()
    options = {"telemetry_sink": sink, "log": write_json_line}
    async with open_gateway(
        has_store=has_store,
        groups=GroupsConfig(enabled=True),
        handlers=[handler],
        inbox=InboxConfig(max_attempts=1),
        app_options=options,
    ) as gateway:
        await be_everybody(gateway, canaries)
        await gateway.simulator.settle()
        await until(lambda: handler.calls > 3)
        if has_store:
            await until(lambda: gateway.rows()["wats_dead_deliveries"] > 3)
        told = {
            path: (await gateway.ask("GET", path)).body.decode()
            for path in ("/metrics", "/status", "/debug/diagnostics", "/openapi.json")
        }
        told["anonymous document"] = (
            await gateway.ask("GET", "/openapi.json", token=None)
        ).body.decode()
        told["sink"] = repr((sink.counters, sink.histograms))
        assert gateway.simulator.counts.sends >= (4 if has_store else 2)
    told["stdout"], told["stderr"] = capfd.readouterr()

    assert len(canaries.all) > 50
    found = {where: canaries.found_in(text) for where, text in told.items()}
    assert not any(found.values()), found
    assert told["stdout"] == ""
    for line in told["stderr"].splitlines():
        assert json.loads(line)["event"].startswith("wats.")
    for where in told.keys() - {"/openapi.json", "stderr"}:
        assert not [secret for secret in (*SECRETS, *IDENTIFIERS) if secret in told[where]], where


async def test_nothing_but_ids_times_and_numbers_is_kept_of_a_message(open_gateway) -> None:
    canaries = Canaries()
    async with open_gateway() as gateway:
        await be_everybody(gateway, canaries)
        await gateway.simulator.settle()
        database = gateway.database
    kept = b"".join(path.read_bytes() for path in Path(database).parent.glob("wats.db*"))

    found = set(canaries.found_in(kept.decode("latin-1")))

    # What the documentation says is kept: who, which message, which kind; and no content.
    assert found <= {"customer", "wamid", "sent", "failing", "native", "type", "refused-0012"}
    assert {"customer", "wamid", "sent"} <= found


GUARD = """
import os
import sys

FILE = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def guard(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}:
        about = arguments[1] if event in {"socket.connect", "socket.sendto"} else arguments[:2]
        os.write(FILE, f"{event} {about}\\n".encode())


sys.addaudithook(guard)
"""


async def test_a_service_connects_to_graph_and_to_nobody_else(
    open_gateway, serve, tmp_path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    connections = tmp_path / "connections"
    environ = {"PYTHONPATH": str(tmp_path), "CONNECTIONS": str(connections)}
    database = {"persistence": {"url": f"sqlite:///{tmp_path}/guarded.db"}}
    canaries = Canaries()
    async with open_gateway() as meta:
        async with serve(meta.simulator.url, environ, **database) as process:
            meta.simulator.set_webhook(process.url + HOOK)
            assert connections.read_text() == ""
            guarded = meta.at(process.url)
            for path in ("/healthz", "/readyz", "/metrics", "/status", "/debug/diagnostics"):
                assert (await guarded.ask("GET", path)).status == 200
            assert connections.read_text() == ""
            await be_everybody(guarded, canaries)
            await meta.simulator.settle()
            arguments = await asyncio.to_thread(Path(f"/proc/{process.pid}/cmdline").read_text)
            code, out = await process.terminate()
        graph = urlsplit(meta.simulator.url)

    assert (code, out) == (0, b"")
    lines = set(connections.read_text().splitlines())
    assert lines == {f"socket.connect ('{graph.hostname}', {graph.port})"}
    assert canaries.found_in(process.errors.read_text()) == []
    assert not [secret for secret in SECRETS if secret in arguments]


def test_to_import_wats_connects_to_nobody_and_starts_nothing(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    connections = tmp_path / "connections"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "CONNECTIONS": str(connections)}
    code = (
        "import threading, wats, wats.cli, wats.service, wats.simulator, wats.testing;"
        "assert threading.active_count() == 1"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, timeout=60, check=True
    )

    assert done.returncode == 0
    assert connections.read_text() == ""
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {"__pycache__"} == {"sitecustomize.py", "connections"}
