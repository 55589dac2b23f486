"""What several commands share: how a configuration is named, and how a failure is told."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wats.config import Profile, Secrets, load_config
from wats.errors import WatsError

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)


def config_options(command: Command) -> Command:
    """Add `--config`, `--profile` and `--env-file` to *command*."""
    for option in (
        click.option(
            "--env-file", type=_FILE, help="KEY=VALUE lines; they go before the environment."
        ),
        click.option("--profile", help="The profile to use instead of the default."),
        click.option("--config", "config_path", type=_FILE, help="The config file."),
    ):
        command = option(command)
    return command


def load(config_path: Path, profile: str | None, env_file: Path | None) -> tuple[Profile, Secrets]:
    """Load a configuration, with the environment of this process."""
    return load_config(config_path, environ=os.environ, profile=profile, env_file=env_file)


class Failure(click.ClickException):
    """An error of ours: told on stderr in a sentence, exit code 1."""

    def __init__(self, error: WatsError) -> None:
        super().__init__(str(error))


def announce(event: str, **facts: object) -> None:
    """Print one line of JSON on stdout, for whoever started this process."""
    sys.stdout.write(json.dumps({"event": event, **facts}, separators=(",", ":")) + "\n")
    sys.stdout.flush()
