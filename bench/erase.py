"""`python -m bench.erase`: the duration of the erasure of one person in a large store.

The steps are those of `wats erase`: a search, the erasure, and a second search for what is left.
Afterwards the files of a SQLite database are read completely, which `--search-files` does.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from bench.contestants import Stage
from bench.machine import Cores
from bench.processes import ROOT
from bench.writer import NUMBER, Bench
from wats.clock import utc_now
from wats.store import Store, receive
from wats.store.admin import Erased
from wats.store.open import open_store
from wats.store.person import Person
from wats.store.records import (
    Arrival,
    Consumer,
    DeliveryState,
    Direction,
    MessageRecord,
    Settlement,
    StatusRecord,
    WindowRecord,
)

PERSON: Final = "15559990000"
OF_PERSON: Final = 200
"""The number of messages that the person sent, and received."""

HANDLER: Final = "bench.handlers:ignore"
OPERATION_SECONDS: Final = 60.0
"""The time limit of an operation: a busy disk must not end the measurement."""

_FILL: Final = """
INSERT INTO wats_messages (
    phone_number_id, wa_message_id, direction, from_phone, to_phone, type, status, created_at,
    updated_at
)
SELECT $1, 'wamid.' || encode(sha256(n::text::bytea), 'base64'),
    CASE WHEN n % 2 = 0 THEN 'inbound' ELSE 'outbound' END,
    CASE WHEN n % 2 = 0 THEN '1555' || (1000000 + n % 100000) END,
    CASE WHEN n % 2 = 1 THEN '1555' || (1000000 + n % 100000) END, 'text', 'read', n, n
FROM generate_series(1, $2::bigint) AS n
"""

_FILL_STATUSES: Final = """
INSERT INTO wats_statuses (phone_number_id, wa_message_id, status, participant, occurred_at)
SELECT phone_number_id, wa_message_id, new.status, '', created_at
FROM wats_messages CROSS JOIN unnest(ARRAY['sent', 'delivered', 'read']) AS new (status)
WHERE direction = 'outbound' ON CONFLICT DO NOTHING
"""


class Step(msgspec.Struct, frozen=True):
    """One of the three steps: its duration, its calls of the store, and the found rows."""

    name: str
    seconds: float
    calls: int
    rows: int


def wamid(number: int) -> str:
    """Return the id of a message of the person, in the form of Meta's ids."""
    decoded = b"\x1c\x18\x0b%b\x15\x02%d" % (PERSON.encode(), number)
    return f"wamid.{b64encode(decoded).decode()}"


