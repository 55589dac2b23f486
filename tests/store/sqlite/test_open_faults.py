import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest

from tests.namespaces import MOUNTING, needs_mounting
from wats.errors import MigrationFailed, SchemaMismatch, StoreError, StoreUnavailable
from wats.faults import Fault
from wats.store.sqlite import SQLiteStore
from wats.store.sqlite.open_faults import explain

TEXT = "This is not a database, and it is long enough to show it. " * 99

OPEN = """
import asyncio, os, sys
from wats.errors import StoreError
from wats.store.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
if len(sys.argv) > 2:  # after the imports, which need not be readable to all
    os.setuid(int(sys.argv[2]))
try:
    asyncio.run(store.open())
except StoreError as error:
    print(error.issue.code)
"""

NOBODY = "65534"


async def refusal_of(path: str | Path) -> StoreError:
    store = SQLiteStore(str(path), busy_seconds=0.1)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    return caught.value


def fault_in_child(path: Path, before: Sequence[str] = (), user: str | None = None) -> str:
    """Open a store in a process of its own, and return the word of the cause."""
    command = [*before, sys.executable, "-c", OPEN, str(path)]
    done = subprocess.run(
        command if user is None else [*command, user], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


async def make_database(path: Path, then: str = "SELECT 1") -> None:
    store = SQLiteStore(str(path))
    await store.open()
    await store.close()
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(then)


def shown(path: Path, fault: Fault) -> str:
    return f"\n  persistence.url: '{path}': {fault.meaning} ({fault})"


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("none/wats.db", Fault.NO_SUCH_DIRECTORY),
        ("text/wats.db", Fault.NOT_A_DIRECTORY),
        ("folder", Fault.IS_A_DIRECTORY),
        ("text", Fault.NOT_A_DATABASE),
    ],
)
async def test_a_path_without_a_database_is_refused_with_key_path_and_cause(
    tmp_path: Path, path: str, fault: Fault
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text(TEXT)

    error = await refusal_of(tmp_path / path)

    assert str(error) == "The database cannot be opened." + shown(tmp_path / path, fault)
    assert str(tmp_path) not in error.message


async def test_a_damaged_database_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "wats.db"
    await make_database(path)
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))

    error = await refusal_of(path)

    assert str(error).endswith(shown(path, Fault.DATABASE_DAMAGED))


async def test_a_locked_database_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "wats.db"
    await make_database(path)

    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        error = await refusal_of(path)

    assert str(error).endswith(shown(path, Fault.DATABASE_LOCKED))


async def test_a_database_of_another_version_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "wats.db"
    await make_database(path, "UPDATE wats_schema_migrations SET checksum = 'other'")

    error = await refusal_of(path)

    assert isinstance(error, SchemaMismatch)
    assert str(error) == SchemaMismatch.text + shown(path, Fault.WRONG_SCHEMA)


@needs_mounting
@pytest.mark.parametrize(
    ("options", "fault"),
    [("ro", Fault.READ_ONLY_FILE_SYSTEM), ("size=16k", Fault.DISK_FULL)],
)
def test_a_file_system_that_cannot_be_written_is_the_cause(
    tmp_path: Path, options: str, fault: Fault
) -> None:
    mount = f'mount -t tmpfs -o {options} none {tmp_path} && exec "$@"'

    found = fault_in_child(tmp_path / "wats.db", [*MOUNTING, "sh", "-c", mount, "sh"])

    assert found == fault


@pytest.fixture
def foreign_path() -> Iterator[Path]:
    """A path for a database, in a directory that another user can reach."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "wats.db"


def fault_of_another_user(path: Path) -> str:
    # The tests may run as root, who has every permission.
    return fault_in_child(path, user=NOBODY if os.geteuid() == 0 else None)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_directory_of_another_user_is_a_matter_of_permission(
    foreign_path: Path, mode: int
) -> None:
    foreign_path.parent.chmod(mode)

    found = fault_of_another_user(foreign_path)

    foreign_path.parent.chmod(0o700)
    assert found == Fault.PERMISSION_DENIED


def test_a_database_that_may_only_be_read_is_a_matter_of_permission(foreign_path: Path) -> None:
    asyncio.run(make_database(foreign_path))
    foreign_path.parent.chmod(0o777)
    foreign_path.chmod(0o444)

    assert fault_of_another_user(foreign_path) == Fault.PERMISSION_DENIED


def test_a_file_system_that_refuses_locks_is_the_cause() -> None:
    error = apsw.IOError()
    error.extendedresult = apsw.SQLITE_IOERR_LOCK

    explained = explain(error, "wats.db")

    assert isinstance(explained, StoreUnavailable)
    assert str(explained).endswith(f"({Fault.NO_LOCAL_LOCKS})")


def test_a_migration_that_fails_has_the_cause_of_sqlite() -> None:
    failed = MigrationFailed()
    failed.__cause__ = apsw.FullError()

    explained = explain(failed, "wats.db")

    assert isinstance(explained, MigrationFailed)
    assert str(explained).endswith(f"({Fault.DISK_FULL})")
