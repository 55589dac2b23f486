from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zlib import crc32

import pytest
from apsw import Connection

from wats.store.migrate import load_migrations
from wats.store.records import (
    Arrival,
    Direction,
    Kept,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import inbox, messages, recent
from wats.store.sqlite.connection import MEMORY, connect_writer, migrate
from wats.store.sqlite.walk import Walk

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = connect_writer(MEMORY, 1)
    migrate(connection, load_migrations("sqlite"))
    yield connection
    connection.close()


@pytest.fixture
def take_in(
    connection: Connection,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
) -> Callable[..., None]:
    """Receive a message, which opens the window of *customer* if one is named."""

    def take_in(name: str, *, at: datetime = NOON, customer: str | None = None) -> None:
        received = message(name, direction=Direction.INBOUND, created_at=at, updated_at=at)
        opened = None
        if customer is not None:
            opened = WindowRecord(phone_number_id="1", customer=customer, last_inbound_at=at)
        inbox.receive(connection, [arrival(message=received, window=opened)])

    return take_in


def test_no_statement_about_messages_reads_a_whole_table(
    connection: Connection,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    trace: Callable[[Connection], list[str]],
    plans_of: Callable[[Connection, list[str]], dict[str, str]],
    read_as_a_whole: Callable[[dict[str, str]], dict[str, set[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent, "GATHERED_MESSAGES", 1)
    statements = trace(connection)
    status = StatusRecord(
        phone_number_id="1", wa_message_id="wamid.1", status="sent", occurred_at=NOON
    )
    window = WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON)
    received = message("wamid.2", direction=Direction.INBOUND)
    inbox.receive(connection, [arrival(status=status), arrival(message=received, window=window)])
    inbox.receive(connection, [arrival()])
    messages.record(connection, [message()])
    messages.page(connection, 10, None)
    messages.get(connection, "wamid.1")
    messages.statuses(connection, "wamid.1")
    messages.last_inbound_at(connection, "1", "2")
    for purge in (messages.purge, messages.purge_statuses, messages.purge_windows):
        purge(connection, [1], NOON)
    for statement in (messages.OLD_MESSAGES, messages.OLD_STATUSES):
        Walk(statement, 10).next_rows(connection, NOON)
    connection.set_exec_trace(None)

    plans = plans_of(connection, statements)
    assert "INSERT INTO wats_windows" in "".join(statements)
    assert len(plans) >= 15
    assert read_as_a_whole(plans) == {}


def last_inbound_at(connection: Connection) -> list[datetime | None]:
    return [messages.last_inbound_at(connection, "1", customer) for customer in "ab"]


def test_what_messages_say_of_windows_is_the_same_before_and_after_it_is_gathered(
    connection: Connection, take_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "GATHERED_MESSAGES", 3)
    expected: dict[str, datetime | None] = dict.fromkeys("ab")

    for number, (customer, seconds) in enumerate(
        [("a", 5), ("a", 7), ("b", 1), ("a", 6), ("b", 2), ("a", 8), ("b", 9), ("a", 1), ("a", 10)]
    ):
        at = NOON + timedelta(seconds=seconds)
        take_in(f"wamid.{number}", at=at, customer=customer)
        expected[customer] = max(expected[customer] or at, at)
        assert last_inbound_at(connection) == [expected["a"], expected["b"]]

    assert connection.execute("SELECT count(*) FROM wats_windows").get == 2
    assert recent.marks(connection) == (9, 6)


def test_a_message_that_comes_after_all_were_deleted_opens_its_window_too(
    connection: Connection, take_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "GATHERED_MESSAGES", 2)
    for number in range(3):
        take_in(f"wamid.{number}")
    assert recent.marks(connection) == (3, 2)
    connection.execute("DELETE FROM wats_messages")

    for customer in "ab":
        take_in(f"wamid.of-{customer}", customer=customer)

    assert last_inbound_at(connection) == [NOON, NOON]


def test_what_is_rolled_back_is_not_known(
    connection: Connection,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent, "GATHERED_MESSAGES", 3)
    arrivals = [
        arrival(message=message(f"wamid.{number}", direction=Direction.INBOUND))
        for number in range(9)
    ]
    for number, each in enumerate(arrivals):
        for end in ("ROLLBACK", "COMMIT"):
            connection.execute("BEGIN IMMEDIATE")
            assert inbox.receive(connection, arrivals[: number + 1]) == [*[None] * number, Kept()]
            connection.execute(end)
        assert inbox.receive(connection, [each]) == [None]
    assert recent.marks(connection) == (9, 9)


def test_what_is_purged_is_in_no_index_any_more(
    connection: Connection, take_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "GATHERED_MESSAGES", 2)
    for number in range(4):
        take_in(f"wamid.{number}", at=NOON + timedelta(seconds=number))
    recent.catch_up(connection)
    assert connection.execute("SELECT count(*) FROM wats_message_ids").get == 4

    # The last of them was asked for too, and is too young.
    assert messages.purge(connection, [1, 2, 3, 4], NOON + timedelta(seconds=3)) == 3

    left = connection.execute("SELECT row_id FROM wats_message_ids").fetchall()
    assert left == [(4,)]
    assert messages.get(connection, "wamid.3") is not None


def test_messages_whose_ids_share_a_hash_are_told_apart(
    connection: Connection, message: Callable[..., MessageRecord]
) -> None:
    # As CRC-32 has it, apart from the highest bit.
    first, second = "wamid.plumless", "wamid.buckeroo"
    assert crc32(first.encode()) == crc32(second.encode())

    for name in (first, second):
        messages.record(connection, [message(name)])

    for name in (first, second):
        found = messages.get(connection, name)
        assert found is not None
        assert found.wa_message_id == name
