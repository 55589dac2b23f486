import json
import os
import pty
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from wats.testing import sign


def fetch(
    url: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers or {})  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def clean_failure(result: Any) -> str:
    """Return the one message of a command that could not start."""
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
    assert "canary" not in result.err
    message: str = result.err
    return message


def test_serve_prints_its_address_and_ends_on_a_signal(wats) -> None:
    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        assert list(service.ready) == ["event", "url", "pid"]
        assert service.ready["event"] == "wats.ready"
        assert service.ready["pid"] == service.process.pid
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", service.url)
        assert " " not in service.ready_line
        assert fetch(f"{service.url}/readyz") == (200, {"ok": True, "service": "wats"})
        ended = service.end()

    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert (wats.folder / "wats.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_no_database_is_made_when_there_is_to_be_none(wats) -> None:
    wats.write(persistence="none")

    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        assert fetch(f"{service.url}/readyz")[0] == 200

    assert list(wats.folder.glob("*.db*")) == []


def test_secrets_are_read_from_a_file_too(wats) -> None:
    names = [name for name in wats.environ if name.startswith("WATS_")]
    lines = [f"{name}=from-the-file-{name.lower()}" for name in names]
    (wats.folder / "secrets.env").write_text("\n".join(lines) + "\n")
    for name in names:
        del wats.environ[name]
    command = ("serve", "--config", str(wats.config), "--port", "0", "--env-file", "secrets.env")

    with wats.running(*command) as service:
        token = {"authorization": "Bearer from-the-file-wats_service_bearer_token"}
        assert fetch(f"{service.url}/status", headers=token)[0] == 200


def test_a_taken_port_is_reported(wats) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = wats.run("serve", "--config", str(wats.config), "--port", str(port))

    shown = f"service.host, service.port: '127.0.0.1:{port}': Address already in use"
    assert shown in clean_failure(result)
    # A service that cannot be reached leaves no trace.
    assert not (wats.folder / "wats.db").exists()


@pytest.mark.long
def test_a_database_in_a_folder_that_cannot_be_written_is_reported(wats) -> None:
    wats.write(persistence={"url": "sqlite:////proc/wats.db"})

    result = wats.run("serve", "--config", str(wats.config), "--port", "0")

    assert "persistence.url: '/proc/wats.db': " in clean_failure(result)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_closed_standard_descriptors_are_not_used_for_other_files(wats, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--config", str(wats.config), "--port", str(port), "--workers", str(workers)]
    command = f"exec {shlex.join(wats.command(words))} 0<&- 1>&- 2>&-"
    environ = {name: value for name, value in wats.environ.items() if name != "HOME"}
    with subprocess.Popen(["/bin/sh", "-c", command], cwd=wats.folder, env=environ) as process:
        try:
            status = wait_until_served(f"http://127.0.0.1:{port}/readyz")
            folder = Path(f"/proc/{process.pid}/fd")
            targets = [str((folder / str(number)).readlink()) for number in range(3)]
        finally:
            process.terminate()

    assert (status, process.returncode) == (200, 0)
    assert targets == ["/dev/null"] * 3


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_service_on_one_sqlite_database_is_refused(wats, workers: int) -> None:
    command = ("serve", "--config", str(wats.config), "--port", "0", "--workers", str(workers))

    with wats.running(*command) as service:
        second = wats.run("serve", "--config", str(wats.config), "--port", "0")
        service.end()

    message = clean_failure(second)
    assert "wats serve --workers" in message
    assert "PostgreSQL" in message


def wait_until_served(url: str) -> int:
    end = time.monotonic() + 60
    while True:
        try:
            return fetch(url)[0]
        except urllib.error.URLError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.long
def test_a_working_directory_that_was_removed_is_no_traceback(wats) -> None:
    wats.write(persistence="none")
    gone = wats.folder / "gone"
    gone.mkdir()
    words = ["serve", "--config", str(wats.config), "--port", "0", "--profile", "canary"]
    command = f"rmdir {gone}; exec {shlex.join(wats.command(words))}"

    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=gone,
        env={**wats.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert "unknown_profile" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_config_with_mistakes_is_reported(wats) -> None:
    wats.write(graph={"apiVersion": "canary", "baseUrl": "https://graph.example"})

    result = wats.invoke("serve", "--config", str(wats.config))

    assert "graph.apiVersion" in clean_failure(result)


def test_a_missing_secret_is_reported(wats) -> None:
    environ = {name: value for name, value in wats.environ.items() if name != "WATS_APP_SECRET"}

    result = wats.invoke("serve", "--config", str(wats.config), "--port", "0", environ=environ)

    assert "webhook.appSecret" in clean_failure(result)


def test_a_missing_profile_is_reported(wats) -> None:
    result = wats.invoke("serve", "--config", str(wats.config), "--profile", "canary")

    assert "unknown_profile" in clean_failure(result)


@pytest.mark.long
@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        ("no_such_module:handle", "it cannot be imported: there is no module 'no_such_module'."),
        ("shop:handle", "it cannot be imported: syntax error in '{folder}/shop.py', line 2."),
        (
            "json:handle",
            "it cannot be imported: 'json' is a module of Python, and has no 'handle'.",
        ),
        ("json:__name__", "it cannot be called."),
    ],
)
def test_a_handler_that_cannot_be_used_is_reported(wats, handler, reason) -> None:
    (wats.folder / "shop.py").write_text("x = 1\ndef handle(\n")
    wats.write(handlers=[handler])

    result = wats.run("serve", "--config", str(wats.config), "--port", "0")

    reason = reason.format(folder=wats.folder)
    assert f"handlers[{handler}]: {reason} (invalid_handler)" in clean_failure(result)


@pytest.mark.long
@pytest.mark.parametrize("options", [["--port", "70000"], ["--host", "canary canary"]])
def test_an_invalid_address_is_reported(wats, options) -> None:
    result = wats.run("serve", "--config", str(wats.config), *options)

    assert options[0] in clean_failure(result)


@pytest.mark.long
def test_a_database_of_a_newer_version_is_reported(wats) -> None:
    with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
        service.end()
    with closing(sqlite3.connect(wats.folder / "wats.db")) as connection:
        connection.execute(
            "INSERT INTO wats_schema_migrations VALUES ('9999_later', 9999, 'canary', 9999, 0)"
        )
        connection.commit()

    result = wats.run("serve", "--config", str(wats.config), "--port", "0")

    assert "persistence.url: 'wats.db': the schema is not one" in clean_failure(result)


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("text", "the file is not a SQLite database (not_a_database)"),
        ("folder", "it is a directory, not a file (is_a_directory)"),
        ("nowhere/wats.db", "no such directory (no_such_directory)"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_database_that_cannot_be_opened_is_reported(wats, what, cause, workers) -> None:
    (wats.folder / "text").write_text("This is not a database. " * 100)
    (wats.folder / "folder").mkdir()
    wats.write(persistence={"url": f"sqlite:///{what}"})
    options = ("--port", "0", "--workers", workers)

    result = wats.run("serve", "--config", str(wats.config), *options)

    head = "Error: The database cannot be opened. (persistence_unavailable)"
    assert clean_failure(result) == f"{head}\n  persistence.url: '{what}': {cause}\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_postgresql_server_that_cannot_be_reached_is_reported(wats, workers) -> None:
    wats.write(persistence={"url": "postgresql://canary@127.0.0.1:9/canary"})
    options = ("--port", "0", "--workers", workers)

    result = wats.run("serve", "--config", str(wats.config), *options)

    head = "Error: The database cannot be opened. (persistence_unavailable)"
    cause = "no server accepts connections at the address (connection_refused)"
    assert clean_failure(result) == f"{head}\n  persistence.url: {cause}\n"


@pytest.mark.parametrize("arguments", [[], ["--paas"], ["--show"]])
def test_a_config_or_the_sandbox_is_required(wats, tmp_path, monkeypatch, arguments) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    result = wats.invoke("serve", *arguments)

    assert result.code != 0
    assert "--sandbox" in result.err
    assert "Traceback" not in result.err


def test_the_sandbox_sends_and_receives(wats) -> None:
    with wats.running("serve", "--sandbox", "--show", "--port", "0") as service:
        assert service.process.stderr is not None
        greeting = ""
        while "Stop the sandbox with" not in greeting:
            greeting += service.process.stderr.readline()
        (token,) = re.findall(r"TOKEN=(\S+)", greeting)
        (meta,) = re.findall(r"META=(\S+)", greeting)
        headers = {"authorization": f"Bearer {token}"}

        code, sent = fetch(
            f"{service.url}/api/messages/text",
            {"to": "15550001234", "text": "Hello"},
            {**headers, "idempotency-key": "first"},
        )
        _, written = fetch(f"{meta}/_simulator/inbound", {"from": "15550001234", "text": "Hi!"})
        wamid = sent["messages"][0]["id"]
        while fetch(f"{meta}/_simulator/state")[1]["pending"]:
            pass

        assert code == 200
        one = fetch(f"{service.url}/api/messages/{wamid}", headers=headers)[1]
        assert (one["direction"], one["toPhone"], one["status"]) == (
            "outbound",
            "15550001234",
            "read",
        )
        _, listed = fetch(f"{service.url}/api/messages", headers=headers)
        assert {item["waMessageId"] for item in listed["items"]} == {wamid, *written["ids"]}
        window = f"{service.url}/api/conversations/15550001234/window"
        assert fetch(window, headers=headers)[1]["open"] is True
        shown = fetch(f"{meta}/_simulator/messages")[1]["messages"]
        assert [each["text"] for each in shown] == ["Hello", "Hi!"]
        ended = service.end()

    assert ended.code == 0
    assert "Traceback" not in ended.err
    assert [line.partition(": ")[2] for line in ended.out.splitlines()] == ["Hello", "Hi!"]
    # It leaves no file in the folder in which it ran.
    assert list(wats.folder.glob("*.db*")) == []


@pytest.mark.long
def test_the_token_of_a_sandbox_is_another_one_each_time(wats) -> None:
    tokens = set()
    for _ in range(2):
        with wats.running("serve", "--sandbox", "--port", "0") as service:
            tokens.update(re.findall(r"TOKEN=(\S+)", service.end().err))

    assert len(tokens) == 2


@pytest.mark.long
def test_a_webhook_outlives_the_process_that_took_it(wats) -> None:
    entry = {"id": "1", "time": 1_790_000_000, "changes": []}
    entry["changes"] = [{"field": "account_update", "value": {"event": "X"}}]
    body = {"object": "whatsapp_business_account", "entry": [entry]}
    signed = {
        "x-hub-signature-256": sign(json.dumps(body).encode(), wats.environ["WATS_APP_SECRET"])
    }
    dispatched = []
    for _ in range(2):
        with wats.running("serve", "--config", str(wats.config), "--port", "0") as service:
            answer = fetch(f"{service.url}/webhooks/whatsapp", body, signed)
            dispatched.append(answer[1]["dispatched"])

    assert dispatched == [1, 0]


def rejected(url: str) -> int:
    return fetch(f"{url}/webhooks/whatsapp", {"object": "x"}, {"x-hub-signature-256": "sha256=0"})[
        0
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ([], r'\{"event":"wats\.webhook\.rejected",.*\}\n'),
        (["--log-format", "console"], r"[0-9:]{8} WARNING wats\.webhook\.rejected reason=\w+\n"),
        (["--log-level", "error"], ""),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_log_has_the_chosen_format_and_level(wats, options, pattern, workers) -> None:
    words = ("serve", "--config", str(wats.config), "--port", "0", "--workers", workers)

    with wats.running(*words, *options) as service:
        assert rejected(service.url) == 400
        ended = service.end()

    assert re.fullmatch(pattern, ended.err)


def test_the_log_is_for_people_if_stderr_is_a_terminal(wats) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "wats", "serve", "--config", str(wats.config), "--port", "0"]
    with subprocess.Popen(
        command, cwd=wats.folder, env=wats.environ, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            assert rejected(url) == 400
            written = os.read(ours, 1000).decode()
        finally:
            process.terminate()
        assert process.wait(30) == 0
    os.close(ours)

    assert " WARNING wats.webhook.rejected reason=" in written


def test_the_config_of_the_working_directory_is_served(wats) -> None:
    wats.config.rename(wats.folder / "wats.config.yaml")

    with wats.running("serve", "--port", "0") as service:
        assert fetch(f"{service.url}/readyz")[0] == 200


def test_handlers_of_options_are_called_in_addition_to_those_of_the_config(wats) -> None:
    (wats.folder / "orders.py").write_text(
        "async def one(update): print('one', flush=True)\n"
        "async def two(update): print('two', flush=True)\n"
    )
    wats.write(handlers=["orders:one"])
    words = ("serve", "--config", str(wats.config), "--port", "0")
    entry = {"id": "1", "time": 1_790_000_000, "changes": []}
    entry["changes"] = [{"field": "account_update", "value": {"event": "X"}}]
    body = {"object": "whatsapp_business_account", "entry": [entry]}
    signed = {
        "x-hub-signature-256": sign(json.dumps(body).encode(), wats.environ["WATS_APP_SECRET"])
    }

    with wats.running(*words, "--handler", "orders:two", "--handler", "orders:one") as service:
        assert fetch(f"{service.url}/webhooks/whatsapp", body, signed)[0] == 200
        ended = service.end()

    assert sorted(ended.out.split()) == ["one", "two"]


def test_a_handler_that_is_not_a_reference_is_refused(wats) -> None:
    result = wats.invoke("serve", "--config", str(wats.config), "--handler", "canary")

    assert "--handler: Must be 'package.module:function'. (invalid_handlers)" in clean_failure(
        result
    )
