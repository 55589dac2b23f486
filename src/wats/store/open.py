"""From a URL to a store. No I/O until the store is opened."""

from pathlib import Path
from stat import S_IRWXG, S_IRWXO

from wats.clock import Now, utc_now
from wats.errors import ConfigError, ConfigIssue
from wats.store import Store
from wats.store.sqlite import SQLiteStore
from wats.store.sqlite.bell import Bell
from wats.store.sqlite.connection import MEMORY

_SQLITE = "sqlite:///"

IN_MEMORY = f"{_SQLITE}{MEMORY}"
"""The URL of a store that no other process sees."""


def open_store(url: str, *, now: Now = utc_now, bell: Bell | None = None) -> Store:
    """Return the store that *url* names; it connects when its `open` is awaited.

    `sqlite:///wats.db` is a file in the working directory, `sqlite:////var/lib/wats/wats.db` one
    with an absolute path, and `sqlite:///:memory:` is gone when the store is closed.

    Raises:
        ConfigError: The URL names no store that this wats has.
    """
    if url.startswith(_SQLITE):
        path = url.removeprefix(_SQLITE)
        if not path or "\0" in path or "?" in path or "#" in path:
            raise _refusal("must name a file after 'sqlite:///', without '?' and '#'")
        return SQLiteStore(path, now=now, bell=bell)
    if url.startswith(("postgres://", "postgresql://")):
        raise _refusal("names PostgreSQL, and this wats has no PostgreSQL store; use 'sqlite:///'")
    raise _refusal("must begin with 'sqlite:///'")


def is_open_to_others(url: str) -> bool:
    """Return whether *url* names a file that exists, and whose mode lets other users open it."""
    try:
        mode = Path(url.removeprefix(_SQLITE)).stat().st_mode
    except OSError:
        return False
    return url != IN_MEMORY and bool(mode & (S_IRWXG | S_IRWXO))


def _refusal(reason: str) -> ConfigError:
    # The URL itself is never shown: that of a database server holds a password.
    return ConfigError([ConfigIssue("invalid_persistence_url", "persistence.url", reason)])
