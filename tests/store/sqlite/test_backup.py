import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from tests.namespaces import MOUNTING, needs_mounting
from tests.store.children import child
from wats.errors import BackupRefused, StoreUnavailable
from wats.faults import Fault
from wats.store import receive
from wats.store.records import Arrival
from wats.store.sqlite import SQLiteStore
from wats.store.sqlite.backup import back_up, restore

MakeArrival = Callable[..., Arrival]


async def store_one(path: Path, arrival: Arrival) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await receive(store, [arrival])
    await store.close()


def count(path: Path) -> int:
    async def open_and_close() -> None:
        store = SQLiteStore(str(path))
        await store.open()
        await store.close()

    asyncio.run(open_and_close())
    with closing(apsw.Connection(str(path))) as connection:
        return int(connection.execute("SELECT count(*) FROM wats_inbox").get)


def fault_of(error: BackupRefused | StoreUnavailable) -> str | None:
    return None if error.issue is None else error.issue.code


@pytest.fixture
def path(tmp_path: Path, arrival: MakeArrival) -> Path:
    """A database with one update, which nothing uses."""
    asyncio.run(store_one(tmp_path / "wats.db", arrival()))
    return tmp_path / "wats.db"


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keep the database open in another process, which has stored a second update."""
    script = """
async def main():
    store = await opened()
    await receive(store, [arrival(77)])
    write("ready")
    sys.stdin.read()
    os._exit(1)  # as if it were killed

asyncio.run(main())
"""
    process = child(path, script, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_a_backup_of_a_database_in_use_has_everything_and_is_private(
    path: Path, tmp_path: Path
) -> None:
    target = tmp_path / "backup.db"

    with in_use(path):
        back_up(str(path), target)

    assert target.stat().st_mode & 0o777 == 0o600
    assert count(target) == 2
    assert list(tmp_path.glob(".*")) == []


def test_a_backup_never_replaces_a_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "backup.db").write_text("mine")

    with pytest.raises(BackupRefused) as caught:
        back_up(str(path), tmp_path / "backup.db")

    assert fault_of(caught.value) == Fault.FILE_EXISTS
    assert (tmp_path / "backup.db").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "target", "fault"),
    [
        ("none.db", "backup.db", Fault.NO_SUCH_FILE),
        ("text.db", "backup.db", Fault.NOT_A_DATABASE),
        ("other.db", "backup.db", Fault.WRONG_SCHEMA),
        ("wats.db", "none/backup.db", Fault.NO_SUCH_DIRECTORY),
    ],
)
def test_a_backup_that_fails_leaves_no_file_and_names_the_cause(
    path: Path, tmp_path: Path, source: str, target: str, fault: Fault
) -> None:
    make_others(tmp_path)
    before = set(tmp_path.iterdir())

    with pytest.raises(BackupRefused) as caught:
        back_up(str(tmp_path / source), tmp_path / target)

    assert fault_of(caught.value) == fault
    assert set(tmp_path.iterdir()) == before


BACK_UP = """
import sys
from pathlib import Path
from wats.errors import BackupRefused
from wats.store.sqlite.backup import back_up

try:
    back_up(sys.argv[1], Path(sys.argv[2]))
except BackupRefused as error:
    print(error.issue.path, error.issue.code)
"""

RESTORE = """
import sys
from pathlib import Path
from wats.errors import BackupRefused
from wats.store.sqlite.backup import restore

try:
    restore(Path(sys.argv[1]), sys.argv[2])
except BackupRefused as error:
    print(error.issue.path, error.issue.code)
