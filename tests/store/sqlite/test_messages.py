import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zlib import crc32

import pytest

from tests.store.sqlite.writers import open_writer, steps_of
from wats.clock import to_ms
from wats.privacy import short_fingerprint
from wats.store.records import (
    ALL_MESSAGES,
    Arrival,
    Direction,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import inbox, message_index, messages, requests, statuses
from wats.store.sqlite.connection import Writer
from wats.store.sqlite.walk import Walk

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

BUCKET = 1 << message_index.BUCKET_BITS

ReceiveMessage = Callable[..., bool]
Inbound = Callable[..., list[Arrival]]


@pytest.fixture
def writer() -> Iterator[Writer]:
    writer = open_writer()
    yield writer
    writer.close()


def receive(
    writer: Writer, arrivals: Sequence[Arrival], end: Callable[[Writer], None] = Writer.commit
) -> list[bool]:
    """Store *arrivals* in a transaction; return whether each is new."""
    writer.execute("BEGIN IMMEDIATE")
    (results,) = inbox.receive(writer, [arrivals], {})
    end(writer)
    return [each is not None for each in results]


@pytest.fixture
def inbound(arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]) -> Inbound:
    """Return a function that makes arrivals of messages with the given names."""

    def inbound(*names: str) -> list[Arrival]:
        return [arrival(message=message(name, direction=Direction.INBOUND)) for name in names]

    return inbound


@pytest.fixture
def receive_message(
    writer: Writer,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
) -> ReceiveMessage:
    """Return a function that receives a message, and returns whether it is new.

    The message opens the window of *customer* if one is named.
    """

    def receive_message(name: str, *, at: datetime = NOON, customer: str | None = None) -> bool:
        received = message(
            name, direction=Direction.INBOUND, from_phone=customer, created_at=at, updated_at=at
        )
        opened = None
        if customer is not None:
            opened = WindowRecord(phone_number_id="1", customer=customer, last_inbound_at=at)
        (is_new,) = receive(writer, [arrival(message=received, occurred_at=at, window=opened)])
        return is_new

    return receive_message


def skip(writer: Writer, row_ids: int) -> None:
    """Leave *row_ids* unused, as if as many messages had been recorded and purged."""
    writer.execute("UPDATE wats_marks SET last_row_id = last_row_id + ? WHERE id = 1", (row_ids,))


def transition(status: str, wa_message_id: str = "wamid.1", **changes: object) -> StatusRecord:
    values: dict[str, object] = {"phone_number_id": "1", "occurred_at": NOON}
    return StatusRecord(status=status, wa_message_id=wa_message_id, **(values | changes))


def index(writer: Writer) -> list[tuple[int, int]]:
    return writer.execute("SELECT bucket, row_id FROM wats_message_index").fetchall()


def test_no_statement_about_messages_scans_more_than_the_list_of_buckets(
    writer: Writer,
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    trace: Callable[[Writer], list[str]],
    plans_of: Callable[[Writer, list[str]], dict[str, str]],
    full_scans: Callable[[dict[str, str]], dict[str, set[str]]],
) -> None:
    window = WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON)
    received = message("wamid.2", direction=Direction.INBOUND, from_phone="2")
    statements = trace(writer)
    for status in ("sent", "delivered"):  # the second time everything is indexed
        updates = [
            arrival(message=received, window=window),
            arrival(window=window),
            arrival(status=transition(status, "wamid.3")),
            arrival(status=transition(status, "wamid.1")),
        ]
        receive(writer, updates)
        messages.record(writer, [message("wamid.3"), message("wamid.1")])
        skip(writer, BUCKET)
    hot = list(statements)
    statements.clear()
    skip(writer, 1 << message_index.MERGED_BITS)
    message_index.index_pending(writer)
    assert message_index.merge(writer) > 0
    messages.page(writer, 10, None, ALL_MESSAGES)
    messages.get(writer, "wamid.unknown")
    statuses.history(writer, "wamid.1")
    messages.last_inbound_at(writer, "1", "2")
    messages.purge(writer, [1], NOON + timedelta(1))
    messages.purge_windows(writer, [1], NOON)
    for walk in (
        Walk("wats_messages", "row_id", "created_at < ?2", messages.CAN_GO),
        Walk("wats_statuses", "id", "occurred_at < ?2"),
        Walk("wats_early_statuses", "id", "occurred_at < ?2"),
    ):
        walk.next_rows(writer, NOON)
        walk.delete(writer, [1], NOON)
    writer.set_exec_trace(None)

    assert len(plans_of(writer, hot)) >= 40
    assert full_scans(plans_of(writer, hot)) == {}
    scans = full_scans(plans_of(writer, statements))
    assert len(scans) == 3
    assert all(
        table.startswith("wats_message_buckets") for each in scans.values() for table in each
    )


