"""The configuration: frozen values, and every mistake reported together with its path.

This package does not read the process: the files and the environment are arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from wats.config import checks
from wats.config.describe import ConfigKey, config_keys, markdown_table, redact
from wats.config.fields import attempt
from wats.config.files import find_env_file, parse_env_file, read_document, read_env_file
from wats.config.numbers import NumberConfig, OtherNumbers, TokenConfig
from wats.config.outbox import OutboxConfig
from wats.config.parse import parse_config
from wats.config.profile import (
    Config,
    GraphConfig,
    GroupsConfig,
    InboxConfig,
    MessagesConfig,
    PersistenceConfig,
    Profile,
    ProfileSource,
    ServiceConfig,
    TelemetryConfig,
    WebhookConfig,
    WhatsAppConfig,
)
from wats.config.pullers import PullerConfig
from wats.config.secret_sources import EnvRef, FileRef, Secrets, SecretSource, SecretSources
from wats.config.secrets import (
    ClientSecrets,
    database_of,
    resolve_client_secrets,
    resolve_secrets,
)
from wats.config.subscribers import SubscriberConfig
from wats.errors import ConfigError, ConfigIssue

__all__ = [
    "ClientSecrets",
    "Config",
    "ConfigKey",
    "EnvRef",
    "FileRef",
    "GraphConfig",
    "GroupsConfig",
    "InboxConfig",
    "MessagesConfig",
    "NumberConfig",
    "OtherNumbers",
    "OutboxConfig",
    "PersistenceConfig",
    "Profile",
    "ProfileSource",
    "PullerConfig",
    "SecretSource",
    "SecretSources",
    "Secrets",
    "ServiceConfig",
    "SubscriberConfig",
    "TelemetryConfig",
    "TokenConfig",
    "WebhookConfig",
    "WhatsAppConfig",
    "choose_profile",
    "config_keys",
    "database_of",
    "find_env_file",
    "load_client_config",
    "load_config",
    "markdown_table",
    "parse_config",
    "parse_env_file",
    "read_config",
    "read_env_file",
    "redact",
    "resolve_secrets",
    "with_overrides",
]

MAX_NAMES: Final = 20
"""How many profiles an error lists."""

AnyProfile = TypeVar("AnyProfile", bound=Profile)


def load_config(
    source: str | Path,
    *,
    environ: Mapping[str, str],
    profile: str | None = None,
    env_file: str | Path | None = None,
) -> tuple[ProfileSource, Secrets]:
    """Read the config file *source* and the secrets of one of its profiles.

    Args:
        source: The path of a `.yaml`, `.yml` or `.json` file.
        environ: The environment variables that may hold secrets, unless blank.
        profile: The name of the profile; the file's `defaultProfile` if None.
        env_file: The path of a file of further variables, over which *environ* takes precedence. A
            relative path starts at the working directory or, if there is no such file, at the
            directory of *source*.

    Raises:
        ConfigError: With an issue for each mistake in both files or, if there is none, for each
            unusable secret.
    """
    chosen, variables = _read_files(source, environ, profile, env_file)
    return chosen, resolve_secrets(chosen, variables, Path(source).parent)


def load_client_config(
    source: str | Path,
    *,
    environ: Mapping[str, str],
    profile: str | None = None,
    env_file: str | Path | None = None,
) -> tuple[ProfileSource, ClientSecrets]:
    """Read a profile as `load_config` does, with only the secrets of its clients that are set.

    Raises:
        ConfigError: As for `load_config`, but not for a secret that is missing.
    """
    chosen, variables = _read_files(source, environ, profile, env_file)
    return chosen, resolve_client_secrets(chosen, variables, Path(source).parent)


def _read_files(
    source: str | Path,
    environ: Mapping[str, str],
    profile: str | None,
    env_file: str | Path | None,
) -> tuple[ProfileSource, Mapping[str, str]]:
    """Return the profile, and the variables of *environ* and the env file."""
    issues: list[ConfigIssue] = []
    chosen = attempt(lambda: choose_profile(read_config(source), profile), issues)
    directory = Path(source).parent
    variables = attempt(lambda: read_env_file(env_file, directory) if env_file else {}, issues)
    if chosen is None or variables is None:
        raise ConfigError(issues)
    given = {name: value for name, value in environ.items() if value.strip()}
    return chosen, {**variables, **given}


def read_config(source: str | Path) -> Config:
    """Read and check the config file *source*, and none of its secrets.

    Raises:
        ConfigError: With an issue for each mistake.
    """
    return parse_config(read_document(Path(source)))


def choose_profile(config: Config, name: str | None = None) -> ProfileSource:
    """Return the profile *name* of *config*, or its default profile if *name* is None.

    Raises:
        ConfigError: The profile does not exist.
    """
    profile = config.profiles.get(config.default_profile if name is None else name)
    if profile is None:
        names = ", ".join(repr(name) for name in list(config.profiles)[:MAX_NAMES])
        reason = f"Has no profile with the requested name; it has {names}."
        raise ConfigError([ConfigIssue("unknown_profile", "$.profiles", reason)])
    return profile


def with_overrides(
    profile: AnyProfile,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    handlers: Sequence[str] = (),
) -> AnyProfile:
    """Return *profile* with another *host*, *port* or number of *workers*, or further *handlers*.

    Port 0 means any free port. It is allowed here and not in the file, where it would make a
    service that no client finds.

    Raises:
        ConfigError: With an issue for each unusable value.
    """
    changes: dict[str, Any] = {"host": host, "port": port, "workers": workers}
    given = {name: value for name, value in changes.items() if value is not None}
    rules = {"host": checks.bind_host, "port": checks.bind_port, "workers": checks.workers}
    issues = [
        ConfigIssue(f"invalid_service_{name}", f"--{name}", f"Must be {rule.expects}.")
        for name, rule in rules.items()
        if name in given and rule.accept(given[name]) is None
    ]
    if any(checks.function.accept(each) is None for each in handlers):
        reason = f"Must be {checks.function.expects}."
        issues.append(ConfigIssue("invalid_handlers", "--handler", reason))
    if issues:
        raise ConfigError(issues)
    return replace(
        profile,
        service=replace(profile.service, **given),
        handlers=tuple(dict.fromkeys((*profile.handlers, *handlers))),
    )
