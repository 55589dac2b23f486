"""The causes for which a PostgreSQL database cannot be opened."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from tests.store.postgres.server import NUMBERS, as_role, execute
from wats.errors import CopyRefused, MigrationFailed, SchemaMismatch, StoreError, StoreUnavailable
from wats.faults import Fault
from wats.store.copy import copy_store
from wats.store.postgres import PostgresStore
from wats.store.postgres.connection import Limits
from wats.store.postgres.open_faults import cause_of, explain
from wats.store.postgres.probe import probe

NOWHERE = "postgresql://canary@127.0.0.1:9/canary"
IMPATIENT = Limits(connect_seconds=0.3)


async def refusal_of(url: str, limits: Limits = IMPATIENT) -> StoreError:
    store = PostgresStore(url, limits=limits)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    return caught.value


def code_of(error: StoreError) -> str:
    assert error.issue is not None
    assert "canary" not in error.with_code()
    return error.issue.code


async def test_a_missing_database_and_role_are_named_as_the_cause(
    url_of: Callable[[str], str], empty_database: str
) -> None:
    no_database = await refusal_of(url_of("canary"))
    no_role = await refusal_of(as_role(empty_database, "canary"))

    assert code_of(no_database) == "no_such_database"
    assert no_database.with_code() == (
        "The database cannot be opened. (persistence_unavailable)\n"
        "  persistence.url: the server has no such database (no_such_database)"
    )
    assert no_database.message == "The database cannot be opened."
    assert code_of(no_role) == "login_refused"


async def test_missing_permissions_are_named_as_the_cause(empty_database: str, role: str) -> None:
    url = as_role(empty_database, role)

    no_tables = await refusal_of(url)
    await execute(empty_database, "DROP SCHEMA public")
    no_schema = await refusal_of(url)
    await execute(empty_database, f"ALTER ROLE {role} CONNECTION LIMIT 0")
    no_connection = await refusal_of(url)

    assert code_of(no_tables) == "permission_denied"
    assert code_of(no_schema) == "no_schema"
    assert code_of(no_connection) == "too_many_connections"


async def test_a_read_only_server_is_named_as_the_cause(empty_database: str, role: str) -> None:
    await execute(empty_database, f"ALTER ROLE {role} SET default_transaction_read_only = on")

    assert code_of(await refusal_of(as_role(empty_database, role))) == "read_only_server"


async def test_a_new_database_that_cannot_store_all_texts_is_refused(
    url_of: Callable[[str], str],
) -> None:
    name = f"latin_{next(NUMBERS)}"
    latin = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    await execute(url_of("postgres"), f"CREATE DATABASE {name} {latin}")

    opened = await refusal_of(url_of(name))
    with pytest.raises(StoreUnavailable) as probed:
        await probe(url_of(name), None)

    assert code_of(opened) == code_of(probed.value) == "wrong_encoding"
    await execute(url_of("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


async def test_another_schema_is_named_as_the_cause(database: str) -> None:
    await execute(database, "UPDATE wats_schema_migrations SET checksum = ''")

    opened = await refusal_of(database)
    with pytest.raises(SchemaMismatch) as probed:
        await probe(database, None)

    assert isinstance(opened, SchemaMismatch)
    assert code_of(opened) == code_of(probed.value) == "wrong_schema"


@contextmanager
def listening(*, backlog: int = 5) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield listener.getsockname()[1]


async def test_an_address_without_a_server_is_named_as_the_cause() -> None:
    with listening() as port:
        silent = await refusal_of(f"postgresql://canary@127.0.0.1:{port}/canary")

    assert code_of(await refusal_of(NOWHERE)) == "connection_refused"
    assert code_of(await refusal_of("postgresql://canary@/canary?host=/canary")) == (
        "connection_refused"
    )
    assert code_of(silent) == "no_response"


@pytest.mark.parametrize(
    ("response", "cause"), [(b"", "connection_closed"), (b"N", "tls_failed"), (b"H", "tls_failed")]
)
async def test_a_server_without_tls_or_of_another_kind_is_named_as_the_cause(
    response: bytes, cause: str
) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(response)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://canary@127.0.0.1:{port}/canary?sslmode=require"

        assert code_of(await refusal_of(url, Limits(connect_seconds=5))) == cause


async def test_a_missing_certificate_is_named_as_the_cause() -> None:
    url = f"{NOWHERE}?sslmode=verify-full&sslrootcert=/canary.crt"

    assert code_of(await refusal_of(url)) == "no_such_file"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (asyncpg.InvalidPasswordError("canary"), Fault.LOGIN_FAILED),
        (asyncpg.InvalidAuthorizationSpecificationError("canary"), Fault.LOGIN_REFUSED),
        (asyncpg.CannotConnectNowError("canary"), Fault.SERVER_NOT_READY),
        (asyncpg.DiskFullError("canary"), Fault.DISK_FULL),
        (asyncpg.LockNotAvailableError("canary"), Fault.DATABASE_LOCKED),
        (asyncpg.ClientConfigurationError("canary"), Fault.TLS_FAILED),
        (asyncpg.ConnectionDoesNotExistError("canary"), Fault.CONNECTION_CLOSED),
        (asyncpg.DataError("canary"), Fault.SERVER_ERROR),
        (asyncpg.InternalClientError("canary"), Fault.SERVER_ERROR),
        (ssl.SSLCertVerificationError("canary"), Fault.TLS_FAILED),
        (socket.gaierror(socket.EAI_NONAME, "canary"), Fault.UNKNOWN_HOST),
        (OSError("Multiple exceptions: canary"), Fault.CONNECTION_REFUSED),
        (OSError(101, "canary"), Fault.UNREACHABLE),
        (ConnectionResetError(104, "canary"), Fault.CONNECTION_CLOSED),
        (PermissionError(13, "canary"), Fault.PERMISSION_DENIED),
        (TimeoutError(), Fault.NO_RESPONSE),
        (None, Fault.SERVER_ERROR),
    ],
)
def test_each_error_has_a_cause_without_its_text(error: BaseException | None, cause: Fault) -> None:
    assert cause_of(error, NOWHERE) is cause
    assert "canary" not in cause.meaning


def test_the_cause_of_a_failed_migration_is_that_of_its_error() -> None:
    failed = MigrationFailed()
    failed.__cause__ = asyncpg.InsufficientPrivilegeError("canary")

    explained = explain(failed, NOWHERE)

    assert isinstance(explained, MigrationFailed)
    assert code_of(explained) == "permission_denied"


def test_an_error_with_its_own_reason_stays_as_it_is() -> None:
    for error in (CopyRefused("text"), StoreUnavailable()):
        assert explain(error, NOWHERE) is error


async def test_a_copy_names_the_argument_whose_database_cannot_be_opened(
    empty_database: str, url_of: Callable[[str], str]
) -> None:
    with pytest.raises(StoreError) as source:
        await copy_store(url_of("canary"), empty_database, lambda _: "")
    with pytest.raises(StoreError) as target:
        await copy_store(empty_database, url_of("canary"), lambda _: "")

    paths = [each.value.issue.path for each in (source, target) if each.value.issue]
    assert paths == ["FROM", "TO"]
    assert code_of(source.value) == code_of(target.value) == "no_such_database"
