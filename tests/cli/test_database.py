import asyncio
import json
import re
from datetime import UTC, datetime

import pytest

from tests.commands import SECRETS
from wats.store import receive
from wats.store.open import open_store
from wats.store.records import Arrival

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def fill(url: str) -> None:
    update = Arrival(
        key=bytes(16),
        occurred_at=NOON,
        received_at=NOON,
        kind="message",
        phone_number_id="1",
        ordering_key=1,
        payload=b"no update",
        consumers=("handlers",),
    )

    async def store_one() -> None:
        store = open_store(url)
        await store.open()
        await receive(store, [update])
        await store.close()

    asyncio.run(store_one())


def test_a_copy_prints_the_rows_of_each_table(wats, tmp_path) -> None:
    source, target = f"sqlite:///{tmp_path}/source.db", f"sqlite:///{tmp_path}/target.db"
    fill(source)

    result = wats.run("database", "copy", source, target, "--json", environ={})

    assert (result.code, result.err) == (0, "")
    copied = json.loads(result.out)["copied"]
    assert {name: rows for name, rows in copied.items() if rows} == {
        "identities": 1,
        "deliveries": 1,
    }


def test_a_copy_that_is_refused_exits_with_1_and_names_no_database(wats, tmp_path) -> None:
    source, target = f"sqlite:///{tmp_path}/source.db", f"sqlite:///{tmp_path}/target.db"
    fill(source)
    fill(target)

    result = wats.invoke("database", "copy", source, target)

    assert result.code == 1
    assert (
        result.err
        == "Error: The target is not empty: use an empty database. (database_copy_refused)\n"
    )


def test_a_copy_of_a_file_that_is_not_a_database_names_the_cause(wats, tmp_path) -> None:
    (tmp_path / "text.db").write_text("This is not a database. " * 100)

    result = wats.invoke(
        "database", "copy", f"sqlite:///{tmp_path}/text.db", f"sqlite:///{tmp_path}/target.db"
    )

    assert result.code == 1
    assert "the file is not a SQLite database (not_a_database)" in result.err


def test_a_copy_without_json_prints_a_table(wats, tmp_path) -> None:
    source, target = f"sqlite:///{tmp_path}/source.db", f"sqlite:///{tmp_path}/target.db"
    fill(source)

    result = wats.invoke("database", "copy", source, target)

    assert "deliveries                   1\n" in result.out


def test_a_variable_without_a_password_is_refused(wats) -> None:
    result = wats.invoke(
        "database", "copy", "sqlite:///a", "sqlite:///b", "--to-password-env", "NO"
    )

    assert result.code == 1
    assert "--to-password-env" in result.err


def test_a_url_with_a_password_is_refused_and_not_repeated(wats) -> None:
    result = wats.invoke("database", "copy", "sqlite:///a", "postgresql://wats:hunter2@db/wats")

    assert result.code == 1
    assert "hunter2" not in result.out + result.err


def test_an_unsupported_url_is_named_by_its_argument(wats) -> None:
    source = wats.invoke("database", "copy", "mysql://canary", "sqlite:///b")
    target = wats.invoke("database", "copy", "sqlite:///a", "mysql://canary")

    cause = "must begin with 'sqlite:///' or 'postgresql://' (invalid_persistence_url)"
    assert source.err == f"Error: A URL is invalid.\n  FROM: {cause}\n"
    assert target.err == f"Error: A URL is invalid.\n  TO: {cause}\n"


def test_a_file_that_cannot_be_opened_is_named_by_its_argument(wats) -> None:
    text, filled = wats.folder / "text.db", f"sqlite:///{wats.folder / 'filled.db'}"
    text.write_text("This is a text.")
    fill(filled)

    source = wats.invoke("database", "copy", f"sqlite:///{text}", "sqlite:///new.db")
    target = wats.invoke("database", "copy", filled, f"sqlite:///{wats.folder / 'no' / 'new.db'}")

    assert re.search(r"\n  FROM: '.*': the file is not a SQLite database \(not_a_", source.err)
    assert re.search(r"\n  TO: '.*': no such directory \(no_such_directory\)", target.err)


@pytest.mark.long
def test_a_backup_of_a_running_service_is_restored_after_it_was_killed(wats) -> None:
    backup = str(wats.folder / "backup.db")
    config = ("--config", str(wats.config))
    with wats.running("serve", *config, "--port", "0") as service:
        made = wats.run("database", "backup", backup, *config)
        in_use = wats.run("database", "restore", backup, *config)
        service.process.kill()
        service.process.wait()

    restored = wats.run("database", "restore", backup, *config)

    assert (made.code, made.out) == (0, f"The backup is in '{backup}'.\n")
    assert in_use.code == 1
    assert "'wats.db': another process has locked the database (database_locked)" in in_use.err
    assert restored.code == 0
    assert "The previous database is in " in restored.out
    with wats.running("serve", *config, "--port", "0") as service:
        assert service.end().code == 0


def test_the_database_of_an_environment_variable_is_found(wats) -> None:
    path, backup = wats.folder / "data.db", wats.folder / "backup.db"
    fill(f"sqlite:///{path}")
    wats.write(persistence={"url": {"env": "WATS_DATABASE_URL"}})
    environ = {**SECRETS, "WATS_DATABASE_URL": f"sqlite:///{path}"}

    result = wats.invoke(
        "database", "backup", str(backup), "--config", str(wats.config), environ=environ
    )

    assert result.code == 0
    assert backup.exists()


@pytest.mark.parametrize("persistence", ["none", {"url": "postgresql://wats@db/wats"}])
def test_only_a_sqlite_file_has_backups_of_wats(wats, persistence) -> None:
    wats.write(persistence=persistence)

    result = wats.invoke("database", "backup", "backup.db", "--config", str(wats.config))

    assert result.code == 1
    assert "The config has no SQLite file" in result.err


def test_a_backup_needs_a_config(wats) -> None:
    result = wats.invoke("database", "restore", "backup.db")

    assert result.code == 1
    assert "--config" in result.err
