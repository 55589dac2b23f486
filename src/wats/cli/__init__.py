"""The command line, one module per command; secrets are read from the environment or files."""

import errno
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from wats.cli.arguments import StrictGroup
from wats.cli.interrupts import ended_by_interrupts
from wats.extras import install_command
from wats.version import __version__

COMMANDS: Final[Mapping[str, str]] = {
    "config": "Check a configuration.",
    "consumers": "List, show, pause and resume the consumers of a running service.",
    "database": "Copy, back up or restore a database.",
    "dead-letters": "List, show, retry and discard dead letters of a running service.",
    "demo": "Run a gateway and a fake Meta, kill the gateway under load, and count losses.",
    "doctor": (
        "Check a setup: config, secrets, files, handlers, database, Graph, and the service."
    ),
    "erase": "Erase the data of a person from a running service.",
    "help": "Explain TOPIC, which is a subject of the documentation or a command.",
    "inbox": "List, show, retry and discard outstanding updates of a running service.",
    "init": "Write a config, an env file with random secrets and an example handler.",
    "listen": "Print the updates of the puller CONSUMER, as JSON lines.",
    "messages": "List and show the messages of a running service, without content.",
    "metrics": "List the metric families.",
    "openapi": "Print the complete OpenAPI document of a service with this configuration.",
    "outbox": "List, show, retry and discard messages that a running service sends later.",
    "replay": "Give stored updates of a running service to a consumer again.",
    "serve": "Run the gateway until SIGINT or SIGTERM.",
    "simulate": (
        "Run a fake Meta for the service that a config file describes, until SIGINT or SIGTERM."
    ),
    "status": "Show the state of a running service, from its /status and /metrics.",
    "support-bundle": (
        "Print a redacted report about a service as JSON, for a bug report or a support request."
    ),
    "token": "Print a new random token of 256 bits, as hexadecimal digits.",
}
"""Every command and the first sentence of its help, so that `wats --help` loads no command."""

_OUTPUT_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""The errors of writing to stdout. Commands report those of files as faults of the file."""


class Commands(StrictGroup):
    """Loads the module of a command when the command is used."""

    @override
    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except OSError as error:
            if error.errno not in _OUTPUT_ERRORS:
                raise
            # Python would report the rest of its buffer once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            reason = os.strerror(error.errno)
            click.echo(f"Error: The output cannot be written: {reason}.", err=True)
            sys.exit(1)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        try:
            with ended_by_interrupts():
                module = import_module(f"wats.cli.{name}")
        except ModuleNotFoundError as error:
            if (install := install_command(error)) is None:
                raise
            if ctx.resilient_parsing:  # a completion must not print anything else
                return None
            msg = f"'wats {cmd_name}' needs a package that is not installed; run: {install}"
            raise click.ClickException(msg) from None
        command: click.Command = getattr(module, name)
        return command

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=sentence)
            for name, sentence in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, "-v", "--version", message="%(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Run a self-hosted gateway for the WhatsApp Business Cloud API."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
