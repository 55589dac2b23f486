"""The promises of delivery, as seen from outside: order, isolation, stops and crashes."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from apsw import Connection

from tests.settings import HOOK
from wats.config import InboxConfig
from wats.inbound.updates import Update
from wats.service import create_wats_service_app
from wats.service.components import DRAIN_SECONDS
from wats.store.sqlite import SQLiteStore
from wats.telemetry.metrics.shared_memory import Board
from wats.testing import example_profile, example_secrets, serving, sign

CONCURRENCY = 4

Handler = Callable[[Update], Awaitable[None]]


def number_of(update: Update) -> int:
    return int(update.raw["id"].removeprefix("wamid."))


def envelope_of(numbers: Iterable[int], customer: str | None = None) -> bytes:
    """Return a webhook with messages of so many customers, or all of one *customer*."""
    messages = [
        {
            "from": customer or f"1555{number:07d}",
            "id": f"wamid.{number}",
            "timestamp": "1790000000",
            "type": "text",
            "text": {"body": f"Message {number}"},
        }
        for number in numbers
    ]
    value = {"metadata": {"phone_number_id": "15551234567"}, "messages": messages}
    change = {"field": "messages", "value": value}
    entry = {"id": "123456789012345", "changes": [change]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


class Sender:
    """Delivers webhooks to a service at *url*."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url + HOOK

    async def send(self, *numbers: int, customer: str | None = None) -> None:
        body = envelope_of(numbers, customer)
        headers = {"x-hub-signature-256": sign(body)}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            assert response.status == 200
            await response.read()


@asynccontextmanager
async def service(
    database: Path,
    *handlers: Handler,
    log: Any = None,
    drain_seconds: float = DRAIN_SECONDS,
    board: Board | None = None,
    row: int = 0,
    store: SQLiteStore | None = None,
    **inbox: Any,
) -> Any:
    """Serve a gateway on *database* with a store of its own, as a process would."""
    app = create_wats_service_app(
        profile=example_profile(inbox=InboxConfig(**{"concurrency": CONCURRENCY, **inbox})),
        secrets=example_secrets(),
        persistence=store or SQLiteStore(str(database)),
        handlers=handlers,
        log=log or (lambda _: None),
        drain_seconds=drain_seconds,
        board=board,
        row=row,
    )
    async with serving(app) as url, aiohttp.ClientSession() as session:
        yield Sender(session, url)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "wats.db"


def rows(database: Path, statement: str) -> list[Any]:
    # With the SQLite of the service: another one in the same process would drop its locks.
    with closing(Connection(str(database))) as connection:
        return connection.execute(statement).fetchall()


def dead_letters(database: Path) -> list[Any]:
    return rows(database, "SELECT attempts, error FROM wats_dead_deliveries")


def outstanding(database: Path) -> int:
    ((count,),) = rows(database, "SELECT count(*) FROM wats_outstanding")
    return int(count)


async def overload(
    sender: Sender, seconds: float, rate: float, numbers: Iterable[int]
) -> list[int]:
    """Send updates one by one at *rate*; return the acknowledged ones, in order."""
    acknowledged: list[int] = []

    async def send(number: int) -> None:
        await sender.send(number)
        acknowledged.append(number)

    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for place, number in enumerate(numbers):
            due = began + place / rate
            if due > began + seconds:
                break
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            group.create_task(send(number))
    return acknowledged


@pytest.mark.long
async def test_under_overload_at_most_one_slot_full_overtakes_the_oldest_waiting_update(
    database: Path,
) -> None:
    begun: list[int] = []
    acknowledged_before: dict[int, int] = {}
    acknowledged: list[int] = []

    async def handle(update: Update) -> None:
        begun.append(number_of(update))
        await asyncio.sleep(0.02)

    async with service(database, handle) as sender:
        await asyncio.gather(*(sender.send(number) for number in range(60)))
        for number in range(60):
            acknowledged_before[number] = 0

        async def send(number: int) -> None:
            acknowledged_before[number] = len(acknowledged)
            await sender.send(number)
            acknowledged.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(100, 1000):  # 130 % of the throughput of four slots at 20 ms each
                group.create_task(send(number))
                await asyncio.sleep(1 / 260)
        handled_under_load = list(begun)

    burst = [number for number in handled_under_load if number < 100]
    assert sorted(burst) == list(range(60))
    # Each update was stored before any update that was sent after its acknowledgement.
    arrival = {number: place for place, number in enumerate(acknowledged)}
    for place, number in enumerate(handled_under_load):
        waiting = [
            other
            for other in acknowledged[: acknowledged_before[number]]
            if other not in handled_under_load[:place]
        ]
        if waiting:
            oldest = waiting[0]
            overtaken = [
                other
                for other in handled_under_load[: place + 1]
                if other >= 100 and acknowledged_before[other] > arrival[oldest]
            ]
            assert len(overtaken) <= CONCURRENCY


async def test_a_retry_that_is_due_starts_under_overload(database: Path) -> None:
    begun: list[int] = []
    retried = asyncio.Event()

    async def handle(update: Update) -> None:
        number = number_of(update)
        begun.append(number)
        if number == 5:
            if begun.count(5) == 1:
                raise ValueError
            retried.set()
        await asyncio.sleep(0.02)

    async with service(database, handle) as sender:
        await sender.send(5)
        number = 100
        while not retried.is_set():  # 130 % all the while
            async with asyncio.TaskGroup() as group:
                for number in range(number, number + 26):  # noqa: B020
                    group.create_task(sender.send(number + 1))
                await asyncio.sleep(0.1)
            number += 1

    assert begun.count(5) == 2


