"""The command line. One file per noun; secrets come from the environment or files, never here."""

import click

from wats.cli.config import config
from wats.cli.demo import demo
from wats.cli.openapi import openapi
from wats.cli.serve import serve
from wats.cli.simulate import simulate
from wats.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", message="%(version)s")
def main() -> None:
    """Run a self-hosted gateway for the WhatsApp Business Cloud API."""


for _command in (serve, simulate, demo, config, openapi):
    main.add_command(_command)
