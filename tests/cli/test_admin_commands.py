"""Every command for operators: at a terminal, with `--json`, and where it cannot do its work."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_admin import NAME, THEIRS, Gateway, until
from tests.commands import Commands, Ended
from tests.commands import Service as ServiceWithoutStore
from tests.settings import config_of

pytestmark = pytest.mark.long  # it starts many processes

NOWHERE = "http://127.0.0.1:9"
SECONDS = 60.0

READING: Sequence[Sequence[str]] = (
    ("consumers", "list"),
    ("consumers", "show", NAME),
    ("inbox", "list"),
    ("inbox", "show", "OUTSTANDING"),
    ("inbox", "show", "OUTSTANDING", "--content"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "DEAD"),
    ("messages", "list"),
    ("messages", "list", "--direction", "inbound", "--from", THEIRS, "--newer-than", "9999d"),
    ("messages", "show", "MESSAGE"),
    ("outbox", "list"),
)
CHANGING: Sequence[Sequence[str]] = (
    ("consumers", "pause", NAME),
    ("consumers", "resume", NAME),
    ("inbox", "retry", "--all"),
    ("inbox", "discard", "--all"),
    ("dead-letters", "retry", "--error", "ZeroDivisionError"),
    ("dead-letters", "discard", "--all"),
    ("replay", "--to", NAME, "--state", "dead", "--all"),
    ("replay", "--to", NAME, "--consumer", NAME),
    ("erase", "--user", THEIRS),
    ("erase", "--user", THEIRS, "--no-search-files"),
)
LISTS = ("consumers", "list"), ("inbox", "list"), ("dead-letters", "list"), ("messages", "list")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    commands = Commands(tmp_path)
    (tmp_path / "orders.py").write_text("async def handle(update):\n    1 / 0\n")
    (tmp_path / "token").write_text("an-admin-token-for-tests")
    service = config_of()["profiles"]["local"]["service"]
    token = {"name": "operators", "token": {"file": "token"}, "scopes": "admin"}
    commands.write(
        persistence={"url": f"sqlite:///{tmp_path}/wats.db"},
        handlers=[NAME],
        inbox={"maxAttempts": 1},
        service={**service, "tokens": [token]},
    )
    with commands.running("serve", "--config", "wats.config.json", "--port", "0") as running:
        yield Gateway(commands, running)


def fill(gateway: Gateway) -> dict[str, str]:
    """Make a dead letter, an outstanding update and two messages; return their ids by name."""
    gateway.receive("1")
    until(lambda: dead_letters(gateway))
    as_json(gateway, "consumers", "pause", NAME, "--yes")
    gateway.receive("2")
    (outstanding,) = as_json(gateway, "inbox", "list")["items"]
    messages = as_json(gateway, "messages", "list")["items"]
    return {
        "DEAD": dead_letters(gateway)[0]["id"],
        "OUTSTANDING": outstanding["id"],
        "MESSAGE": messages[0]["waMessageId"],
    }


def run(gateway: Gateway, *words: str) -> Ended:
    """Run a command in this process, which is quicker."""
    return gateway.commands.invoke(
        *words, "--url", gateway.url, "--config", str(gateway.commands.config)
    )


def as_json(gateway: Gateway, *words: str) -> Any:
    done = run(gateway, *words, "--json")
    assert (done.code, done.err) == (0, ""), done
    return json.loads(done.out)


def dead_letters(gateway: Gateway) -> Sequence[Any]:
    items: Sequence[Any] = as_json(gateway, "dead-letters", "list")["items"]
    return items


def at_a_terminal(gateway: Gateway, *words: str) -> tuple[int, str]:
    """Run a command with stdin, stdout and stderr at a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        Commands.command([*words, "--url", gateway.url, "--config", "wats.config.json"]),
        cwd=gateway.folder,
        env=gateway.commands.environ,
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    while part := _read(parent):
        shown += part
    os.close(parent)
    return process.wait(timeout=SECONDS), shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the process has closed the terminal
        return b""


