"""The command line. One file per noun; secrets are read from the environment or files only."""

import click

from wats.cli.config import config
from wats.cli.database import database
from wats.cli.demo import demo
from wats.cli.doctor import doctor
from wats.cli.metrics import metrics
from wats.cli.openapi import openapi
from wats.cli.serve import serve
from wats.cli.simulate import simulate
from wats.cli.status import status
from wats.cli.support_bundle import support_bundle
from wats.cli.token import token
from wats.version import __version__

# 0 is success and 1 is every failure, for scripts; click would exit with 2 for some.
click.UsageError.exit_code = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, "-v", "--version", message="%(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Run a self-hosted gateway for the WhatsApp Business Cloud API."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    serve,
    simulate,
    demo,
    config,
    database,
    token,
    openapi,
    metrics,
    status,
    doctor,
    support_bundle,
):
    main.add_command(_command)
