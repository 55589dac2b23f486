"""The secrets of a profile, and the places that they are read from. No I/O."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from wats.config import checks
from wats.config.checks import Check, Spec, key
from wats.errors import ConfigError, ConfigIssue
from wats.privacy import Secret


@dataclass(frozen=True, slots=True)
class EnvRef:
    """A secret is in the environment variable *name*."""

    name: str


@dataclass(frozen=True, slots=True)
class FileRef:
    """A secret is in the file *path*, which is relative to the config file."""

    path: str


SecretSource: TypeAlias = EnvRef | FileRef
"""The source of one secret."""

_FILE = checks.printable(4096, "the path of a file")


def accept_source(value: object) -> SecretSource | None:
    """Return the source that *value* names, or `None`."""
    match value:
        case {"env": str(name), **more} if not more and checks.variable_name.accept(name):
            return EnvRef(name)
        case {"file": str(path), **more} if not more and _FILE.accept(path):
            return FileRef(path)
    return None


SOURCE = Check("{env: NAME} or {file: PATH}", accept_source)


def _secret(section: str, name: str, value: Check, meaning: str, **more: Any) -> Mapping[str, Spec]:
    return key(SOURCE, "invalid_env_ref", meaning, section=section, name=name, secret=value, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSources:
    """The sources of the secrets of a profile. Each may have several."""

    access_token: tuple[SecretSource] = field(
        metadata=_secret("auth", "accessToken", checks.token, "The bearer token for Graph calls.")
    )
    verify_token: tuple[SecretSource] = field(
        metadata=_secret(
            "webhook",
            "verifyToken",
            checks.verify_token,
            "The token that Meta sends when the webhook is set up.",
        )
    )
    app_secrets: tuple[SecretSource, ...] = field(
        metadata=_secret(
            "webhook",
            "appSecret",
            checks.token,
            "The key of webhook signatures; a list during rotation.",
            repeats=True,
        )
    )
    bearer_tokens: tuple[SecretSource, ...] = field(
        metadata=_secret(
            "service",
            "bearerToken",
            checks.bearer_token,
            "The bearer token for the API and the operator endpoints; a list during rotation.",
            repeats=True,
        )
    )
    database_password: tuple[SecretSource, ...] = field(
        default=(),
        metadata=_secret(
            "persistence",
            "password",
            checks.password,
            "The password of a PostgreSQL database; it replaces the one in `url`.",
        ),
    )
    telemetry_tokens: tuple[SecretSource, ...] = field(
        default=(),
        metadata=_secret(
            "telemetry",
            "bearerToken",
            checks.bearer_token,
            "A bearer token for the operator endpoints only, for scrapers; a list during rotation.",
            repeats=True,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The secrets of one profile. If one has several values, each is active.

    `database_password` has at most one.

    Raises:
        ConfigError: With an issue for each secret that is invalid in a config file too, such as a
            bearer token that is easily guessed. No secret is shown.
    """

    access_token: Secret
    verify_token: Secret
    app_secrets: tuple[Secret, ...]
    bearer_tokens: tuple[Secret, ...]
    telemetry_tokens: tuple[Secret, ...] = ()
    database_password: tuple[Secret, ...] = ()
    database_url: Secret | None = None
    """The database, if the profile names only the source of its URL."""
    subscribers: Mapping[str, tuple[Secret, ...]] = field(default_factory=dict)
    """The secrets of each subscriber, by name."""
    access_tokens: Mapping[str, Secret] = field(default_factory=dict)
    """The access tokens of the numbers that have one of their own, by the name of the number."""
    api_tokens: Mapping[str, tuple[Secret, ...]] = field(default_factory=dict)
    """The bearer tokens of `service.tokens`, by name."""

    def __post_init__(self) -> None:
        """Apply the rules of the config file to values from code."""
        issues = [
            ConfigIssue("invalid_secret", f"secrets.{place}", f"Must be {rule.expects}.")
            for place, secret, rule in self._rules()
            if rule.accept(secret.reveal()) is None
        ]
        issues += self._repeated()
        if issues:
            raise ConfigError(issues)

    def _repeated(self) -> Iterator[ConfigIssue]:
        """Yield an issue for each of `api_tokens` that another token equals: whose scopes count?"""
        seen = {each.reveal() for each in (*self.bearer_tokens, *self.telemetry_tokens)}
        for name, secrets in self.api_tokens.items():
            values = {each.reveal() for each in secrets}
            if values & seen:
                reason = "Must differ from every other token."
                yield ConfigIssue("invalid_secret", f"secrets.api_tokens[{name}]", reason)
            seen |= values

    def _rules(self) -> Iterator[tuple[str, Secret, Check]]:
        for attribute in fields(SecretSources):
            rule: Check = attribute.metadata["spec"].secret
            held: Secret | tuple[Secret, ...] = getattr(self, attribute.name)
            if isinstance(held, Secret):
                yield attribute.name, held, rule
            else:
                for i, secret in enumerate(held):
                    yield f"{attribute.name}[{i}]", secret, rule
        for name, secret in self.access_tokens.items():
            yield f"access_tokens[{name}]", secret, checks.token
        for group in ("subscribers", "api_tokens"):
            for name, secrets in getattr(self, group).items():
                yield from ((f"{group}[{name}]", each, checks.bearer_token) for each in secrets)
