"""The sections of the config file: keys, defaults, rules and meanings. No I/O.

This is the complete table. Each field carries its `Spec`, and the parser, the redaction and the
documentation are generated from these fields, so that every key is known to all three.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from wats.config import checks
from wats.config.checks import Check
from wats.errors import ConfigError, ConfigIssue
from wats.privacy import Secret

MIB = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The properties of a config key, except its name and default.

    Attributes:
        check: The rule for its value; for a secret, the rule for its source.
        code: The code of an issue with this key.
        meaning: One sentence for the documentation.
        name: The key in the file, where it is not the attribute in camelCase.
        section: The section of a secret, since all secrets are kept together.
        secret: The rule for the secret itself.
        repeats: Whether a list may replace one value. The attribute is always a tuple.
        shy: Whether `redact` hides the value.
    """

    check: Check
    code: str
    meaning: str
    name: str | None = None
    section: str | None = None
    secret: Check | None = None
    repeats: bool = False
    shy: bool = False


def _key(check: Check, code: str, meaning: str, **more: Any) -> Mapping[str, Spec]:
    return {"spec": Spec(check=check, code=code, meaning=meaning, **more)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """The address of Graph, and its API version."""

    api_version: str = field(
        metadata=_key(
            checks.graph_version,
            "invalid_api_version",
            "The Graph API version of every call.",
        )
    )
    base_url: str = field(
        metadata=_key(
            checks.web_url,
            "invalid_base_url",
            "The URL of Graph: `https://graph.facebook.com`, or a proxy or simulator. http is "
            "refused for a host that is not loopback, unless `graph.allowInsecureHttp` is true.",
        )
    )
    allow_insecure_http: bool = field(
        default=False,
        metadata=_key(
            checks.flag,
            "invalid_base_url",
            "Whether the access token may cross a network unencrypted, such as the private network "
            "of a group of containers.",
        ),
    )
    app_secret_proof: bool = field(
        default=True,
        metadata=_key(
            checks.flag,
            "invalid_app_secret_proof",
            "Whether Graph calls carry `appsecret_proof`, made with the first `webhook.appSecret`. "
            "Switch it off if the access token belongs to another app.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatsAppConfig:
    """The account and the number that messages are sent from."""

    waba_id: str = field(
        metadata=_key(
            checks.account_id,
            "invalid_whatsapp",
            "The id of the WhatsApp Business Account, with or without quotes.",
            shy=True,
        )
    )
    phone_number_id: str = field(
        metadata=_key(
            checks.phone_number_id,
            "invalid_whatsapp",
            "The id of the business phone number, not the number itself.",
            shy=True,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """The endpoint for Meta's webhooks."""

    path: str = field(
        metadata=_key(
            checks.webhook_path,
            "invalid_webhook_path",
            "The path of the webhook, as in Meta's dashboard; a trailing slash is part of it.",
        )
    )
    max_body_bytes: int = field(
        default=3 * MIB,
        metadata=_key(
            checks.whole(1, 10 * MIB),
            "invalid_max_body_bytes",
            "The maximum size of a webhook body; the default is Meta's maximum.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The path of our own API."""

    host: str = field(
        metadata=_key(
            checks.bind_host,
            "invalid_service_host",
            "The address to listen on; `127.0.0.1` accepts connections from this machine only.",
        )
    )
    port: int = field(
        metadata=_key(checks.port, "invalid_service_port", "The TCP port to listen on.")
    )
    api_prefix: str = field(
        metadata=_key(
            checks.absolute_path,
            "invalid_service_api_prefix",
            "The prefix of all API routes; one trailing slash is removed.",
        )
    )
    public_url: str | None = field(
        default=None,
        metadata=_key(
            checks.web_url,
            "invalid_service_public_url",
            "The public URL of the service, for the API document.",
        ),
    )
    workers: int = field(
        default=1,
        metadata=_key(
            checks.workers,
            "invalid_service_workers",
            "The number of worker processes of `wats serve`.",
        ),
    )


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


def _accept_source(value: object) -> SecretSource | None:
    match value:
        case {"env": str(name), **more} if not more and checks.variable_name.accept(name):
            return EnvRef(name)
        case {"file": str(path), **more} if not more and _FILE.accept(path):
            return FileRef(path)
    return None


def _accept_database(value: object) -> object:
    return _accept_source(value) or checks.public_database_url.accept(value)


_DATABASE = Check(
    f"{checks.public_database_url.expects}, or {{env: NAME}} or {{file: PATH}}", _accept_database
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceConfig:
    """The database. `url` is None when there is none."""

    url: str | SecretSource | None = field(
        default="sqlite:///wats.db",
        metadata=_key(
            _DATABASE,
            "invalid_persistence",
            "The URL of the database. A relative file path starts at the working directory.",
            shy=True,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsConfig:
    """The routes for WhatsApp groups."""

    enabled: bool = field(
        default=False,
        metadata=_key(checks.flag, "invalid_groups", "Whether the group routes are served."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """The exposed metric families, and further receivers of telemetry.

    `sink` names a callable without arguments that returns a `TelemetrySink`. `wats serve` calls it
    once in each worker process; a service that is made in code is given its sink there.
    """

    families: Literal["contract", "operator"] = field(
        default="contract",
        metadata=_key(
            checks.one_of("contract", "operator"),
            "invalid_telemetry",
            "The set of metric families; `operator` includes `contract`.",
        ),
    )
    sink: str | None = field(
        default=None,
        metadata=_key(
            checks.function,
            "invalid_telemetry",
            "The import name of a function that returns a telemetry sink; `wats serve` calls it "
            "without arguments, once in each worker process.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxConfig:
    """The dispatch of stored updates to the handlers."""

    concurrency: int = field(
        default=128,
        metadata=_key(
            checks.whole(1, 1024),
            "invalid_inbox",
            "The maximum number of concurrent calls per handler and process.",
        ),
    )
    handler_timeout_seconds: float = field(
        default=30.0,
        metadata=_key(
            checks.number(0.1, 3600), "invalid_inbox", "The timeout of one handler call."
        ),
    )
    max_attempts: int = field(
        default=10,
        metadata=_key(
            checks.whole(1, 1000),
            "invalid_inbox",
            "The number of attempts before an update becomes a dead letter.",
        ),
    )
    lease_seconds: float = field(
        default=30.0,
        metadata=_key(
            checks.number(1, 3600),
            "invalid_inbox",
            "The duration of a lease: after a crash, an update is retried when its lease expires.",
        ),
    )
    retention_days: float = field(
        default=8.0,
        metadata=_key(
            checks.number(0, 3650),
            "invalid_inbox",
            "The retention of update keys, which detect redeliveries. Meta redelivers for up to "
            "7 days.",
        ),
    )
    dead_retention_days: float = field(
        default=30.0,
        metadata=_key(
            checks.number(0, 3650),
            "invalid_inbox",
            "The retention of dead letters, including their content.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesConfig:
    """Retention of data about messages."""

    retention_days: int = field(
        default=90,
        metadata=_key(
            checks.whole(1, 3650),
            "invalid_messages",
            "The retention of message records, but at least `inbox.retentionDays`, because records "
            "detect redeliveries.",
        ),
    )
    idempotency_hours: int = field(
        default=24,
        metadata=_key(
            checks.whole(1, 8760),
            "invalid_messages",
            "The retention of idempotency keys.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All settings of one business number, except the secrets."""

    name: str
    graph: GraphConfig
    whatsapp: WhatsAppConfig
    webhook: WebhookConfig
    service: ServiceConfig
    persistence: PersistenceConfig = field(default_factory=PersistenceConfig)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    handlers: tuple[str, ...] = field(
        default=(),
        metadata=_key(
            checks.function,
            "invalid_handlers",
            "The import names of the handlers, which are called with every update.",
            repeats=True,
        ),
    )
    inbox: InboxConfig = field(default_factory=InboxConfig)
    messages: MessagesConfig = field(default_factory=MessagesConfig)


_SOURCE = Check("{env: NAME} or {file: PATH}", _accept_source)


def _secret(section: str, name: str, value: Check, meaning: str, **more: Any) -> Mapping[str, Spec]:
    return _key(
        _SOURCE, "invalid_env_ref", meaning, section=section, name=name, secret=value, **more
    )


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
class ProfileSource(Profile):
    """A profile of the file: its settings, and the sources of its secrets."""

    secrets: SecretSources = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole valid config file. No secret has been read yet."""

    version: int = field(
        metadata=_key(checks.version, "invalid_version", "The version of the config format.")
    )
    default_profile: str = field(
        metadata=_key(
            checks.name,
            "missing_default_profile",
            "The name of the profile that is used unless another is selected.",
        )
    )
    profiles: Mapping[str, ProfileSource] = field(
        metadata=_key(
            checks.profiles,
            "invalid_profiles",
            "One profile for each business number. All profiles are validated, one is served.",
        )
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

    def __post_init__(self) -> None:
        """Apply the rules of the config file to values from code."""
        issues = [
            ConfigIssue("invalid_secret", f"secrets.{place}", f"Must be {rule.expects}.")
            for place, secret, rule in self._rules()
            if rule.accept(secret.reveal()) is None
        ]
        if issues:
            raise ConfigError(issues)

    def _rules(self) -> Iterator[tuple[str, Secret, Check]]:
        for attribute in fields(SecretSources):
            rule: Check = attribute.metadata["spec"].secret
            held: Secret | tuple[Secret, ...] = getattr(self, attribute.name)
            if isinstance(held, Secret):
                yield attribute.name, held, rule
            else:
                for i, secret in enumerate(held):
                    yield f"{attribute.name}[{i}]", secret, rule
