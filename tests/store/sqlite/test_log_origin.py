import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from tests.store.sqlite.test_open_faults import refusal_of
from wats.faults import Fault
from wats.store import receive
from wats.store.records import Arrival
from wats.store.sqlite import SQLiteStore
from wats.store.sqlite.log_origin import is_foreign, page_1

MakeArrival = Callable[..., Arrival]
Backup = Callable[[Path, Path], None]


def vacuum(source: Path, target: Path) -> None:
    with closing(apsw.Connection(str(source))) as connection:
        connection.execute(f"VACUUM INTO '{target}'")


def copy_pages(source: Path, target: Path) -> None:
    with (
        closing(apsw.Connection(str(source))) as connection,
        closing(apsw.Connection(str(target))) as copy,
        copy.backup("main", connection, "main") as backup,
    ):
        backup.step()


SET_NUMBER = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(60)
    file.write((2_000_000_000).to_bytes(4, "big"))
"""


def set_number(path: Path) -> None:
    # In a process of its own: closing the file in this one would drop the locks of SQLite.
    subprocess.run([sys.executable, "-c", SET_NUMBER, path], check=True)


async def opened(path: Path) -> SQLiteStore:
    store = SQLiteStore(str(path))
    await store.open()
    return store


def crash(path: Path, folder: Path) -> Path:
    """Copy the files as they are, as if all processes had ended at this moment."""
    folder.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder)
    return folder / path.name


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


async def received(path: Path) -> int:
    await (await opened(path)).close()
    with closing(apsw.Connection(str(path))) as connection:
        return int(connection.execute("SELECT count(*) FROM wats_deliveries").get)


async def test_the_log_of_a_crash_belongs_to_its_file_and_is_replayed(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    store = await opened(path)
    counts = []
    for round_ in range(4):
        await receive(store, [arrival()])
        crashed = crash(path, tmp_path / f"crash-{round_}")
        assert not is_foreign(str(crashed), str(log_of(crashed)))
        counts.append(await received(crashed))
        if round_ % 2:
            assert await store.checkpoint()
            crashed = crash(path, tmp_path / f"crash-{round_}-empty")
            assert await received(crashed) == round_ + 1
    await store.close()

    assert counts == [1, 2, 3, 4]


async def test_a_log_belongs_to_its_file_after_a_partial_checkpoint(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    store = await opened(path)
    await receive(store, [arrival()])
    with closing(apsw.Connection(str(path))) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)")
    await receive(store, [arrival()])

    crashed = crash(path, tmp_path / "crash")

    assert await received(crashed) == 2
    await store.close()


@pytest.mark.parametrize("backup", [vacuum, copy_pages])
async def test_a_restored_backup_is_not_opened_with_the_log_of_its_predecessor(
    tmp_path: Path, arrival: MakeArrival, backup: Backup
) -> None:
    path, copy = tmp_path / "wats.db", tmp_path / "backup.db"
    store = await opened(path)
    await receive(store, [arrival()])
    backup(path, copy)
    assert await store.checkpoint()
    await receive(store, [arrival(payload=b"x" * 100_000)])
    assert await store.checkpoint()
    await receive(store, [arrival(payload=b"x" * 100_000)])
    crashed = crash(path, tmp_path / "crash")
    await store.close()
    log = log_of(crashed).read_bytes()
    renamed = log_of(crashed).with_suffix(".db-wal.foreign")
    shutil.copy(copy, crashed)
    before = crashed.read_bytes()

    for _ in range(2):  # a restart of the service does not help
        error = await refusal_of(crashed)
        assert error.issue is not None
        assert error.issue.code == Fault.FOREIGN_LOG

    assert crashed.read_bytes() == before
    assert renamed.read_bytes() == log
    renamed.unlink()
    assert await received(crashed) == 1


async def test_a_backup_from_within_the_log_is_not_opened_with_that_log(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path, copy = tmp_path / "wats.db", tmp_path / "backup.db"
    store = await opened(path)
    await receive(store, [arrival()])
    vacuum(path, copy)
    await receive(store, [arrival()])
    crashed = crash(path, tmp_path / "crash")
    await store.close()

    shutil.copy(copy, crashed)

    assert is_foreign(str(crashed), str(log_of(crashed)))


async def test_a_log_that_another_process_uses_is_left_alone(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    store = await opened(path)
    await receive(store, [arrival()])
    # The number of the file is one that the log does not have, as if both had just changed.
    set_number(path)
    assert is_foreign(str(path), str(log_of(path)))

    assert await received(path) == 1

    await receive(store, [arrival()])
    await store.close()
    assert await received(path) == 2


async def test_a_torn_end_of_the_log_does_not_make_it_foreign(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    store = await opened(path)
    await receive(store, [arrival()])
    crashed = crash(path, tmp_path / "crash")
    await store.close()
    log = log_of(crashed).read_bytes()

    for end in range(0, len(log), 997):
        log_of(crashed).write_bytes(log[:end] + bytes(min(len(log) - end, 500)))
        assert not is_foreign(str(crashed), str(log_of(crashed)))


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 32, b"nonsense" * 10_000])
async def test_a_log_that_sqlite_ignores_is_not_foreign(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wats.db"
    await (await opened(path)).close()
    log_of(path).write_bytes(content)

    assert not is_foreign(str(path), str(log_of(path)))
    assert await received(path) == 0


def test_an_empty_file_has_no_page_1(tmp_path: Path) -> None:
    (tmp_path / "wats.db").touch()

    assert page_1(str(tmp_path / "wats.db")) is None
    assert page_1(str(tmp_path / "none.db")) is None
