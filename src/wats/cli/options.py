"""Options that several commands share: config and token, and the report of failures."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from wats.config import ProfileSource, Secrets, checks, load_config
from wats.errors import ConfigError, WatsError
from wats.privacy import Secret

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_MAX_TOKEN_FILE_BYTES: Final = 8192
_STDIN: Final = Path("-")


def config_options(command: Command) -> Command:
    """Add `--config`, `--profile` and `--env-file` to *command*."""
    for option in (
        click.option(
            "--env-file",
            type=_FILE,
            help="A file of KEY=VALUE lines; the environment overrides them.",
        ),
        click.option("--profile", help="The profile to use instead of the default."),
        click.option("--config", "config_path", type=_FILE, help="The config file."),
    ):
        command = option(command)
    return command


def load(
    config_path: Path, profile: str | None, env_file: Path | None
) -> tuple[ProfileSource, Secrets]:
    """Load a configuration, with the environment of this process."""
    return load_config(config_path, environ=os.environ, profile=profile, env_file=env_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The sources of the config and the token of a command that queries a running service.

    Attributes:
        token_env: The name of an environment variable that holds a token.
        token_file: A file that holds a token; `-` for stdin.
        config: The options that name the config of the service, if given: file, profile and env
            file.
    """

    token_env: str | None
    token_file: Path | None
    config: tuple[Path, str | None, Path | None] | None

    def load(self) -> tuple[ProfileSource, Secrets] | None:
        """Return the config and its secrets, if the options name one.

        Raises:
            Failure: The config is not usable.
        """
        try:
            return None if self.config is None else load(*self.config)
        except ConfigError as error:
            raise Failure(error) from None

    def token(self) -> Secret:
        """Return the token of the options, or else of the config, telemetry's own first.

        Raises:
            click.UsageError: The options name no token or several, or no token is found there.
        """
        if self.token_env is not None and self.token_file is not None:
            raise click.UsageError("Give only one of --token-file and --token-env.")
        if self.token_file is not None:
            return _checked("--token-file", _read(self.token_file))
        if self.token_env is not None:
            return _checked("--token-env", os.environ.get(self.token_env, ""))
        if (loaded := self.load()) is None:
            raise click.UsageError("Give a token with --token-file, --token-env or --config.")
        secrets = loaded[1]
        return (*secrets.telemetry_tokens, *secrets.bearer_tokens)[0]


def _read(path: Path) -> str:
    try:
        if path == _STDIN:
            content = sys.stdin.read(_MAX_TOKEN_FILE_BYTES)
        else:
            with path.open() as file:
                content = file.read(_MAX_TOKEN_FILE_BYTES)
    except (OSError, ValueError):
        raise click.UsageError("The file given by --token-file cannot be read.") from None
    return content.removesuffix("\n").removesuffix("\r")


def _checked(option: str, token: str) -> Secret:
    # Neither the content nor, as it may be the token itself, the source.
    if checks.token.accept(token) is None:
        msg = f"{option} does not refer to a valid token, which must be {checks.token.expects}."
        raise click.UsageError(msg)
    return Secret(token)


def credential_options(command: Command) -> Command:
    """Add `--token-file`, `--token-env` and those of `config_options`, as one `credentials`."""

    @functools.wraps(command)
    def with_credentials(
        *,
        token_env: str | None,
        token_file: Path | None,
        config_path: Path | None,
        profile: str | None,
        env_file: Path | None,
        **others: Any,
    ) -> Any:
        config = None if config_path is None else (config_path, profile, env_file)
        credentials = Credentials(token_env=token_env, token_file=token_file, config=config)
        return command(credentials=credentials, **others)

    collected = config_options(with_credentials)
    for option in (
        click.option(
            "--token-env", metavar="NAME", help="The environment variable that holds the token."
        ),
        click.option(
            "--token-file",
            type=_FILE,
            help="The file that holds the token, or '-' for stdin. The default is the telemetry "
            "token of --config, or else its service token.",
        ),
    ):
        collected = option(collected)
    return collected  # type: ignore[return-value]  # click passes keywords


class Failure(click.ClickException):
    """An error of ours: printed to stderr in a sentence, exit code 1."""

    def __init__(self, error: WatsError) -> None:
        super().__init__(error.with_code())
