"""`wats inbox`: the outstanding updates of a running service."""

from collections.abc import Mapping, Sequence

import click

from wats.cli import admin
from wats.cli.admin import (
    admin_of,
    change_options,
    chosen_options,
    filter_options,
    list_page,
    page_options,
    shown_options,
)
from wats.cli.arguments import StrictGroup
from wats.cli.options import ServiceAccess, admin_options


@click.group(cls=StrictGroup)
def inbox() -> None:
    """List, show, retry and discard outstanding updates of a running service."""


@inbox.command("list")
@filter_options
@click.option(
    "--state",
    type=click.Choice(["pending", "leased", "retry"]),
    metavar="STATE",
    help="Only updates in this state: pending, leased or retry.",
)
@page_options
@admin_options
def list_some(
    query: Mapping[str, str],
    state: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """List outstanding updates in order of arrival, without content.

    An update has a line for each consumer that has not handled it.
    """
    wanted = query if state is None else {**query, "state": state}
    list_page(admin_of(access), wanted, limit=limit, cursor=cursor, as_json=as_json)


@inbox.command()
@shown_options
@admin_options
def show(delivery_id: str, content: bool, as_json: bool, access: ServiceAccess) -> None:
    """Show the outstanding update ID."""
    admin.show(admin_of(access), delivery_id, with_content=content, as_json=as_json)


@inbox.command()
@chosen_options
@change_options
@admin_options
def retry(
    ids: Sequence[str],
    query: Mapping[str, str],
    every: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """Handle updates that wait for a retry now, instead of after the backoff.

    Name them by ID or by filters. Attempts stay counted. An update that is being handled, or that
    waits for an earlier one of its conversation, is not changed.
    """
    client = admin_of(access)
    chosen = admin.chosen_ids(client, ids, query, every=every, dead=False)
    admin.change_deliveries(client, "retry", chosen, dry_run=dry_run, yes=yes, as_json=as_json)


@inbox.command()
@chosen_options
@change_options
@admin_options
def discard(
    ids: Sequence[str],
    query: Mapping[str, str],
    every: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """Erase outstanding updates, which are then never handled.

    Name them by ID, or by filters, such as those of a handler that was removed: --consumer NAME. A
    call that is running goes on. The next update of the conversation follows.
    """
    client = admin_of(access)
    chosen = admin.chosen_ids(client, ids, query, every=every, dead=False)
    admin.change_deliveries(client, "discard", chosen, dry_run=dry_run, yes=yes, as_json=as_json)
