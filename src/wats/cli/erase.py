"""`wats erase`: the data of a person."""

import re
import sys
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from wats.cli.admin import admin_of, change_options, confirm, print_json
from wats.cli.arguments import StrictCommand
from wats.cli.options import ServiceAccess, admin_options
from wats.clock import to_iso
from wats.outbound.messages import digits_of, is_recipient
from wats.version import __version__
from wats.web.ops.erasures import USER_PATTERN, ErasedCounts

_LONGEST_USER: Final = 256
_USER: Final = re.compile(USER_PATTERN)
_MALFORMED: Final = "Must be a phone number with 7 to 15 digits, or a business-scoped user id."


@click.command(cls=StrictCommand)
@click.option(
    "--user",
    required=True,
    metavar="USER",
    help="A phone number or a business-scoped user id, or '-' for stdin, which keeps it out of the "
    "history of the shell.",
)
@click.option(
    "--search-files/--no-search-files",
    default=True,
    help="Whether the files of a SQLite database are searched too. They are read completely, which "
    "takes some seconds for each gigabyte.",
)
@change_options
@admin_options
def erase(
    user: str,
    search_files: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """Erase the data of a person from a running service.

    These are the person's messages, their statuses, windows and stored responses, and every
    outstanding update and dead letter that names the person, also one of another person. Then the
    tables are searched again, and on SQLite every byte of the files. A record for auditors is
    printed: times, numbers of rows, and a digest of the user under a secret of the
    service, which a dry run for the same user prints too. The exit code is 1 if something is left.

    A person with a number and a user id is erased by one command for each.
    """
    name = _plain(sys.stdin.read(_LONGEST_USER).strip() if user == "-" else user)
    admin, started_at = admin_of(access), to_iso(datetime.now(UTC))
    searches = search_files and dry_run  # otherwise after the erasure
    subject, found = admin.erase(name, dry_run=True, search_files=searches)
    erased = left = None
    if not dry_run:
        confirm(f"Erase {_rows(found)} rows?", yes=yes, as_json=as_json)
        _, erased = admin.erase(name, dry_run=False)
        _, left = admin.erase(name, dry_run=True, search_files=search_files)
    record = {
        "subject": subject,
        "dryRun": dry_run,
        "version": __version__,
        "startedAt": started_at,
        "finishedAt": to_iso(datetime.now(UTC)),
        "found": found,
        "erased": erased,
        "left": left,
    }
    _print(record, as_json=as_json)
    if left is not None and any(msgspec.structs.astuple(left)):
        raise click.ClickException("Some data is left. Repeat the command.")


def _plain(user: str) -> str:
    """Return *user*, without the separators of a phone number.

    Raises:
        click.BadParameter: It is neither a phone number nor a user id.
    """
    name = digits_of(user) if is_recipient(user) else user
    if _USER.fullmatch(name) is None:
        raise click.BadParameter(_MALFORMED, param_hint="'--user'")
    return name


def _rows(counts: ErasedCounts) -> int:
    rows = msgspec.structs.asdict(counts)
    return sum(count for name, count in rows.items() if name != "traces")


def _print(record: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    for name, value in record.items():
        shown = value
        if isinstance(value, ErasedCounts):
            counts = msgspec.to_builtins(value)
            shown = ", ".join(
                f"{key} {count}" for key, count in counts.items() if count is not None
            )
        click.echo(f"{name:<11} {'-' if shown is None else shown}")
