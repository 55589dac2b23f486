"""Options that several commands share: config, service and token, and the report of failures."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from wats.config import (
    Profile,
    ProfileSource,
    Secrets,
    checks,
    choose_profile,
    find_env_file,
    load_config,
    read_config,
)
from wats.errors import ConfigError, WatsError
from wats.faults import fault_of
from wats.privacy import Secret

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_NAME: Final = "wats.config.yaml"
"""The config file in the working directory that is used unless another is named."""

ENV_NAME: Final = "wats.env"
"""The env file next to the config file that is used unless another is named."""

CONFIG_VARIABLE: Final = "WATS_CONFIG"

FILE: Final = click.Path(readable=False, path_type=Path)
"""A path of a file: its reader reports why it cannot be read."""

_MAX_TOKEN_FILE_BYTES: Final = 8192
_STDIN: Final = Path("-")
_NO_CONFIG: Final = (
    f"There is no config. Name the file with --config or {CONFIG_VARIABLE}, or run the command in "
    f"a folder with {CONFIG_NAME}; 'wats init' writes one. 'wats serve --sandbox' needs none."
)


def config_option(command: Command) -> Command:
    """Add `--config` to *command*."""
    help_text = (
        f"The config file. The default is the variable {CONFIG_VARIABLE}, or else {CONFIG_NAME} in "
        "the working directory."
    )
    return click.option("--config", "config_path", type=FILE, help=help_text)(command)


def config_options(command: Command) -> Command:
    """Add `--config`, `--profile` and `--env-file` to *command*."""
    for option in (
        click.option(
            "--env-file",
            type=FILE,
            help="A file of KEY=VALUE lines; the environment overrides them. The default is "
            f"{ENV_NAME} next to the config file, if it exists.",
        ),
        click.option("--profile", help="The profile to use instead of the default."),
        config_option,
    ):
        command = option(command)
    return command


def found_config(given: Path | None) -> Path | None:
    """Return the config file: *given*, or the default if there is one."""
    if given is not None:
        return given
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    return Path(CONFIG_NAME) if Path(CONFIG_NAME).exists() else None


def required_config(given: Path | None) -> Path:
    """Return the config file: *given*, or the default.

    Raises:
        click.UsageError: There is none.
    """
    if (found := found_config(given)) is None:
        raise click.UsageError(_NO_CONFIG)
    return found


def env_file_of(config_path: Path, given: Path | None) -> Path | None:
    """Return the env file: *given*, or the default if it exists."""
    if given is not None:
        return find_env_file(given, config_path.parent)
    default = config_path.parent / ENV_NAME
    return default if default.exists() else None


def load(
    config_path: Path, profile: str | None, env_file: Path | None
) -> tuple[ProfileSource, Secrets]:
    """Load a configuration, with the environment of this process.

    Raises:
        ConfigError: As for `load_config`; if a secret is missing, also which env file is.
    """
    found = env_file_of(config_path, env_file)
    try:
        return load_config(config_path, environ=os.environ, profile=profile, env_file=found)
    except ConfigError as error:
        if found is not None or "missing_secret" not in {each.code for each in error.issues}:
            raise
        default = str(config_path.parent / ENV_NAME)
        message = f"{error.message} No env file was read: {default!r} does not exist."
        raise ConfigError(error.issues, message) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccess:
    """The sources of the URL, the token and the config of a command that queries a service.

    Attributes:
        url_option: The URL that an option names.
        token_env: The name of an environment variable that holds a token.
        token_file: A file that holds a token; `-` for stdin.
        config: The config of the service, if there is one: file, profile and env file.
        is_config_named: Whether an option names the config, which was found otherwise.
    """

    url_option: str | None
    token_env: str | None
    token_file: Path | None
    config: tuple[Path, str | None, Path | None] | None
    is_config_named: bool = True

    def load(self) -> tuple[ProfileSource, Secrets] | None:
        """Return the config and its secrets, if there is a config.

        Raises:
            Failure: The config is not usable.
        """
        try:
            return None if self.config is None else load(*self.config)
        except ConfigError as error:
            raise Failure(error) from None

    def load_if_usable(self) -> tuple[ProfileSource, Secrets] | None:
        """Return the config and its secrets; `None` if it was only found, and is not usable.

        Raises:
            Failure: The config that an option names is not usable.
        """
        try:
            return self.load()
        except Failure:
            if self.is_config_named:
                raise
            return None

    def profile(self) -> Profile | None:
        """Return the profile of the config, if there is a config. No secret is read.

        Raises:
            Failure: The config is not usable.
        """
        if self.config is None:
            return None
        try:
            return choose_profile(read_config(self.config[0]), self.config[1])
        except ConfigError as error:
            raise Failure(error) from None

    def url(self) -> str:
        """Return the URL of the option, or else of the service that the config describes.

        Raises:
            click.UsageError: There is neither.
            Failure: The config is not usable.
        """
        if self.url_option is not None:
            return self.url_option
        if (profile := self.profile()) is None:
            msg = f"Give the URL of the service with --url. {_NO_CONFIG}"
            raise click.UsageError(msg)
        return profile.service.local_url

    def token(self) -> Secret:
        """Return the token of the options, or else of the config, telemetry's own first.

        Raises:
            click.UsageError: The options name no token or several, or no token is found there.
        """
        return self._token(lambda secrets: (*secrets.telemetry_tokens, *secrets.bearer_tokens)[0])

    def service_token(self) -> Secret:
        """Return the token of the options, or else the service token of the config.

        Raises:
            click.UsageError: The options name no token or several, or no token is found there.
        """
        return self._token(lambda secrets: secrets.bearer_tokens[0])

    def _token(self, choose: Callable[[Secrets], Secret]) -> Secret:
        if self.token_env is not None and self.token_file is not None:
            raise click.UsageError("Give only one of --token-file and --token-env.")
        if self.token_file is not None:
            return _checked("--token-file", _read(self.token_file))
        if self.token_env is not None:
            return _checked("--token-env", os.environ.get(self.token_env, ""))
        try:
            loaded = self.load()
        except Failure as error:
            hint = "With --token-file or --token-env, no secret of the config is read."
            raise click.ClickException(f"{error.message}\n{hint}") from None
        if loaded is None:
            raise click.UsageError("Give a token with --token-file, --token-env or --config.")
        return choose(loaded[1])


def _read(path: Path) -> str:
    try:
        if path == _STDIN:
            content = sys.stdin.read(_MAX_TOKEN_FILE_BYTES)
        else:
            with path.open() as file:
                content = file.read(_MAX_TOKEN_FILE_BYTES)
    except OSError as error:
        reason = fault_of(error).meaning  # without the path, which may be the token itself
        raise click.UsageError(
            f"The file given by --token-file cannot be read: {reason}."
        ) from None
    except ValueError:
        raise click.UsageError("The file given by --token-file is not text.") from None
    return content.removesuffix("\n").removesuffix("\r")


def _checked(option: str, token: str) -> Secret:
    # Neither the content nor, as it may be the token itself, the source.
    if checks.token.accept(token) is None:
        msg = f"{option} does not refer to a valid token, which must be {checks.token.expects}."
        raise click.UsageError(msg)
    return Secret(token)


def _service_url(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Check the URL of a service, for `callback`; a refused one is not shown.

    Raises:
        click.BadParameter: The value is not a URL, or holds more than one, such as a password.
    """
    if value is None:
        return None
    accepted = checks.web_url.accept(value)
    if not isinstance(accepted, str):
        msg = f"Must be {checks.web_url.expects}."
        raise click.BadParameter(msg)
    return accepted


