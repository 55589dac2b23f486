"""Copies of whole stores, from each kind to each kind."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import MOUNTING, needs_mounting
from tests.store.results import dead_letters
from wats.clock import utc_now
from wats.errors import CopyRefused, StoreUnavailable
from wats.faults import Fault
from wats.store import Store, receive
from wats.store.copy import copy_store
from wats.store.open import open_store
from wats.store.records import (
    Arrival,
    Consumer,
    DeliveryState,
    Depth,
    Direction,
    MessageRecord,
    Reservation,
    ReservationOutcome,
    Settlement,
    StatusRecord,
    WindowRecord,
)

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONSUMERS = [Consumer(name=name, lease_seconds=3600.0, max_attempts=5) for name in ("a", "b")]
KINDS = "sqlite", "postgres"


def number_of(payload: bytes) -> str:
    return "1"


@pytest.fixture
def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """Return the URL of a new store by its kind and name."""

    def url_of(kind: str, name: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db"
        server = request.getfixturevalue("server")
        database = server.make_database(request.getfixturevalue("template"))
        request.addfinalizer(lambda: server.drop_database(database))
        return str(server.url(database))

    return url_of


@pytest.fixture(params=[(a, b) for a in KINDS for b in KINDS], ids="-to-".join)
def urls(request: pytest.FixtureRequest, url_of: Callable[[str, str], str]) -> tuple[str, str]:
    source, target = request.param
    return url_of(source, "source"), url_of(target, "target")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    await store.open()
    await store.register(CONSUMERS)
    try:
        yield store
    finally:
        await store.close()


async def reserve(store: Store, key: bytes) -> Reservation:
    return await store.reserve_request(
        scope="1 text", key_hash=key, request_hash=b"body", reserve_seconds=3600, keep_seconds=86400
    )


def status_of(wa_message_id: str, status: str) -> StatusRecord:
    return StatusRecord(
        phone_number_id="1", wa_message_id=wa_message_id, status=status, occurred_at=NOON
    )


@pytest.fixture
def arrivals(
    arrival: Callable[..., Arrival], message: Callable[..., MessageRecord]
) -> Sequence[Arrival]:
    """Updates of every kind: a conversation, a dead letter, messages, statuses, a call."""
    talk = [
        arrival(
            ordering_key=7,
            payload=b"talk %d" % number,
            consumers=("a", "b"),
            message=message(f"wamid.in{number}", direction=Direction.INBOUND, from_phone="2"),
            window=WindowRecord(
                phone_number_id="1", customer="2", last_inbound_at=NOON + timedelta(minutes=number)
            ),
        )
        for number in range(520)
    ]
    call = WindowRecord(phone_number_id="1", customer="3", last_inbound_at=NOON)
    return [
        *talk,
        arrival(ordering_key=8, payload=b"poison", consumers=("a",)),
        arrival(consumers=(), window=call),
        arrival(consumers=(), status=status_of("wamid.out", "read")),
        arrival(consumers=(), status=status_of("wamid.out", "delivered")),
        arrival(consumers=(), status=status_of("wamid.early", "sent")),
    ]


@pytest.fixture
async def source(
    urls: tuple[str, str], arrivals: Sequence[Arrival], message: Callable[..., MessageRecord]
) -> str:
    """Fill the source; return its URL."""
    async with opened(urls[0]) as store:
        await store.record_sent(message("wamid.out"))
        await receive(store, arrivals)
        for delivery in (await store.claim("a", 10)).deliveries:
            state = DeliveryState.DEAD if delivery.payload == b"poison" else DeliveryState.RETRY
            await store.settle([Settlement(delivery, state, error="ValueError")])
        assert len((await store.claim("b", 10)).deliveries) == 1
        for key in (b"done", b"lost", b"held"):
            await reserve(store, key)
        await store.complete_request(
            scope="1 text", key_hash=b"done", response=b"{}", message=message("wamid.keyed")
        )
        await store.doubt_request(scope="1 text", key_hash=b"lost")
    return urls[0]


async def messages_of(store: Store) -> list[dict[str, Any]]:
    page = await store.list_messages(limit=5000, cursor=None)
    return [
        {name: getattr(item, name) for name in item.__struct_fields__ if name != "row_id"}
        for item in page.items
    ]


async def test_a_copy_keeps_pauses(source: str, urls: tuple[str, str]) -> None:
    async with opened(source) as store:
        await store.pause("a", is_paused=True)

    await copy_store(*urls, number_of)

    async with opened(urls[1]) as copy:
        assert {each.name for each in await copy.consumers() if each.is_paused} == {"a"}


async def test_a_copy_holds_everything_but_leases(
    source: str, urls: tuple[str, str], arrivals: Sequence[Arrival]
) -> None:
    async with opened(source) as store:
        messages = await messages_of(store)
        (dead,) = await dead_letters(store)

    loaded = await copy_store(*urls, number_of)

    assert loaded.read == loaded.stored
    async with opened(urls[1]) as copy:
        assert await messages_of(copy) == messages
        assert len(messages) == 522
        assert await dead_letters(copy) == (dead,)
        assert (await copy.depth()).consumers == {
            "a": Depth(pending=519, retry=1, dead=1),
            "b": Depth(pending=519, retry=1),
        }
        history = [each.status for each in await copy.list_statuses("wamid.out")]
        assert history == ["read", "delivered"]
        assert [each.status for each in await copy.list_statuses("wamid.early")] == ["sent"]
        opened_at = await copy.last_inbound_at(phone_number_id="1", customer="2")
        assert opened_at == NOON + timedelta(minutes=519)
        assert await copy.last_inbound_at(phone_number_id="1", customer="3") == NOON
        outcomes = [await reserve(copy, key) for key in (b"done", b"lost", b"held", b"new")]
        assert outcomes[0] == Reservation(outcome=ReservationOutcome.REPLAY, response=b"{}")
        assert [each.outcome for each in outcomes[1:]] == [
            ReservationOutcome.UNKNOWN,
            ReservationOutcome.IN_FLIGHT,
            ReservationOutcome.RESERVED,
        ]


@pytest.mark.long
async def test_a_copy_recognizes_redeliveries_and_dispatches_the_rest_in_order(
    source: str,
    urls: tuple[str, str],
    arrivals: Sequence[Arrival],
    arrival: Callable[..., Arrival],
    message: Callable[..., MessageRecord],
) -> None:
    await copy_store(*urls, number_of)

    async with opened(urls[1]) as copy:
        assert set(await receive(copy, arrivals)) == {None}
        await receive(copy, [arrival(ordering_key=7, payload=b"talk 520", consumers=("a", "b"))])
        await copy.record_sent(message("wamid.early"))
        for consumer, calls in (("a", 521), ("b", 20)):
            handled = []
            for _ in range(calls):
                deliveries = (await copy.claim(consumer, 10)).deliveries
                handled += [(each.payload, each.attempt) for each in deliveries]
                await copy.settle([Settlement(each, DeliveryState.DONE) for each in deliveries])
            assert handled == [(b"talk %d" % n, 2 if n == 0 else 1) for n in range(calls)]
        early = await copy.get_message("wamid.early")
        assert early is not None
        assert early.status == "sent"
        depths = (await copy.depth()).consumers
        assert depths == {"a": Depth(dead=1), "b": Depth(pending=501)}
        assert (await copy.list_messages(limit=1, cursor=None)).items[0] == early


async def test_all_deliveries_of_an_ordering_key_that_numbers_share_are_dispatched(
    urls: tuple[str, str], arrival: Callable[..., Arrival]
) -> None:
    payloads = [b"1 first", b"2 first", b"1 second", b"2 second", b"undecodable"]
    async with opened(urls[0]) as store:
        for payload in payloads:
            number = payload.decode()[0] if payload[:1].isdigit() else None
            shared = arrival(
                ordering_key=7, payload=payload, phone_number_id=number, consumers=("a",)
            )
            await receive(store, [shared])

    def number_of(payload: bytes) -> str:
        return payload.decode()[0] if payload[:1].isdigit() else ""

    await copy_store(*urls, number_of)

    async with opened(urls[1]) as copy:
        handled = []
        while deliveries := (await copy.claim("a", 10)).deliveries:
            handled += [each.payload for each in deliveries]
            await copy.settle([Settlement(each, DeliveryState.DONE) for each in deliveries])
        assert sorted(handled) == sorted(payloads)
        for number in (b"1", b"2"):
            first, second = (handled.index(number + name) for name in (b" first", b" second"))
            assert first < second
        assert (await copy.depth()).consumers["a"] == Depth()


@pytest.mark.parametrize(
    "urls", [("sqlite", "sqlite"), ("sqlite", "postgres")], indirect=True, ids="-to-".join
)
async def test_a_delivery_that_arrived_by_a_clock_ahead_of_the_target_is_due(
    urls: tuple[str, str], arrival: Callable[..., Arrival]
) -> None:
    source, target = urls
    ahead = open_store(source, now=lambda: utc_now() + timedelta(hours=1))
    await ahead.open()
    await receive(ahead, [arrival(consumers=("a",))])
    await ahead.close()

    await copy_store(source, target, number_of)

    async with opened(target) as copy:
        assert len((await copy.claim("a", 9)).deliveries) == 1


async def test_a_target_with_rows_is_refused(source: str, urls: tuple[str, str]) -> None:
    await copy_store(*urls, number_of)

    with pytest.raises(CopyRefused, match="not empty"):
        await copy_store(*urls, number_of)


@pytest.mark.parametrize("busy", [0, 1], ids=["source", "target"])
async def test_a_database_that_a_service_has_open_is_refused(
    source: str, urls: tuple[str, str], busy: int
) -> None:
    async with opened(urls[busy]):
        with pytest.raises(CopyRefused, match="in use"):
            await copy_store(*urls, number_of)

    await copy_store(*urls, number_of)


@pytest.mark.parametrize(
    "urls", [("sqlite", "sqlite"), ("sqlite", "postgres")], indirect=True, ids="-to-".join
)
async def test_after_a_failure_the_target_is_empty(source: str, urls: tuple[str, str]) -> None:
    payloads = []

    def fail(payload: bytes) -> str:
        payloads.append(payload)
        if len(payloads) > 510:  # after the first batch of deliveries was written
            raise StoreUnavailable
        return "1"

    with pytest.raises(StoreUnavailable):
        await copy_store(*urls, fail)

    await copy_store(*urls, number_of)


@pytest.mark.parametrize("urls", [("postgres", "sqlite")], indirect=True, ids="-to-".join)
async def test_a_row_that_the_target_cannot_hold_is_refused(
    urls: tuple[str, str], arrival: Callable[..., Arrival]
) -> None:
    async with opened(urls[0]) as store:
        for number in ("1", "2"):
            await receive(store, [arrival(key=bytes(16), phone_number_id=number, consumers=())])

    with pytest.raises(CopyRefused, match="cannot hold a row"):
        await copy_store(*urls, number_of)


COPY = """
import asyncio
import sys
from wats.errors import StoreUnavailable
from wats.store.copy import copy_store

