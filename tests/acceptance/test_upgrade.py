"""A rolling upgrade: a later version migrates the database that the version before still uses.

The later version is a copy of the package with one more migration in each store.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import wats
from tests.acceptance.replicas import (
    CUSTOMERS,
    Journal,
    Load,
    NotStarted,
    Replica,
    readiness,
    stop,
    writing,
)
from tests.settings import NOBODY
from wats.errors import SchemaMismatch
from wats.faults import Fault
from wats.testing import BEARER_TOKEN

pytestmark = pytest.mark.long

LATER_VERSION = "0.2.0"
PAUSE_SECONDS = 0.1
"""How long each customer waits after an acknowledgement, so that the rate is about constant."""

# In the opposite order of a transaction that stores updates, which locks messages first.
ADDITIVE = {
    "sqlite": """
        ALTER TABLE wats_deliveries ADD COLUMN note TEXT;
        CREATE INDEX wats_deliveries_note ON wats_deliveries (note) WHERE note IS NOT NULL;
        ALTER TABLE wats_messages ADD COLUMN note TEXT NOT NULL DEFAULT '';
        CREATE TABLE wats_notes (id INTEGER PRIMARY KEY) STRICT;
    """,
    "postgres": """
        ALTER TABLE wats_deliveries ADD COLUMN note text;
        CREATE INDEX wats_deliveries_note ON wats_deliveries (phone_number_id, note)
            WHERE note IS NOT NULL;
        ALTER TABLE wats_messages ADD COLUMN note text NOT NULL DEFAULT '';
        CREATE TABLE wats_notes (id bigint PRIMARY KEY);
    """,
}


@pytest.fixture
def postgres_url(server) -> Iterator[str]:
    """Return the URL of a database without tables."""
    name = server.make_database("template1")
    yield server.url(name)
    server.drop_database(name)


def make_checkout(folder: Path, *, tolerates: int | None) -> Path:
    """Copy the package to *folder* as a later version.

    Its migrations tolerate the version *tolerates*, or no earlier version if that is `None`.
    """
    package = folder / "wats"
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(wats.__file__).parent, package, ignore=without_caches)
    (package / "version.py").write_text(f'__version__ = "{LATER_VERSION}"\n')
    for dialect, sql in ADDITIVE.items():
        folder_of_dialect = package / "store" / "migrations" / dialect
        last = max(int(each.name[:4]) for each in folder_of_dialect.glob("*.sql"))
        file = folder_of_dialect / f"{last + 1:04}_notes.sql"
        file.write_text(f"-- tolerates: {tolerates or last + 1}\n{sql}")
    return folder


@pytest.fixture
async def deploy(serve, journal, tmp_path) -> AsyncIterator[Callable[..., Replica]]:
    """Prepare a service on a database, of this version or of the later one in a checkout."""
    deployed: list[Replica] = []

    def deploy(url: str, checkout: Path | None = None) -> Replica:
        environ = {"JOURNAL": str(journal.path)}
        if checkout is not None:
            environ["PYTHONPATH"] = str(checkout)
        settings = {
            "graph_url": NOBODY,
            "environ": environ,
            "persistence": {"url": url},
            "handlers": ["replica_handlers:careful"],
        }
        deployed.append(Replica(serve, settings))
        return deployed[-1]

    yield deploy
    for each in deployed:
        await each.leave()


@dataclass
class Rollout:
    """The services during an upgrade, the load on them, and how ready they were."""

    journal: Journal
    session: aiohttp.ClientSession
    load: Load
    readiness: set[int] = field(default_factory=set)

    async def until_handling(self, *replicas: Replica) -> None:
        """Wait until each of *replicas* has handled a few more updates."""
        for each in replicas:
            goal = self._handled_by(each) + CUSTOMERS
            while self._handled_by(each) < goal:
                await asyncio.sleep(0.05)

    def _handled_by(self, replica: Replica) -> int:
        steps = self.journal.steps()
        return sum(each.replica == replica.process.pid for each in steps)

    async def watch(self, replica: Replica) -> None:
        """Record the readiness of *replica* while it gets requests."""
        while True:
            for url in replica.urls:
                status = await readiness(self.session, url)
                if url in replica.urls:  # it is not being stopped
                    self.readiness.add(status)
            await asyncio.sleep(0.02)

    async def until_handled(self) -> None:
        """Wait until every acknowledged update was handled."""
        while not self.load.acknowledged <= self.journal.completed():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def rolling_out(
    journal: Journal, session: aiohttp.ClientSession, replicas: Sequence[Replica]
) -> AsyncIterator[Rollout]:
    """Put load on all of *replicas* that run, until the end of the block."""
    async with writing(session, replicas, 20261128) as load:
        load.pause_seconds = PAUSE_SECONDS
        rollout = Rollout(journal, session, load)
        watching = [asyncio.create_task(rollout.watch(each)) for each in replicas]
        yield rollout
        for task in watching:
            task.cancel()
        ended = await asyncio.gather(*watching, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def fetch(session: aiohttp.ClientSession, replica: Replica, path: str) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {BEARER_TOKEN}"}
    async with session.get(replica.process.url + path, headers=headers) as response:
        return response.status, await response.json()


async def schema_version(session: aiohttp.ClientSession, replica: Replica) -> int:
    _, status = await fetch(session, replica, "/status")
    version: int = status["persistence"]["currentVersion"]
    return version


async def test_the_version_before_serves_during_an_additive_migration_and_starts_after_it(
    deploy, journal, session, postgres_url, tmp_path
) -> None:
    checkout = make_checkout(tmp_path / "checkout", tolerates=2)
    old, new = deploy(postgres_url), deploy(postgres_url, checkout)
    await old.start()
    before = await schema_version(session, old)

    async with rolling_out(journal, session, [old, new]) as rollout:
        await rollout.until_handling(old)
        await new.start()  # applies the migration
        await rollout.until_handling(old, new)
        versions = [await schema_version(session, each) for each in (old, new)]
        await old.stop()
        await rollout.until_handling(new)
        await old.start()
        await rollout.until_handling(old, new)
        await new.stop()
        await rollout.until_handling(old)
    await rollout.until_handled()
    await stop([old, new])

    assert versions == [before + 1] * 2
    assert rollout.load.statuses == rollout.readiness == {200}
    assert journal.check() == 0


async def test_on_sqlite_either_version_starts_after_the_other_and_nothing_is_lost(
    deploy, journal, session, tmp_path
) -> None:
    url = f"sqlite:///{tmp_path}/wats.db"
    old, new = deploy(url), deploy(url, make_checkout(tmp_path / "checkout", tolerates=2))
    await old.start()

    async with rolling_out(journal, session, [old, new]) as rollout:
        await rollout.until_handling(old)
        with pytest.raises(NotStarted, match="store_in_use"):
            await new.start()
        for ending, starting in [(old, new), (new, old)]:  # applies the migration, and goes back
            await ending.stop()
            await starting.start()
            await rollout.until_handling(starting)
    await rollout.until_handled()
    await stop([old])

    assert journal.check() == 0


async def test_the_version_before_is_not_ready_and_cannot_start_after_a_migration_that_excludes_it(
    deploy, session, postgres_url, tmp_path
) -> None:
    checkout = make_checkout(tmp_path / "checkout", tolerates=None)
    old, new = deploy(postgres_url), deploy(postgres_url, checkout)
    await old.start()
    assert (await fetch(session, old, "/readyz"))[0] == 200

    await new.start()
    status, body = await fetch(session, old, "/readyz")
    of_new, _ = await fetch(session, new, "/readyz")
    await old.stop()
    with pytest.raises(NotStarted) as caught:
        await deploy(postgres_url).start()
    await stop([new])

    assert (status, of_new) == (503, 200)
    assert body["error"] == {"code": "not_ready", "message": SchemaMismatch.text}
    assert str(caught.value).splitlines() == [
        f"Error: {SchemaMismatch.text} ({SchemaMismatch.code})",
        f"  persistence.url: {Fault.WRONG_SCHEMA.meaning} ({Fault.WRONG_SCHEMA})",
    ]
