"""Checking a PostgreSQL database without changing it."""

from wats.store.migrate import load_migrations
from wats.store.postgres.connection import Connector, Limits, close, translated
from wats.store.postgres.migrations import verify
from wats.store.postgres.open_faults import explained


async def probe(url: str, password: str | None) -> None:
    """Check that a service can use the database at *url*.

    Raises:
        StoreUnavailable: The server cannot be reached, or refuses the user.
        SchemaMismatch: The schema is not one that this version can use.
    """
    with explained(url):
        connection = await Connector(url, password, Limits()).connect()
        try:
            with translated():
                await verify(connection, load_migrations("postgres"))
        finally:
            await close(connection)
