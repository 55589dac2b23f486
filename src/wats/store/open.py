"""Make a store from a URL, without I/O until the store is opened."""

from pathlib import Path
from stat import S_IRWXG, S_IRWXO
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from wats.clock import Now, utc_now
from wats.errors import ConfigError, ConfigIssue
from wats.extras import install_command
from wats.store import Store
from wats.store.sqlite import SQLiteStore
from wats.store.sqlite.bell import Bell
from wats.store.sqlite.connection import MEMORY

_SQLITE = "sqlite:///"
_POSTGRES = "postgresql://", "postgres://"
_PARAMETERS: Final = frozenset(
    {"host", "port", "user", "sslmode", "sslrootcert", "sslcert", "sslkey"}
)
"""The permitted query parameters of a PostgreSQL URL."""

IN_MEMORY = f"{_SQLITE}{MEMORY}"
"""The URL of a store in the memory of one process."""


def open_store(
    url: str,
    *,
    password: str | None = None,
    now: Now = utc_now,
    bell: Bell | None = None,
    timeout_seconds: float = 5.0,
) -> Store:
    """Return the store at *url*. It connects when its `open` is awaited.

    `sqlite:///wats.db` is a file in the working directory, `sqlite:////var/lib/wats/wats.db` a file
    with an absolute path, and `sqlite:///:memory:` a store in memory that ends with `close`.
    `postgresql://user@host:5432/name` is a PostgreSQL database, and
    `postgresql://user@/name?host=/run/postgresql` a database behind a Unix socket.

    Args:
        url: The database.
        password: The password of a PostgreSQL database; replaces the password in *url*.
        now: The wall clock of a SQLite store; PostgreSQL has a clock of its own.
        bell: Wakes the other processes that use a SQLite file.
        timeout_seconds: The time limit of an operation.

    Raises:
        ConfigError: The URL is not that of a supported store.
    """
    if url.startswith(_SQLITE):
        path = url.removeprefix(_SQLITE)
        if not path or "\0" in path or "?" in path or "#" in path:
            raise _refusal("must name a file after 'sqlite:///', without '?' and '#'")
        return SQLiteStore(path, now=now, bell=bell, timeout_seconds=timeout_seconds)
    if url.startswith(_POSTGRES):
        return _open_postgres(url, password, timeout_seconds)
    raise _refusal("must begin with 'sqlite:///' or 'postgresql://'")


def _open_postgres(url: str, password: str | None, timeout_seconds: float) -> Store:
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
        names = {name for name, _ in parse_qsl(parts.query, strict_parsing=bool(parts.query))}
    except ValueError:
        raise _refusal("must be a URL such as 'postgresql://user@host:5432/name'") from None
    if not has_port or "\0" in url or parts.fragment or len(parts.path) < 2:
        raise _refusal("must name a database: 'postgresql://user@host:5432/name'")
    if names - _PARAMETERS:
        allowed = ", ".join(f"'{name}'" for name in sorted(_PARAMETERS))
        raise _refusal(f"may have these parameters after '?': {allowed}")
    try:
        from wats.store.postgres import PostgresStore, limits_of  # asyncpg is optional
    except ModuleNotFoundError as error:
        if (install := install_command(error)) is None:
            raise
        msg = f"is a PostgreSQL URL, which needs a package that is not installed; run: {install}"
        raise _refusal(msg) from None
    return PostgresStore(url, password=password, limits=limits_of(timeout_seconds))


def path_of_file(url: str) -> str | None:
    """Return the path of the SQLite file that *url* names; `None` for any other database."""
    return url.removeprefix(_SQLITE) if url.startswith(_SQLITE) and url != IN_MEMORY else None


def is_open_to_others(url: str) -> bool:
    """Return whether *url* is an existing file whose mode permits access to other users."""
    try:
        mode = Path(url.removeprefix(_SQLITE)).stat().st_mode
    except OSError:
        return False
    return url != IN_MEMORY and bool(mode & (S_IRWXG | S_IRWXO))


def _refusal(reason: str) -> ConfigError:
    # The URL itself is never shown: it may contain a password.
    return ConfigError([ConfigIssue("invalid_persistence_url", "persistence.url", reason)])
