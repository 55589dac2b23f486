"""`wats status`: the state of a running service, once or continuously."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

import click
import msgspec
from rich.console import Console
from rich.control import Control

from wats.cli.admin import json_option, print_json
from wats.cli.arguments import StrictCommand
from wats.cli.options import ServiceAccess, service_options
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.dashboard import View
from wats.inspection.evidence import UNREADABLE
from wats.inspection.formatting import format_uptime
from wats.inspection.history import History
from wats.inspection.samples import Samples
from wats.privacy import Secret
from wats.web.ops.status import ServiceStatus

TIMEOUT_SECONDS: Final = 5.0

T = TypeVar("T")

Look: TypeAlias = tuple[ServiceStatus, Samples]
Show: TypeAlias = Callable[[View], None]


class Hidden(NoAnswer):
    """The service is there, and does not accept the token; or it is not wats."""


@click.command(cls=StrictCommand)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="The refresh interval in seconds.",
)
@json_option
@service_options
def status(watch: bool, interval: float, as_json: bool, access: ServiceAccess) -> None:
    """Show the state of a running service, from its /status and /metrics.

    Counts are totals since the start of the service. With --watch, rates and small graphs are shown
    instead; failures are counted from the start of the command, and latencies are those of the last
    minute. If the terminal is too small, the rows with the lowest counts are hidden, and the number
    of hidden rows is shown next to the title of the table. With --json, the response of /status is
    printed, without the values of /metrics.
    """
    if as_json and watch:
        raise click.UsageError("Use either --watch or --json.")
    remote, token = Remote(access.url(), timeout_seconds=TIMEOUT_SECONDS), access.token()
    if as_json:
        print_json(_status_of(remote, token))
        return
    if not watch:
        found, samples = _look(remote, token)
        _console().print(View(url=remote.url, status=found, latest=samples))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _frames(_console()) as show:
            _watch(remote, token, interval, show)
    except KeyboardInterrupt:
        pass


def _look(remote: Remote, token: Secret) -> Look:
    """Query the state of the service.

    Raises:
        NoAnswer: The service does not return it.
    """
    found = _status_of(remote, token)
    return found, _read(remote, token, "/metrics", lambda body: Samples.parse(body.decode()))


def _status_of(remote: Remote, token: Secret) -> ServiceStatus:
    return _read(remote, token, "/status", msgspec.json.Decoder(ServiceStatus).decode)


def _read(remote: Remote, token: Secret, path: str, parse: Callable[[bytes], T]) -> T:
    answer = remote.get(path, token)
    if answer.status == 404:
        msg = f"{remote.url} responds with 404: invalid token, or not a wats service."
        raise Hidden(msg)
    if answer.status != 200:
        msg = f"{remote.url} responds with {answer.status}."
        raise NoAnswer(msg)
    try:
        return parse(answer.body)
    except UNREADABLE:
        msg = f"{remote.url} sends a response that is not from wats."
        raise NoAnswer(msg) from None


def _watch(remote: Remote, token: Secret, interval: float, show: Show) -> None:
    history, found, trouble = History(), None, ""
    began_at = answered_at = time.monotonic()
    while True:
        at = time.monotonic()
        try:
            found, samples = _look(remote, token)
            history.look(at, samples)
            answered_at, trouble = at, ""
        except NoAnswer as error:
            if found is None and isinstance(error, Hidden):
                raise
            history.miss()
            trouble = f"For {format_uptime(int(at - answered_at))}: {error.message}"
        watched = format_uptime(int(at - began_at))
        notes = (f"failures in {watched}", "times in the last minute", f"every {interval:g} s")
        show(
            View(
                url=remote.url,
                status=found,
                latest=history.latest,
                history=history,
                trouble=trouble,
                notes=(*notes, "Ctrl-C ends"),
            )
        )
        time.sleep(max(0.0, at + interval - time.monotonic()))


def _console() -> Console:
    """Return stdout, without any style if it is not a terminal, or if NO_COLOR is set."""
    is_plain = not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))
    console = Console(
        color_system=None if is_plain else "auto",  # rich's own NO_COLOR leaves bold and dim
        force_terminal=sys.stdout.isatty(),
        force_jupyter=False,
        highlight=False,
    )
    if 0 in console.size:  # as in COLUMNS=0
        console.size = (console.width or 80, console.height or 24)
    return console


@contextmanager
def _frames(console: Console) -> Iterator[Show]:
    """Show frames in a terminal on its alternate screen, elsewhere below each other.

    The last frame stays behind.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda view: console.print(view, "")
        return
    last: list[View] = []
    try:
        with console.screen() as screen:

            def show(view: View) -> None:
                last[:] = [view]
                with console:  # one write
                    console.control(Control.home())
                    screen.update(view)

            yield show
    finally:
        for view in last:
            console.print(view)
