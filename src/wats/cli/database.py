"""`wats database`: copies, backups and restores of databases."""

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from wats.cli.arguments import StrictGroup
from wats.cli.options import FILE, Failure, config_options, load, required_config
from wats.config import EnvRef, FileRef, choose_profile, database_of, read_config
from wats.errors import BackupRefused, WatsError
from wats.inbound import updates
from wats.outbound.items import decode_item
from wats.store.copy import copy_store
from wats.store.open import path_of_file
from wats.store.sqlite.backup import back_up
from wats.store.sqlite.backup import restore as restore_backup
from wats.store.transfer import TABLES, Loaded


@click.group(cls=StrictGroup)
def database() -> None:
    """Copy, back up or restore a database."""


@database.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--from-password-env",
    metavar="NAME",
    help="The environment variable with the password of FROM.",
)
@click.option(
    "--to-password-env", metavar="NAME", help="The environment variable with the password of TO."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def copy(
    source: str,
    target: str,
    from_password_env: str | None,
    to_password_env: str | None,
    as_json: bool,
) -> None:
    """Copy the database FROM to the empty database TO.

    Both are URLs as in `persistence.url`, without passwords. Stop all services first: a database
    that is in use is refused. Everything is copied in one transaction, so after a failure TO is
    still empty. Leases are not copied: a delivery that was leased is due again.
    """
    if any(_has_password(url) for url in (source, target)):
        raise click.UsageError("A URL must not hold a password; name a variable that does.")
    copying = copy_store(
        source,
        target,
        _number_of,
        source_password=_password("--from-password-env", from_password_env),
        target_password=_password("--to-password-env", to_password_env),
    )
    try:
        loaded = asyncio.run(copying)
    except WatsError as error:
        raise Failure(error) from None
    counts = _counts(loaded)
    if as_json:
        click.echo(json.dumps({"copied": counts}))
        return
    for name, count in counts.items():
        click.echo(f"{name:<18}{count:>12,}")


@database.command()
@click.argument("file", metavar="FILE", type=FILE)
@config_options
def backup(
    file: Path, config_path: Path | None, profile: str | None, env_file: Path | None
) -> None:
    """Write a backup of the SQLite database of a config to the new FILE.

    Services may run meanwhile. The backup is checked, and can be read by its owner alone. It
    contains the same personal data as the database.
    """
    try:
        back_up(_path_of_database(config_path, profile, env_file), file)
    except WatsError as error:
        raise Failure(error) from None
    click.echo(f"The backup is in {str(file)!r}.")


@database.command()
@click.argument("file", metavar="FILE", type=FILE)
@config_options
def restore(
    file: Path, config_path: Path | None, profile: str | None, env_file: Path | None
) -> None:
    """Replace the SQLite database of a config by the backup in FILE.

    Stop all services first: a database that is in use is refused. The backup is checked before the
    database is replaced. The previous database stays next to the new one, with its log, and its
    name is printed; delete it when it is not needed any more.
    """
    try:
        previous = restore_backup(file, _path_of_database(config_path, profile, env_file))
    except WatsError as error:
        raise Failure(error) from None
    click.echo("The database is restored.")
    if previous is not None:
        click.echo(f"The previous database is in {str(previous)!r}.")


def _path_of_database(config_path: Path | None, profile: str | None, env_file: Path | None) -> str:
    config_path = required_config(config_path)
    url = choose_profile(read_config(config_path), profile).persistence.url
    if isinstance(url, EnvRef | FileRef):  # a file needs no other secret
        url = database_of(*load(config_path, profile, env_file))[0]
    if url is None or (path := path_of_file(url)) is None:
        raise BackupRefused("The config has no SQLite file; for PostgreSQL, use its own tools.")
    return path


def _has_password(url: str) -> bool:
    # Everyone on the machine can read the arguments of a process.
    userinfo, at, _ = url.partition("://")[2].partition("@")
    return bool(at) and ":" in userinfo


def _counts(loaded: Loaded) -> Mapping[str, int]:
    return {name: loaded.stored[row_type] for row_type, name in TABLES.items()}


def _password(option: str, name: str | None) -> str | None:
    if name is None:
        return None
    if name not in os.environ:
        raise click.UsageError(f"The variable that {option} names is not set.")
    return os.environ[name]


def _number_of(payload: bytes) -> str:
    with suppress(msgspec.MsgspecError):
        return decode_item(payload).phone_number_id
    try:
        return updates.decode(payload).phone_number_id or ""
    except (msgspec.MsgspecError, ValueError):
        return ""  # it becomes a dead letter when it is dispatched, after any number of attempts
