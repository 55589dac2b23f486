"""Options and output that the commands for operators share."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click
import msgspec
from msgspec import UNSET

from wats.cli.options import ServiceAccess
from wats.clock import to_iso
from wats.inspection.admin import Admin
from wats.inspection.client import Remote
from wats.inspection.formatting import format_seconds, printable
from wats.inspection.paging import first_items
from wats.inspection.routes import NotFound
from wats.telemetry.contract.values import UpdateKind
from wats.web.ops.deliveries import DeliveryDetails, DeliveryView
from wats.web.ops.outbox import OutboxDetails

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")

TIMEOUT_SECONDS: Final = 30.0
MAX_POSITIONS: Final = 10

_AGE: Final = re.compile("([1-9][0-9]{0,5})([smhd])")
_LONGEST_AGE: Final = timedelta(days=36_525)
"""Longer than any retention. A date cannot be earlier than the year 1."""
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def admin_of(access: ServiceAccess) -> Admin:
    """Return a client of the admin routes.

    Raises:
        NoAnswer: The service does not respond, or does not accept the token.
    """
    return Admin(Remote(access.url(), timeout_seconds=TIMEOUT_SECONDS), access.service_token())


def change_options(command: Command) -> Command:
    """Add `--dry-run`, `--yes` and `--json`."""
    for option in (
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
        click.option("--dry-run", is_flag=True, help="Show the effect, and change nothing."),
    ):
        command = option(command)
    return command


def time_ago(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the time that is the age of an option ago, for `callback`.

    Raises:
        click.BadParameter: It is not an age.
    """
    if value is None:
        return None
    match = _AGE.fullmatch(value)
    if match is None:
        raise click.BadParameter("Must be a number and a unit: 90s, 30m, 12h or 7d.")
    age = min(timedelta(**{_UNITS[match[2]]: int(match[1])}), _LONGEST_AGE)
    return to_iso(datetime.now(UTC) - age)


older_than_option = click.option(
    "--older-than",
    metavar="AGE",
    callback=time_ago,
    help="Only those at least this old, such as 90s, 30m, 12h or 7d; dead letters since their "
    "last attempt.",
)


def filter_options(command: Command) -> Command:
    """Add `--consumer`, `--kind`, `--error` and `--older-than`, as one `query`."""

    def with_query(
        *,
        consumer: str | None,
        kind: str | None,
        error: str | None,
        older_than: str | None,
        **others: Any,
    ) -> Any:
        query = {"consumer": consumer, "kind": kind, "error": error, "before": older_than}
        given = {name: value for name, value in query.items() if value is not None}
        return command(query=given, **others)

    collected: Any = with_query
    collected.__doc__, collected.__name__ = command.__doc__, command.__name__
    collected.__click_params__ = getattr(command, "__click_params__", [])
    for option in (
        older_than_option,
        click.option(
            "--error", metavar="CLASS", help="Only updates with this class of last error."
        ),
        click.option(
            "--kind",
            type=click.Choice([kind.value for kind in UpdateKind]),
            metavar="KIND",
            help="Only updates of this kind, such as message.",
        ),
        click.option("--consumer", metavar="NAME", help="Only updates of this consumer."),
    ):
        collected = option(collected)
    return collected  # type: ignore[no-any-return]  # click passes keywords


def page_options(command: Command) -> Command:
    """Add `--limit`, `--cursor` and `--json`."""
    for option in (
        json_option,
        click.option("--cursor", metavar="ID", help="List those after this ID."),
        click.option(
            "--limit",
            type=click.IntRange(1, 10_000),
            default=50,
            show_default=True,
            help="The maximum number.",
        ),
    ):
        command = option(command)
    return command


def chosen_options(command: Command) -> Command:
    """Add the argument `ids`, the options of `filter_options`, and `--all` as `every`."""
    command = click.option("--all", "every", is_flag=True, help="Every one, without a filter.")(
        command
    )
    return click.argument("ids", metavar="[ID]...", nargs=-1)(filter_options(command))


