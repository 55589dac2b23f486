"""`wats config`: check a configuration without running it."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from wats.cli.arguments import StrictGroup
from wats.cli.options import FILE, Failure, config_option, required_config
from wats.config import Config, choose_profile, read_config, redact
from wats.errors import ConfigError


@click.group(cls=StrictGroup)
def config() -> None:
    """Check a configuration."""


@config.command()
@click.argument("argument", metavar="[PATH]", required=False, type=FILE)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also for an invalid config.")
def validate(argument: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Check all profiles of the config file at PATH, and print the default profile, redacted.

    Secrets are not read, so none need to be present.
    """
    if argument is not None and config_path is not None:
        raise click.UsageError("Give the path of one config file.")
    path = required_config(argument or config_path)
    try:
        parsed = read_config(path)
    except ConfigError as error:
        if not as_json:
            raise Failure(error) from None
        issues = [asdict(issue) for issue in error.issues]
        click.echo(json.dumps({"valid": False, "issues": issues}, indent=2))
        raise click.exceptions.Exit(1) from None
    click.echo(_as_json(parsed) if as_json else _as_text(parsed))


def _as_json(parsed: Config) -> str:
    shown = {
        "valid": True,
        "issues": [],
        "defaultProfile": parsed.default_profile,
        "profiles": {name: redact(each) for name, each in parsed.profiles.items()},
    }
    return json.dumps(shown, indent=2)


def _as_text(parsed: Config) -> str:
    shown = json.dumps(redact(choose_profile(parsed)), indent=2)
    return f"config valid\n{shown}\nprofiles: {len(parsed.profiles)}"
