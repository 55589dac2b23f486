"""`wats outbox`: the messages that a running service sends later."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from wats.cli.admin import (
    admin_of,
    age_of,
    change,
    change_options,
    check_choice,
    each_of,
    older_than_option,
    page_options,
    print_details,
    print_page,
    print_table,
    shown_options,
)
from wats.cli.arguments import StrictGroup
from wats.cli.options import ServiceAccess, admin_options
from wats.inspection.admin import Admin
from wats.inspection.paging import first_items
from wats.store.outbox import SendState
from wats.web.ops.outbox import OutboxView

Command = TypeVar("Command", bound=Callable[..., Any])

_STATES = [state.value for state in SendState if state is not SendState.SENT]
_DEAD = [SendState.FAILED, SendState.UNKNOWN]


@click.group(cls=StrictGroup)
def outbox() -> None:
    """List, show, retry and discard messages that a running service sends later."""


def _filters(states: Sequence[str]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in (
            older_than_option,
            click.option("--state", type=click.Choice(states), help="Only messages in this state."),
        ):
            command = option(command)
        return command

    return add


def _query(state: str | None, older_than: str | None) -> Mapping[str, str]:
    query = {"state": state, "before": older_than}
    return {name: value for name, value in query.items() if value is not None}


@outbox.command("list")
@_filters(_STATES)
@page_options
@admin_options
def list_some(
    state: str | None,
    older_than: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """List messages that are not sent in order of arrival, without content."""
    query = _query(state, older_than)
    items, following = first_items(admin_of(access).outbox_page, query, limit=limit, cursor=cursor)
    print_page(items, following, _print_items, as_json=as_json)


def _print_items(items: Sequence[OutboxView]) -> None:
    print_table(
        ("ID", "STATE", "AGE", "TYPE", "TRIES", "ERROR"),
        [
            (
                each.id,
                each.state,
                age_of(each.arrived_at),
                each.type,
                each.attempts,
                each.error or "-",
            )
            for each in items
        ],
    )


@outbox.command()
@shown_options
@admin_options
def show(delivery_id: str, content: bool, as_json: bool, access: ServiceAccess) -> None:
    """Show the message ID, which is not sent."""
    print_details(admin_of(access).outbox_item(delivery_id, with_content=content), as_json=as_json)


@outbox.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filters([state.value for state in _DEAD])
@click.option("--all", "every", is_flag=True, help="Every failed message.")
@click.option(
    "--even-unknown",
    is_flag=True,
    help="Also messages with an unknown outcome: each may be sent and billed a second time.",
)
@change_options
@admin_options
def retry(
    ids: Sequence[str],
    state: str | None,
    older_than: str | None,
    every: bool,
    even_unknown: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """Send failed messages again, with the full number of attempts.

    Name them by ID, by filters, or with --all. A message is left if its idempotency key was used
    for another one since.
    """
    client = admin_of(access)
    states = [state] if state is not None else _DEAD if even_unknown else [SendState.FAILED]
    chosen = _chosen(client, ids, states, state, older_than, every=every)
    unknown = [each for each in chosen if each.state is SendState.UNKNOWN]
    if unknown and not even_unknown:
        raise click.UsageError(
            f"The outcome of {len(unknown)} is unknown. Give --even-unknown to send those again; "
            "they may be sent and billed twice."
        )
    named = [each.id for each in chosen]
    change(
        "retry",
        named,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        apply=lambda: client.change_outbox("retry", named, evenUnknown=even_unknown),
        warning=f", of which {len(unknown)} may be sent and billed twice" if unknown else "",
    )


@outbox.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_filters(_STATES)
@click.option("--all", "every", is_flag=True, help="Every one that is not sent, in any state.")
@change_options
@admin_options
def discard(
    ids: Sequence[str],
    state: str | None,
    older_than: str | None,
    every: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """Erase messages, which are then never sent. Name them by ID, by filters, or with --all.

    A message that is being sent is left.
    """
    client = admin_of(access)
    chosen = [each.id for each in _chosen(client, ids, [state], state, older_than, every=every)]
    change(
        "discard",
        chosen,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        apply=lambda: client.change_outbox("discard", chosen),
    )


def _chosen(
    client: Admin,
    ids: Sequence[str],
    states: Sequence[str | None],
    state: str | None,
    older_than: str | None,
    *,
    every: bool,
) -> Sequence[OutboxView]:
    """Return the items *ids*, or else all items in *states*, of this age.

    Raises:
        click.UsageError: Neither is given, or both.
        click.ClickException: An id does not exist.
    """
    check_choice(ids, state or older_than, every=every)
    if ids:
        return each_of(client.outbox_item, ids)
    queries = [_query(each, older_than) for each in states]
    return [item for query in queries for item in client.outbox_items(query)]
