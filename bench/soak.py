"""`python -m bench.soak`: constant load on PostgreSQL; the tables of the queue must not grow.

Deliveries are inserted and deleted all the time, so what the server does not clean up in time stays
as dead rows, and the tables grow. The last quarter of the run is compared with the one before it.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from bench.contestants import HOOK, Stage
from bench.inbox import await_settled, postgres_inbox
from bench.machine import Cores
from bench.payloads import Webhooks
from bench.processes import ROOT, ChildFailed
from wats.testing import APP_SECRET

TABLES = ("wats_deliveries", "wats_depths", "wats_clock", "wats_consumers")
"""The tables whose number of rows does not depend on how long the run is."""

LOOKS = 120
"""How often the tables are measured in a run."""

CONNECTIONS = 4
GROWTH = 1.25
SLACK_KIB = 256
SLACK_ROWS = 1_000

_MEASURE = """
SELECT relname, pg_total_relation_size(relid) / 1024, n_dead_tup
FROM pg_stat_user_tables WHERE relname = ANY($1::text[])
"""
_ROW = "{:20} {:>12} {:>12} {:>12} {:>12}  {}"


class Size(msgspec.Struct, frozen=True):
    """One measurement of a table with its indexes."""

    kib: int
    dead_rows: int


class Verdict(msgspec.Struct, frozen=True):
    """The maximum of a table in the third and in the last quarter of a run."""

    table: str
    before: Size
    last: Size

    @property
    def is_level(self) -> bool:
        """Whether neither the size nor the number of dead rows has grown."""
        return (
            self.last.kib <= self.before.kib * GROWTH + SLACK_KIB
            and self.last.dead_rows <= self.before.dead_rows * GROWTH + SLACK_ROWS
        )


def judge(looks: Sequence[Mapping[str, Size]]) -> Sequence[Verdict]:
    """Compare the last two quarters of *looks*, for each table."""
    quarter = len(looks) // 4
    before, last = looks[-2 * quarter : -quarter], looks[-quarter:]
    return [Verdict(table, _largest(before, table), _largest(last, table)) for table in TABLES]


def _largest(looks: Sequence[Mapping[str, Size]], table: str) -> Size:
    sizes = [look[table] for look in looks]
    return Size(max(each.kib for each in sizes), max(each.dead_rows for each in sizes))


async def _measure(connection: Any) -> Mapping[str, Size]:
    rows = await connection.fetch(_MEASURE, TABLES)
    return {table: Size(kib, dead_rows) for table, kib, dead_rows in rows}


class Load:
    """Delivers webhooks at a constant rate; each must be acknowledged."""

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._pause = CONNECTIONS / rate
        self._webhooks = Webhooks(path=HOOK, app_secret=APP_SECRET)
        self.acknowledged = 0

    async def run(self, seconds: float) -> None:
        """Deliver webhooks for *seconds*."""
        webhooks = round(seconds / self._pause)
        async with asyncio.TaskGroup() as connections:
            for number in range(CONNECTIONS):
                connections.create_task(self._deliver(webhooks, number / CONNECTIONS))

    async def _deliver(self, webhooks: int, offset: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        begin = time.monotonic() + offset * self._pause
        for number in range(webhooks):
            due = begin + number * self._pause
            await asyncio.sleep(due - time.monotonic())
            writer.write(self._webhooks.make())
            await self._acknowledgement(reader)
        writer.close()

    async def _acknowledgement(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            msg = f"The server answered {head[:40]!r}."
            raise ChildFailed(msg)
        length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
        await reader.readexactly(int(length))
        self.acknowledged += 1


async def soak(port: int, url: str, *, seconds: float, rate: float) -> tuple[int, Sequence[Any]]:
    """Run the load; return how many webhooks were acknowledged, and the measurements."""
    load, looks = Load(port, rate), []
    connection = await asyncpg.connect(url)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(seconds))
        for _ in range(LOOKS):
            await asyncio.sleep(seconds / LOOKS)
            looks.append(await _measure(connection))
            deliveries = looks[-1][TABLES[0]]
            print(
                f"{load.acknowledged} acknowledged; {TABLES[0]} has {deliveries.kib} KiB,"
                f" {deliveries.dead_rows} dead rows",
                file=sys.stderr,
                flush=True,
            )
    await connection.close()
    return load.acknowledged, looks


def main() -> None:
    """Run the soak that the command line describes; exit with 1 if a table has grown."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="the length of the run")
    parser.add_argument("--rate", type=float, default=200.0, help="webhooks per second")
    options = parser.parse_args()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=build) as folder:
        Path(folder).chmod(0o711)  # the database server may run as another user
        with Stage(Cores(None, None), Path(folder), CONNECTIONS) as stage:
            url = stage.start("bench.postgres", str(stage.path("postgres"))).url
            port = stage.start_wats("soak", database_url=url).port
            run = soak(port, url, seconds=options.minutes * 60, rate=options.rate)
            acknowledged, looks = asyncio.run(run)
            await_settled(postgres_inbox(url), acknowledged)
    verdicts = judge(looks)
    print(f"{acknowledged} webhooks in {options.minutes:g} minutes, all handled")
    print(_ROW.format("maximum in quarter", "3: KiB", "4: KiB", "3: dead rows", "4: dead rows", ""))
    for each in verdicts:
        sizes = each.before.kib, each.last.kib, each.before.dead_rows, each.last.dead_rows
        print(_ROW.format(each.table, *sizes, "level" if each.is_level else "GROWN"))
    sys.exit(0 if all(each.is_level for each in verdicts) else 1)


if __name__ == "__main__":
    main()
