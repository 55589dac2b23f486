"""`wats database`: work on databases while no service runs."""

import asyncio
import json
import os
from collections.abc import Mapping

import click
import msgspec

from wats.cli.options import Failure
from wats.errors import WatsError
from wats.inbound import updates
from wats.store.copy import copy_store
from wats.store.transfer import TABLES, Loaded


@click.group()
def database() -> None:
    """Maintain a database that no service is using."""


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
    try:
        return updates.decode(payload).phone_number_id or ""
    except (msgspec.MsgspecError, ValueError):
        return ""  # it becomes a dead letter when it is dispatched, after any number of attempts
