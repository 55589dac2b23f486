import apsw
import pytest

from tests.store.sqlite.writers import Milliseconds, ignore, open_writer, transaction
from wats.errors import StoreUnavailable
from wats.store.group_commit import request_of
from wats.store.records import DeliveryState
from wats.store.sqlite.connection import MEMORY, connect_writer, translate
from wats.store.sqlite.thread import commit


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(apsw).values()
        if isinstance(kind, type) and issubclass(kind, apsw.Error)
    ],
)
def test_every_error_of_sqlite_becomes_store_unavailable_without_its_text(
    kind: type[apsw.Error],
) -> None:
    theirs = kind("a text that may quote anything")

    ours = translate(theirs)

    assert isinstance(ours, StoreUnavailable)
    assert ours.__cause__ is theirs
    assert str(ours) == StoreUnavailable.text


def test_an_error_of_the_file_system_becomes_store_unavailable() -> None:
    assert isinstance(translate(PermissionError("a path")), StoreUnavailable)


def test_an_error_from_elsewhere_is_not_translated() -> None:
    bug = TypeError("a bug")

    assert translate(bug) is bug


def test_a_transaction_that_sqlite_rolled_back_is_not_rolled_back_again() -> None:
    writer = connect_writer(MEMORY, 1, Milliseconds(), ignore)

    writer.roll_back()

    assert not writer.in_transaction
    writer.close()


def test_counters_are_written_with_their_transaction_and_discarded_with_it() -> None:
    writer = open_writer()

    def counted() -> object:
        return writer.execute("SELECT leased FROM wats_consumers WHERE name = 'handlers'").get

    writer.execute("BEGIN")
    writer.count("handlers", DeliveryState.LEASED, 5)
    writer.roll_back()
    with transaction(writer):
        writer.count("handlers", DeliveryState.LEASED, 1)
        writer.count("handlers", DeliveryState.LEASED, 2)
    with transaction(writer):
        writer.execute("SELECT 1")

    assert counted() == 3
    writer.close()


async def test_a_batch_waits_for_the_disk_unless_none_of_its_requests_needs_that() -> None:
    writer = open_writer()
    seen = []

    for batch in ((False,), (True,), (False, True), (False, False)):
        commit(writer, [request_of(lambda _: None, flushes=each)[0] for each in batch])
        seen.append(writer.pragma("synchronous"))

    assert seen == [1, 2, 2, 1]
    writer.close()


@pytest.mark.parametrize(
    ("pragma", "value"), [("synchronous", 2), ("secure_delete", 1), ("wal_autocheckpoint", 16_000)]
)
def test_a_writer_flushes_its_commits_and_overwrites_deleted_content(
    pragma: str, value: int
) -> None:
    connection = connect_writer(MEMORY, 1, Milliseconds(), ignore)

    assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)
    connection.close()
