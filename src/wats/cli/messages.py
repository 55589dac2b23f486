"""`wats messages`: the records of messages of a running service."""

from collections.abc import Sequence

import click
import msgspec

from wats.cli.admin import (
    admin_of,
    age_of,
    json_option,
    page_options,
    print_json,
    print_page,
    print_table,
    time_ago,
)
from wats.cli.arguments import StrictGroup
from wats.cli.options import ServiceAccess, admin_options
from wats.inspection.formatting import printable
from wats.inspection.paging import first_items
from wats.web.api.message_records import MessageDetails, MessageView


@click.group(cls=StrictGroup)
def messages() -> None:
    """List and show the messages of a running service, without content."""


@messages.command("list")
@click.option("--number", metavar="ID", help="Only messages of the business number with this id.")
@click.option("--to", metavar="USER", help="Only messages to this number or user id.")
@click.option("--from", "sender", metavar="USER", help="Only messages from this number or user id.")
@click.option(
    "--type", "type_", metavar="TYPE", help="Only messages of this type, such as template."
)
@click.option("--status", metavar="STATUS", help="Only messages with this status, such as failed.")
@click.option(
    "--direction",
    type=click.Choice(["inbound", "outbound"]),
    metavar="DIRECTION",
    help="Only messages in this direction: inbound or outbound.",
)
@click.option(
    "--newer-than",
    metavar="AGE",
    callback=time_ago,
    help="Only messages at most this old, such as 90s, 30m, 12h or 7d.",
)
@page_options
@admin_options
def list_some(
    number: str | None,
    to: str | None,
    sender: str | None,
    type_: str | None,
    status: str | None,
    direction: str | None,
    newer_than: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    access: ServiceAccess,
) -> None:
    """List messages of both directions, the last recorded first.

    A line has the number or user id of the customer.
    """
    filters = {"direction": direction, "status": status, "type": type_, "since": newer_than}
    query = {**filters, "to": to, "from": sender, "phoneNumberId": number}
    wanted = {name: value for name, value in query.items() if value is not None}
    items, following = first_items(admin_of(access).messages, wanted, limit=limit, cursor=cursor)
    print_page(items, following, _print_messages, as_json=as_json)


def _print_messages(items: Sequence[MessageView]) -> None:
    heads = ("DIRECTION", "STATUS", "AGE", "TYPE", "CUSTOMER", "ID")
    print_table(heads, [_line(each) for each in items])


def _line(message: MessageView) -> tuple[object, ...]:
    customer = message.from_phone if message.direction == "inbound" else message.to_phone
    of_message = message.direction, message.status, age_of(message.created_at), message.type
    return (*of_message, customer or "-", message.wa_message_id)


@messages.command()
@click.argument("message_id", metavar="ID")
@json_option
@admin_options
def show(message_id: str, as_json: bool, access: ServiceAccess) -> None:
    """Show the message with the WhatsApp id ID, and the statuses that Meta reported for it."""
    details = admin_of(access).message(message_id)
    if as_json:
        print_json(details)
    else:
        _print(details)


def _print(details: MessageDetails) -> None:
    of_message = msgspec.to_builtins(details)
    error, statuses = of_message.pop("error"), of_message.pop("statuses")
    for name, value in {**of_message, **(error or {})}.items():
        click.echo(f"{name:<15} {printable(str('-' if value is None else value))}")
    heads = ("STATUS", "AT", "CODE", "PARTICIPANT")
    print_table(
        heads,
        [
            (
                each["status"],
                each["occurredAt"],
                each["metaCode"] or "-",
                each["participant"] or "-",
            )
            for each in statuses
        ],
    )
