"""docs/postgresql.md is followed from its top to its end, from SQLite to a PostgreSQL server."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.docs.webhooks import post_messages
from tests.pages import PAGES, blocks
from tests.store.postgres.server import Server, execute
from tests.walk import SERVE, Reader

pytestmark = pytest.mark.long

PAGE = "docs/postgresql.md"
SHOWN_URL = "postgresql://wats@db.example:5432/wats?sslmode=verify-full"
PASSWORD = "..."
"""The password of the page, which the command reads from the variable that it names."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def reader(tmp_path: Path, server: Server) -> Iterator[Reader]:
    with Reader(tmp_path, DATABASE_PASSWORD=PASSWORD) as reader:
        url = f"postgresql://wats@/wats?host={quote(str(server.socket.parent))}"
        reader.places |= {"/var/lib/wats": str(reader.folder), re.escape(SHOWN_URL): url}
        reader.prepare()
        reader.write("secrets/database-password", PASSWORD)
        yield reader


def run_sql(server: Server, database: str, script: str) -> None:
    """Run the statements of *script* one by one, as `psql` does."""
    for statement in script.split(";\n"):
        if statement.strip():
            asyncio.run(execute(server.url(database), statement))


def test_a_store_moves_to_the_database_that_the_page_sets_up(
    reader: Reader, server: Server
) -> None:
    (set_up,) = blocks(PAGE, "sql")
    run_sql(server, "postgres", set_up)
    with reader.serving(SERVE):
        post_messages(reader, "wamid.1")

    said = reader.succeed(PAGES[PAGE])

    assert re.search(r"^messages +1$", said[-1].out, flags=re.MULTILINE)
    with reader.serving(SERVE):
        assert post_messages(reader, "wamid.1")["skipped"] == 1
