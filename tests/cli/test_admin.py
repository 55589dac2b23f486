"""The commands for operators, as processes, against a running service with a database."""

import json
import os
import pty
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import apsw
import pytest

from tests.commands import SECRETS, Commands, Ended, Running
from tests.settings import HOOK, NUMBER_ID, WABA_ID
from wats.testing import sign

pytestmark = pytest.mark.long  # it starts many processes

HANDLER = """
from pathlib import Path

async def handle(update):
    if not Path("repaired").exists():
        raise ZeroDivisionError
    with Path("handled").open("a") as file:
        file.write(update.message.body + "\\n")
"""
THEIRS, OTHER = "15550001234", "15550001235"
NAME = "orders:handle"
DEADLINE_SECONDS = 60.0


class Gateway:
    """A running service whose handler fails until it is repaired."""

    def __init__(self, commands: Commands, running: Running) -> None:
        self.commands = commands
        self.folder = commands.folder
        self.process = running
        self.url = running.url
        self._count = 0

    def receive(self, text: str, sender: str = THEIRS) -> None:
        self._count += 1
        wamid = b64encode(b"\x1c\x18\x0b%b\x15%d" % (sender.encode(), self._count)).decode()
        message = {
            "from": sender,
            "id": f"wamid.{wamid}",
            "timestamp": "1790000000",
            "type": "text",
            "text": {"body": text},
        }
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"phone_number_id": NUMBER_ID},
            "contacts": [{"profile": {"name": "Ada"}, "wa_id": sender}],
            "messages": [message],
        }
        entry = {"id": WABA_ID, "changes": [{"field": "messages", "value": value}]}
        body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
        headers = {"X-Hub-Signature-256": sign(body, SECRETS["WATS_APP_SECRET"])}
        with urlopen(Request(self.url + HOOK, body, headers)) as answer:  # noqa: S310
            assert answer.status == 200

    def run(self, *arguments: str) -> Ended:
        return self.commands.run(*arguments, "--url", self.url, "--config", "wats.config.json")

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert (done.code, done.err) == (0, ""), done
        return json.loads(done.out)

    def dead(self) -> Sequence[Any]:
        items: Sequence[Any] = self.json("dead-letters", "list")["items"]
        return items

    def repair(self) -> None:
        (self.folder / "repaired").touch()

    def handled(self) -> list[str]:
        path = self.folder / "handled"
        return path.read_text().splitlines() if path.exists() else []


def until(is_so: Callable[[], object]) -> None:
    ends = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    commands = Commands(tmp_path)
    (tmp_path / "orders.py").write_text(HANDLER)
    commands.write(
        persistence={"url": f"sqlite:///{tmp_path}/wats.db"},
        handlers=[NAME],
        inbox={"maxAttempts": 1},
    )
    with commands.running("serve", "--config", "wats.config.json", "--port", "0") as running:
        yield Gateway(commands, running)


def logged(ended: Ended) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in ended.err.splitlines()]
    return [
        {"action": line["action"], "count": line["count"]}
        for line in lines
        if line["event"] == "wats.admin.action"
    ]


