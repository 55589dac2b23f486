"""The contract of every store for messages, statuses and windows."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tests.store.results import waiting
from wats.errors import WindowClosed
from wats.outbound.messages import Outgoing
from wats.outbound.window import WindowGuard
from wats.store import Store, receive
from wats.store.records import (
    OUT_OF_ORDER,
    SCAN_ROWS,
    STATUS_RANK,
    Arrival,
    Direction,
    MessageFilter,
    MessageRecord,
    StatusRecord,
    WindowRecord,
)
from wats.telemetry import UNMATCHED, RouteLabel, Telemetry

MakeArrival = Callable[..., Arrival]
MakeMessage = Callable[..., MessageRecord]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def transition(status: str, *, at: datetime = NOON, **changes: object) -> StatusRecord:
    values: dict[str, object] = {
        "phone_number_id": "1",
        "wa_message_id": "wamid.1",
        "status": status,
        "occurred_at": at,
    }
    return StatusRecord(**(values | changes))


async def test_a_redelivered_status_is_recognized_whether_its_message_is_recorded_or_not(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    sent = arrival(status=transition("sent"))
    member = arrival(status=transition("sent", participant="3"))
    read = arrival(status=transition("read", at=later(1)))

    assert waiting(await receive(store, [sent, sent, member])) == [1, None, 1]
    assert waiting(await receive(store, [member, read, sent])) == [None, 1, None]
    await store.record_sent(message())  # which adopts the statuses
    assert waiting(await receive(store, [read, sent, member])) == [None] * 3
    again = arrival(status=transition("read", at=later(2)))
    assert waiting(await receive(store, [read, again, again])) == [None, 1, None]

    history = await store.list_statuses("wamid.1")
    assert history == [each.status for each in (sent, member, read, again)]


async def test_a_message_is_returned_as_it_was_recorded(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    sent = message("wamid.1", graph_message_id="g", to_phone="2")
    received = message(
        "wamid.2",
        direction=Direction.INBOUND,
        from_phone="2",
        to_phone=None,
        status="received",
        updated_at=later(1),
    )

    await store.record_sent(sent)
    await receive(store, [arrival(message=received)])

    for record in (sent, received):
        found = await store.get_message(record.wa_message_id)
        assert found is not None
        assert msgspec.structs.replace(found, row_id="") == record
    assert await store.get_message("wamid.3") is None


async def test_a_message_is_found_by_its_number_too(store: Store, message: MakeMessage) -> None:
    for number in "123":
        await store.record_sent(message("wamid.1", phone_number_id=number))
    await store.record_sent(message("wamid.2", phone_number_id="1"))

    for number in "123":
        found = await store.get_message("wamid.1", phone_number_id=number)
        assert found is not None
        assert found.phone_number_id == number
        wanted = MessageFilter(phone_number_id=number)
        page = await store.list_messages(limit=10, cursor=None, wanted=wanted)
        of_number = ["wamid.2", "wamid.1"] if number == "1" else ["wamid.1"]
        assert [each.wa_message_id for each in page.items] == of_number
    assert await store.get_message("wamid.2", phone_number_id="2") is None
    assert await store.get_message("wamid.1", phone_number_id="4") is None
    wanted = MessageFilter(phone_number_id="4")
    assert (await store.list_messages(limit=10, cursor=None, wanted=wanted)).items == ()


async def test_a_recorded_message_is_not_changed(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message())
    await receive(store, [arrival(status=transition("read"))])

    await store.record_sent(message(to_phone="3"))
    await receive(store, [arrival(message=message(to_phone="4"))])

    (found,) = (await store.list_messages(limit=10, cursor=None)).items
    assert (found.to_phone, found.status) == ("2", "read")


async def test_the_status_delivered_returns_when_its_message_was_sent(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message(created_at=later(-7)))
    updates = [
        arrival(status=transition("sent")),
        arrival(status=transition("delivered")),
        arrival(status=transition("delivered", wa_message_id="wamid.unrecorded")),
        arrival(status=transition("read")),
    ]

    results = await receive(store, updates)

    assert [each and each.sent_at for each in results] == [None, later(-7), None, None]
    assert await receive(store, updates) == [None] * 4


async def test_numbers_and_directions_have_messages_of_their_own(
    store: Store, message: MakeMessage
) -> None:
    await store.record_sent(message())
    await store.record_sent(message(phone_number_id="2"))
    await store.record_sent(message(direction=Direction.INBOUND, to_phone="9"))

    assert len((await store.list_messages(limit=10, cursor=None)).items) == 3
    found = await store.get_message("wamid.1")
    assert found is not None
    assert found.to_phone == "9"


ORDERS = {
    "in order": (["sent", "delivered", "read"], "read"),
    "backwards": (["read", "delivered", "sent"], "read"),
    "failed": (["sent", "failed"], "failed"),
    "failed is final": (["failed", "sent"], "failed"),
    "failed but arrived": (["failed", "delivered"], "delivered"),
    "same rank": (["sent", "warning"], "sent"),
    "not in the table": (["sent", "invented"], "sent"),
}


@pytest.mark.parametrize("recorded", ["before", "after", "together"])
async def test_a_status_replaces_only_one_of_lower_rank(
    store: Store,
    arrival: MakeArrival,
    message: MakeMessage,
    subtests: pytest.Subtests,
    recorded: str,
) -> None:
    for name, (order, status) in ORDERS.items():
        with subtests.test(name):
            sent = message(f"wamid.{name}")
            statuses = [transition(each, wa_message_id=sent.wa_message_id) for each in order]
            updates = [arrival(status=each) for each in statuses]
            if recorded == "before":
                await store.record_sent(sent)
            if recorded == "together":
                updates.append(arrival(message=sent))

            await receive(store, updates)
            if recorded == "after":
                await store.record_sent(sent)

            found = await store.get_message(sent.wa_message_id)
            assert found is not None
            assert found.status == status
            history = await store.list_statuses(sent.wa_message_id)
            assert [record.status for record in history] == order


async def test_a_message_with_a_status_that_is_in_no_table_takes_any_that_is(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    assert "invented" not in STATUS_RANK
    await store.record_sent(message(status="invented"))

    await receive(store, [arrival(status=transition("accepted"))])

    found = await store.get_message("wamid.1")
    assert found is not None
    assert found.status == "accepted"


async def test_updated_at_never_goes_back(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message())

    await receive(store, [arrival(status=transition("delivered", at=later(9)))])
    await receive(store, [arrival(status=transition("read", at=later(5)))])
    await receive(store, [arrival(status=transition("sent", at=later(20)))])

    found = await store.get_message("wamid.1")
    assert found is not None
    assert (found.status, found.updated_at) == ("read", later(9))


async def test_statuses_that_arrived_before_their_message_are_applied_to_it(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await receive(store, [arrival(status=transition("delivered", at=later(9)))])
    await receive(store, [arrival(status=transition("sent", at=later(3)))])

    await store.complete_request(scope="send", key_hash=b"key", response=b"", message=message())

    found = await store.get_message("wamid.1")
    assert found is not None
    assert (found.status, found.updated_at) == ("delivered", later(9))


async def test_a_transition_is_kept_once_for_each_participant(
    store: Store, arrival: MakeArrival
) -> None:
    transitions = [
        transition("read", participant="a"),
        transition("read", participant="b"),
        transition("read", participant="a"),
        transition("read", participant="a", at=later(1), error_code=131047),
    ]

    await receive(store, [arrival(status=status) for status in transitions])

    expected = [transitions[0], transitions[1], transitions[3]]
    assert await store.list_statuses("wamid.1") == expected
    assert await store.list_statuses("wamid.2") == []


async def test_statuses_move_only_outbound_messages_of_their_number(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message(direction=Direction.INBOUND, status="received"))
    await store.record_sent(message(phone_number_id="2"))

    await receive(store, [arrival(status=transition("read"))])

    page = await store.list_messages(limit=10, cursor=None)
    assert [item.status for item in page.items] == ["accepted", "received"]


async def test_messages_are_listed_from_the_last_recorded_on(
    store: Store, message: MakeMessage
) -> None:
    names = [f"wamid.{number}" for number in range(5)]
    for name in names:
        await store.record_sent(message(name))

    first = await store.list_messages(limit=2, cursor=None)
    second = await store.list_messages(limit=2, cursor=first.next_cursor)
    third = await store.list_messages(limit=2, cursor=second.next_cursor)

    listed = [item.wa_message_id for page in (first, second, third) for item in page.items]
    assert listed == names[::-1]
    assert third.next_cursor is None
    assert (await store.list_messages(limit=5, cursor=None)).next_cursor is None


async def test_every_row_id_is_a_cursor(store: Store, message: MakeMessage) -> None:
    await store.record_sent(message("wamid.1"))
    await store.record_sent(message("wamid.2"))
    newest = await store.get_message("wamid.2")
    assert newest is not None

    page = await store.list_messages(limit=10, cursor=newest.row_id)

    assert [item.wa_message_id for item in page.items] == ["wamid.1"]


async def test_an_invalid_cursor_leads_to_an_empty_page(
    store: Store, message: MakeMessage, subtests: pytest.Subtests
) -> None:
    await store.record_sent(message())

    for cursor in ("", "x", "-1", "999", "1.5", "٣", "9" * 5000):
        with subtests.test(cursor[:9]):
            page = await store.list_messages(limit=10, cursor=cursor)

            assert (page.items, page.next_cursor) == ((), None)


async def test_messages_are_selected_by_the_status_that_they_have_now(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    for name in ("wamid.1", "wamid.2", "wamid.3"):
        await store.record_sent(message(name, to_phone="+15550002222"))
    await receive(store, [arrival(status=transition("failed", wa_message_id="wamid.2"))])

    failed = await store.list_messages(limit=5, cursor=None, wanted=MessageFilter(status="failed"))
    others = MessageFilter(status="accepted", to_phone="15550002222")
    first = await store.list_messages(limit=1, cursor=None, wanted=others)
    second = await store.list_messages(limit=1, cursor=first.next_cursor, wanted=others)

    pages = (failed, first, second)
    names = [[item.wa_message_id for item in page.items] for page in pages]
    assert names == [["wamid.2"], ["wamid.3"], ["wamid.1"]]
    assert (failed.next_cursor, second.next_cursor) == (None, None)


async def test_a_page_of_some_messages_reads_a_bounded_number(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await store.record_sent(message("wamid.sought", type="image"))
    others = [message(f"wamid.{n}", direction=Direction.INBOUND) for n in range(SCAN_ROWS)]
    await receive(store, [arrival(message=each, consumers=()) for each in others])
    wanted = MessageFilter(type="image")

    first = await store.list_messages(limit=5, cursor=None, wanted=wanted)
    second = await store.list_messages(limit=5, cursor=first.next_cursor, wanted=wanted)

    assert first.items == ()
    assert [item.wa_message_id for item in second.items] == ["wamid.sought"]
    assert second.next_cursor is None


async def test_a_page_since_a_time_ends_at_the_messages_of_long_before(
    store: Store, message: MakeMessage
) -> None:
    old, late = NOON - OUT_OF_ORDER - timedelta(seconds=1), NOON - timedelta(minutes=1)
    for name, at in (("wamid.1", NOON), ("wamid.2", old), ("wamid.3", NOON), ("wamid.4", late)):
        await store.record_sent(message(name, created_at=at, updated_at=at))

    page = await store.list_messages(limit=5, cursor=None, wanted=MessageFilter(since=NOON))

    assert [item.wa_message_id for item in page.items] == ["wamid.3"]
    assert page.next_cursor is None


def window(customer: str, at: datetime, phone_number_id: str = "1") -> WindowRecord:
    return WindowRecord(phone_number_id=phone_number_id, customer=customer, last_inbound_at=at)


async def test_a_window_moves_forward_only(store: Store, arrival: MakeArrival) -> None:
    for seconds in (5, 9, 7):
        await receive(store, [arrival(window=window("2", later(seconds)))])

    assert await store.last_inbound_at(phone_number_id="1", customer="2") == later(9)


async def test_a_window_that_messages_opened_is_that_of_the_latest(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    for number, seconds in enumerate((2, 3, 1)):
        received = message(f"wamid.{number}", direction=Direction.INBOUND, from_phone="2")
        await receive(store, [arrival(message=received, window=window("2", later(seconds)))])
    await receive(store, [arrival(message=message("wamid.9", direction=Direction.INBOUND))])

    assert await store.last_inbound_at(phone_number_id="1", customer="2") == later(3)
    await receive(store, [arrival(window=window("2", later(4)))])
    assert await store.last_inbound_at(phone_number_id="1", customer="2") == later(4)


async def test_every_number_has_windows_of_its_own(store: Store, arrival: MakeArrival) -> None:
    await receive(store, [arrival(window=window("2", NOON, phone_number_id="1"))])

    assert await store.last_inbound_at(phone_number_id="2", customer="2") is None
    assert await store.last_inbound_at(phone_number_id="1", customer="3") is None


@pytest.mark.parametrize(
    ("hours", "is_refused"),
    [pytest.param(23, False, id="open"), pytest.param(25, True, id="closed")],
)
async def test_the_guard_follows_the_windows_of_the_store(
    store: Store, arrival: MakeArrival, hours: int, is_refused: bool
) -> None:
    await receive(store, [arrival(window=window("2", NOON))])
    moment = NOON + timedelta(hours=hours)
    telemetry = Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=store.adapter)
    guard = WindowGuard(store, telemetry, lambda: moment)

    with pytest.raises(WindowClosed) if is_refused else nullcontext():
        await guard.check(Outgoing(type="text", recipient="2"), "1")