"""


def with_small_disk(folder: Path, size: str, program: str, *arguments: object) -> list[str]:
    """Run *program* while *folder* is a disk of *size*; return its output and the files on it."""
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={size} none {folder} && "$@" && ls -A {folder}'
    run = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        [*MOUNTING, "sh", "-c", mount, "sh", *run], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


async def fill(path: Path, arrival: MakeArrival) -> None:
    store = SQLiteStore(str(path))
    await store.open()
    for _ in range(4):
        await receive(store, [arrival(payload=os.urandom(1 << 20))])
    await store.close()


@needs_mounting
def test_a_backup_to_a_full_disk_names_the_new_file(
    path: Path, tmp_path: Path, arrival: MakeArrival
) -> None:
    asyncio.run(fill(path, arrival))
    small = tmp_path / "small"

    output = with_small_disk(small, "1m", BACK_UP, path, small / "backup.db")

    assert output == [f"FILE {Fault.DISK_FULL}"]


@needs_mounting
def test_a_restore_on_a_full_disk_names_the_database(
    path: Path, tmp_path: Path, arrival: MakeArrival
) -> None:
    asyncio.run(fill(path, arrival))
    backup, small = tmp_path / "backup.db", tmp_path / "small"
    back_up(str(path), backup)

    output = with_small_disk(small, "1m", RESTORE, backup, small / "wats.db")

    assert output == [f"persistence.url {Fault.DISK_FULL}"]


def make_others(folder: Path) -> None:
    (folder / "text.db").write_text("This is not a database. " * 100)
    with closing(apsw.Connection(str(folder / "other.db"))) as connection:
        connection.execute("CREATE TABLE other (x)")


def test_a_restored_database_is_the_backup_without_the_log_of_a_crash(
    path: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    back_up(str(path), backup)
    with in_use(path):
        pass
    assert Path(f"{path}-wal").stat().st_size > 0

    previous = restore(backup, str(path))

    assert [each.name for each in tmp_path.glob("wats.db-*")] == []
    assert count(path) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert previous is not None
    assert count(previous) == 2
    assert count(backup) == 1


def test_a_database_that_a_process_uses_is_not_replaced(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    back_up(str(path), backup)

    with in_use(path), pytest.raises(BackupRefused) as caught:
        restore(backup, str(path))

    assert fault_of(caught.value) == Fault.DATABASE_LOCKED
    assert count(path) == 2


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("none.db", Fault.NO_SUCH_FILE),
        ("text.db", Fault.NOT_A_DATABASE),
        ("other.db", Fault.WRONG_SCHEMA),
        ("damaged.db", Fault.DATABASE_DAMAGED),
        ("newer.db", Fault.WRONG_SCHEMA),
        ("crashed.db", Fault.FOREIGN_LOG),
    ],
)
def test_a_file_that_is_not_an_intact_backup_replaces_nothing(
    path: Path, tmp_path: Path, source: str, fault: Fault
) -> None:
    make_others(tmp_path)
    content = path.read_bytes()
    (tmp_path / "damaged.db").write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    (tmp_path / "crashed.db").write_bytes(content)
    (tmp_path / "crashed.db-wal").write_bytes(b"x")
    shutil.copy(path, tmp_path / "newer.db")
    with closing(apsw.Connection(str(tmp_path / "newer.db"))) as connection:
        connection.execute("UPDATE wats_schema_migrations SET checksum = 'other'")
    before = set(tmp_path.iterdir())

    with pytest.raises(BackupRefused) as caught:
        restore(tmp_path / source, str(path))

    assert fault_of(caught.value) == fault
    assert set(tmp_path.iterdir()) == before
    assert path.read_bytes() == content


def test_a_damaged_database_can_be_replaced(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    back_up(str(path), backup)
    path.write_bytes(b"damaged " * 1000)

    restore(backup, str(path))

    assert count(path) == 1


def test_a_database_that_is_missing_is_restored_and_its_log_removed(
    path: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    back_up(str(path), backup)
    with in_use(path):
        pass
    path.unlink()

    assert restore(backup, str(path)) is None

    assert count(path) == 1


def test_a_log_that_was_renamed_at_the_start_is_moved_away_with_the_old_file(
    path: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    back_up(str(path), backup)
    Path(f"{path}-wal.foreign").write_bytes(b"a log")

    previous = restore(backup, str(path))

    assert Path(f"{previous}-wal.foreign").read_bytes() == b"a log"
    assert count(path) == 1


def test_a_database_does_not_replace_itself(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(path)

    with pytest.raises(BackupRefused, match="the database itself"):
        restore(path, str(tmp_path / "link.db"))

    assert count(path) == 1


def test_a_restore_by_root_keeps_the_owner(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    back_up(str(path), backup)
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    os.chown(path, owner, -1)

    restore(backup, str(path))

    assert path.stat().st_uid == owner
