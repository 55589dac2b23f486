"""The section of a subscriber: an HTTP endpoint that receives updates. No I/O."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from wats.config import checks
from wats.config.checks import Check, Spec, key
from wats.config.secret_sources import SOURCE, SecretSource

CODE: Final = "invalid_subscribers"
DEFAULT_TIMEOUT_SECONDS: Final = 15.0
LONGEST_PAUSE_SECONDS: Final = 7 * 86_400.0
MAX_PAUSES: Final = 100
MAX_BATCH: Final = 1000
"""The maximum number of updates in one webhook of Meta."""

KINDS: Final = (
    "message",
    "status",
    "account",
    "unknown",
    "callConnect",
    "callTerminate",
    "callStatus",
    "groupLifecycle",
    "groupParticipants",
    "groupSettings",
    "groupStatus",
    "userPreferences",
    "system",
    "chatOpened",
    "paymentStatus",
    "error",
    "userAction",
    "userIdUpdate",
    "template",
    "history",
    "messageEcho",
    "appStateSync",
    "flow",
    "automaticEvent",
    "standby",
    "handover",
)
"""The kinds of updates; a test compares them with `UpdateKind`, which is of another package."""

_NUMERIC_LABEL: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def _accept_kind(value: object) -> object:
    return value if isinstance(value, str) and value in KINDS else None


def _accept_url(value: object) -> str | None:
    parts = checks.split_url(value)
    if parts is None or parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        return None
    host = parts.hostname or ""
    is_usable = checks.is_host(host) and "#" not in str(value) and not _is_odd_address(host)
    return str(value) if is_usable else None


def _is_odd_address(host: str) -> bool:
    """Return whether *host* is an IPv4 address in another form, such as `2130706433` or `0x7f.1`.

    Such hosts are written only to hide an address.
    """
    last = host.removesuffix(".").rpartition(".")[2]
    if ":" in host or not _NUMERIC_LABEL.fullmatch(last):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


_KIND: Final = Check("the kind of an update", _accept_kind, KINDS)


def kinds_key(consumer: str, code: str) -> Mapping[str, Spec]:
    """Return the metadata of the kinds of updates that a *consumer* receives."""
    meaning = f"The kinds of updates that the {consumer} receives; all by default."
    return key(_KIND, code, meaning, repeats=True, selects=True)


def numbers_key(consumer: str, code: str) -> Mapping[str, Spec]:
    """Return the metadata of the numbers whose updates a *consumer* receives."""
    meaning = (
        f"The names or ids of the numbers whose updates the {consumer} receives, and no update "
        "without a number; all updates by default."
    )
    return key(checks.number_reference, code, meaning, repeats=True, selects=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberConfig:
    """An HTTP endpoint that receives updates, and the sources of its secrets."""

    name: str = field(
        metadata=key(
            checks.short_name,
            CODE,
            "The name of the subscriber, which identifies its deliveries in the database. Change "
            "it only while it has none.",
        )
    )
    url: str = field(
        metadata=key(
            Check(
                "an http or https URL without credentials or fragment; an IPv4 address has four "
                "decimal numbers",
                _accept_url,
            ),
            CODE,
            "The URL that receives a POST for each update. http and private addresses are refused, "
            "unless `subscribers.allowPrivateNetwork` is true.",
            shy=True,
        )
    )
    format: Literal["update", "meta"] = field(
        default="update",
        metadata=key(
            checks.one_of("update", "meta"),
            CODE,
            "The form of the requests: `update` with a signature of Standard Webhooks, or that of "
            "Meta's webhooks.",
        ),
    )
    secrets: tuple[SecretSource, ...] = field(
        metadata=key(
            SOURCE,
            "invalid_env_ref",
            "The key of the signatures: `whsec_` and 24 to 64 bytes in base64 for the format "
            "`update`. A list during rotation: the format `update` signs with each, the format "
            "`meta` with the first.",
            name="secret",
            secret=checks.bearer_token,
            repeats=True,
        )
    )
    kinds: tuple[str, ...] = field(default=(), metadata=kinds_key("subscriber", CODE))
    numbers: tuple[str, ...] = field(default=(), metadata=numbers_key("subscriber", CODE))
    concurrency: int = field(
        default=16,
        metadata=key(
            checks.whole(1, 1024),
            CODE,
            "The maximum number of concurrent requests per process, each for another conversation.",
        ),
    )
    batch: int = field(
        default=1,
        metadata=key(
            checks.whole(1, MAX_BATCH),
            CODE,
            "The maximum number of updates in one request, with the format `meta`: updates of one "
            "conversation that wait are sent together.",
        ),
    )
    timeout_seconds: float = field(
        default=DEFAULT_TIMEOUT_SECONDS,
        metadata=key(
            checks.number(0.1, 600),
            CODE,
            "The time limit of a request; less than `inbox.handlerTimeoutSeconds`.",
        ),
    )
    schedule: tuple[float, ...] = field(
        default=(),
        metadata=key(
            checks.duration(LONGEST_PAUSE_SECONDS),
            CODE,
            "The pauses between the attempts, in order; the update is a dead letter after the "
            "attempt that follows the last pause. At most 100. By default as for a handler.",
            repeats=True,
        ),
    )
    disable_after_hours: float | None = field(
        default=None,
        metadata=key(
            checks.number(0.1, 8760),
            CODE,
            "How long a subscriber may be down before it is paused; `wats consumers resume` ends "
            "the pause.",
        ),
    )
    allow_private_network: bool = field(
        default=False,
        metadata=key(
            checks.flag,
            CODE,
            "Whether http, and addresses that are not public, are permitted.",
        ),
    )


def needs_https(url: str) -> bool:
    """Return whether *url*, which was accepted, is not https."""
    return urlsplit(url).scheme != "https"
