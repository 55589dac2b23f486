from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zlib import crc32

import pytest
from apsw import Connection

from wats.clock import to_ms
from wats.privacy import short_fingerprint
from wats.store.migrate import load_migrations
from wats.store.records import (
    Arrival,
    Direction,
    Kept,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import inbox, message_index, messages, statuses
from wats.store.sqlite.connection import MEMORY, connect_writer, migrate
from wats.store.sqlite.message_index import index_of
from wats.store.sqlite.walk import Walk

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

BUCKET = 1 << message_index.BUCKET_BITS


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
) -> Callable[..., Kept | None]:
    """Receive a message, which opens the window of *customer* if one is named."""

    def take_in(name: str, *, at: datetime = NOON, customer: str | None = None) -> Kept | None:
        received = message(
            name, direction=Direction.INBOUND, from_phone=customer, created_at=at, updated_at=at
        )
        opened = None
        if customer is not None:
            opened = WindowRecord(phone_number_id="1", customer=customer, last_inbound_at=at)
        (kept,) = inbox.receive(
            connection, [arrival(message=received, occurred_at=at, window=opened)]
        )
        return kept

    return take_in


def skip(connection: Connection, row_ids: int) -> None:
    """Leave *row_ids* unused, as if as many messages had been recorded and purged."""
    connection.execute(
        "UPDATE wats_marks SET last_row_id = last_row_id + ? WHERE id = 1", (row_ids,)
    )


def transition(status: str, wa_message_id: str = "wamid.1", **changes: object) -> StatusRecord:
    values: dict[str, object] = {"phone_number_id": "1", "occurred_at": NOON}
    return StatusRecord(status=status, wa_message_id=wa_message_id, **(values | changes))


def index(connection: Connection) -> list[tuple[int, int]]:
    return connection.execute("SELECT bucket, row_id FROM wats_message_index").fetchall()


def test_no_statement_about_messages_scans_more_than_the_list_of_buckets(
    connection: Connection,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    trace: Callable[[Connection], list[str]],
    plans_of: Callable[[Connection, list[str]], dict[str, str]],
    read_as_a_whole: Callable[[dict[str, str]], dict[str, set[str]]],
) -> None:
    window = WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON)
    received = message("wamid.2", direction=Direction.INBOUND, from_phone="2")
    statements = trace(connection)
    for status in ("sent", "delivered"):  # the second time everything is indexed
        updates = [
            arrival(message=received, window=window),
            arrival(window=window),
            arrival(status=transition(status, "wamid.3")),
            arrival(status=transition(status, "wamid.1")),
        ]
        inbox.receive(connection, updates)
        messages.record(connection, [message("wamid.3"), message("wamid.1")])
        skip(connection, BUCKET)
    hot = list(statements)
    statements.clear()
    skip(connection, 1 << message_index.MERGED_BITS)
    message_index.index_pending(connection)
    assert message_index.merge(connection) > 0
    messages.page(connection, 10, None)
    messages.get(connection, "wamid.unknown")
    statuses.history(connection, "wamid.1")
    messages.last_inbound_at(connection, "1", "2")
    messages.purge(connection, [1], NOON + timedelta(1))
    messages.purge_windows(connection, [1], NOON)
    statuses.purge(connection, [1], NOON)
    statuses.purge_early(connection, [1], NOON)
    for statement in (
        messages.OLD_MESSAGES,
        statuses.OLD_STATUSES,
        statuses.OLD_EARLY_STATUSES,
    ):
        Walk(statement, 10).next_rows(connection, NOON)
    connection.set_exec_trace(None)

    assert len(plans_of(connection, hot)) >= 40
    assert read_as_a_whole(plans_of(connection, hot)) == {}
    scans = read_as_a_whole(plans_of(connection, statements))
    assert len(scans) == 3
    assert all(
        table.startswith("wats_message_buckets") for each in scans.values() for table in each
    )


def last_inbound_at(
    connection: Connection, customers: Iterable[str] = "ab"
) -> list[datetime | None]:
    return [messages.last_inbound_at(connection, "1", customer) for customer in customers]


