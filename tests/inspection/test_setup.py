import asyncio
import json
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.settings import SECRETS, config_of
from wats.inspection.setup import PROMISES, Source, check_setup, responds
from wats.inspection.verdicts import Finding, Verdict
from wats.store.open import open_store


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Desk:
    """A folder with a config, and its checks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: dict[str, str] = dict(SECRETS)
        self.env_file: Path | None = None
        self.database = folder / "wats.db"
        self.write()

    def write(self, **sections: Any) -> None:
        service = {**config_of()["profiles"]["local"]["service"], "port": free_port()}
        persistence = {"url": f"sqlite:///{self.database}"}
        document = config_of(**{"service": service, "persistence": persistence, **sections})
        (self.folder / "wats.config.json").write_text(json.dumps(document))

    def check(self) -> Mapping[str, Finding]:
        source = Source(
            config=self.folder / "wats.config.json",
            profile=None,
            env_file=self.env_file,
            environ=self.environ,
        )
        judged = check_setup(source).judged
        assert {each.name: each.promise for each in judged} == PROMISES
        found = {each.name: each.finding for each in judged}
        assert "canary" not in str(found)
        return found

    def verdicts(self) -> Mapping[str, str]:
        return {name: found.verdict.value for name, found in self.check().items()}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.syspath_prepend(tmp_path)
    return Desk(tmp_path)


@pytest.fixture
def database(desk: Desk) -> Path:
    """A database that a service has made and left."""

    async def make() -> None:
        store = open_store(f"sqlite:///{desk.database}")
        await store.open()
        await store.close()

    asyncio.run(make())
    return desk.database


def test_a_correct_setup_holds_and_is_not_changed(desk: Desk) -> None:
    before = sorted(desk.folder.iterdir())

    assert set(desk.verdicts().values()) == {"holds"}
    assert sorted(desk.folder.iterdir()) == before


def test_a_config_with_a_mistake_is_named_with_its_key_and_code(desk: Desk) -> None:
    desk.write(groups={"enabled": "a-canary"})

    found = desk.check()

    assert found["config"].verdict is Verdict.FAILS
    assert "groups.enabled: Must be true or false. (invalid_groups)" in found["config"].note
    assert {found[name].verdict for name in set(PROMISES) - {"config"}} == {Verdict.UNKNOWN}


def test_a_config_that_is_missing_fails(desk: Desk) -> None:
    (desk.folder / "wats.config.json").unlink()

    assert "no such file" in desk.check()["config"].note


def test_a_missing_secret_is_named_and_the_rest_is_checked(desk: Desk) -> None:
    del desk.environ["WATS_APP_SECRET"]

    found = desk.check()

    assert "webhook.appSecret" in found["secrets"].note
    assert found["database"].verdict is Verdict.UNKNOWN
    assert found["handlers"].verdict is found["port"].verdict is Verdict.HOLDS


def test_many_mistakes_are_counted(desk: Desk) -> None:
    desk.env_file = desk.folder / "wats.env"
    desk.env_file.write_text("canary canary\n" * 50)
    desk.env_file.chmod(0o600)

    assert len(desk.check()["secrets"].note) < 1000


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, "holds"), (0o640, "holds"), (0o644, "fails")]
)
def test_the_env_file_must_not_be_readable_by_others(desk: Desk, mode: int, verdict: str) -> None:
    desk.env_file = desk.folder / "wats.env"
    desk.env_file.write_text("")
    desk.env_file.chmod(mode)

    assert desk.verdicts()["permissions"] == verdict


def test_a_secret_file_must_not_be_readable_by_others(desk: Desk) -> None:
    token = desk.folder / "token"
    token.write_text(SECRETS["WATS_ACCESS_TOKEN"])
    token.chmod(0o604)
    desk.write(auth={"accessToken": {"file": "token"}})

    found = desk.check()["permissions"]

    assert found.verdict is Verdict.FAILS
    assert "auth.accessToken" in found.note


def test_the_file_with_the_url_of_the_database_must_not_be_readable_by_others(desk: Desk) -> None:
    url = desk.folder / "url"
    url.write_text("postgresql://wats:canary@127.0.0.1:1/wats")
    url.chmod(0o604)
    desk.write(persistence={"url": {"file": "url"}})

    found = desk.check()["permissions"]

    assert found.verdict is Verdict.FAILS
    assert "persistence.url" in found.note


def test_the_secret_file_of_a_subscriber_must_not_be_readable_by_others(desk: Desk) -> None:
    secret = desk.folder / "crm"
    secret.write_text("whsec_c29tZS1yYW5kb20tYnl0ZXMtZm9yLXRlc3Rz")
    secret.chmod(0o604)
    crm = {"name": "crm", "url": "https://crm.example/", "secret": {"file": "crm"}}
    desk.write(subscribers=[crm])

    found = desk.check()["permissions"]

    assert found.verdict is Verdict.FAILS
    assert "subscriber" in found.note


def test_a_database_must_not_be_open_to_others(desk: Desk, database: Path) -> None:
    desk.database.chmod(0o640)

    assert desk.check()["permissions"].verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("async def handle(update): ...", ""),
        ("def handle(update): ...", "it must be an async function"),
        ("import no_such_module_of_ours", "'no_such_module_of_ours', which is not installed"),
        ("raise SystemExit('a-canary')", "SystemExit"),
        ("def handle(", "syntax error"),
    ],
)
def test_handlers_are_imported(desk: Desk, code: str, note: str, capsys) -> None:
    name = f"handlers_{abs(hash(code))}"
    (desk.folder / f"{name}.py").write_text(f"print('imported')\n{code}\n")
    desk.write(handlers=[f"{name}:handle"])

    found = desk.check()["handlers"]

    assert found.verdict is (Verdict.FAILS if note else Verdict.HOLDS)
    assert note in found.note
    assert capsys.readouterr().out == ""


def test_a_sink_that_cannot_be_imported_fails(desk: Desk) -> None:
    desk.write(telemetry={"sink": "nowhere_at_all:make"})

    assert "telemetry.sink" in desk.check()["handlers"].note


def test_a_database_that_was_left_in_order_can_be_used(desk: Desk, database: Path) -> None:
    before = {each.name: each.read_bytes() for each in desk.folder.glob("wats.db*")}

    assert desk.verdicts()["database"] == "holds"
    assert {each.name: each.read_bytes() for each in desk.folder.glob("wats.db*")} == before


def test_a_database_of_another_version_or_program_is_recognized(desk: Desk, database: Path) -> None:
    with closing(sqlite3.connect(desk.database)) as connection:
        connection.execute("UPDATE wats_schema_migrations SET checksum = 'other'")
        connection.commit()

    assert "the schema is not one" in desk.check()["database"].note


@pytest.mark.parametrize(
    ("place", "note"),
    [
        ("nowhere/wats.db", "no such directory"),
        ("text/wats.db", "a part of the path is a file"),
        ("text", "the file is not a SQLite database"),
        ("folder", ""),
    ],
)
def test_a_database_that_cannot_be_opened_has_a_cause(desk: Desk, place: str, note: str) -> None:
    (desk.folder / "text").write_text("This is not a database. " * 100)
    (desk.folder / "folder").mkdir()
    desk.write(persistence={"url": f"sqlite:///{desk.folder / place}"})

    found = desk.check()["database"]

    assert found.verdict is Verdict.FAILS
    assert note in found.note
    assert str(desk.folder) not in found.note


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(f_bavail=2, f_frsize=4096)
    monkeypatch.setattr("os.statvfs", lambda _: room)


def test_a_new_database_on_a_full_disk_cannot_be_used(desk: Desk, full_disk) -> None:
    assert "no space left on the disk" in desk.check()["database"].note


def test_a_database_on_a_full_disk_cannot_be_used(desk: Desk, database, full_disk) -> None:
    assert "no space left on the disk" in desk.check()["database"].note


def test_a_full_disk_is_found_while_the_service_runs_and_is_ready(
    desk: Desk, database, full_disk, counterfeit: Any
) -> None:
    counterfeit.answers["/healthz"] = (200, {}, b'{"ok": true, "service": "wats"}')
    counterfeit.answers["/readyz"] = (200, {}, b'{"ok": true, "service": "wats"}')
    service = config_of()["profiles"]["local"]["service"]
    desk.write(service={**service, "port": int(counterfeit.url.rpartition(":")[2])})

    found = desk.check()

    assert "The service responds" in found["port"].note
    assert "no space left on the disk" in found["database"].note


@pytest.mark.parametrize("persistence", ["none", {"url": "sqlite:///:memory:"}])
def test_a_setup_without_a_file_needs_none(desk: Desk, persistence: Any) -> None:
    desk.write(persistence=persistence)

    assert desk.verdicts()["database"] == "holds"


def test_a_postgresql_server_that_is_not_reachable_fails(desk: Desk) -> None:
    desk.write(persistence={"url": "postgresql://canary@127.0.0.1:9/canary"})

    found = desk.check()["database"]

    assert found.verdict is Verdict.FAILS
    assert found.note == "persistence.url: no server accepts connections at the address."


def test_another_program_at_the_address_fails(desk: Desk, counterfeit: Any) -> None:
    service = config_of()["profiles"]["local"]["service"]
    port = int(counterfeit.url.rpartition(":")[2])
    desk.write(service={**service, "port": port})

    found = desk.check()["port"]

    assert found.verdict is Verdict.FAILS
    assert "Address already in use" in found.note


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"service": 1}', b"[" * 100_000, b"\xff"])
def test_another_program_is_not_taken_for_the_service(counterfeit, body: bytes) -> None:
    counterfeit.answers["/healthz"] = (200, {}, body)

    assert not responds(counterfeit.url)
