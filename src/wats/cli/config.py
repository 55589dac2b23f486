"""`wats config`: check a configuration without running it."""

import json
from pathlib import Path

import click

from wats.cli.arguments import StrictGroup
from wats.cli.options import Failure
from wats.config import choose_profile, read_config, redact
from wats.errors import ConfigError


@click.group(cls=StrictGroup)
def config() -> None:
    """Check a configuration."""


@config.command()
@click.argument("argument", metavar="PATH", required=False, type=click.Path(path_type=Path))
@click.option("--config", "option", type=click.Path(path_type=Path), help="The same as PATH.")
def validate(argument: Path | None, option: Path | None) -> None:
    """Check all profiles of the config file at PATH, and print the default profile, redacted.

    Secrets are not read, so none need to be present.
    """
    path = argument or option
    if path is None or (argument and option):
        raise click.UsageError("Give the path of exactly one config file.")
    try:
        parsed = read_config(path)
    except ConfigError as error:
        raise Failure(error) from None
    click.echo("config valid")
    click.echo(json.dumps(redact(choose_profile(parsed)), indent=2))
    click.echo(f"profiles: {len(parsed.profiles)}")
