"""`wats replay`: stored updates to a consumer again."""

from collections.abc import Mapping, Sequence

import click

from wats.cli import admin
from wats.cli.admin import admin_of, change_options, chosen_options
from wats.cli.arguments import StrictCommand
from wats.cli.options import ServiceAccess, admin_options


@click.command(cls=StrictCommand)
@chosen_options
@click.option(
    "--state",
    type=click.Choice(["dead", "pending", "leased", "retry"]),
    metavar="STATE",
    help="Only updates in this state: dead, pending, leased or retry.",
)
@click.option("--to", "target", required=True, metavar="NAME", help="The consumer.")
@change_options
@admin_options
def replay(
    ids: Sequence[str],
    query: Mapping[str, str],
    every: bool,
    state: str | None,
    target: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """Give stored updates of a running service to a consumer again.

    Name dead letters and outstanding updates by ID, or by filters: those of the consumer that has
    them, such as --consumer OLD --to NEW. They stay as they are; the other consumer gets each
    update after all others of the conversation. A dead letter of NAME itself is retried. An update
    that NAME has yet to handle is not given to it twice.
    """
    client = admin_of(access)
    if target not in {each.name for each in client.consumers().items}:
        raise click.ClickException("Consumer not found. [consumer_not_found]")
    wanted = query if state is None else {**query, "state": state}
    chosen = admin.stored_ids(client, ids, wanted, every=every)
    admin.change(
        "replay",
        chosen,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        apply=lambda: client.replay(chosen, target),
    )