def service_options(command: Command) -> Command:
    """Add `--url`, `--token-file`, `--token-env` and `config_options`, as one `access`."""
    return _with_access(
        command, "The default is the telemetry token of the config, or else its service token."
    )


def admin_options(command: Command) -> Command:
    """Add the options of `service_options` for a command that needs a service token."""
    return _with_access(command, "The default is the service token of the config.")


def _with_access(command: Command, default_token: str) -> Command:
    @functools.wraps(command)
    def with_access(
        *,
        url: str | None,
        token_env: str | None,
        token_file: Path | None,
        config_path: Path | None,
        profile: str | None,
        env_file: Path | None,
        **others: Any,
    ) -> Any:
        found = found_config(config_path)
        access = ServiceAccess(
            url_option=url,
            token_env=token_env,
            token_file=token_file,
            config=None if found is None else (found, profile, env_file),
            is_config_named=config_path is not None,
        )
        return command(access=access, **others)

    collected = config_options(with_access)
    for option in (
        click.option(
            "--token-env", metavar="NAME", help="The environment variable that holds the token."
        ),
        click.option(
            "--token-file",
            type=FILE,
            help=f"The file that holds the token, or '-' for stdin. {default_token}",
        ),
        click.option(
            "--url",
            metavar="URL",
            callback=_service_url,
            help="The URL of the service. The default is the address in the config.",
        ),
    ):
        collected = option(collected)
    return collected  # type: ignore[return-value]  # click passes keywords


def write_output(text: str, out: Path | None, mode: int = 0o666) -> None:
    """Print *text*, or write it to the new file *out*.

    Raises:
        click.ClickException: The file exists, or cannot be written.
    """
    if out is None:
        click.echo(text)
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        reason = f"{str(out)!r} cannot be written: {fault_of(error).meaning}."
        raise click.ClickException(reason) from None


class Failure(click.ClickException):
    """An error of ours: printed to stderr in a sentence, exit code 1."""

    def __init__(self, error: WatsError) -> None:
        super().__init__(error.with_code())