async def add_person(store: Store) -> None:
    """Store messages, statuses, deliveries and dead letters of the person."""
    await store.register([Consumer(name=HANDLER, max_attempts=1)])
    now = utc_now()
    for number in range(OF_PERSON):
        record = MessageRecord(
            phone_number_id=NUMBER,
            wa_message_id=wamid(2 * number),
            direction=Direction.INBOUND,
            from_phone=PERSON,
            type="text",
            status="received",
            created_at=now,
            updated_at=now,
        )
        window = WindowRecord(phone_number_id=NUMBER, customer=PERSON, last_inbound_at=now)
        await receive(store, [_arrival(2 * number, message=record, window=window)])
        sent = msgspec.structs.replace(
            record,
            wa_message_id=wamid(2 * number + 1),
            direction=Direction.OUTBOUND,
            from_phone=None,
            to_phone=PERSON,
            status="accepted",
        )
        await store.record_sent(sent)
        status = StatusRecord(
            phone_number_id=NUMBER,
            wa_message_id=sent.wa_message_id,
            status="delivered",
            occurred_at=now,
        )
        await receive(store, [_arrival(2 * number + 1, status=status, consumers=())])
    dead = (await store.claim(HANDLER, OF_PERSON // 2)).deliveries
    await store.settle([Settlement(each, DeliveryState.DEAD) for each in dead])


def _arrival(
    number: int,
    *,
    message: MessageRecord | None = None,
    window: WindowRecord | None = None,
    status: StatusRecord | None = None,
    consumers: tuple[str, ...] = (HANDLER,),
) -> Arrival:
    now = utc_now()
    return Arrival(
        key=number.to_bytes(16, "big"),
        occurred_at=now,
        received_at=now,
        kind="message",
        phone_number_id=NUMBER,
        ordering_key=number % 50,
        payload=b'{"kind":"message","raw":{"from":"%b"}}' % PERSON.encode(),
        consumers=consumers,
        message=message,
        window=window,
        status=status,
    )


async def erase(store: Store) -> list[Step]:
    """Erase the person as `wats erase` does."""
    return [
        await _walk(store, "search", is_trial=True),
        await _walk(store, "erase", is_trial=False),
        await _walk(store, "search again", is_trial=True),
    ]


async def _walk(store: Store, name: str, *, is_trial: bool) -> Step:
    began, calls, rows, position = time.perf_counter(), 0, 0, None
    while True:
        step: Erased = await store.erase(
            Person(PERSON), [NUMBER], position=position, is_trial=is_trial
        )
        counts = msgspec.structs.asdict(step)
        position = counts.pop("position")
        calls += 1
        rows += sum(counts.values())
        if position is None:
            return Step(name, time.perf_counter() - began, calls, rows)


def traces(files: list[Path]) -> int:
    """Return how often the person is in *files*."""
    person, found = Person(PERSON), 0
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 25):
                found += person.traces(part)
    return found


async def _measure(url: str) -> list[Step]:
    store = open_store(url, timeout_seconds=OPERATION_SECONDS)
    await store.open()
    await add_person(store)
    steps = await erase(store)
    await store.close()
    return steps


async def _fill_postgres(url: str, messages: int) -> None:
    store = open_store(url, timeout_seconds=OPERATION_SECONDS)
    await store.open()
    await add_person(store)  # adds the number
    await store.close()
    connection = await asyncpg.connect(url)
    await connection.execute(_FILL, NUMBER, messages, timeout=3600)
    await connection.execute(_FILL_STATUSES, timeout=3600)
    await connection.close()


def _on_sqlite(folder: Path, messages: int) -> list[Step]:
    path = folder / "wats.db"
    bench = Bench(path)
    bench.writer.execute("PRAGMA synchronous = OFF")  # of the bulk load only
    bench.fill(messages)
    bench.writer.close()
    print(f"{messages:,} messages, {path.stat().st_size / 2**20:,.0f} MiB", flush=True)
    steps = asyncio.run(_measure(f"sqlite:///{path}"))
    began = time.perf_counter()
    found = traces(list(folder.glob("wats.db*")))
    steps.append(Step("read all files", time.perf_counter() - began, 0, found))
    return steps


def _on_postgres(folder: Path, messages: int) -> list[Step]:
    folder.chmod(0o711)  # the database server may run as another user
    with Stage(Cores(None, None), folder, 1) as stage:
        url = stage.start("bench.postgres", str(stage.path("postgres"))).url
        asyncio.run(_fill_postgres(url, messages))
        print(f"{messages:,} messages", flush=True)
        return asyncio.run(_measure(url))


STORES: Final[dict[str, Callable[[Path, int], list[Step]]]] = {
    "sqlite": _on_sqlite,
    "postgres": _on_postgres,
}


def main() -> None:
    """Measure on the store that the command line selects; exit with 1 if something is left."""
    parser = argparse.ArgumentParser(prog="python -m bench.erase", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000_000, help="how many others have")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="which store")
    options = parser.parse_args()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="erase-", dir=build) as folder:
        steps = STORES[options.store](Path(folder), options.messages)
    for each in steps:
        print(f"{each.name:16} {each.seconds:8.2f} s {each.calls:6} calls {each.rows:6} rows")
    print(f"{'wats erase':16} {sum(each.seconds for each in steps[:3]):8.2f} s")
    sys.exit(1 if any(each.rows for each in steps[2:]) else 0)


if __name__ == "__main__":
    main()