def test_no_statement_about_idempotency_keys_scans_a_table(
    writer: Writer,
    message: Callable[..., MessageRecord],
    trace: Callable[[Writer], list[str]],
    plans_of: Callable[[Writer, list[str]], dict[str, str]],
    full_scans: Callable[[dict[str, str]], dict[str, set[str]]],
) -> None:
    statements = trace(writer)
    for key in [("send", b"1"), ("send", b"2"), ("send", b"3"), ("send", b"1")]:
        new = requests.NewKey(key=key, request_hash=b"body", reserve_seconds=60, keep_seconds=600)
        requests.reserve(writer, new)
    requests.complete(writer, [(("send", b"1"), b"{}", message())])
    requests.doubt(writer, scope="send", key_hash=b"2")
    requests.fail(writer, scope="send", key_hash=b"3")
    requests.purge(writer, 10)
    writer.set_exec_trace(None)

    plans = plans_of(writer, [each for each in statements if "wats_requests" in each])
    assert len(plans) >= 8
    assert full_scans(plans) == {}


def test_messages_and_statuses_cost_the_same_in_a_large_store(
    writer: Writer, arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]
) -> None:
    numbers = itertools.count()

    def names(count: int) -> list[str]:
        return [f"wamid.{number}" for number in itertools.islice(numbers, count)]

    def work() -> None:
        sent = names(20)
        messages.record(writer, [message(name) for name in sent])
        for status in ("sent", "delivered", "read"):
            receive(writer, [arrival(status=transition(status, name)) for name in sent])
        received = [message(name, direction=Direction.INBOUND) for name in names(20)]
        receive(writer, [arrival(message=each) for each in received])

    work()
    message_index.index_pending(writer)
    with_few = steps_of(writer, work)
    for _ in range(4):  # buckets with messages of an hour ago
        skip(writer, BUCKET)
        at = NOON - timedelta(hours=1)
        records = [message(name, created_at=at, updated_at=at) for name in names(2_500)]
        messages.record(writer, records)
    message_index.index_pending(writer)

    assert steps_of(writer, work) < 1.5 * with_few


def last_inbound_at(writer: Writer, customers: Iterable[str] = "ab") -> list[datetime | None]:
    return [messages.last_inbound_at(writer, "1", customer) for customer in customers]


def test_windows_are_found_in_pending_messages_and_in_every_bucket(
    writer: Writer, receive_message: ReceiveMessage
) -> None:
    expected: dict[str, datetime | None] = dict.fromkeys("ab")

    for number, (customer, seconds) in enumerate(
        [("a", 5), ("a", 7), ("b", 1), ("a", 6), ("b", 2), ("a", 8), ("b", 9), ("a", 1), ("a", 10)]
    ):
        at = NOON + timedelta(seconds=seconds)
        receive_message(f"wamid.{number}", at=at, customer=customer)
        expected[customer] = max(expected[customer] or at, at)
        assert last_inbound_at(writer) == [expected["a"], expected["b"]]
        if number % 2:
            skip(writer, BUCKET)

    assert len(writer.execute("SELECT bucket FROM wats_message_buckets").fetchall()) == 4
    assert writer.execute("SELECT count(*) FROM wats_windows").get == 0


def test_a_window_of_another_customer_than_the_sender_is_kept_too(
    writer: Writer, arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]
) -> None:
    received = message(direction=Direction.INBOUND, from_phone="a")
    window = WindowRecord(phone_number_id="1", customer="b", last_inbound_at=NOON)

    receive(writer, [arrival(message=received, window=window)])

    assert last_inbound_at(writer) == [None, NOON]


def test_a_message_whose_id_has_the_hash_of_its_window_is_indexed(
    writer: Writer, receive_message: ReceiveMessage
) -> None:
    receive_message("1 a", customer="a")
    skip(writer, BUCKET)

    assert not receive_message("1 a")

    assert index(writer) == [(0, 1)]
    assert last_inbound_at(writer, "a") == [NOON]


