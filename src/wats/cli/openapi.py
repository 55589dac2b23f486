"""`wats openapi`: the API document without a running service."""

from pathlib import Path

import click
import msgspec

from wats.cli.arguments import StrictCommand
from wats.cli.options import FILE, Failure, config_option, required_config, write_output
from wats.config import choose_profile, read_config
from wats.errors import ConfigError
from wats.web.openapi import build_document
from wats.web.table import route_table


@click.command(cls=StrictCommand)
@config_option
@click.option("--profile", help="The profile to use instead of the default.")
@click.option("--out", type=FILE, help="Write to a new file instead of stdout.")
def openapi(config_path: Path | None, profile: str | None, out: Path | None) -> None:
    """Print the complete OpenAPI document of a service with this configuration.

    Secrets are not read, so none need to be present.
    """
    try:
        chosen = choose_profile(read_config(required_config(config_path)), profile)
    except ConfigError as error:
        raise Failure(error) from None
    table = route_table(chosen, groups_enabled=chosen.groups.enabled)
    document = msgspec.json.format(build_document(table, profile=chosen, complete=True), indent=2)
    write_output(document.decode(), out)