def test_a_paused_consumer_waits_and_handles_everything_in_order_once_resumed(
    gateway: Gateway,
) -> None:
    gateway.repair()
    pause = "consumers", "pause", NAME
    assert gateway.json(*pause, "--dry-run")["waiting"] == 0
    refused = gateway.run(*pause)
    gateway.json(*pause, "--yes")
    for text in ("1", "2", "3"):
        gateway.receive(text)

    listed = gateway.run("consumers", "list")
    items = gateway.json("consumers", "list")["items"]
    (consumer,) = [each for each in items if each["name"] == NAME]
    waiting = gateway.json("inbox", "list")["items"]
    with urlopen(gateway.url + "/readyz") as answer:  # noqa: S310
        assert answer.status == 200
    resumed = gateway.run("consumers", "resume", NAME, "--yes")

    assert refused.code == 1
    assert "--yes" in refused.err
    (row,) = [line for line in listed.out.splitlines() if NAME in line]
    assert row.split() == [
        *("paused", "3", "0", "0"),
        row.split()[4],
        *("0", NAME),
    ]
    assert (consumer["name"], consumer["state"], consumer["pending"]) == (NAME, "paused", 3)
    assert [each["state"] for each in waiting] == ["pending"] * 3
    assert {each["kind"] for each in waiting} == {"message"}
    assert resumed.out == f"{NAME} is resumed; 3 updates wait for it.\n"
    until(lambda: gateway.handled() == ["1", "2", "3"])
    assert logged(gateway.process.end()) == [
        {"action": "consumer_paused", "count": 1},
        {"action": "consumer_resumed", "count": 1},
    ]


def test_a_pause_outlives_a_restart(gateway: Gateway) -> None:
    gateway.repair()
    gateway.json("consumers", "pause", NAME, "--yes")
    gateway.process.end()
    serve = "serve", "--config", "wats.config.json", "--port", "0"

    with gateway.commands.running(*serve) as running:
        again = Gateway(gateway.commands, running)
        again.receive("later")
        (waiting,) = again.json("inbox", "list")["items"]

        assert waiting["state"] == "pending"
        assert again.handled() == []


def test_dead_letters_are_shown_and_retried_in_order(gateway: Gateway) -> None:
    for text in ("1", "2", "3"):
        gateway.receive(text)
    until(lambda: len(gateway.dead()) == 3)
    first = gateway.dead()[0]
    plain = gateway.run("dead-letters", "list", "--limit", "2")
    shown = gateway.run("dead-letters", "show", first["id"])
    content = gateway.json("dead-letters", "show", first["id"], "--content")
    gateway.repair()

    dry = gateway.json("dead-letters", "retry", "--all", "--dry-run")
    retried = gateway.json("dead-letters", "retry", "--error", "ZeroDivisionError", "--yes")

    assert len(plain.out.splitlines()) == 3
    assert "ZeroDivisionError" in plain.out
    assert "--cursor" in plain.err
    assert (first["consumer"], first["attempts"], first["kind"]) == (NAME, 1, "message")
    assert THEIRS not in plain.out + shown.out
    assert content["content"]["raw"]["from"] == THEIRS
    assert (dry["matched"], dry["changed"]) == (3, 0)
    assert (retried["matched"], retried["changed"]) == (3, 3)
    until(lambda: gateway.handled() == ["1", "2", "3"])
    assert gateway.dead() == []
    log = gateway.process.end()
    assert logged(log) == [
        {"action": "content_shown", "count": 1},
        {"action": "deliveries_retried", "count": 3},
    ]
    assert THEIRS not in log.err
    assert first["id"] not in [word for line in log.err.splitlines() for word in line.split('"')]


def test_dead_letters_are_discarded_by_id_and_by_filter(gateway: Gateway) -> None:
    for text in ("1", "2", "3"):
        gateway.receive(text)
    until(lambda: len(gateway.dead()) == 3)
    first, second, third = (each["id"] for each in gateway.dead())
    discard = "dead-letters", "discard"

    kept = gateway.json(*discard, "--older-than", "1d", "--yes")
    gateway.json(*discard, first, "--yes")
    wrong = gateway.run("inbox", "discard", second, "--yes")
    unnamed = gateway.run(*discard, "--yes")
    gateway.json(*discard, "--consumer", NAME, "--kind", "message", "--yes")

    assert kept["matched"] == 0
    assert (wrong.code, unnamed.code) == (1, 1)
    assert "dead letter" in wrong.err
    assert "--all" in unnamed.err
    assert gateway.dead() == []
    missing = gateway.run("dead-letters", "show", third)
    assert missing.err == "Error: Delivery not found. [delivery_not_found]\n"


