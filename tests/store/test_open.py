from pathlib import Path

import pytest

from wats.errors import ConfigError
from wats.store.open import open_store
from wats.telemetry.contract.values import Adapter


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


@pytest.mark.parametrize("path", ["wats.db", "data/wats.db", "/var/lib/wats.db", ":memory:"])
def test_a_sqlite_url_names_a_file_or_memory(path: str) -> None:
    assert open_store(f"sqlite:///{path}").adapter is Adapter.SQLITE


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@host:5432/db?sslmode=verify-full",
        "postgres://user@/db?host=/run/postgresql",
    ],
)
def test_a_postgresql_url_names_a_database(url: str) -> None:
    store = open_store(url, password="hunter2")

    assert store.adapter is Adapter.POSTGRES
    assert "hunter2" not in repr(store)


async def test_a_relative_path_is_one_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///wats.db")
    assert names_in(tmp_path) == []

    await store.open()
    await store.close()

    assert names_in(tmp_path) == ["wats.db"]


async def test_an_absolute_path_has_four_slashes(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/wats.db")

    await store.open()
    await store.close()

    assert names_in(tmp_path) == ["wats.db"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("postgresql://user:hunter2@host", "must name a database", id="no-database"),
        pytest.param("postgresql://user:hunter2@host:x/db", "must be a URL", id="no-port"),
        pytest.param("postgresql://user:hunter2@host/db#a", "must name", id="fragment-of-postgres"),
        pytest.param("postgresql://hunter2@host/db?options=-c", "parameters", id="parameter"),
        pytest.param("mysql://user:hunter2@host/db", "must begin with", id="other"),
        pytest.param("", "must begin with", id="empty"),
        pytest.param("wats.db", "must begin with", id="no-scheme"),
        pytest.param("sqlite://wats.db", "must begin with", id="two-slashes"),
        pytest.param("sqlite:///", "must name a file", id="no-file"),
        pytest.param("sqlite:///wats.db?mode=ro", "must name a file", id="query"),
        pytest.param("sqlite:///wats.db#a", "must name a file", id="fragment"),
        pytest.param("sqlite:///wats\0.db", "must name a file", id="nul"),
    ],
)
def test_any_other_url_is_refused_without_being_quoted(url: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)

    (issue,) = caught.value.issues
    assert issue.path == "persistence.url"
    assert reason in issue.reason
    assert "hunter2" not in str(caught.value)
