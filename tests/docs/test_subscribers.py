"""docs/subscribers.md: its config, the example of a body, and the receiver."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.pages import blocks, load
from tests.settings import config_of
from tests.subscribers.conftest import SECRET
from wats.clock import utc_now
from wats.config import SubscriberConfig, parse_config
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.subscribers.requests import make_requests
from wats.subscribers.subscriber import Subscriber, SubscriberRefused
from wats.telemetry.contract.values import UpdateKind
from wats.testing import serving

OTHER = "whsec_b3RoZXItcmFuZG9tLWJ5dGVzLWZvci10ZXN0cy1vbmx5"


def example() -> Update:
    """Return the update of the example of a body."""
    (text,) = blocks("docs/subscribers.md", "json")
    shown = json.loads(text)
    return Update(
        key=shown["key"],
        kind=UpdateKind(shown["kind"]),
        field=shown["field"],
        waba_id=shown["wabaId"],
        phone_number_id=shown["phoneNumberId"],
        display_phone_number=shown["displayPhoneNumber"],
        conversation=shown["conversation"],
        occurred_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
        received_at=datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC),
        contact=shown["contact"],
        raw=shown["raw"],
    )


def test_the_subscribers_that_are_shown_are_valid() -> None:
    (text,) = blocks("docs/subscribers.md", "yaml")

    berlin = {"name": "berlin", "phoneNumberId": "1", "wabaId": "1"}
    sections = {**yaml.safe_load(text), "numbers": [berlin]}
    profile = parse_config(config_of(**sections)).profiles["local"]

    assert [each.format for each in profile.subscribers] == ["update", "meta"]


def test_the_body_that_is_shown_has_the_members_of_a_request() -> None:
    config = SubscriberConfig(name="crm", url="https://crm.example/", secrets=())

    _, body = make_requests(config, [Secret(SECRET)], {})([example()], utc_now())

    assert json.loads(body) == json.loads(*blocks("docs/subscribers.md", "json"))


@pytest.mark.parametrize(("secret", "is_valid"), [(SECRET, True), (OTHER, False)])
async def test_the_receiver_that_is_shown_verifies_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, is_valid: bool
) -> None:
    (code,) = blocks("docs/subscribers.md", "python")
    (tmp_path / "receiver.py").write_text(code)
    monkeypatch.setenv("CRM_SECRET", SECRET)
    logged: list[object] = []

    async with serving(load(tmp_path / "receiver.py").app) as url:
        config = SubscriberConfig(
            name="crm", url=f"{url}/whatsapp", secrets=(), allow_private_network=True
        )
        make = make_requests(config, [Secret(secret)], {})
        subscriber = Subscriber(config, make, log=logged.append)
        await subscriber.start()
        try:
            if is_valid:
                await subscriber(example())
            else:
                with pytest.raises(SubscriberRefused):
                    await subscriber(example())
        finally:
            await subscriber.stop()
