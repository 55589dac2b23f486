"""Makes writers on a database in memory, with the schema and some consumers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wats.store.migrate import load_migrations
from wats.store.records import Consumer
from wats.store.sqlite import deliveries
from wats.store.sqlite.clock import StoreClock
from wats.store.sqlite.connection import MEMORY, Writer, connect_writer, migrate
from wats.store.sqlite.message_index import INDEX_BATCH

CONSUMERS = [Consumer(name=name, lease_seconds=60.0) for name in ("handlers", "a", "b")]
NAMES = frozenset(consumer.name for consumer in CONSUMERS)


class Milliseconds:
    """A clock of a store that moves only when it is advanced."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


def ignore() -> None:
    """Stand in for a function that wakes other processes."""


def open_writer(
    path: str = MEMORY,
    clock: Callable[[], int] | None = None,
    on_work: Callable[[], None] = ignore,
    index_batch: int = INDEX_BATCH,
) -> Writer:
    writer = connect_writer(path, 0.1, clock or Milliseconds(), on_work, index_batch)
    migrate(writer, load_migrations("sqlite"))
    if isinstance(clock, StoreClock):
        with transaction(writer):
            clock.start(writer)
    with transaction(writer):
        deliveries.register(writer, CONSUMERS)
    return writer


@contextmanager
def transaction(writer: Writer) -> Iterator[None]:
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
        writer.commit()
    except BaseException:
        writer.roll_back()
        raise


def steps_of(writer: Writer, run: Callable[[], object]) -> int:
    """Count the steps of SQLite's virtual machine, in hundreds."""
    hundreds = 0

    def count() -> bool:
        nonlocal hundreds
        hundreds += 1
        return False

    writer.set_progress_handler(count, 100)
    run()
    writer.set_progress_handler(None, 0)
    return hundreds