def test_every_command_works_at_a_terminal_and_as_json(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    ids = fill(gateway)
    dry = [(*words, "--dry-run") for words in CHANGING]
    for template in (*READING, *dry):
        words = [ids.get(word, word) for word in template]
        with subtests.test(" ".join(template).replace(THEIRS, "USER")):
            code, shown = at_a_terminal(gateway, *words)
            found = as_json(gateway, *words)

            assert code == 0
            assert "Error: " not in shown
            assert shown.strip()
            assert found
            assert ("content" in found) is ("--content" in words)
            if "--dry-run" in words and "erase" not in words:
                assert found["dryRun"] is True


def test_a_token_with_the_scope_admin_suffices(gateway: Gateway, subtests: pytest.Subtests) -> None:
    ids = fill(gateway)
    token = gateway.folder / "token"
    dry = [(*words, "--dry-run") for words in CHANGING]
    for template in (*READING, *dry):
        words = [ids.get(word, word) for word in template]
        with subtests.test(" ".join(template).replace(THEIRS, "USER")):
            done = run(gateway, *words, "--token-file", str(token))

            assert (done.code, done.err) == (0, "")


def test_every_change_is_made_as_json_with_a_confirmation_only(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    fill(gateway)
    for words in CHANGING:
        with subtests.test(" ".join(words).replace(THEIRS, "USER")):
            refused = run(gateway, *words, "--json")
            done = as_json(gateway, *words, "--yes")

            nothing_to_do = done.get("matched") == 0
            assert (refused.code == 0) is nothing_to_do
            assert nothing_to_do or "--yes" in refused.err
            assert done["dryRun"] is False


def test_a_command_that_cannot_work_says_why_in_one_line(
    gateway: Gateway, service: ServiceWithoutStore, subtests: pytest.Subtests
) -> None:
    of_ids = {"DEAD": "1", "OUTSTANDING": "1", "MESSAGE": "wamid.1"}
    config = str(gateway.commands.config)
    wrong = gateway.folder / "wrong"
    wrong.write_text("not-the-token-of-this-service\n")
    situations = {
        "does not respond": ("--url", NOWHERE, "--config", config),
        "not a service token": ("--url", gateway.url, "--token-file", str(wrong)),
        "There is no config": (),
        "cannot be read": ("--config", str(gateway.folder / "missing.yaml")),
    }
    for template in (*READING, *CHANGING):
        words = [of_ids.get(word, word) for word in template]
        for reason, options in situations.items():
            with subtests.test(" ".join(template[:2]).replace(THEIRS, "USER"), reason=reason):
                done = _invoke_in(gateway.folder.parent, gateway.commands, *words, *options)

                assert (done.code, done.out) == (1, "")
                error = done.err.splitlines()
                assert error[-1].startswith(("Error: ", "wats.", "  "))
                assert "Traceback" not in done.err
                assert THEIRS not in done.err


def _invoke_in(folder: Path, commands: Commands, *words: str) -> Ended:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return commands.invoke(*words)
    finally:
        os.chdir(before)


def test_empty_lists_have_a_heading_and_no_items(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for words in LISTS:
        with subtests.test(" ".join(words)):
            plain = run(gateway, *words)
            items = as_json(gateway, *words)["items"]

            assert (plain.code, plain.err) == (0, "")
            assert len(plain.out.splitlines()) == len(items) + 1
            assert len(items) == (2 if words[0] == "consumers" else 0)  # a handler, and the outbox


def test_updates_are_retried_before_their_backoff_ends(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    handler = "from pathlib import Path\nasync def handle(update):\n    Path('ok').read_text()\n"
    (tmp_path / "orders.py").write_text(handler)
    persistence = {"url": f"sqlite:///{tmp_path}/wats.db"}
    commands.write(persistence=persistence, handlers=[NAME])
    with commands.running("serve", "--config", "wats.config.json", "--port", "0") as running:
        gateway = Gateway(commands, running)
        gateway.receive("1")
        until(lambda: _attempts(gateway) >= 3)  # the next pause is nine seconds or more
        (tmp_path / "ok").touch()

        as_json(gateway, "inbox", "retry", "--error", "FileNotFoundError", "--yes")

        until(lambda: not as_json(gateway, "inbox", "list")["items"])


def _attempts(gateway: Gateway) -> int:
    items: Sequence[Any] = as_json(gateway, "inbox", "list", "--state", "retry")["items"]
    return max((each["attempts"] for each in items), default=0)


def test_dead_letters_are_replayed_to_a_renamed_handler(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    source = "async def old(update):\n    1 / 0\n\n\nasync def new(update):\n    pass\n"
    (tmp_path / "orders.py").write_text(source)
    persistence = {"url": f"sqlite:///{tmp_path}/wats.db"}
    serve = "serve", "--config", "wats.config.json", "--port", "0"
    commands.write(persistence=persistence, handlers=["orders:old"], inbox={"maxAttempts": 1})
    with commands.running(*serve) as running:
        gateway = Gateway(commands, running)
        gateway.receive("1")
        until(lambda: dead_letters(gateway))
    commands.write(persistence=persistence, handlers=["orders:new"])
    with commands.running(*serve) as running:
        gateway = Gateway(commands, running)

        done = as_json(gateway, "replay", "--consumer", "orders:old", "--to", "orders:new", "--yes")
        unknown = run(gateway, "replay", "--all", "--to", "orders:newer", "--yes")

        assert (done["matched"], done["changed"]) == (1, 1)
        until(lambda: not as_json(gateway, "inbox", "list")["items"])
        assert len(dead_letters(gateway)) == 1
        assert unknown.err == "Error: Consumer not found. [consumer_not_found]\n"
        assert json.loads(gateway.process.end().err.splitlines()[-1])["event"]