def test_a_message_recorded_after_all_others_were_deleted_opens_its_window(
    writer: Writer, receive_message: ReceiveMessage
) -> None:
    for number in range(3):
        receive_message(f"wamid.{number}")
    skip(writer, BUCKET)
    receive_message("wamid.3")
    writer.execute("DELETE FROM wats_messages")

    for customer in "ab":
        receive_message(f"wamid.of-{customer}", customer=customer)

    assert last_inbound_at(writer) == [NOON, NOON]


@pytest.fixture
def indexing_writer() -> Iterator[Writer]:
    """Return a writer that indexes messages often."""
    writer = open_writer(index_batch=3)
    yield writer
    writer.close()


def test_messages_of_a_transaction_that_was_rolled_back_are_new(
    indexing_writer: Writer,
    inbound: Inbound,
) -> None:
    writer = indexing_writer
    arrivals = inbound(*(f"wamid.{number}" for number in range(9)))
    for number, each in enumerate(arrivals):
        for end in (Writer.roll_back, Writer.commit):
            assert receive(writer, arrivals[: number + 1], end) == [*[False] * number, True]
        assert receive(writer, [each]) == [False]
    assert message_index.read_marks(writer) == (9, 9)


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[Writer]]:
    writers = [open_writer(str(tmp_path / "wats.db")) for _ in range(2)]
    yield writers
    for writer in writers:
        writer.close()


def test_messages_of_another_process_are_recognized_after_a_rollback_of_as_many(
    writers: list[Writer],
    inbound: Inbound,
) -> None:
    one, other = writers
    ours, theirs = inbound("wamid.ours", "wamid.theirs")
    receive(one, [ours], Writer.roll_back)
    receive(other, [theirs])

    assert receive(one, [theirs]) == [False]
    assert receive(one, [ours]) == [True]


def searches_of(writer: Writer, run: Callable[[], object]) -> int:
    """Count the statements that search the index of messages."""
    searches = 0

    def note(_cursor: object, statement: str, _values: object) -> bool:
        nonlocal searches
        searches += "CROSS JOIN wats_message_index AS i" in statement
        return True

    writer.exec_trace = note
    run()
    writer.exec_trace = None
    return searches


def test_a_new_message_is_searched_only_in_buckets_from_before_the_start(
    tmp_path: Path,
    inbound: Inbound,
) -> None:
    arrivals = inbound(*(f"wamid.{number}" for number in range(20)))
    one, other = (open_writer(str(tmp_path / "wats.db"), index_batch=3) for _ in range(2))

    def receive_all(writer: Writer, numbers: range, *, are_new: bool = True) -> None:
        for number in numbers:
            assert receive(writer, [arrivals[number]]) == [are_new]

    assert searches_of(one, lambda: receive_all(one, range(8))) == 0
    assert searches_of(other, lambda: receive_all(other, range(8, 16))) == 8
    assert searches_of(one, lambda: receive_all(one, range(16, 20))) == 0
    assert message_index.read_marks(one).indexed == 18
    for writer in one, other:
        receive_all(writer, range(20), are_new=False)
        writer.close()


def test_a_writer_far_behind_another_one_searches_for_its_messages(
    writers: list[Writer],
    inbound: Inbound,
) -> None:
    one, other = writers
    theirs = inbound(*(f"wamid.theirs.{number}" for number in range(message_index.MAX_READ + 1)))
    receive(one, inbound("wamid.ours"))
    receive(other, theirs)
    message_index.index_pending(other)

    assert receive(one, [theirs[0], theirs[-1]]) == [False, False]


def test_a_batch_of_many_messages_leaves_all_statements_prepared(
    writer: Writer,
    inbound: Inbound,
) -> None:
    batches = [inbound(*(f"wamid.{batch}.{number}" for number in range(100))) for batch in range(3)]
    for batch in batches[:2]:
        receive(writer, batch)
    prepared = writer.cache_stats()["misses"]

    receive(writer, batches[2])

    assert writer.cache_stats()["misses"] == prepared


def test_messages_that_another_process_indexed_leave_the_memory(
    writers: list[Writer], message: Callable[..., MessageRecord]
) -> None:
    one, other = writers
    messages.record(one, [message()])
    hashes = [short_fingerprint("wamid.1")]
    assert one.message_index.find_pending(hashes) == [1]

    message_index.index_pending(other)
    one.message_index.catch_up(one)

    assert one.message_index.find_pending(hashes) == []


