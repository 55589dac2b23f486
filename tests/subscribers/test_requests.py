import itertools
import json
from collections.abc import Iterator

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.subscribers.conftest import DISPLAYED, META_SECRET, SECRET
from wats.clock import utc_now
from wats.config import SubscriberConfig
from wats.errors import ConfigError
from wats.inbound.normalize import normalize
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.subscribers.requests import make_requests
from wats.testing import sign

OTHER = "whsec_b3RoZXItcmFuZG9tLWJ5dGVzLWZvci10ZXN0cy1vbmx5"
TYPED = SubscriberConfig(name="crm", url="https://crm.example/hook", secrets=())
META = SubscriberConfig(name="crm", url="https://crm.example/hook", secrets=(), format="meta")


def test_the_library_of_standard_webhooks_accepts_the_signature(updates: Iterator[Update]) -> None:
    update = next(updates)

    headers, body = make_requests(TYPED, [Secret(SECRET)], DISPLAYED)([update], utc_now())

    document = Webhook(SECRET).verify(body, dict(headers))
    assert headers["webhook-id"] == document["key"] == update.key
    assert document.keys() == {
        "key",
        "kind",
        "field",
        "wabaId",
        "phoneNumberId",
        "displayPhoneNumber",
        "conversation",
        "occurredAt",
        "receivedAt",
        "contact",
        "raw",
    }
    assert document["raw"] == update.raw


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_during_rotation_the_receiver_may_have_either_secret(
    updates: Iterator[Update], secret: str
) -> None:
    make = make_requests(TYPED, [Secret(SECRET), Secret(OTHER)], DISPLAYED)

    headers, body = make([next(updates)], utc_now())

    assert Webhook(secret).verify(body, dict(headers))


def test_a_changed_body_has_another_signature(updates: Iterator[Update]) -> None:
    headers, body = make_requests(TYPED, [Secret(SECRET)], DISPLAYED)([next(updates)], utc_now())

    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", dict(headers))


def test_the_format_of_meta_has_the_signature_of_meta(updates: Iterator[Update]) -> None:
    make = make_requests(META, [Secret(META_SECRET), Secret("another-secret-for-tests")], DISPLAYED)

    headers, body = make([next(updates)], utc_now())

    assert headers["x-hub-signature-256"] == sign(body, META_SECRET)


def test_one_envelope_has_several_updates_in_order(updates: Iterator[Update]) -> None:
    make = make_requests(META, [Secret(META_SECRET)], DISPLAYED)
    several = list(itertools.islice(updates, 3))

    headers, body = make(several, utc_now())

    found = normalize(json.loads(body), received_at=utc_now())
    assert [each.raw for each in found.updates] == [each.raw for each in several]
    assert not found.skips
    assert headers["x-hub-signature-256"] == sign(body, META_SECRET)


@pytest.mark.parametrize(
    ("config", "secrets"), [(TYPED, []), (TYPED, [META_SECRET]), (META, []), (META, ["short"])]
)
def test_a_secret_that_is_missing_or_of_another_form_is_refused(
    config: SubscriberConfig, secrets: list[str]
) -> None:
    with pytest.raises(ConfigError, match="crm"):
        make_requests(config, [Secret(each) for each in secrets], DISPLAYED)
