"""The requests to subscribers: body and signature in both formats. No I/O."""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from wats.config import SubscriberConfig, checks
from wats.errors import ConfigError, ConfigIssue
from wats.inbound.signature import KeyedHashes, keyed_digest, keyed_hashes
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.subscribers.envelopes import encode_entries, entry_of


class SubscriberRequest(NamedTuple):
    """The headers and the body of a request."""

    headers: Mapping[str, str]
    body: bytes


MakeRequest: TypeAlias = Callable[[Sequence[Update], datetime], SubscriberRequest]
"""Makes the request with updates, at a time. The format `update` has one update."""


class SubscriberUpdate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An update in the format `update`, also for polls; see `Update` for its members."""

    key: str
    kind: str
    field: str
    waba_id: str
    phone_number_id: str | None
    display_phone_number: str | None
    conversation: str | None
    occurred_at: datetime
    received_at: datetime
    contact: dict[str, Any] | None
    raw: dict[str, Any]


_JSON: Final = {"content-type": "application/json"}
_ENCODER: Final = msgspec.json.Encoder()


def make_requests(
    config: SubscriberConfig, secrets: Sequence[Secret], displayed: Mapping[str, str]
) -> MakeRequest:
    """Return the function that makes the requests of a subscriber.

    Args:
        config: Its section of the config.
        secrets: The keys of its signatures.
        displayed: The numbers as Meta's webhooks have them, by phone number id.

    Raises:
        ConfigError: A secret is missing, or has not the form that the format needs.
    """
    keys = [each.reveal() for each in secrets]
    rule = checks.webhook_secret if config.format == "update" else checks.bearer_token
    if not keys or any(rule.accept(each) is None for each in keys):
        place = f"secrets.subscribers[{config.name}]"
        raise ConfigError([ConfigIssue("invalid_secret", place, f"Must be {rule.expects}.")])
    if config.format == "update":
        decoded = [base64.b64decode(each.removeprefix("whsec_")) for each in keys]
        keyed = [keyed_hashes(each) for each in decoded]
        return lambda updates, now: _typed(updates, now, keyed)
    first = keyed_hashes(keys[0].encode())
    return lambda updates, _: _as_meta(updates, first, displayed)


def body_of(update: Update) -> SubscriberUpdate:
    """Return the body with *update* in the format `update`."""
    return SubscriberUpdate(
        key=update.key,
        kind=update.kind.value,
        field=update.field,
        waba_id=update.waba_id,
        phone_number_id=update.phone_number_id,
        display_phone_number=update.display_phone_number,
        conversation=update.conversation,
        occurred_at=update.occurred_at,
        received_at=update.received_at,
        contact=update.contact,
        raw=update.raw,
    )


def _typed(
    updates: Sequence[Update], now: datetime, keyed: Sequence[KeyedHashes]
) -> SubscriberRequest:
    (update,) = updates
    body = _ENCODER.encode(body_of(update))
    timestamp = str(int(now.timestamp()))
    head = f"{update.key}.{timestamp}.".encode()
    digests = [keyed_digest(each, head, body) for each in keyed]
    signatures = " ".join([f"v1,{base64.b64encode(each).decode()}" for each in digests])
    headers = {"webhook-id": update.key, "webhook-timestamp": timestamp}
    return SubscriberRequest({**_JSON, **headers, "webhook-signature": signatures}, body)


def _as_meta(
    updates: Sequence[Update], keyed: KeyedHashes, displayed: Mapping[str, str]
) -> SubscriberRequest:
    entries = [entry_of(each, displayed.get(each.phone_number_id or "", "")) for each in updates]
    body = encode_entries(entries)
    signature = "sha256=" + keyed_digest(keyed, body).hex()
    return SubscriberRequest({**_JSON, "x-hub-signature-256": signature}, body)