def test_a_bucket_keeps_its_sent_messages_when_only_received_ones_follow(
    writer: Writer,
    receive_message: ReceiveMessage,
    message: Callable[..., MessageRecord],
) -> None:
    messages.record(writer, [message()])
    message_index.index_pending(writer)
    receive_message("wamid.2", at=NOON - timedelta(1))
    message_index.index_pending(writer)

    assert statuses.record(writer, [transition("sent")]) == ([], {("1", "wamid.1"): to_ms(NOON)})
    messages.record(writer, [message()])

    assert len(messages.page(writer, 10, None, ALL_MESSAGES).items) == 2


@pytest.mark.parametrize("days", [-7, -1, 0, 400, -20_000])
def test_a_redelivery_is_recognized_although_its_time_differs(
    writer: Writer, receive_message: ReceiveMessage, days: int
) -> None:
    at = NOON + timedelta(days=days)
    receive_message("wamid.1", at=at)
    for number in range(2, 5):
        skip(writer, BUCKET)
        receive_message(f"wamid.{number}")
    skip(writer, BUCKET)

    assert not receive_message("wamid.1", at=at)
    assert not receive_message("wamid.1", at=at + timedelta(minutes=10))
    assert receive_message("wamid.5", at=at)


def test_a_message_of_now_is_looked_up_in_one_bucket_of_many(
    writer: Writer,
    receive_message: ReceiveMessage,
) -> None:
    for hours in range(10):
        receive_message(f"wamid.{hours}", at=NOON + timedelta(hours=hours))
        skip(writer, BUCKET)
    receive_message("wamid.in-our-future", at=NOON + timedelta(days=999))
    skip(writer, BUCKET)

    def buckets_since(**age: float) -> int:
        since = NOON + timedelta(hours=9) - timedelta(**age)
        return len(message_index.buckets_since(writer, to_ms(since)))

    assert receive_message("wamid.10", at=NOON + timedelta(hours=9))
    assert buckets_since(minutes=10) == 2
    assert buckets_since(hours=5) == 7
    assert buckets_since(days=999) == 11


def test_purged_messages_leave_the_index_and_empty_buckets_go(
    writer: Writer, receive_message: ReceiveMessage
) -> None:
    for number in range(6):
        receive_message(f"wamid.{number}", at=NOON + timedelta(seconds=number), customer="a")
        if number in (1, 4):
            skip(writer, BUCKET - 2)
    message_index.index_pending(writer)
    row_ids = [row_id for _, row_id in index(writer)]
    assert len(set(row_ids)) == 6
    assert len(row_ids) == 12

    # The last two were requested too, and are too young.
    assert messages.purge(writer, row_ids, NOON + timedelta(seconds=4)) == 4

    assert len(index(writer)) == 4
    buckets = {bucket for bucket, _ in index(writer)}
    assert writer.execute("SELECT bucket FROM wats_message_buckets").fetchall() == [
        (bucket,) for bucket in sorted(buckets)
    ]
    assert messages.get(writer, "wamid.3") is None
    assert messages.get(writer, "wamid.4") is not None
    assert receive_message("wamid.3", at=NOON)


def test_sixteen_complete_buckets_are_merged_to_one(
    writer: Writer,
    receive_message: ReceiveMessage,
    message: Callable[..., MessageRecord],
) -> None:
    for number in range(40):
        at = NOON + timedelta(hours=number)
        receive_message(f"wamid.{number}", at=at, customer=f"customer {number}")
        skip(writer, BUCKET - 1)
    messages.record(writer, [message("wamid.sent")])
    message_index.index_pending(writer)

    rows = []
    while changed := message_index.merge(writer):
        rows.append(changed)
        assert not receive_message("wamid.0", at=NOON)

    assert len(rows) > 10
    assert sorted({bucket for bucket, _ in index(writer)}) == [1, 33, *range(64, 82, 2)]
    assert len(index(writer)) == 82
    for number in range(40):
        at = NOON + timedelta(hours=number)
        assert not receive_message(f"wamid.{number}", at=at)
        found = messages.get(writer, f"wamid.{number}")
        assert found is not None
        assert found.created_at == at
        assert last_inbound_at(writer, [f"customer {number}"]) == [at]
    assert message_index.buckets_since(writer, to_ms(NOON)) != []
    row_ids = [row_id for _, row_id in index(writer)]
    assert messages.purge(writer, row_ids, NOON + timedelta(days=99)) == 41
    assert index(writer) == []
    assert writer.execute("SELECT count(*) FROM wats_message_buckets").get == 0


def test_one_merge_moves_a_bounded_number_of_entries(
    writer: Writer, message: Callable[..., MessageRecord]
) -> None:
    records = [message(f"wamid.{n}", to_phone=str(n)) for n in range(3000)]
    messages.record(writer, records)
    skip(writer, 1 << message_index.MERGED_BITS)
    message_index.index_pending(writer)

    changes = message_index.merge(writer)

    assert 0 < changes < 100
    assert len(index(writer)) == 6000


