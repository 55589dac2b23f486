"""The cost of an update for the thread that writes to SQLite, in an empty and in a large store.

The stores take turns, so that a slow minute of the machine hits both. A batch is one transaction:
62 updates, and the settlement of the previous batch. The times include commits, index batches and
checkpoints. The benchmark runs in its own process, with its order on stdin and the result on
stdout.
"""

import gc
import secrets
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import TypeAlias

import apsw
import msgspec

from wats.clock import EPOCH, to_ms, utc_now
from wats.privacy import short_fingerprint
from wats.store.migrate import load_migrations
from wats.store.records import (
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Direction,
    MessageRecord,
    Settlement,
    StatusRecord,
    WindowRecord,
)
from wats.store.sqlite import deliveries, inbox, messages, statuses
from wats.store.sqlite.clock import StoreClock
from wats.store.sqlite.connection import Writer, connect_writer, migrate
from wats.store.sqlite.message_index import BUCKET_BITS, index_pending, merge

BATCH = 62
BATCHES_PER_ROUND = 9
"""Enough for an index batch, so that each round has one."""

LOOK_UPS = 500

MONTHLY_MESSAGES = 100_000_000
CUSTOMERS = 100_000
CONSUMER = "bench.handlers:ignore"
NUMBER = "200000000000002"
STATUSES = ("sent", "delivered", "read")

_INTERVAL_MS = 30 * 86_400_000 / MONTHLY_MESSAGES

_FILL_MESSAGES = f"""
WITH fresh AS MATERIALIZED (
    SELECT value AS row_id, 'wamid.' || hex(randomblob(24)) AS wa_message_id,
        '1555' || (1000000 + abs(random() % {CUSTOMERS})) AS customer, value % 2 AS is_sent,
        ?2 + CAST(value * {_INTERVAL_MS} AS INTEGER) AS at
    FROM carray(?1)
)
INSERT INTO wats_messages (
    row_id, wa_message_hash, window_hash, opened_at, phone_number_id, wa_message_id, direction,
    from_phone, to_phone, type, status, graph_message_id, created_at, updated_at
)
SELECT row_id, short_fingerprint(wa_message_id),
    short_fingerprint('{NUMBER}' || iif(is_sent, '/', ' ') || customer), iif(is_sent, NULL, at),
    '{NUMBER}', wa_message_id, iif(is_sent, 'outbound', 'inbound'), iif(is_sent, NULL, customer),
    iif(is_sent, customer, NULL), 'text', iif(is_sent, 'read', 'received'), NULL, at, at
FROM fresh
"""

_FILL_STATUSES = """
INSERT INTO wats_statuses (id, status, participant, error_code, occurred_at)
SELECT (row_id << 16) + n.value, 'delivered', '', NULL, created_at
FROM wats_messages CROSS JOIN carray(?2) AS n
WHERE row_id > ?1 AND direction = 'outbound'
"""

_MARK = "UPDATE wats_marks SET last_row_id = ?, pending_latest_at = ? WHERE id = 1"

_SENT_NEAR = """
SELECT wa_message_id FROM wats_messages WHERE row_id >= ? AND direction = 'outbound' LIMIT 1
"""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Wall and processor time of one update, in microseconds.

    `None` where an empty store has no such update.
    """

    name: str
    empty_us: float | None
    empty_cpu_us: float | None
    filled_us: float
    filled_cpu_us: float


class WriterCosts(msgspec.Struct, frozen=True, kw_only=True):
    """The result, and the size of the filled store.

    Attributes:
        look_ups_us: Microseconds for one look-up in all buckets of the filled store, by kind.
    """

    messages: int
    look_ups_us: dict[str, float]
    mib: float
    fill_seconds: float
    costs: list[Cost]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of the stores, their number of messages, and the interval of measurements."""

    folder: str
    messages: int
    rounds: int


def _open_writer(path: Path) -> Writer:
    clock = StoreClock()
    writer = connect_writer(str(path), 5.0, clock, lambda: None)
    migrate(writer, load_migrations("sqlite"))
    writer.execute("BEGIN IMMEDIATE")
    clock.start(writer)
    deliveries.register(writer, [Consumer(name=CONSUMER)])
    writer.commit()
    return writer


