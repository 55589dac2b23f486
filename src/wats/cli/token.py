"""`wats token`: a random bearer token."""

import secrets

import click

from wats.cli.arguments import StrictCommand
from wats.config import checks

TOKEN_BYTES = 32


@click.command(cls=StrictCommand)
@click.option("--env", "name", metavar="NAME", help="Print NAME=TOKEN, a line for an env file.")
def token(name: str | None) -> None:
    """Print a new random token of 256 bits, as hexadecimal digits."""
    if name is not None and checks.variable_name.accept(name) is None:
        reason = f"Must be {checks.variable_name.expects}."
        raise click.BadParameter(reason, param_hint="--env")
    made = secrets.token_hex(TOKEN_BYTES)
    click.echo(made if name is None else f"{name}={made}")