def test_outstanding_updates_are_listed_shown_and_discarded(gateway: Gateway) -> None:
    gateway.json("consumers", "pause", NAME, "--yes")
    for text in ("1", "2"):
        gateway.receive(text)
    gateway.receive("3", OTHER)
    items = gateway.json("inbox", "list", "--state", "pending", "--kind", "message")["items"]

    shown = gateway.json("inbox", "show", items[0]["id"])
    discarded = gateway.json("inbox", "discard", items[0]["id"], items[2]["id"], "--yes")

    assert "content" not in shown
    assert shown["id"] == items[0]["id"]
    assert gateway.json("inbox", "list", "--state", "retry")["items"] == []
    assert discarded["changed"] == 2
    (left,) = gateway.json("inbox", "list")["items"]
    assert left["id"] == items[1]["id"]
    assert left["dueAt"] is not None


def test_a_person_is_erased_from_every_file_and_not_in_the_record(
    gateway: Gateway,
) -> None:
    for text in ("1", "2"):
        gateway.receive(text)
    gateway.receive("3", OTHER)
    until(lambda: len(gateway.dead()) == 3)
    gateway.json("consumers", "pause", NAME, "--yes")
    gateway.receive("4")
    gateway.receive("5", OTHER)

    dry = gateway.json("erase", "--user", f"+{THEIRS}", "--dry-run")
    refused = gateway.run("erase", "--user", THEIRS)
    record = gateway.json("erase", "--user", THEIRS, "--yes")

    assert refused.code == 1
    counts = {"deliveries": 1, "deadLetters": 2, "messages": 3}
    assert counts.items() <= dry["found"].items()
    assert counts.items() <= record["erased"].items()
    assert set(record["left"].values()) == {0}
    assert dry["subject"] == record["subject"]
    assert THEIRS not in json.dumps(record)
    content = b"".join(path.read_bytes() for path in gateway.folder.glob("wats.db*"))
    assert THEIRS.encode() not in content
    assert OTHER.encode() in content
    assert len(gateway.dead()) == 1
    log = gateway.process.end()
    assert THEIRS not in log.err
    assert logged(log)[1:] == [
        {"action": "erasure_started", "count": 0},
        {"action": "erasure_finished", "count": 6},
    ]


def test_a_user_from_stdin_is_in_no_argument(gateway: Gateway) -> None:
    words = ["erase", "--user", "-", "--dry-run", "--json", "--url", gateway.url]

    done = subprocess.run(
        Commands.command([*words, "--config", "wats.config.json"]),
        cwd=gateway.folder,
        env=gateway.commands.environ,
        input=f"{THEIRS}\n",
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout)["found"]["messages"] == 0


@pytest.mark.parametrize("user", ["", "Ada", "123", "US.", "1555 000 1234\n5", "x" * 300])
def test_a_text_that_is_not_a_user_is_refused(gateway: Gateway, user: str) -> None:
    done = gateway.run("erase", "--user", user, "--yes")

    assert done.code == 1
    assert "Must be a phone number with 7 to 15 digits, or a business-scoped user id" in done.err
    assert not user or user not in done.err