Batch: TypeAlias = Callable[[], Callable[[], object]]
"""Prepares a batch and returns the function to measure, which writes it in a transaction."""


class Bench:
    """One store, and the batches for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.writer = _open_writer(path)
        self.history = 0
        self._random = Random(1)  # the same customers in both stores
        self._held: list[Delivery] = []
        self._due: list[tuple[str, str]] = []

    def fill(self, count: int) -> None:
        """Record *count* messages, every other one sent, with three statuses each."""
        writer, step = self.writer, 1 << BUCKET_BITS
        writer.create_scalar_function("short_fingerprint", short_fingerprint, 1)
        began_at = to_ms(utc_now()) - round(count * _INTERVAL_MS)
        numbers = apsw.carray(array("q", range(len(STATUSES))))
        writer.execute("INSERT OR IGNORE INTO wats_numbers VALUES (?)", (NUMBER,))
        for first in range(1, count + 1, step):
            last = min(first + step - 1, count)
            writer.execute("BEGIN")
            rows = apsw.carray(array("q", range(first, last + 1)))
            writer.execute(_FILL_MESSAGES, (rows, began_at))
            writer.execute(_FILL_STATUSES, (first - 1, numbers))
            writer.execute(_MARK, (last, began_at + round(last * _INTERVAL_MS)))
            index_pending(writer)
            writer.commit()
        while merge(writer):
            pass
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.history = count

    def mib(self) -> float:
        """Return the size of the database."""
        return self._path.stat().st_size / 2**20

    def time(self, batch: Batch) -> tuple[float, float]:
        """Write *batch*; return wall and processor time."""
        write = batch()
        wall, cpu = time.perf_counter(), time.thread_time()
        self.writer.execute("BEGIN IMMEDIATE")
        write()
        self.writer.commit()
        return time.perf_counter() - wall, time.thread_time() - cpu

    def _receive(self, arrivals: Sequence[Arrival]) -> Callable[[], object]:
        done = [Settlement(each, DeliveryState.DONE) for each in self._held]
        calls = [[each] for each in arrivals]  # a webhook has one update
        slots = {CONSUMER: len(arrivals)}

        def write() -> None:
            deliveries.settle(self.writer, done)
            results = inbox.receive(self.writer, calls, slots)
            self._held = [each for (one,) in results if one is not None for each in one.leased]

        return write

    def messages(self) -> Callable[[], object]:
        """Receive new messages that open windows."""
        return self._receive([self._message(utc_now()) for _ in range(BATCH)])

    def _message(self, now: datetime) -> Arrival:
        customer = f"1555{1_000_000 + self._random.randrange(CUSTOMERS)}"
        message = MessageRecord(
            phone_number_id=NUMBER,
            wa_message_id=f"wamid.{secrets.token_hex(24)}",
            direction=Direction.INBOUND,
            from_phone=customer,
            type="text",
            status="received",
            created_at=now,
            updated_at=now,
        )
        window = WindowRecord(phone_number_id=NUMBER, customer=customer, last_inbound_at=now)
        return _arrival(now, message=message, window=window)

    def sends(self) -> Callable[[], object]:
        """Record messages that were sent."""
        now = utc_now()
        records = [
            MessageRecord(
                phone_number_id=NUMBER,
                wa_message_id=f"wamid.{secrets.token_hex(24)}",
                direction=Direction.OUTBOUND,
                to_phone=f"1555{1_000_000 + self._random.randrange(CUSTOMERS)}",
                type="text",
                status="accepted",
                created_at=now,
                updated_at=now,
            )
            for _ in range(BATCH)
        ]
        self._due += [(name, each.wa_message_id) for name in STATUSES for each in records]
        return lambda: messages.record(self.writer, records)

    def statuses(self) -> Callable[[], object]:
        """Receive statuses of messages sent in this round."""
        due, self._due = self._due[:BATCH], self._due[BATCH:]
        return self._receive([_status(*each) for each in due])

    def late_statuses(self) -> Callable[[], object]:
        """Receive statuses of messages sent within the last day of the history."""
        day = min(MONTHLY_MESSAGES // 30, self.history)
        names = []
        for _ in range(BATCH):
            row_id = self.history - 1 - self._random.randrange(day)
            names.append(self.writer.execute(_SENT_NEAR, (row_id,)).get)
        return self._receive([_status("played", name) for name in names])

    def look_ups_us(self) -> dict[str, float]:
        """Time look-ups that find nothing, in all buckets."""
        names = [f"wamid.{secrets.token_hex(24)}" for _ in range(LOOK_UPS)]
        hashes = [short_fingerprint(name) for name in names]
        unsent = [_status("sent", name).status for name in names]
        return {
            "a message by id": self._look_up_us(
                lambda: [messages.get(self.writer, name) for name in names]
            ),
            "a window": self._look_up_us(
                lambda: [messages.last_inbound_at(self.writer, NUMBER, name) for name in names]
            ),
            "a message without a time": self._look_up_us(
                lambda: self.writer.message_index.find_since(
                    self.writer, hashes, [to_ms(EPOCH)] * LOOK_UPS
                )
            ),
            "the first status of a message of another application": self._look_up_us(
                lambda: statuses.record(self.writer, [each for each in unsent if each is not None])
            ),
        }

    def _look_up_us(self, look_up: Callable[[], object]) -> float:
        self.writer.execute("BEGIN IMMEDIATE")
        began = time.thread_time()
        look_up()
        spent = time.thread_time() - began
        self.writer.roll_back()
        return spent / LOOK_UPS * 1e6


def _status(status: str, wa_message_id: str) -> Arrival:
    now = utc_now()
    return _arrival(
        now,
        status=StatusRecord(
            phone_number_id=NUMBER, wa_message_id=wa_message_id, status=status, occurred_at=now
        ),
    )


def _arrival(
    now: datetime,
    *,
    message: MessageRecord | None = None,
    window: WindowRecord | None = None,
    status: StatusRecord | None = None,
) -> Arrival:
    return Arrival(
        key=secrets.token_bytes(16),
        occurred_at=now - timedelta(microseconds=now.microsecond),
        received_at=now,
        kind="message" if status is None else "status",
        phone_number_id=NUMBER,
        ordering_key=secrets.randbits(31),
        payload=bytes(700),
        consumers=(CONSUMER,),
        message=message,
        window=window,
        status=status,
    )


Times: TypeAlias = dict[tuple[str, str], list[tuple[float, float]]]


def _take_turns(empty: Bench, filled: Bench, rounds: int) -> Times:
    times: Times = {}
    for number in range(rounds + 1):
        for name, bench in (("empty", empty), ("filled", filled)):
            kinds = {"a message": bench.messages, "a send": bench.sends, "a status": bench.statuses}
            if bench.history:
                kinds["a status of a message sent within a day"] = bench.late_statuses
            for kind, batch in kinds.items():
                count = BATCHES_PER_ROUND * (len(STATUSES) if kind == "a status" else 1)
                measured = [bench.time(batch) for _ in range(count)]
                if number > 0:  # the first round warms up
                    times.setdefault((kind, name), []).extend(measured)
    return times


def _mean_us(times: Sequence[float]) -> float:
    return sum(times) / len(times) / BATCH * 1e6


def measure(order: Order) -> WriterCosts:
    """Fill a store, and measure it next to an empty one."""
    folder = Path(order.folder)
    empty, filled = Bench(folder / "empty.db"), Bench(folder / "filled.db")
    began = time.perf_counter()
    filled.fill(order.messages)
    fill_seconds = time.perf_counter() - began
    times = _take_turns(empty, filled, order.rounds)
    costs = []
    for kind in dict.fromkeys(kind for kind, _ in times):
        bare = times.get((kind, "empty"), [])
        full = times[kind, "filled"]
        costs.append(
            Cost(
                name=kind,
                empty_us=_mean_us([wall for wall, _ in bare]) if bare else None,
                empty_cpu_us=_mean_us([cpu for _, cpu in bare]) if bare else None,
                filled_us=_mean_us([wall for wall, _ in full]),
                filled_cpu_us=_mean_us([cpu for _, cpu in full]),
            )
        )
    return WriterCosts(
        messages=order.messages,
        look_ups_us=filled.look_ups_us(),
        mib=filled.mib(),
        fill_seconds=fill_seconds,
        costs=costs,
    )


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    gc.disable()
    sys.stdout.buffer.write(msgspec.json.encode(measure(order)))


if __name__ == "__main__":
    main()