def shown_options(command: Command) -> Command:
    """Add the argument `delivery_id`, `--content` and `--json`."""
    for option in (
        json_option,
        click.option(
            "--content", is_flag=True, help="Show the content too; the service logs that."
        ),
        click.argument("delivery_id", metavar="ID"),
    ):
        command = option(command)
    return command


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask for confirmation at a terminal.

    Raises:
        click.UsageError: Confirmation is needed, and there is no terminal.
        click.Abort: It is refused.
    """
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise click.UsageError("Give --yes to change something without a terminal.")
    click.confirm(question, abort=True)


def print_json(value: object) -> None:
    """Print *value* as JSON in ASCII, which cannot control a terminal."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print *rows* in columns; the texts of a service cannot control the terminal."""
    lines = [tuple(printable(str(cell)) for cell in row) for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_deliveries(items: Sequence[DeliveryView]) -> None:
    """Print deliveries, one in each line."""
    heads = ("ID", "STATE", "AGE", "KIND", "TRIES", "ERROR", "CONSUMER")
    print_table(
        heads,
        [
            (
                *(each.id, each.state, age_of(each.died_at or each.arrived_at), each.kind),
                *(each.attempts, each.error or "-", each.consumer),
            )
            for each in items
        ],
    )


def age_of(moment: str) -> str:
    """Return the age of *moment*, a time of a service, for a table."""
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(moment)
    except (ValueError, TypeError):
        return "-"
    return format_seconds(max(age.total_seconds(), 0))


def list_page(
    admin: Admin, query: Mapping[str, str], *, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Print up to *limit* deliveries for *query*, and where to go on."""
    items, following = first_items(admin.page, query, limit=limit, cursor=cursor)
    if not items:
        _warn_of_unknown_consumer(admin, query)
    print_page(items, following, print_deliveries, as_json=as_json)


def _warn_of_unknown_consumer(admin: Admin, query: Mapping[str, str]) -> None:
    name = query.get("consumer")
    if name is not None and name not in {each.name for each in admin.consumers().items}:
        click.echo("No such consumer is known; 'wats consumers list' shows them.", err=True)


def print_page(
    items: Sequence[T],
    following: str | None,
    print_items: Callable[[Sequence[T]], None],
    *,
    as_json: bool,
) -> None:
    """Print *items*, and how to list those *following*, if there are any."""
    if as_json:
        print_json({"items": items, "nextCursor": following})
        return
    print_items(items)
    if following is not None:
        click.echo(f"There are more: --cursor {printable(following)}", err=True)


def check_choice(ids: Sequence[str], query: object, *, every: bool) -> None:
    """Refuse a choice of everything or of nothing by accident; *query* is empty without filters.

    Raises:
        click.UsageError: Neither ids nor filters are given, or both.
    """
    if bool(ids) + bool(query or every) != 1:
        raise click.UsageError("Give IDs, or filters, or --all.")


def stored_ids(
    admin: Admin, ids: Sequence[str], query: Mapping[str, str], *, every: bool
) -> Sequence[str]:
    """Return *ids*, or else those of all dead letters and outstanding deliveries for *query*.

    Raises:
        click.UsageError: Neither is given, or both.
        click.ClickException: An id does not exist.
    """
    check_choice(ids, query, every=every)
    if ids:
        return [each.id for each in each_of(admin.delivery, ids)]
    states = [query] if "state" in query else [{**query, "state": "dead"}, query]
    return _matching(admin, query, states)


def chosen_ids(
    admin: Admin, ids: Sequence[str], query: Mapping[str, str], *, every: bool, dead: bool
) -> Sequence[str]:
    """Return *ids* after a check of their states, or else the ids of all deliveries for *query*.

    Raises:
        click.UsageError: Neither is given, or both, or an id is in another state.
        click.ClickException: An id does not exist.
    """
    check_choice(ids, query, every=every)
    if not ids:
        return _matching(admin, query, [{**query, "state": "dead"} if dead else query])
    found = each_of(admin.delivery, ids)
    wrong = [at for at, each in enumerate(found, 1) if (each.state == "dead") is not dead]
    if wrong:
        state = "is not that of a dead letter" if dead else "is that of a dead letter"
        raise click.UsageError(f"An ID {state}{_positions(wrong, ids)}.")
    return ids


def _matching(
    admin: Admin, query: Mapping[str, str], states: Sequence[Mapping[str, str]]
) -> Sequence[str]:
    found = [each.id for wanted in states for each in admin.deliveries(wanted)]
    if not found:
        _warn_of_unknown_consumer(admin, query)
    return found


def each_of(get: Callable[[str], T], ids: Sequence[str]) -> Sequence[T]:
    """Return what *get* returns for each of *ids*.

    Raises:
        click.ClickException: Some do not exist; their positions are named.
    """
    found: list[T] = []
    missing: list[int] = []
    reason = ""
    for at, each in enumerate(ids, 1):
        try:
            found.append(get(each))
        except NotFound as error:
            missing.append(at)
            reason = error.message
    if missing:
        raise click.ClickException(f"{reason}{_positions(missing, ids)}")
    return found


def _positions(wrong: Sequence[int], ids: Sequence[str]) -> str:
    """Return the positions of *wrong* ids: an argument itself could be personal data."""
    if len(ids) == 1:
        return ""
    shown = ", ".join(str(at) for at in wrong[:MAX_POSITIONS])
    more = len(wrong) - MAX_POSITIONS
    return f" (position {shown}{f' and {more} more' if more > 0 else ''} of {len(ids)})"


def change_deliveries(
    admin: Admin, verb: str, ids: Sequence[str], *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Change deliveries by the route *verb*, after a confirmation, and print their number."""
    change(
        verb,
        ids,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
        apply=lambda: admin.change(verb, ids),
    )


def change(
    verb: str,
    ids: Sequence[str],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    apply: Callable[[], int],
    warning: str = "",
) -> None:
    """Let *apply* change *ids* after a confirmation, which has *warning*; print their number."""
    changed = 0
    if ids and not dry_run:
        confirm(f"{verb.capitalize()} {len(ids)}{warning}?", yes=yes, as_json=as_json)
        changed = apply()
    if as_json:
        print_json({"action": verb, "dryRun": dry_run, "matched": len(ids), "changed": changed})
    elif dry_run:
        click.echo(f"{len(ids)} would be changed.")
    else:
        click.echo(f"{changed} of {len(ids)} changed.")


def show(admin: Admin, delivery_id: str, *, with_content: bool, as_json: bool) -> None:
    """Print one delivery."""
    print_details(admin.delivery(delivery_id, with_content=with_content), as_json=as_json)


def print_details(details: DeliveryDetails | OutboxDetails, *, as_json: bool) -> None:
    """Print *details* of a delivery or message, with the content that they hold."""
    with_content = details.content is not UNSET
    content = msgspec.json.decode(details.content) if details.content is not UNSET else None
    found = msgspec.to_builtins(msgspec.structs.replace(details, content=UNSET))
    if with_content:
        found["content"] = content
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if name != "content":
            click.echo(f"{name:<13} {printable(str('-' if value is None else value))}")
    if with_content:
        print_json(content)
