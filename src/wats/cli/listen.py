"""`wats listen`: print the updates of a puller."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeAlias

import click
import msgspec

from wats.cli.arguments import StrictCommand
from wats.cli.options import ServiceAccess, admin_options
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.updates import UpdateRoutes
from wats.telemetry.contract.values import UpdateKind
from wats.web.api.updates import PulledUpdate, PulledUpdates

Poll: TypeAlias = Callable[..., PulledUpdates]
"""Leases updates of the puller, with a limit and a wait."""

WAIT_SECONDS: Final = 25
TIMEOUT_SECONDS: Final = 40.0
MAX_BYTES: Final = 64 * 1024 * 1024
BATCH: Final = 10
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 5.0


@click.command(cls=StrictCommand)
@click.argument("consumer", required=False)
@click.option(
    "--once", is_flag=True, help="Print the updates that are due, at most ten, and do not wait."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="NUMBER", help="End after this number of updates."
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([kind.value for kind in UpdateKind]),
    metavar="KIND",
    multiple=True,
    help="Only updates of this kind, such as message; others wait for other polls. Repeatable.",
)
@admin_options
def listen(
    consumer: str | None,
    once: bool,
    limit: int | None,
    kinds: tuple[str, ...],
    access: ServiceAccess,
) -> None:
    """Print the updates of the puller CONSUMER, as JSON lines.

    CONSUMER can be left out if the config has one puller only. An update is acknowledged after its
    line is written, so it is printed again if the command is killed in between. A service that does
    not respond is asked again after a pause.
    """
    name = consumer or _only_puller(access)
    remote = Remote(access.url(), timeout_seconds=TIMEOUT_SECONDS, max_answer_bytes=MAX_BYTES)
    routes = UpdateRoutes(remote, access.service_token())
    poll = partial(routes.poll, name, kinds=kinds)
    with suppress(KeyboardInterrupt):
        if once:
            _print(routes, poll(limit=min(limit or BATCH, BATCH), wait=0).updates)
        else:
            _pull_all(routes, poll, limit)


def _only_puller(access: ServiceAccess) -> str:
    """Return the name of the puller of the config.

    Raises:
        click.UsageError: There is none, or there are several.
    """
    profile = access.profile()
    names = [] if profile is None else [each.name for each in profile.pullers]
    if profile is not None and not names:
        raise click.UsageError("The config has no puller. Add one to 'pullers', and restart.")
    if len(names) != 1:
        raise click.UsageError("Give the name of a puller, unless the config has exactly one.")
    return names[0]


def _pull_all(routes: UpdateRoutes, poll: Poll, limit: int | None) -> None:
    printed, pause, has_polled = 0, 0.0, False
    while limit is None or printed < limit:
        batch = BATCH if limit is None else min(limit - printed, BATCH)
        try:
            pulled = poll(limit=batch, wait=WAIT_SECONDS).updates
            pause, has_polled = 0.0, True
            printed += _print(routes, pulled)
        except NoAnswer as error:
            if not has_polled:
                raise
            click.echo(f"{error.format_message()} Trying again.", err=True)
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            time.sleep(pause)


def _print(routes: UpdateRoutes, pulled: Sequence[PulledUpdate]) -> int:
    """Print the updates *pulled* and acknowledge them; return their number."""
    printed: list[str] = []
    try:
        for each in pulled:
            _print_line(each)
            printed.append(each.receipt)
    finally:
        with _uninterrupted():
            if printed:
                routes.acknowledge(printed)
            if unprinted := [each.receipt for each in pulled[len(printed) :]]:
                routes.acknowledge(unprinted, retry=0)
    return len(printed)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay an interrupt until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _print_line(pulled: PulledUpdate) -> None:
    """Write an update as a line of ASCII, which cannot control a terminal."""
    line = json.dumps(msgspec.to_builtins(pulled.update), separators=(",", ":"))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
