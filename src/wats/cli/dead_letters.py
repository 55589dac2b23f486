"""`wats dead-letters`: the dead letters of a running service."""

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
def dead_letters() -> None:
    """List, show, retry and discard dead letters of a running service."""


@dead_letters.command("list")
@filter_options
@page_options
@admin_options
def list_some(
    query: Mapping[str, str],
    limit: int,
    cursor: str | None,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """List dead letters in order of arrival, without content."""
    wanted = {**query, "state": "dead"}
    list_page(admin_of(access), wanted, limit=limit, cursor=cursor, as_json=as_json)


@dead_letters.command()
@shown_options
@admin_options
def show(delivery_id: str, content: bool, as_json: bool, access: ServiceAccess) -> None:
    """Show the dead letter ID."""
    admin.show(admin_of(access), delivery_id, with_content=content, as_json=as_json)


@dead_letters.command()
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
    """Handle dead letters again, with the full number of attempts.

    Name them by ID or by filters. Each gets its old place in its conversation: before all updates
    that arrived later, except for one that is being handled.
    """
    client = admin_of(access)
    chosen = admin.chosen_ids(client, ids, query, every=every, dead=True)
    admin.change_deliveries(client, "retry", chosen, dry_run=dry_run, yes=yes, as_json=as_json)


@dead_letters.command()
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
    """Erase dead letters with their content. Name them by ID or by filters."""
    client = admin_of(access)
    chosen = admin.chosen_ids(client, ids, query, every=every, dead=True)
    admin.change_deliveries(client, "discard", chosen, dry_run=dry_run, yes=yes, as_json=as_json)
