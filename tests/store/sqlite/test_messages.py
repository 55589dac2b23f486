from collections.abc import Callable
from datetime import UTC, datetime
from zlib import crc32

from apsw import Connection

from wats.store.migrate import load_migrations
from wats.store.records import Arrival, Direction, MessageRecord, StatusRecord, WindowRecord
from wats.store.sqlite import inbox, messages
from wats.store.sqlite.connection import MEMORY, connect_writer, migrate
from wats.store.sqlite.walk import Walk

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_no_statement_about_messages_reads_a_whole_table(
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
    trace: Callable[[Connection], list[str]],
) -> None:
    connection = connect_writer(MEMORY, 1)
    migrate(connection, load_migrations("sqlite"))
    statements = trace(connection)
    status = StatusRecord(
        phone_number_id="1", wa_message_id="wamid.1", status="sent", occurred_at=NOON
    )
    window = WindowRecord(phone_number_id="1", customer="2", last_inbound_at=NOON)
    received = message("wamid.2", direction=Direction.INBOUND)
    inbox.receive(connection, [arrival(status=status), arrival(message=received, window=window)])
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

    plans = [
        (statement, row[3])
        for statement in statements
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]

    assert len(plans) >= 15
    assert [
        (statement, plan)
        for statement, plan in plans
        if plan.startswith("SCAN") and plan != "SCAN CONSTANT ROW"
    ] == []
    connection.close()


def test_messages_whose_ids_share_a_hash_are_told_apart(
    message: Callable[..., MessageRecord],
) -> None:
    connection = connect_writer(MEMORY, 1)
    migrate(connection, load_migrations("sqlite"))
    # As CRC-32 has it, apart from the highest bit.
    first, second = "wamid.plumless", "wamid.buckeroo"
    assert crc32(first.encode()) == crc32(second.encode())

    for name in (first, second):
        messages.record(connection, [message(name)])

    for name in (first, second):
        found = messages.get(connection, name)
        assert found is not None
        assert found.wa_message_id == name
    connection.close()
