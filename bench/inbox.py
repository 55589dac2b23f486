"""The inbox of a contestant, seen from outside of its process: what is left, what was handled."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import msgspec

from bench.processes import ChildFailed

DRAIN_SECONDS = 60.0
LOOK_SECONDS = 0.002

Query = Callable[[str], Any]
"""Returns the one value of a statement."""

# Messages and statuses have records, and all other updates have identities.
_RECEIVED = """
SELECT (SELECT count(*) FROM wats_messages WHERE direction = 'inbound')
    + (SELECT count(*) FROM wats_statuses)
    + (SELECT count(*) FROM wats_inbox WHERE kind <> 'status')
"""


class Inbox(msgspec.Struct, frozen=True, kw_only=True):
    """A database with an inbox.

    Attributes:
        open: Connects to the database until the end of the block.
        is_outstanding: The statement that returns whether deliveries are left; frequent.
        handled: The statement that returns how many updates were handled.
    """

    open: Callable[[], AbstractContextManager[Query]]
    is_outstanding: str
    handled: str


def sqlite_inbox(path: Path) -> Inbox:
    """Return the inbox in a file."""

    @contextmanager
    def opened() -> Iterator[Query]:
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            yield lambda statement: connection.execute(statement).get

    return Inbox(
        open=opened,
        is_outstanding="SELECT EXISTS (SELECT 1 FROM wats_outstanding)",
        handled=_handled("wats_outstanding"),
    )


def postgres_inbox(url: str) -> Inbox:
    """Return the inbox in a PostgreSQL database."""

    @contextmanager
    def opened() -> Iterator[Query]:
        with asyncio.Runner() as runner:
            connection = runner.run(_connect(url))
            try:
                yield lambda statement: runner.run(_value(connection, statement))
            finally:
                runner.run(connection.close())

    return Inbox(
        open=opened,
        # The table itself has many dead rows at this moment.
        is_outstanding="SELECT sum(pending + leased + retry) > 0 FROM wats_depths",
        handled=_handled("wats_deliveries"),
    )


def _handled(outstanding: str) -> str:
    dead = "SELECT update_id FROM wats_dead_deliveries"
    return (
        f"{_RECEIVED} - (SELECT count(*) FROM (SELECT update_id FROM {outstanding}"
        f" UNION {dead}) AS unhandled)"
    )


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url)


async def _value(connection: Any, statement: str) -> Any:
    return await connection.fetchval(statement)


def await_settled(inbox: Inbox, answers: int) -> float:
    """Wait until nothing is outstanding in *inbox*; return the time.

    Raises:
        ChildFailed: Deliveries were left after a minute, or the number of handled updates is not
            *answers*.
    """
    give_up_at = time.monotonic() + DRAIN_SECONDS
    with inbox.open() as query:
        while query(inbox.is_outstanding):
            if time.monotonic() > give_up_at:
                msg = "The inbox was not drained in time."
                raise ChildFailed(msg)
            time.sleep(LOOK_SECONDS)
        settled_at = time.monotonic()
        handled = query(inbox.handled)
    if handled != answers:
        msg = f"{answers} webhooks were acknowledged and {handled} were handled."
        raise ChildFailed(msg)
    return settled_at
