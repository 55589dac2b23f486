"""Why a PostgreSQL database cannot be opened: an error becomes one of a closed list of causes."""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from wats.errors import ConfigIssue, MigrationFailed, SchemaMismatch, StoreError, StoreUnavailable
from wats.faults import Fault, fault_of

KEY: Final = "persistence.url"

_CANNOT_OPEN: Final = "The database cannot be opened."

# The first class that fits: a class stands before the class that it inherits from.
_BY_CLASS: Final[tuple[tuple[type[BaseException], Fault], ...]] = (
    (asyncpg.InvalidPasswordError, Fault.LOGIN_FAILED),
    (asyncpg.InvalidAuthorizationSpecificationError, Fault.LOGIN_REFUSED),
    (asyncpg.InvalidCatalogNameError, Fault.NO_SUCH_DATABASE),
    (asyncpg.InvalidSchemaNameError, Fault.NO_SCHEMA),
    (asyncpg.InsufficientPrivilegeError, Fault.PERMISSION_DENIED),
    (asyncpg.TooManyConnectionsError, Fault.TOO_MANY_CONNECTIONS),
    (asyncpg.CannotConnectNowError, Fault.SERVER_NOT_READY),
    (asyncpg.AdminShutdownError, Fault.SERVER_NOT_READY),
    (asyncpg.CrashShutdownError, Fault.SERVER_NOT_READY),
    (asyncpg.ReadOnlySQLTransactionError, Fault.READ_ONLY_SERVER),
    (asyncpg.DiskFullError, Fault.DISK_FULL),
    (asyncpg.LockNotAvailableError, Fault.DATABASE_LOCKED),
    (asyncpg.QueryCanceledError, Fault.NO_RESPONSE),
    (asyncpg.ClientConfigurationError, Fault.TLS_FAILED),  # a file of a certificate is missing
    (asyncpg.PostgresConnectionError, Fault.CONNECTION_CLOSED),
    (ssl.SSLError, Fault.TLS_FAILED),
    (TimeoutError, Fault.NO_RESPONSE),
    (socket.gaierror, Fault.UNKNOWN_HOST),
    (ConnectionRefusedError, Fault.CONNECTION_REFUSED),
)

_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Explain errors of the block with `explain`."""
    try:
        yield
    except StoreError as error:
        raise explain(error, url) from error.__cause__


def explain(error: StoreError, url: str) -> StoreError:
    """Return *error*, raised while the database at *url* was opened, with its cause."""
    cause = error.__cause__
    match error:
        case StoreError() if error.issue is not None:
            return error
        case SchemaMismatch():
            return SchemaMismatch(issue=_issue(Fault.WRONG_SCHEMA))
        case MigrationFailed():
            return MigrationFailed(issue=_issue(cause_of(cause, url)))
        case StoreUnavailable() if cause is not None:
            return cannot_open(cause_of(cause, url))
        case _:
            return error


def cannot_open(fault: Fault) -> StoreUnavailable:
    """Return the error of a database that cannot be opened because of *fault*."""
    return StoreUnavailable(_CANNOT_OPEN, issue=_issue(fault))


def _issue(fault: Fault) -> ConfigIssue:
    return ConfigIssue(fault.value, KEY, fault.meaning)


def cause_of(error: BaseException | None, url: str) -> Fault:
    """Return the cause of *error*, raised while the database at *url* was opened."""
    for kind, fault in _BY_CLASS:
        if isinstance(error, kind):
            return fault
    return _of_system(error, url) if isinstance(error, OSError) else Fault.SERVER_ERROR


def _of_system(error: OSError, url: str) -> Fault:
    if error.errno in _UNREACHABLE:
        return Fault.UNREACHABLE
    if isinstance(error, FileNotFoundError) and not urlsplit(url).hostname:
        return Fault.CONNECTION_REFUSED  # the URL names the folder of a socket
    if isinstance(error, ConnectionError):
        # asyncpg has no class of its own for a server that offers no TLS.
        return Fault.TLS_FAILED if "SSL" in str(error) else Fault.CONNECTION_CLOSED
    if error.errno is None:  # of a host with several addresses
        return Fault.CONNECTION_REFUSED
    return fault_of(error)