def test_a_terminal_asks_for_confirmation(gateway: Gateway) -> None:
    gateway.receive("1")
    until(lambda: len(gateway.dead()) == 1)
    words = ["dead-letters", "discard", "--all", "--url", gateway.url]

    def answer(text: str) -> int:
        parent, child = pty.openpty()
        process = subprocess.Popen(
            Commands.command([*words, "--config", "wats.config.json"]),
            cwd=gateway.folder,
            env=gateway.commands.environ,
            stdin=child,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(child)
        os.write(parent, f"{text}\n".encode())
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
        os.close(parent)
        assert "Discard 1? [y/N]" in out
        return process.returncode

    assert answer("n") == 1
    assert len(gateway.dead()) == 1
    assert answer("y") == 0
    assert gateway.dead() == []


def test_a_telemetry_token_finds_no_admin_route(service) -> None:
    for arguments in (["consumers", "list"], ["inbox", "list"], ["erase", "--user", THEIRS]):
        result = service.ask(*arguments, "--url", service.url, "--token-file", service.token_file)

        assert (result.code, result.out) == (1, "")
        assert "not a service token" in result.err


def test_a_service_without_a_store_says_so(wats: Commands) -> None:
    wats.write(persistence="none")
    with wats.running("serve", "--config", "wats.config.json", "--port", "0") as running:
        words = "--url", running.url, "--config", "wats.config.json"

        done = wats.run("inbox", "list", *words)

    assert done.code == 1
    assert "[persistence_not_configured]" in done.err


def test_a_counterfeit_cannot_control_the_terminal(counterfeit, wats: Commands) -> None:
    body = b'{"error":{"code":"x\\u001b[2J","message":"y\\u001b[2J"}}'
    counterfeit.everywhere = (400, {}, body)

    done = wats.invoke("inbox", "list", "--url", counterfeit.url, "--config", str(wats.config))

    assert done.code == 1
    assert "\x1b" not in done.err


def test_the_database_keeps_its_counters(gateway: Gateway) -> None:
    for text in ("1", "2", "3"):
        gateway.receive(text)
    until(lambda: len(gateway.dead()) == 3)
    gateway.json("dead-letters", "discard", gateway.dead()[1]["id"], "--yes")
    gateway.process.end()

    with closing(apsw.Connection(str(gateway.folder / "wats.db"))) as connection:
        counts = list(connection.execute("SELECT pending, leased, retry, dead FROM wats_consumers"))

    assert sorted(counts) == [(0, 0, 0, 0), (0, 0, 0, 2)]  # the outbox, and the handler


def test_messages_of_the_outbox_are_listed_shown_retried_and_discarded(gateway: Gateway) -> None:
    gateway.json("consumers", "pause", "outbox", "--yes")
    token = SECRETS["WATS_SERVICE_BEARER_TOKEN"]
    for recipient, text in ((THEIRS, "1"), (OTHER, "2")):
        body = json.dumps({"to": recipient, "text": text}).encode()
        headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
        request = Request(f"{gateway.url}/api/messages/text", body, headers)  # noqa: S310
        with urlopen(request) as answer:  # noqa: S310
            assert answer.status == 202
    first, second = gateway.json("outbox", "list")["items"]
    with closing(apsw.Connection(str(gateway.folder / "wats.db"))) as connection:
        connection.execute(
            "INSERT INTO wats_dead_deliveries SELECT id, update_id, siblings, consumer, "
            "ordering_key, 1, 'OutcomeUnknown', arrived_at, arrived_at, payload "
            "FROM wats_deliveries WHERE id = ?; DELETE FROM wats_deliveries WHERE id = ?",
            (int(first["id"]), int(first["id"])),
        )

    shown = gateway.json("outbox", "show", second["id"], "--content")
    plain = gateway.run("outbox", "list", "--state", "unknown")
    refused = gateway.run("outbox", "retry", first["id"], "--yes")
    unnamed = gateway.run("outbox", "discard", "--yes")
    dry = gateway.json("outbox", "retry", first["id"], "--even-unknown", "--dry-run")
    none = gateway.json("outbox", "retry", "--all", "--yes")
    discarded = gateway.json("outbox", "discard", "--all", "--yes")

    assert (first["state"], first["type"]) == ("queued", "text")
    assert shown["content"]["payload"]["text"]["body"] == "2"
    assert [plain.out.splitlines()[1].split()[i] for i in (1, -1)] == ["unknown", "OutcomeUnknown"]
    assert refused.code != 0
    assert "billed twice" in refused.err
    assert "--all" in unnamed.err
    assert (dry["matched"], dry["changed"], none["matched"]) == (1, 0, 0)
    assert discarded["changed"] == 2
