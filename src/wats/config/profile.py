"""The sections of the config file: keys, defaults, rules and meanings. No I/O.

This is the complete table. Each field carries its `Spec`, and the parser, the redaction and the
documentation are generated from these fields, so that every key is known to all three.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wats.config import checks
from wats.config.checks import Check, key
from wats.config.numbers import (
    DEFAULT_NUMBER,
    NumberConfig,
    OtherNumbers,
    TokenConfig,
    throughput_check,
)
from wats.config.outbox import OutboxConfig
from wats.config.pullers import PullerConfig
from wats.config.secret_sources import SecretSource, SecretSources, accept_source
from wats.config.subscribers import SubscriberConfig

MIB = 1_048_576

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # recognized, not listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """The address of Graph, and its API version."""

    api_version: str = field(
        metadata=key(
            checks.graph_version,
            "invalid_api_version",
            "The Graph API version of every call.",
        )
    )
    base_url: str = field(
        metadata=key(
            checks.graph_url,
            "invalid_base_url",
            "The URL of Graph: `https://graph.facebook.com`, or a proxy or simulator. http is "
            "refused for a host that is not loopback, unless `graph.allowInsecureHttp` is true.",
        )
    )
    allow_insecure_http: bool = field(
        default=False,
        metadata=key(
            checks.flag,
            "invalid_base_url",
            "Whether the access token may cross a network unencrypted, such as the private network "
            "of a group of containers.",
        ),
    )
    app_secret_proof: bool = field(
        default=True,
        metadata=key(
            checks.flag,
            "invalid_app_secret_proof",
            "Whether Graph calls carry `appsecret_proof`, made with the first `webhook.appSecret`. "
            "Switch it off if the access token belongs to another app.",
        ),
    )
    proxy: str | None = field(
        default=None,
        metadata=key(
            checks.proxy,
            "invalid_graph",
            "The forward proxy of Graph calls; `environment` uses `HTTPS_PROXY` and `NO_PROXY`, "
            "which are ignored otherwise.",
        ),
    )
    connect_seconds: float = field(
        default=5.0,
        metadata=key(
            checks.number(0.1, 300),
            "invalid_graph",
            "The time limit for a connection to Graph, including the wait for a free one; less "
            "than `timeoutSeconds`.",
        ),
    )
    read_seconds: float = field(
        default=20.0,
        metadata=key(
            checks.number(0.1, 300),
            "invalid_graph",
            "The longest silence while waiting for a response of Graph.",
        ),
    )
    timeout_seconds: float = field(
        default=30.0,
        metadata=key(
            checks.number(0.2, 600),
            "invalid_graph",
            "The time limit of a Graph call.",
        ),
    )
    max_connections: int = field(
        default=100,
        metadata=key(
            checks.whole(1, 10_000),
            "invalid_graph",
            "The maximum number of connections to Graph per process; further calls wait.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatsAppConfig:
    """The default number, and its account."""

    waba_id: str = field(
        metadata=key(
            checks.account_id,
            "invalid_whatsapp",
            "The id of the WhatsApp Business Account, with or without quotes.",
            shy=True,
        )
    )
    phone_number_id: str = field(
        metadata=key(
            checks.phone_number_id,
            "invalid_whatsapp",
            "The id of the business phone number, not the number itself.",
            shy=True,
        )
    )
    display_phone_number: str | None = field(
        default=None,
        metadata=key(
            checks.display_phone_number,
            "invalid_whatsapp",
            "The number as Meta's webhooks have it, for subscribers with the format `meta`.",
            shy=True,
        ),
    )
    throughput: int | None = field(
        default=None,
        metadata=key(
            throughput_check,
            "invalid_whatsapp",
            "The number of messages per second that Meta permits for the number.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """The endpoint for Meta's webhooks."""

    path: str = field(
        metadata=key(
            checks.webhook_path,
            "invalid_webhook_path",
            "The path of the webhook, as in Meta's dashboard, including a trailing slash.",
        )
    )
    max_body_bytes: int = field(
        default=3 * MIB,
        metadata=key(
            checks.whole(1, 10 * MIB),
            "invalid_max_body_bytes",
            "The maximum size of a webhook body; the default is Meta's maximum.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The path of our own API."""

    host: str = field(
        metadata=key(
            checks.bind_host,
            "invalid_service_host",
            "The address to listen on; `127.0.0.1` accepts connections from this machine only.",
        )
    )
    port: int = field(
        metadata=key(checks.port, "invalid_service_port", "The TCP port to listen on.")
    )
    api_prefix: str = field(
        metadata=key(
            checks.absolute_path,
            "invalid_service_api_prefix",
            "The prefix of all API routes; one trailing slash is removed.",
        )
    )
    public_url: str | None = field(
        default=None,
        metadata=key(
            checks.web_url,
            "invalid_service_public_url",
            "The public URL of the service, for the API document and for links in responses of "
            "Graph.",
        ),
    )
    workers: int = field(
        default=1,
        metadata=key(
            checks.workers,
            "invalid_service_workers",
            "The number of worker processes of `wats serve`.",
        ),
    )
    keep_alive_seconds: float = field(
        default=620.0,
        metadata=key(
            checks.number(1, 86_400),
            "invalid_service",
            "How long an idle connection stays open between requests; longer than the idle "
            "timeout of the load balancer or proxy in front.",
        ),
    )
    request_seconds: float = field(
        default=30.0,
        metadata=key(
            checks.number(0.1, 3600),
            "invalid_service",
            "The time limit for the arrival of a request, from its first byte.",
        ),
    )
    drain_seconds: float = field(
        default=5.0,
        metadata=key(
            checks.number(0, 3600),
            "invalid_service",
            "How long new connections are accepted after SIGTERM, while `/readyz` returns 503, so "
            "that load balancers notice.",
        ),
    )
    shutdown_seconds: float = field(
        default=15.0,
        metadata=key(
            checks.number(0, 3600),
            "invalid_service",
            "The time limit of requests in progress at a shutdown, after the drain.",
        ),
    )
    tokens: tuple[TokenConfig, ...] = ()

    @property
    def local_url(self) -> str:
        """The URL of the service for clients on its machine."""
        host = _LOOPBACK_OF.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def _accept_database(value: object) -> object:
    return accept_source(value) or checks.public_database_url.accept(value)


_DATABASE = Check(
    f"{checks.public_database_url.expects}, or {{env: NAME}} or {{file: PATH}}", _accept_database
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceConfig:
    """The database. `url` is None when there is none."""

    url: str | SecretSource | None = field(
        default="sqlite:///wats.db",
        metadata=key(
            _DATABASE,
            "invalid_persistence",
            "The URL of the database. A relative file path starts at the working directory.",
            shy=True,
        ),
    )
    timeout_seconds: float = field(
        default=5.0,
        metadata=key(
            checks.number(0.1, 300),
            "invalid_persistence",
            "The time limit of a store operation; a slower one fails with 503.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsConfig:
    """The routes for WhatsApp groups."""

    enabled: bool = field(
        default=False,
        metadata=key(checks.flag, "invalid_groups", "Whether the group routes are served."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """The exposed metric families, and further receivers of telemetry.

    `sink` names a callable without arguments that returns a `TelemetrySink`. `wats serve` calls it
    once in each worker process; a service that is made in code is given its sink there.
    """

    families: Literal["contract", "operator"] = field(
        default="contract",
        metadata=key(
            checks.one_of("contract", "operator"),
            "invalid_telemetry",
            "The set of metric families; `operator` includes `contract`.",
        ),
    )
    sink: str | None = field(
        default=None,
        metadata=key(
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
        metadata=key(
            checks.whole(1, 1024),
            "invalid_inbox",
            "The maximum number of concurrent calls per handler and process.",
        ),
    )
    handler_timeout_seconds: float = field(
        default=30.0,
        metadata=key(checks.number(0.1, 3600), "invalid_inbox", "The timeout of one handler call."),
    )
    max_attempts: int = field(
        default=10,
        metadata=key(
            checks.whole(1, 1000),
            "invalid_inbox",
            "The number of attempts before an update becomes a dead letter.",
        ),
    )
    lease_seconds: float = field(
        default=30.0,
        metadata=key(
            checks.number(1, 3600),
            "invalid_inbox",
            "The duration of a lease: after a crash, an update is retried when its lease expires.",
        ),
    )
    retention_days: float = field(
        default=8.0,
        metadata=key(
            checks.number(0, 3650),
            "invalid_inbox",
            "The retention of update keys, which detect redeliveries. Meta redelivers for up to "
            "7 days.",
        ),
    )
    dead_retention_days: float = field(
        default=30.0,
        metadata=key(
            checks.number(0, 3650),
            "invalid_inbox",
            "The retention of dead letters, including their content.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesConfig:
    """The rate limit, the window guard, and retention of data about messages."""

    retention_days: int = field(
        default=90,
        metadata=key(
            checks.whole(1, 3650),
            "invalid_messages",
            "The retention of message records, but at least `inbox.retentionDays`, because records "
            "detect redeliveries.",
        ),
    )
    idempotency_hours: int = field(
        default=24,
        metadata=key(
            checks.whole(1, 8760),
            "invalid_messages",
            "The retention of idempotency keys.",
        ),
    )
    window_guard: bool = field(
        default=False,
        metadata=key(
            checks.flag,
            "invalid_messages",
            "Whether free-form messages are refused while the recipient's service window is "
            "certainly closed. Needs a database.",
        ),
    )
    throughput: int = field(
        default=80,
        metadata=key(
            checks.throughput,
            "invalid_messages",
            "The number of messages a second that Meta permits for each number that states no "
            "`throughput` of its own: 80 at first, 20 for a number that is used with the WhatsApp "
            "Business app too, 1000 after an upgrade. `off` sends without pacing.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All settings of a service, except the secrets."""

    name: str
    graph: GraphConfig
    whatsapp: WhatsAppConfig
    webhook: WebhookConfig
    service: ServiceConfig
    persistence: PersistenceConfig = field(default_factory=PersistenceConfig)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    numbers: tuple[NumberConfig, ...] = ()
    other_numbers: OtherNumbers | None = field(
        default=None,
        metadata=key(
            checks.one_of("handle", "store", "ignore", "refuse"),
            "invalid_numbers",
            "The policy for updates of numbers that are not configured: `handle` as those of "
            "configured numbers, `store` without delivery, `ignore`, or `refuse` the webhook. The "
            "default is `store` if there are `numbers`, and `handle` otherwise.",
        ),
    )
    handlers: tuple[str, ...] = field(
        default=(),
        metadata=key(
            checks.function,
            "invalid_handlers",
            "The import names of the handlers, which are called with every update.",
            repeats=True,
        ),
    )
    subscribers: tuple[SubscriberConfig, ...] = ()
    pullers: tuple[PullerConfig, ...] = ()
    inbox: InboxConfig = field(default_factory=InboxConfig)
    messages: MessagesConfig = field(default_factory=MessagesConfig)
    outbox: OutboxConfig = field(default_factory=OutboxConfig)

    @property
    def all_numbers(self) -> tuple[NumberConfig, ...]:
        """All configured numbers, the default number first."""
        default = NumberConfig(
            name=DEFAULT_NUMBER,
            phone_number_id=self.whatsapp.phone_number_id,
            waba_id=self.whatsapp.waba_id,
            display_phone_number=self.whatsapp.display_phone_number,
            throughput=self.whatsapp.throughput,
        )
        return (default, *self.numbers)

    @property
    def other_numbers_policy(self) -> OtherNumbers:
        """The policy for updates of numbers that are not configured."""
        return self.other_numbers or ("store" if self.numbers else "handle")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSource(Profile):
    """A profile of the file: its settings, and the sources of its secrets."""

    secrets: SecretSources = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole valid config file. No secret has been read yet."""

    version: int = field(
        metadata=key(checks.version, "invalid_version", "The version of the config format.")
    )
    default_profile: str = field(
        metadata=key(
            checks.name,
            "missing_default_profile",
            "The name of the profile that is used unless another is selected.",
        )
    )
    profiles: Mapping[str, ProfileSource] = field(
        metadata=key(
            checks.profiles,
            "invalid_profiles",
            "One profile for each service. All profiles are validated, one is served.",
        )
    )