try:
    asyncio.run(copy_store(sys.argv[1], sys.argv[2], lambda payload: "1"))
except StoreUnavailable as error:
    print(error.issue.path, error.issue.code)
"""


@needs_mounting
async def test_a_copy_to_a_full_disk_names_the_target(
    url_of: Callable[[str, str], str], tmp_path: Path, arrival: Callable[..., Arrival]
) -> None:
    source, small = url_of("sqlite", "source"), tmp_path / "small"
    small.mkdir()
    async with opened(source) as store:
        for _ in range(4):
            await receive(store, [arrival(payload=bytes(1 << 20), consumers=("a",))])
    mount = f'mount -t tmpfs -o size=1m none {small} && exec "$@"'
    run = [sys.executable, "-c", COPY, source, f"sqlite:///{small}/target.db"]

    done = await asyncio.to_thread(
        subprocess.run,
        [*MOUNTING, "sh", "-c", mount, "sh", *run],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"TO {Fault.DISK_FULL}\n"


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_source_that_does_not_exist_is_refused_and_no_target_is_made(
    url_of: Callable[[str, str], str], tmp_path: Path
) -> None:
    with pytest.raises(CopyRefused, match="does not exist"):
        await copy_store(url_of("sqlite", "none"), url_of("sqlite", "target"), number_of)

    assert not files_in(tmp_path)
