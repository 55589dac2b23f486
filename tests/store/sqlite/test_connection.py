import apsw
import pytest

from wats.errors import StoreUnavailable
from wats.store.sqlite.connection import MEMORY, connect_writer, roll_back, translate


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(apsw).values()
        if isinstance(kind, type) and issubclass(kind, apsw.Error)
    ],
)
def test_every_error_of_sqlite_becomes_ours_without_its_text(kind: type[apsw.Error]) -> None:
    theirs = kind("a text that may quote anything")

    ours = translate(theirs)

    assert isinstance(ours, StoreUnavailable)
    assert ours.__cause__ is theirs
    assert str(ours) == StoreUnavailable.text


def test_an_error_of_the_file_system_becomes_ours() -> None:
    assert isinstance(translate(PermissionError("a path")), StoreUnavailable)


def test_an_error_that_is_not_of_the_database_stays_what_it_is() -> None:
    bug = TypeError("a bug")

    assert translate(bug) is bug


def test_what_sqlite_rolled_back_by_itself_is_not_rolled_back_again() -> None:
    connection = connect_writer(MEMORY, 1)

    roll_back(connection)

    assert not connection.in_transaction
    connection.close()


@pytest.mark.parametrize(
    ("pragma", "value"), [("synchronous", 2), ("secure_delete", 1), ("wal_autocheckpoint", 16_000)]
)
def test_a_writer_is_set_up_to_keep_what_it_commits(pragma: str, value: int) -> None:
    connection = connect_writer(MEMORY, 1)

    assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)
    connection.close()
