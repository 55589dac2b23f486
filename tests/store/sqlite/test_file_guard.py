import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from tests.namespaces import MOUNTING, needs_mounting
from tests.store.sqlite.test_open_faults import OPEN, refusal_of
from wats.errors import DatabaseMoved
from wats.faults import Fault
from wats.store import receive
from wats.store.records import Arrival
from wats.store.sqlite import SQLiteStore

MakeArrival = Callable[..., Arrival]
Change = Callable[[Path], None]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(str(tmp_path / "wats.db"))
    await store.open()
    yield store
    await store.close()


def remove_all(path: Path) -> None:
    for file in path.parent.glob("wats.db*"):
        file.unlink()


def remove_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def remove_index(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def move_all(path: Path) -> None:
    moved = path.with_name("moved")
    moved.mkdir()
    for file in path.parent.glob("wats.db*"):
        file.rename(moved / file.name)


def move_file(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def replace_file(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def overwrite_by_vacuumed_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    path.write_bytes(copy.read_bytes())


def empty_file(path: Path) -> None:
    os.truncate(path, 0)


def empty_log(path: Path) -> None:
    os.truncate(f"{path}-wal", 0)


@pytest.mark.parametrize(
    "change",
    [
        remove_all,
        remove_log,
        remove_index,
        move_all,
        move_file,
        replace_file,
        overwrite_by_vacuumed_copy,
        empty_file,
        empty_log,
    ],
)
async def test_nothing_is_acknowledged_and_health_fails_after_the_files_changed(
    store: SQLiteStore, tmp_path: Path, arrival: MakeArrival, change: Change
) -> None:
    await receive(store, [arrival()])

    change(tmp_path / "wats.db")

    with pytest.raises(DatabaseMoved):
        await receive(store, [arrival()])
    with pytest.raises(DatabaseMoved):
        await store.health()
    with pytest.raises(DatabaseMoved):
        await store.checkpoint()


async def test_an_earlier_copy_in_the_same_file_is_recognized_and_left_alone(
    store: SQLiteStore, tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    await receive(store, [arrival()])
    await store.checkpoint()
    copy = path.read_bytes()
    await receive(store, [arrival()])
    await store.checkpoint()
    await receive(store, [arrival()])

    path.write_bytes(copy)

    with pytest.raises(DatabaseMoved):
        await receive(store, [arrival()])
    await store.close()
    assert path.read_bytes() == copy


async def test_a_database_is_intact_after_its_log_was_emptied(
    store: SQLiteStore, tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    await receive(store, [arrival()])
    await store.checkpoint()
    for _ in range(3):
        await receive(store, [arrival()])
    empty_log(path)
    with pytest.raises(DatabaseMoved):
        await receive(store, [arrival()])

    await store.close()

    assert await identities_in(path) == 1
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.pragma("integrity_check") == "ok"


async def test_the_store_goes_on_when_the_file_is_back(
    store: SQLiteStore, tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    move_file(path)
    with pytest.raises(DatabaseMoved):
        await receive(store, [arrival()])

    path.with_name("moved.db").rename(path)

    await receive(store, [arrival()])
    assert (await store.health()).ok


async def test_a_store_whose_file_was_replaced_leaves_the_files_of_the_other_alone(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    old = SQLiteStore(str(path))
    await old.open()
    await receive(old, [arrival()])
    move_all(path)
    new = SQLiteStore(str(path))
    await new.open()
    await receive(new, [arrival()])

    await old.close()

    await receive(new, [arrival()])
    await new.close()
    assert await identities_in(path) == 2


async def test_a_moved_database_has_everything_that_was_committed(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    path = tmp_path / "wats.db"
    store = SQLiteStore(str(path))
    await store.open()
    await receive(store, [arrival()])
    move_file(path)

    await store.close()

    remove_log(path)
    remove_index(path)
    assert await identities_in(tmp_path / "moved.db") == 1


async def identities_in(path: Path) -> int:
    store = SQLiteStore(str(path))
    await store.open()
    await store.close()
    with closing(apsw.Connection(str(path))) as connection:
        return int(connection.execute("SELECT count(*) FROM wats_inbox").get)


async def test_a_database_behind_a_symbolic_link_is_used_and_its_log_emptied(
    tmp_path: Path, arrival: MakeArrival
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "wats.db").symlink_to(tmp_path / "real" / "wats.db")
    store = SQLiteStore(str(tmp_path / "wats.db"))
    await store.open()
    await receive(store, [arrival()])

    assert await store.checkpoint()

    assert (tmp_path / "real" / "wats.db-wal").stat().st_size == 0
    await store.close()


@needs_mounting
def test_a_file_that_is_mounted_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.db").touch()
    (tmp_path / "wats.db").touch()
    script = f'mount --bind {tmp_path}/outside.db {tmp_path}/wats.db && exec "$@"'

    done = subprocess.run(
        [*MOUNTING, "sh", "-c", script, "sh", sys.executable, "-c", OPEN, tmp_path / "wats.db"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )

    assert done.stdout.strip() == Fault.FILE_IS_A_MOUNT


async def test_a_file_with_two_names_is_refused_by_both(tmp_path: Path) -> None:
    (tmp_path / "wats.db").touch()
    (tmp_path / "other.db").hardlink_to(tmp_path / "wats.db")

    for name in ("wats.db", "other.db"):
        error = await refusal_of(tmp_path / name)
        assert error.issue is not None
        assert error.issue.code == Fault.SEVERAL_NAMES


async def test_a_log_without_its_file_is_refused_and_stays(
    store: SQLiteStore, tmp_path: Path, arrival: MakeArrival
) -> None:
    await receive(store, [arrival()])
    log = (tmp_path / "wats.db-wal").read_bytes()
    left = tmp_path / "left.db-wal"
    left.write_bytes(log)

    error = await refusal_of(tmp_path / "left.db")

    assert error.issue is not None
    assert error.issue.code == Fault.FOREIGN_LOG
    assert left.read_bytes() == log
    assert not (tmp_path / "left.db").exists()