def test_messages_whose_ids_share_a_hash_are_distinguished(
    writer: Writer, message: Callable[..., MessageRecord]
) -> None:
    # As CRC-32 has it, apart from the highest bit.
    first, second = "wamid.plumless", "wamid.buckeroo"
    assert crc32(first.encode()) == crc32(second.encode())

    for name in (first, second):
        messages.record(writer, [message(name)])
        statuses.record(writer, [transition("sent", name)])
    statuses.record(writer, [transition("read", first)])

    found = [messages.get(writer, name) for name in (first, second)]
    assert [each and (each.wa_message_id, each.status) for each in found] == [
        (first, "read"),
        (second, "sent"),
    ]
    assert len(statuses.history(writer, first)) == 2


@pytest.mark.parametrize("older", [0, 1, 2, 3, 11, 12])
def test_a_status_finds_its_message_in_any_bucket(
    writer: Writer, message: Callable[..., MessageRecord], older: int
) -> None:
    messages.record(writer, [message()])
    for number in range(older):
        skip(writer, BUCKET)
        messages.record(writer, [message(f"wamid.after.{number}")])

    recorded = statuses.record(writer, [transition("delivered")])

    assert recorded == ([], {("1", "wamid.1"): to_ms(NOON)})
    found = messages.get(writer, "wamid.1")
    assert found is not None
    assert found.status == "delivered"


def test_statuses_of_unrecorded_messages_are_searched_for_once(
    writer: Writer,
    message: Callable[..., MessageRecord],
    trace: Callable[[Writer], list[str]],
) -> None:
    messages.record(writer, [message("wamid.other")])
    skip(writer, BUCKET)
    statuses.record(writer, [transition("sent")])
    statements = trace(writer)

    statuses.record(writer, [transition("delivered"), transition("sent")])

    assert "wats_message_index" not in "".join(statements)
    assert [each.status for each in statuses.history(writer, "wamid.1")] == [
        "sent",
        "delivered",
    ]


def test_statuses_are_searched_for_first_where_the_messages_of_the_previous_ones_were(
    writer: Writer,
    message: Callable[..., MessageRecord],
    trace: Callable[[Writer], list[str]],
) -> None:
    messages.record(writer, [message("wamid.1"), message("wamid.2")])
    for number in range(3):
        skip(writer, BUCKET)
        messages.record(writer, [message(f"wamid.after.{number}")])
    message_index.index_pending(writer)
    statements = trace(writer)

    def searches(*names: str) -> int:
        statements.clear()
        known, sent = statuses.record(writer, [transition("sent", name) for name in names])
        assert (known, len(sent)) == ([], len(names))
        return sum("wats_message_index" in each for each in statements)

    assert searches("wamid.1") == 2
    assert searches("wamid.2") == 1
    assert searches("wamid.after.2") == 2
    assert searches("wamid.after.1") == 2


def test_early_statuses_are_moved_to_their_message(
    writer: Writer, message: Callable[..., MessageRecord]
) -> None:
    early = [transition("delivered"), transition("sent"), transition("read", phone_number_id="2")]
    statuses.record(writer, early)

    messages.record(writer, [message()])

    assert statuses.history(writer, "wamid.1") == early
    assert writer.execute("SELECT count(*) FROM wats_early_statuses").get == 1
    assert statuses.record(writer, early[:1]) == ([0], {("1", "wamid.1"): to_ms(NOON)})
    assert statuses.history(writer, "wamid.1") == early


def test_a_history_is_bounded_and_never_mixed_with_that_of_the_next_message(
    writer: Writer, message: Callable[..., MessageRecord]
) -> None:
    messages.record(writer, [message("wamid.1"), message("wamid.2")])
    statuses.record(writer, [transition("sent", "wamid.2"), transition("sent")])
    last = (1 << statuses.ID_BITS) - 2
    writer.execute("UPDATE wats_statuses SET id = id + ? WHERE id >> 16 = 1", (last,))

    statuses.record(writer, [transition("delivered"), transition("read"), transition("played")])

    history: Mapping[str, list[str]] = {
        name: [each.status for each in statuses.history(writer, name)]
        for name in ("wamid.1", "wamid.2")
    }
    assert history == {"wamid.1": ["sent", "delivered"], "wamid.2": ["sent"]}