def test_windows_are_found_in_pending_messages_and_in_every_bucket(
    connection: Connection, take_in: Callable[..., None]
) -> None:
    expected: dict[str, datetime | None] = dict.fromkeys("ab")

    for number, (customer, seconds) in enumerate(
        [("a", 5), ("a", 7), ("b", 1), ("a", 6), ("b", 2), ("a", 8), ("b", 9), ("a", 1), ("a", 10)]
    ):
        at = NOON + timedelta(seconds=seconds)
        take_in(f"wamid.{number}", at=at, customer=customer)
        expected[customer] = max(expected[customer] or at, at)
        assert last_inbound_at(connection) == [expected["a"], expected["b"]]
        if number % 2:
            skip(connection, BUCKET)

    assert len(connection.execute("SELECT bucket FROM wats_message_buckets").fetchall()) == 4
    assert connection.execute("SELECT count(*) FROM wats_windows").get == 0


def test_a_window_of_another_customer_than_the_sender_is_kept_too(
    connection: Connection, arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]
) -> None:
    received = message(direction=Direction.INBOUND, from_phone="a")
    window = WindowRecord(phone_number_id="1", customer="b", last_inbound_at=NOON)

    inbox.receive(connection, [arrival(message=received, window=window)])

    assert last_inbound_at(connection) == [None, NOON]


def test_a_message_whose_id_has_the_hash_of_its_window_is_indexed(
    connection: Connection, take_in: Callable[..., Kept | None]
) -> None:
    take_in("1 a", customer="a")
    skip(connection, BUCKET)

    assert take_in("1 a") is None

    assert index(connection) == [(0, 1)]
    assert last_inbound_at(connection, "a") == [NOON]


def test_a_message_recorded_after_all_others_were_deleted_opens_its_window(
    connection: Connection, take_in: Callable[..., None]
) -> None:
    for number in range(3):
        take_in(f"wamid.{number}")
    skip(connection, BUCKET)
    take_in("wamid.3")
    connection.execute("DELETE FROM wats_messages")

    for customer in "ab":
        take_in(f"wamid.of-{customer}", customer=customer)

    assert last_inbound_at(connection) == [NOON, NOON]