async def test_a_quick_handler_is_not_delayed_by_a_slow_one(database: Path, until) -> None:
    slow_began: list[int] = []
    quick_got: list[int] = []
    gate = asyncio.Event()

    async def slow(update: Update) -> None:
        slow_began.append(number_of(update))
        await gate.wait()

    async def quick(update: Update) -> None:
        quick_got.append(number_of(update))

    async with service(database, slow, quick) as sender:
        for number in range(300):
            await sender.send(number)
        await until(lambda: len(quick_got) == 300)
        assert slow_began == list(range(CONCURRENCY))  # its first batch has not returned yet
        gate.set()
        await until(lambda: len(slow_began) == 300)

    assert quick_got == list(range(300))


async def test_a_clean_stop_inside_a_conversation_repeats_no_update_that_returned(
    database: Path, until
) -> None:
    begun: list[int] = []
    returned: list[int] = []
    may_return = False

    async def handle(update: Update) -> None:
        begun.append(number_of(update))
        if number_of(update) == 5 and not may_return:
            await asyncio.Event().wait()
        returned.append(number_of(update))

    async with service(database, handle, drain_seconds=0.1) as sender:
        await sender.send(*range(10), customer="15550001111")
        await until(lambda: 5 in begun)
    assert returned == list(range(5))
    may_return = True

    async with service(database, handle):
        await until(lambda: 9 in returned)

    assert returned == list(range(10))
    assert Counter(begun) == Counter([*range(10), 5])


async def test_stops_make_no_dead_letter_of_an_update_that_was_never_called(
    database: Path, until
) -> None:
    begun: list[int] = []
    inbox = {"max_attempts": 1, "lease_seconds": 20.0, "concurrency": 2}

    async def handle(update: Update) -> None:
        begun.append(number_of(update))
        await asyncio.sleep(0.005)

    numbers = iter(range(10_000))
    for _ in range(8):
        async with service(database, handle, **inbox) as sender:
            for _ in range(5):
                await sender.send(*(next(numbers) for _ in range(8)))
    sent = next(numbers)
    async with service(database, handle, **inbox):
        await until(lambda: outstanding(database) == 0)

    assert Counter(begun) == Counter(range(sent))
    assert dead_letters(database) == []


async def test_a_lowered_limit_of_attempts_permits_one_more_attempt_of_a_waiting_update(
    database: Path, until
) -> None:
    calls: list[int] = []

    async def fail(update: Update) -> None:
        calls.append(number_of(update))
        raise ZeroDivisionError

    async with service(database, fail, max_attempts=10) as sender:
        await sender.send(1)
        await until(lambda: len(calls) == 2)
    async with service(database, fail, max_attempts=1):
        await until(lambda: dead_letters(database) != [])

    assert len(calls) == 3
    assert dead_letters(database) == [(3, "ZeroDivisionError")]


async def test_a_client_that_hangs_up_leaves_its_updates_to_their_handlers(
    database: Path, until
) -> None:
    handled: list[int] = []

    async def handle(update: Update) -> None:
        handled.append(number_of(update))

    class Counting(SQLiteStore):
        received = 0

        def receive(self, arrivals: Any, *more: Any) -> None:
            self.received += len(arrivals)
            super().receive(arrivals, *more)

    store = Counting(str(database), timeout_seconds=60)
    async with service(database, handle, lease_seconds=3600.0, store=store) as sender:
        with closing(Connection(str(database))) as connection:
            connection.set_busy_timeout(5000)
            connection.execute("BEGIN IMMEDIATE")  # so that storing takes long
            sending = [asyncio.create_task(sender.send(number)) for number in range(20)]
            await until(lambda: store.received == 20)
            for each in sending:
                each.cancel()
            await asyncio.wait(sending)
            connection.execute("ROLLBACK")
        await until(lambda: len(handled) == 20)
        await until(lambda: outstanding(database) == 0)

    assert sorted(handled) == list(range(20))


async def test_two_processes_on_one_file_keep_the_order_of_a_conversation(
    database: Path, until
) -> None:
    begun: list[int] = []
    running = most = 0

    async def handle(update: Update) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.append(number_of(update))
        await asyncio.sleep(0)
        running -= 1

    board = Board(2)
    async with AsyncExitStack() as stack:
        senders = [
            await stack.enter_async_context(service(database, handle, board=board, row=row))
            for row in range(2)
        ]
        for number in range(200):
            await senders[number % 2].send(number, customer="15550001111")
        await until(lambda: len(begun) == 200, 60)

    assert begun == list(range(200))
    assert most == 1


async def test_a_restart_with_many_outstanding_deliveries_dispatches_them_in_order(
    database: Path, until
) -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def wait(update: Update) -> None:
        await gate.wait()

    async def handle(update: Update) -> None:
        begun.append(number_of(update))

    wait.__qualname__ = handle.__qualname__ = "the_handler"
    async with service(database, wait) as sender:
        for start in range(0, 4_000, 500):
            await sender.send(*range(start, start + 500))
        stopping = asyncio.get_running_loop().call_later(0.2, gate.set)
    stopping.cancel()
    assert outstanding(database) > 2_000

    async with service(database, handle):
        await until(lambda: len(begun) >= 100)
        await until(lambda: outstanding(database) == 0, 60)

    first = begun[0]
    assert begun == list(range(first, 4_000))
