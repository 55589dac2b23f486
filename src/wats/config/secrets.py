"""Secrets are read from the sources that a profile names. Reads the named files only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from wats.config import checks
from wats.config.checks import Check
from wats.config.fields import PROFILE, Key, attempt, step, variable
from wats.config.files import read_text
from wats.config.profile import Profile, ProfileSource
from wats.config.secret_sources import EnvRef, FileRef, Secrets, SecretSource
from wats.errors import ConfigError, ConfigIssue
from wats.privacy import Secret

MAX_SECRET_FILE_BYTES: Final = 8192

_UNSET: Final = ("missing_secret", "file_read_error")
"""The codes of a secret whose variable is not set, or whose file cannot be read."""

ReadAll: TypeAlias = Callable[[Sequence[SecretSource], str, Check], tuple[Secret, ...]]
"""Reads the secrets at a path of the config."""


class ClientSecrets(NamedTuple):
    """The secrets of subscribers and of API tokens, by their names."""

    subscribers: Mapping[str, tuple[Secret, ...]]
    api_tokens: Mapping[str, tuple[Secret, ...]]


def resolve_secrets(
    profile: ProfileSource, variables: Mapping[str, str], directory: Path
) -> Secrets:
    """Read the secrets of *profile* from *variables* and from files relative to *directory*.

    Raises:
        ConfigError: Some secrets are missing or invalid. Each is named by its key in the config
            file and by its environment variable, never shown.
    """
    issues: list[ConfigIssue] = []
    found: dict[str, tuple[Secret, ...]] = {}

    def read_all(sources: Sequence[SecretSource], path: str, rule: Check) -> tuple[Secret, ...]:
        places = [path] if len(sources) == 1 else [f"{path}[{i}]" for i in range(len(sources))]
        readings = [
            attempt(partial(_secret, source, rule, place, variables, directory), issues)
            for source, place in zip(sources, places, strict=True)
        ]
        return tuple(secret for secret in readings if secret is not None)

    for path, attribute, rule in _secret_keys(step("$.profiles", profile.name)):
        found[attribute] = read_all(getattr(profile.secrets, attribute), path, rule)
    url = profile.persistence.url
    database_url = None
    if isinstance(url, EnvRef | FileRef):
        place = f"{step('$.profiles', profile.name)}.persistence.url"
        read = partial(_secret, url, checks.database_url, place, variables, directory)
        database_url = attempt(read, issues)
    of_items = _of_items(profile, step("$.profiles", profile.name), read_all)
    if issues:
        raise ConfigError(issues)
    return Secrets(
        access_token=found["access_token"][0],
        verify_token=found["verify_token"][0],
        app_secrets=found["app_secrets"],
        bearer_tokens=found["bearer_tokens"],
        telemetry_tokens=found["telemetry_tokens"],
        database_password=found["database_password"],
        database_url=database_url,
        **of_items,
    )


def resolve_client_secrets(
    profile: Profile, variables: Mapping[str, str], directory: Path
) -> ClientSecrets:
    """Read the secrets of subscribers and API tokens that are set, as `resolve_secrets` does.

    Raises:
        ConfigError: Some of these secrets are set and invalid.
    """
    issues: list[ConfigIssue] = []

    def read_set(sources: Sequence[SecretSource], path: str, rule: Check) -> tuple[Secret, ...]:
        readings = [
            attempt(partial(_secret, source, rule, path, variables, directory), issues)
            for source in sources
        ]
        return tuple(secret for secret in readings if secret is not None)

    found = _of_clients(profile, step("$.profiles", profile.name), read_set)
    if invalid := [each for each in issues if each.code not in _UNSET]:
        raise ConfigError(invalid)
    return found


def _of_items(profile: Profile, path: str, read_all: ReadAll) -> dict[str, Any]:
    """Return the secrets of the items of lists, each by the name of its item."""
    clients = _of_clients(profile, path, read_all)
    own = {
        each.name: read_all(each.access_tokens, f"{path}.numbers[{i}].accessToken", checks.token)
        for i, each in enumerate(profile.numbers)
    }
    access_tokens = {name: found[0] for name, found in own.items() if found}
    return {**clients._asdict(), "access_tokens": access_tokens}


def _of_clients(profile: Profile, path: str, read_all: ReadAll) -> ClientSecrets:
    rules = {"update": checks.webhook_secret, "meta": checks.bearer_token}
    return ClientSecrets(
        subscribers={
            each.name: read_all(each.secrets, f"{path}.subscribers[{i}].secret", rules[each.format])
            for i, each in enumerate(profile.subscribers)
        },
        api_tokens={
            each.name: read_all(
                each.tokens, f"{path}.service.tokens[{i}].token", checks.bearer_token
            )
            for i, each in enumerate(profile.service.tokens)
        },
    )


def database_of(profile: Profile, secrets: Secrets) -> tuple[str | None, str | None]:
    """Return the URL of the database, and its password if that is not part of the URL."""
    url = profile.persistence.url
    if isinstance(url, EnvRef | FileRef):
        url = secrets.database_url.reveal() if secrets.database_url is not None else None
    password = secrets.database_password[0].reveal() if secrets.database_password else None
    return url, password


def _secret_keys(path: str) -> Iterator[tuple[str, str, Check]]:
    for section in PROFILE:
        if isinstance(section, Key) or section.repeats:
            continue
        for key in section.keys:
            if key.spec.secret is not None:
                yield f"{path}.{section.name}.{key.name}", key.attribute, key.spec.secret


def _secret(
    source: SecretSource, rule: Check, where: str, variables: Mapping[str, str], directory: Path
) -> Secret:
    if isinstance(source, EnvRef):
        name, value = variable(source.name), variables.get(source.name, "")
        absence = "is not set or blank"
    else:
        name, value = "The secret file", _file(source, where, directory)
        absence = "is blank"
    if not value.strip():
        raise ConfigError([ConfigIssue("missing_secret", where, f"{name} {absence}.")])
    if rule.accept(value) is None:
        raise ConfigError(
            [ConfigIssue("invalid_secret", where, f"{name} must hold {rule.expects}.")]
        )
    return Secret(value)


def _file(source: FileRef, where: str, directory: Path) -> str:
    content = read_text(directory / source.path, limit=MAX_SECRET_FILE_BYTES, where=where)
    # Editors and `echo` end a file with a line break that does not belong to the secret.
    return content.removesuffix("\n").removesuffix("\r")