def test_messages_of_a_transaction_that_was_rolled_back_are_new(
    connection: Connection,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(message_index, "INDEX_BATCH", 3)
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
    assert message_index.read_marks(connection) == (9, 9)


def test_messages_of_a_savepoint_that_was_rolled_back_are_new(
    connection: Connection, take_in: Callable[..., Kept | None]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    take_in("wamid.1")
    connection.execute("SAVEPOINT attempt")
    take_in("wamid.2")
    connection.execute("ROLLBACK TO attempt")

    assert take_in("wamid.2") == Kept()
    assert take_in("wamid.3") == Kept()
    assert [take_in(f"wamid.{number}") for number in (1, 2, 3)] == [None] * 3


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[Connection]]:
    writers = [connect_writer(str(tmp_path / "wats.db"), 1) for _ in range(2)]
    for writer in writers:
        migrate(writer, load_migrations("sqlite"))
    yield writers
    for writer in writers:
        writer.close()


def test_messages_of_another_process_are_known_after_a_rollback_of_as_many(
    writers: list[Connection],
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
) -> None:
    one, other = writers
    ours, theirs = (
        arrival(message=message(name, direction=Direction.INBOUND))
        for name in ("wamid.ours", "wamid.theirs")
    )
    one.execute("BEGIN IMMEDIATE")
    inbox.receive(one, [ours])
    one.execute("ROLLBACK")
    inbox.receive(other, [theirs])

    assert inbox.receive(one, [theirs]) == [None]
    assert inbox.receive(one, [ours]) == [Kept()]


def test_messages_that_another_process_indexed_leave_the_memory(
    writers: list[Connection], message: Callable[..., MessageRecord]
) -> None:
    one, other = writers
    messages.record(one, [message()])
    hashes = [short_fingerprint("wamid.1")]
    assert index_of(one).find_pending(hashes) == [1]

    message_index.index_pending(other)
    index_of(one).catch_up(one)

    assert index_of(one).find_pending(hashes) == []


def test_a_bucket_keeps_its_sent_messages_when_only_received_ones_follow(
    connection: Connection,
    take_in: Callable[..., None],
    message: Callable[..., MessageRecord],
) -> None:
    messages.record(connection, [message()])
    message_index.index_pending(connection)
    take_in("wamid.2", at=NOON - timedelta(1))
    message_index.index_pending(connection)

    assert statuses.record(connection, [transition("sent")]) != {}
    messages.record(connection, [message()])

    assert len(messages.page(connection, 10, None).items) == 2


@pytest.mark.parametrize("days", [-7, -1, 0, 400, -20_000])
def test_a_redelivery_is_known_whatever_time_both_deliveries_state(
    connection: Connection, take_in: Callable[..., Kept | None], days: int
) -> None:
    at = NOON + timedelta(days=days)
    take_in("wamid.1", at=at)
    for number in range(2, 5):
        skip(connection, BUCKET)
        take_in(f"wamid.{number}")
    skip(connection, BUCKET)

    assert take_in("wamid.1", at=at) is None
    assert take_in("wamid.1", at=at + timedelta(minutes=10)) is None
    assert take_in("wamid.5", at=at) == Kept()


def test_a_message_of_now_is_looked_up_in_one_bucket_of_many(
    connection: Connection,
    take_in: Callable[..., Kept | None],
) -> None:
    for hours in range(10):
        take_in(f"wamid.{hours}", at=NOON + timedelta(hours=hours))
        skip(connection, BUCKET)
    take_in("wamid.in-our-future", at=NOON + timedelta(days=999))
    skip(connection, BUCKET)

    def buckets_since(**age: float) -> int:
        since = NOON + timedelta(hours=9) - timedelta(**age)
        return len(message_index.buckets_since(connection, to_ms(since)))

    assert take_in("wamid.10", at=NOON + timedelta(hours=9)) == Kept()
    assert buckets_since(minutes=10) == 2
    assert buckets_since(hours=5) == 7
    assert buckets_since(days=999) == 11


def test_purged_messages_leave_the_index_and_empty_buckets_go(
    connection: Connection, take_in: Callable[..., Kept | None]
) -> None:
    for number in range(6):
        take_in(f"wamid.{number}", at=NOON + timedelta(seconds=number), customer="a")
        if number in (1, 4):
            skip(connection, BUCKET - 2)
    message_index.index_pending(connection)
    row_ids = [row_id for _, row_id in index(connection)]
    assert len(set(row_ids)) == 6
    assert len(row_ids) == 12

    # The last two were asked for too, and are too young.
    assert messages.purge(connection, row_ids, NOON + timedelta(seconds=4)) == 4

    assert len(index(connection)) == 4
    buckets = {bucket for bucket, _ in index(connection)}
    assert connection.execute("SELECT bucket FROM wats_message_buckets").fetchall() == [
        (bucket,) for bucket in sorted(buckets)
    ]
    assert messages.get(connection, "wamid.3") is None
    assert messages.get(connection, "wamid.4") is not None
    assert take_in("wamid.3", at=NOON) == Kept()


def test_sixteen_complete_buckets_are_merged_to_one(
    connection: Connection,
    take_in: Callable[..., Kept | None],
    message: Callable[..., MessageRecord],
) -> None:
    for number in range(40):
        at = NOON + timedelta(hours=number)
        take_in(f"wamid.{number}", at=at, customer=f"customer {number}")
        skip(connection, BUCKET - 1)
    messages.record(connection, [message("wamid.sent")])
    message_index.index_pending(connection)

    rows = []
    while changed := message_index.merge(connection):
        rows.append(changed)
        assert take_in("wamid.0", at=NOON) is None

    assert len(rows) > 10
    assert sorted({bucket for bucket, _ in index(connection)}) == [1, 33, *range(64, 82, 2)]
    assert len(index(connection)) == 81
    for number in range(40):
        at = NOON + timedelta(hours=number)
        assert take_in(f"wamid.{number}", at=at) is None
        found = messages.get(connection, f"wamid.{number}")
        assert found is not None
        assert found.created_at == at
        assert last_inbound_at(connection, [f"customer {number}"]) == [at]
    assert message_index.buckets_since(connection, to_ms(NOON)) != []
    row_ids = [row_id for _, row_id in index(connection)]
    assert messages.purge(connection, row_ids, NOON + timedelta(days=99)) == 41
    assert index(connection) == []
    assert connection.execute("SELECT count(*) FROM wats_message_buckets").get == 0


def test_one_merge_moves_a_bounded_number_of_entries(
    connection: Connection, message: Callable[..., MessageRecord]
) -> None:
    records = [message(f"wamid.{number}") for number in range(3000)]
    messages.record(connection, records)
    skip(connection, 1 << message_index.MERGED_BITS)
    message_index.index_pending(connection)

    changes = message_index.merge(connection)

    assert 0 < changes < 100
    assert len(index(connection)) == 3000


def test_messages_whose_ids_share_a_hash_are_told_apart(
    connection: Connection, message: Callable[..., MessageRecord]
) -> None:
    # As CRC-32 has it, apart from the highest bit.
    first, second = "wamid.plumless", "wamid.buckeroo"
    assert crc32(first.encode()) == crc32(second.encode())

    for name in (first, second):
        messages.record(connection, [message(name)])
        statuses.record(connection, [transition("sent", name)])
    statuses.record(connection, [transition("read", first)])

    found = [messages.get(connection, name) for name in (first, second)]
    assert [each and (each.wa_message_id, each.status) for each in found] == [
        (first, "read"),
        (second, "sent"),
    ]
    assert len(statuses.history(connection, first)) == 2


@pytest.mark.parametrize("older", [0, 1, 2, 3, 11, 12])
def test_a_status_finds_its_message_in_any_bucket(
    connection: Connection, message: Callable[..., MessageRecord], older: int
) -> None:
    messages.record(connection, [message()])
    for number in range(older):
        skip(connection, BUCKET)
        messages.record(connection, [message(f"wamid.after.{number}")])

    sent = statuses.record(connection, [transition("delivered")])

    assert sent == {("1", "wamid.1"): to_ms(NOON)}
    found = messages.get(connection, "wamid.1")
    assert found is not None
    assert found.status == "delivered"


def test_statuses_of_unrecorded_messages_are_searched_for_once(
    connection: Connection,
    message: Callable[..., MessageRecord],
    trace: Callable[[Connection], list[str]],
) -> None:
    messages.record(connection, [message("wamid.other")])
    skip(connection, BUCKET)
    statuses.record(connection, [transition("sent")])
    statements = trace(connection)

    statuses.record(connection, [transition("delivered"), transition("sent")])

    assert "wats_message_index" not in "".join(statements)
    assert [each.status for each in statuses.history(connection, "wamid.1")] == [
        "sent",
        "delivered",
    ]


def test_early_statuses_are_moved_to_their_message(
    connection: Connection, message: Callable[..., MessageRecord]
) -> None:
    early = [transition("delivered"), transition("sent"), transition("read", phone_number_id="2")]
    statuses.record(connection, early)

    messages.record(connection, [message()])

    assert statuses.history(connection, "wamid.1") == early
    assert connection.execute("SELECT count(*) FROM wats_early_statuses").get == 1
    assert statuses.record(connection, early[:1]) != {}
    assert statuses.history(connection, "wamid.1") == early


def test_a_history_is_bounded_and_never_mixed_with_that_of_the_next_message(
    connection: Connection, message: Callable[..., MessageRecord]
) -> None:
    messages.record(connection, [message("wamid.1"), message("wamid.2")])
    statuses.record(connection, [transition("sent", "wamid.2"), transition("sent")])
    last = (1 << statuses.ID_BITS) - 2
    connection.execute("UPDATE wats_statuses SET id = id + ? WHERE id >> 16 = 1", (last,))

    statuses.record(connection, [transition("delivered"), transition("read"), transition("played")])

    history: Mapping[str, list[str]] = {
        name: [each.status for each in statuses.history(connection, name)]
        for name in ("wamid.1", "wamid.2")
    }
    assert history == {"wamid.1": ["sent", "delivered"], "wamid.2": ["sent"]}
