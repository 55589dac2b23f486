import asyncio
import json
from datetime import UTC, datetime

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
