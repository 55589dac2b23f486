"""The data of a person is erased from every table, and that of others is kept, in both stores."""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import apsw
import pytest

from tests.store.results import dead_letters
from tests.store.test_store_outbox import KEEP_SECONDS, claimed, enqueued, new_send, reserve
from tests.store.test_store_outbox import settle as settle_send
from wats.store import Store, receive
from wats.store.admin import OUTSTANDING, Erased
from wats.store.outbox import OUTCOME_UNKNOWN
from wats.store.person import Person
from wats.store.records import (
    ALL_MESSAGES,
    OUTBOX,
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Depth,
    Direction,
    MessageRecord,
    Reservation,
    ReservationOutcome,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import SQLiteStore
from wats.testing import FakeClock

MakeArrival = Callable[..., Arrival]
MakeMessage = Callable[..., MessageRecord]
Claim = Callable[..., Awaitable[Sequence[Delivery]]]
Settle = Callable[..., Awaitable[Sequence[int]]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
THEIRS, OTHER, USER = "15550001234", "15550001235", "US.13491208655302741918"
COUNTS = [name for name in Erased.__struct_fields__ if name != "position"]


def wamid(number: str, nonce: str) -> str:
    return "wamid." + b64encode(b"\x1c\x18\x0b" + number.encode() + nonce.encode()).decode()


async def erase(store: Store, user: str, *, is_trial: bool = False) -> dict[str, int]:
    """Do all steps of an erasure; return the counts above 0."""
    counts, position = dict.fromkeys(COUNTS, 0), None
    while True:
        step = await store.erase(
            Person(user), ["1"], position=position, is_trial=is_trial, searches_files=True
        )
        for name in COUNTS:
            counts[name] += getattr(step, name)
        assert step.position != position
        position = step.position
        if position is None:
            return {name: count for name, count in counts.items() if count}


def digest_of(number: str) -> bytes:
    return sha256(number.encode()).digest()


def content_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def inbound(arrival: MakeArrival, message: MakeMessage, number: str, nonce: str) -> Arrival:
    record = message(
        wamid(number, nonce),
        direction=Direction.INBOUND,
        from_phone=number,
        to_phone=None,
        status="received",
    )
    window = WindowRecord(phone_number_id="1", customer=number, last_inbound_at=NOON)
    payload = b'{"key":"0","kind":"message","raw":{"from":"%b"}}' % number.encode()
    return arrival(message=record, window=window, payload=payload)


@pytest.fixture
async def full_store(
    store: Store, arrival: MakeArrival, message: MakeMessage, claim: Claim, settle: Settle
) -> Store:
    """A store in which two persons have the same data in every table."""
    for number in (THEIRS, OTHER):
        await receive(store, [inbound(arrival, message, number, "in")])
        await settle(await claim(), DeliveryState.DEAD)
        await receive(store, [inbound(arrival, message, number, "in, handled")])
        await settle(await claim())
        sent = message(wamid(number, "out"), to_phone=f"+{number}")
        key = digest_of(number)
        await store.reserve_request(
            scope="1", key_hash=key, request_hash=b"", reserve_seconds=9, keep_seconds=9
        )
        response = b'{"contacts":[{"input":"+%b"}]}' % number.encode()
        await store.complete_request(scope="1", key_hash=key, response=response, message=sent)
        statuses = [
            StatusRecord(phone_number_id="1", status="sent", occurred_at=NOON, **values)
            for values in (
                {"wa_message_id": sent.wa_message_id},
                {"wa_message_id": wamid(number, "of another application")},
                {"wa_message_id": "wamid.group", "participant": number},
            )
        ]
        await receive(store, [arrival(consumers=(), status=each) for each in statuses])
        window = WindowRecord(phone_number_id="1", customer=number, last_inbound_at=NOON)
        await receive(store, [arrival(consumers=(), window=window)])
    for number in (THEIRS, OTHER):
        await receive(store, [inbound(arrival, message, number, "in, pending")])
    return store


EXPECTED = {
    "deliveries": 1,
    "dead_letters": 1,
    "messages": 4,
    "statuses": 3,
    "windows": 1,
    "responses": 1,
}


async def test_a_person_is_erased_from_every_table_and_no_other_person(
    full_store: Store,
) -> None:
    store = full_store

    found = await erase(store, THEIRS, is_trial=True)
    erased = await erase(store, f"+{THEIRS}")
    left = await erase(store, THEIRS, is_trial=True)
    others = await erase(store, OTHER, is_trial=True)

    found.pop("traces", None)
    others.pop("traces", None)
    assert found == erased == others == EXPECTED
    assert left == {}
    assert (await store.depth()).total == Depth(pending=1, dead=1)
    assert len(await dead_letters(store)) == 1
    page = await store.list_messages(limit=50, cursor=None, wanted=ALL_MESSAGES)
    assert len(page.items) == 4
    assert await store.last_inbound_at(phone_number_id="1", customer=THEIRS) is None
    assert await store.last_inbound_at(phone_number_id="1", customer=OTHER) == NOON
    assert await store.get_message(wamid(THEIRS, "out")) is None
    assert await store.list_statuses(wamid(THEIRS, "out")) == []
    assert len(await store.list_statuses(wamid(OTHER, "out"))) == 1


async def test_a_request_whose_response_was_erased_is_not_sent_again(full_store: Store) -> None:
    await erase(full_store, THEIRS)

    reservation = await full_store.reserve_request(
        scope="1", key_hash=digest_of(THEIRS), request_hash=b"", reserve_seconds=9, keep_seconds=9
    )

    assert (reservation.outcome.value, reservation.response) == ("replay", b"{}")


@pytest.mark.parametrize("is_leased", [False, True])
async def test_the_key_of_an_erased_message_of_the_outbox_returns_an_empty_response(
    store: Store, clock: FakeClock, *, is_leased: bool
) -> None:
    await store.register([Consumer(name=OUTBOX, lease_seconds=60.0)])
    theirs = new_send(1, payload=b'{"to":"%b"}' % THEIRS.encode())
    other = new_send(2, payload=b'{"to":"%b"}' % OTHER.encode())
    outbox_id = await enqueued(store, theirs)
    await enqueued(store, other)
    leased = await claimed(store) if is_leased else ()

    assert await erase(store, THEIRS) == {"deliveries": 1}
    for each in leased:
        await settle_send(store, each, DeliveryState.DONE)

    replay = Reservation(outcome=ReservationOutcome.REPLAY, response=b"{}")
    assert await store.enqueue(theirs) == replay
    assert await reserve(store, theirs) == replay
    assert await store.get_send(outbox_id) is None
    assert (await store.enqueue(other)).response != b"{}"
    assert (await store.depth()).outbox.outstanding == (0 if is_leased else 1)
    clock.advance(KEEP_SECONDS + 1)
    assert (await store.enqueue(theirs)).outcome is ReservationOutcome.RESERVED


async def test_the_key_of_an_erased_message_with_an_unknown_outcome_stays_unknown(
    store: Store,
) -> None:
    await store.register([Consumer(name=OUTBOX, lease_seconds=60.0)])
    theirs = new_send(1, payload=b'{"to":"%b"}' % THEIRS.encode())
    outbox_id = await enqueued(store, theirs)
    (delivery,) = await claimed(store)
    await settle_send(store, delivery, DeliveryState.DEAD, OUTCOME_UNKNOWN)

    assert await erase(store, THEIRS) == {"dead_letters": 1}

    unknown = Reservation(outcome=ReservationOutcome.UNKNOWN, outbox_id=outbox_id)
    assert await store.enqueue(theirs) == unknown


async def test_a_trial_changes_nothing(full_store: Store) -> None:
    await erase(full_store, THEIRS, is_trial=True)

    assert (await full_store.depth()).total == Depth(pending=2, dead=2)
    assert len((await full_store.list_messages(limit=50, cursor=None)).items) == 8


async def test_a_person_with_a_user_id_is_erased(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    payload = b'{"raw":{"from_user_id":"%b"}}' % USER.encode()
    await receive(store, [arrival(payload=payload), arrival(payload=payload[:-3] + b'0"}}')])
    await store.record_sent(message("wamid.a", to_phone=USER))
    await store.record_sent(message("wamid.b", to_phone=USER + "0"))

    assert await erase(store, USER) == {"deliveries": 1, "messages": 1}


async def test_messages_are_found_by_any_number_that_they_name(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    names_another = message(wamid(THEIRS, "a"), to_phone=OTHER, phone_number_id="2")
    of_a_user = message(wamid(THEIRS, "b"), to_phone=USER)
    of_another_number = message(wamid(THEIRS, "c"), to_phone=THEIRS, phone_number_id="3")
    records = names_another, of_a_user, of_another_number
    for each in records:
        await store.record_sent(each)
    received = message(
        wamid(THEIRS, "d"), direction=Direction.INBOUND, from_phone=USER, to_phone=None
    )
    window = WindowRecord(phone_number_id="1", customer=USER, last_inbound_at=NOON)
    await receive(store, [arrival(message=received, window=window, consumers=())])

    assert (await erase(store, THEIRS, is_trial=True))["messages"] == 4
    assert (await erase(store, THEIRS))["messages"] == 4
    assert (await store.list_messages(limit=9, cursor=None)).items == ()


BEFORE_NUMBERS = {
    "usual": b"\x1c\x18\x0b",
    "usual with another length": b"\x1c\x18\x0f",
    "a length above that of numbers": b"\x1c\x18\x12",
    "the number first": b"",
    "the number second": b"\x00",
    "the number third": b"\x00\x00",
    "a user id first": b"\x1c\x18\x17" + USER.encode() + b"\x15",
    "a user id of the length of a number first": b"\x1c\x18\x0aUS.1234567\x15",
    "a group first": b"\x1c\x18\x12" + b"120363" * 3 + b"\x15",
}


async def test_a_number_is_found_at_any_place_in_the_id_of_a_message(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    for before in BEFORE_NUMBERS.values():
        for number, status in ((THEIRS, "sent"), (OTHER, "read")):
            encoded = b64encode(before + number.encode() + b"\x15\x02").decode()
            await store.record_sent(message(f"wamid.{encoded}", to_phone=USER))
            record = StatusRecord(
                phone_number_id="2",
                wa_message_id=f"wamid.{encoded}",
                status=status,
                occurred_at=NOON,
            )
            await receive(store, [arrival(consumers=(), status=record)])

    erased = await erase(store, THEIRS)
    others = await erase(store, OTHER, is_trial=True)

    expected = [len(BEFORE_NUMBERS)] * 2
    assert [erased[name] for name in ("messages", "statuses")] == expected
    assert [others[name] for name in ("messages", "statuses")] == expected


async def test_messages_of_an_earlier_version_are_found_without_a_hash(
    tmp_path: Path, arrival: MakeArrival, message: MakeMessage
) -> None:
    path = tmp_path / "wats.db"
    store = SQLiteStore(str(path), index_batch=2)
    await store.open()
    for number in (THEIRS, OTHER):
        await receive(store, [inbound(arrival, message, number, "in")])
        await store.record_sent(message(wamid(number, "out"), to_phone=number))
    await store.close()
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE wats_messages SET window_hash = NULL WHERE to_phone NOT NULL")
    await store.open()

    erased = await erase(store, THEIRS)

    assert erased["messages"] == 2
    assert (await erase(store, OTHER, is_trial=True))["messages"] == 2
    await store.close()


async def test_an_erased_head_does_not_block_its_conversation(
    store: Store, arrival: MakeArrival, claim: Claim
) -> None:
    await receive(
        store,
        [
            arrival(ordering_key=7, payload=b'"%b"' % THEIRS.encode()),
            arrival(ordering_key=7, payload=b'"another member of the group"'),
        ],
    )
    await claim()

    assert await erase(store, THEIRS) == {"deliveries": 1}

    assert len(await claim()) == 1
    assert (await store.list_deliveries(OUTSTANDING, limit=9)).items != ()


async def test_many_rows_are_erased_in_several_steps(
    store: Store, arrival: MakeArrival, message: MakeMessage
) -> None:
    await receive(store, [inbound(arrival, message, THEIRS, str(n)) for n in range(1200)])
    same_time = [
        StatusRecord(
            phone_number_id="1",
            wa_message_id=f"wamid.{n}",
            participant=THEIRS,
            status="sent",
            occurred_at=NOON + timedelta(seconds=n % 2),
        )
        for n in range(1200)
    ]
    await receive(store, [arrival(consumers=(), status=each) for each in same_time])

    found = await erase(store, THEIRS, is_trial=True)
    erased = await erase(store, THEIRS)

    for counts in (found, erased):
        counts.pop("traces", None)
        counts.pop("windows", None)  # PostgreSQL stores windows apart from messages
        assert counts == {"deliveries": 1200, "messages": 1200, "statuses": 1200}
    assert await erase(store, THEIRS, is_trial=True) == {}


@pytest.mark.parametrize("position", ["", "messages", "messages.-1", "other.0.0", "x" * 99])
async def test_an_invalid_position_is_refused(store: Store, position: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        await store.erase(Person(THEIRS), ["1"], position=position, is_trial=True)


async def test_no_file_of_a_sqlite_database_has_a_trace_of_an_erased_person(
    tmp_path: Path, arrival: MakeArrival, message: MakeMessage
) -> None:
    store = SQLiteStore(str(tmp_path / "wats.db"))
    await store.open()
    await receive(store, [inbound(arrival, message, THEIRS, str(n)) for n in range(300)])
    await receive(store, [inbound(arrival, message, OTHER, str(n)) for n in range(300)])
    assert await store.checkpoint()

    found = await erase(store, THEIRS, is_trial=True)
    await erase(store, THEIRS)
    left = await erase(store, THEIRS, is_trial=True)

    assert found["traces"] >= 900
    assert left == {}
    content = content_of(tmp_path)
    assert Person(THEIRS).traces(content) == 0
    assert OTHER.encode() in content
    await store.close()
