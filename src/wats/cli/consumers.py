"""`wats consumers`: the consumers of a running service, and pauses."""

import click
import msgspec

from wats.cli.admin import admin_of, change_options, confirm, json_option, print_json, print_table
from wats.cli.arguments import StrictGroup
from wats.cli.options import ServiceAccess, admin_options
from wats.inspection.admin import Admin
from wats.inspection.formatting import format_seconds, printable
from wats.web.ops.consumers import ConsumerView


@click.group(cls=StrictGroup)
def consumers() -> None:
    """List, show, pause and resume the consumers of a running service."""


@consumers.command("list")
@json_option
@admin_options
def list_all(as_json: bool, access: ServiceAccess) -> None:
    """List all consumers, with the numbers of their deliveries and the age of the oldest.

    A consumer is active, paused, or orphaned: no handler of the config has its name.
    """
    found = admin_of(access).consumers()
    if as_json:
        print_json(found)
        return
    heads = ("STATE", "PENDING", "LEASED", "RETRY", "OLDEST", "DEAD", "CONSUMER")
    print_table(
        heads,
        [
            (
                *(each.state, each.pending, each.leased, each.retry),
                *(format_seconds(each.oldest_seconds), each.dead, each.name),
            )
            for each in found.items
        ],
    )


@consumers.command()
@click.argument("name")
@json_option
@admin_options
def show(name: str, as_json: bool, access: ServiceAccess) -> None:
    """Show the consumer NAME, with the numbers of its deliveries and the age of the oldest."""
    found = _find(admin_of(access), name)
    if as_json:
        print_json(found)
        return
    for key, value in msgspec.to_builtins(found).items():
        click.echo(f"{key:<13} {printable(str(value))}")


@consumers.command()
@click.argument("name")
@change_options
@admin_options
def pause(name: str, dry_run: bool, yes: bool, as_json: bool, access: ServiceAccess) -> None:
    """Give the consumer NAME no more updates, also after a restart.

    Its updates are kept, and new ones are stored. Calls that are running go on.
    """
    _set(name, access, dry_run=dry_run, yes=yes, as_json=as_json, is_paused=True)


@consumers.command()
@click.argument("name")
@change_options
@admin_options
def resume(name: str, dry_run: bool, yes: bool, as_json: bool, access: ServiceAccess) -> None:
    """End the pause of the consumer NAME, which gets its updates in order of arrival."""
    _set(name, access, dry_run=dry_run, yes=yes, as_json=as_json, is_paused=False)


def _set(
    name: str, access: ServiceAccess, *, dry_run: bool, yes: bool, as_json: bool, is_paused: bool
) -> None:
    admin = admin_of(access)
    found = _find(admin, name)
    verb = "pause" if is_paused else "resume"
    waiting = found.pending + found.retry
    if not dry_run:
        question = f"{verb.capitalize()} this consumer, for which {waiting} updates wait?"
        confirm(question, yes=yes, as_json=as_json)
        admin.pause(name, is_paused=is_paused)
    if as_json:
        print_json({"action": verb, "dryRun": dry_run, "name": name, "waiting": waiting})
    else:
        done = "would be" if dry_run else "is"
        click.echo(f"{printable(name)} {done} {verb}d; {waiting} updates wait for it.")


def _find(admin: Admin, name: str) -> ConsumerView:
    """Return the consumer *name*.

    Raises:
        click.ClickException: There is none.
    """
    found = {each.name: each for each in admin.consumers().items}.get(name)
    if found is None:
        raise click.ClickException("Consumer not found. [consumer_not_found]")
    return found
