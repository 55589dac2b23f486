import base64
import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.privacy import Secret
from wats.simulator.bodies import (
    WebhookPart,
    envelope,
    error_title,
    group_part,
    message_part,
    new_wamid,
    pricing_of,
    signature,
    status_part,
)
from wats.simulator.settings import SimulatedNumber, SimulatorSettings

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
SETTINGS = SimulatorSettings(app_secret=Secret("s"), verify_token=Secret("v"))
PERSON = {"recipient_id": "15550002222"}
TEXT = {"type": "text", "text": {"body": "Hi"}}


def shape(value: object, path: str = "") -> set[str]:
    """The paths of every key in *value*; the elements of a list share one path."""
    if isinstance(value, dict):
        return {f"{path}.{key}" for key in value}.union(
            *(shape(inner, f"{path}.{key}") for key, inner in value.items())
        )
    if isinstance(value, list):
        return set().union(*(shape(inner, f"{path}[]") for inner in value))
    return {f"{path}: {type(value).__name__}"}


def written(*parts: WebhookPart) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(envelope(parts, SETTINGS, at=1750000000))
    return body


def status(name: str, **options: Any) -> WebhookPart:
    return status_part("wamid.X", name, PERSON, at=1750000010, **options)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("message_text", message_part("15550002222", TEXT, name="Test Person", at=1750000000)),
        (
            "message_group_text",
            message_part("15550002222", TEXT, name="Test Person", at=1750000000, group_id="G"),
        ),
        ("status_sent_pmp", status("sent", pricing=pricing_of("template"))),
        ("status_sent_free_customer_service", status("sent", pricing=pricing_of("text"))),
        ("status_read", status("read")),
        ("status_failed_ecosystem", status("failed", error_code=131049)),
        ("status_biz_opaque_callback_data", status("delivered", callback_data="x")),
        (
            "group_lifecycle_delete",
            group_part(
                "group_lifecycle_update", "group_delete", at=1, group_id="G", request_id="R"
            ),
        ),
        (
            "group_participants_add_via_invite",
            group_part(
                "group_participants_update",
                "group_participants_add",
                at=1,
                group_id="G",
                reason="invite_link",
                added_participants=[{"wa_id": "15550002222"}],
            ),
        ),
    ],
)
def test_a_webhook_has_the_shape_of_metas(name: str, part: WebhookPart) -> None:
    lines = map(json.loads, CORPUS.read_text().splitlines())
    [expected] = [line["body"] for line in lines if line["name"] == name]

    assert shape(written(part)) == shape(expected)


def test_neighbors_of_one_kind_share_a_change() -> None:
    message = message_part("1", TEXT, name="A", at=1)
    other = message_part("2", TEXT, name="B", at=1)
    group = group_part("group_lifecycle_update", "group_delete", at=1)

    [entry] = written(message, message, other, status("sent"), group, message)["entry"]

    assert [change["field"] for change in entry["changes"]] == [
        "messages",
        "messages",
        "group_lifecycle_update",
        "messages",
    ]
    first = entry["changes"][0]["value"]
    assert len(first["messages"]) == 3
    assert [contact["wa_id"] for contact in first["contacts"]] == ["1", "2"]


def test_text_is_escaped_as_metas_is() -> None:
    content = {"type": "text", "text": {"body": "é/\U0001f600"}}

    body = envelope([message_part("1", content, name="N", at=1)], SETTINGS, at=1)

    assert rb"\u00e9\/\ud83d\ude00" in body
    assert body.isascii()


@given(body=st.binary(), secret=st.text(min_size=1))
def test_a_signature_is_the_hmac_of_the_bytes(body: bytes, secret: str) -> None:
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()

    assert signature(Secret(secret), body) == f"sha256={expected}"


@given(number=st.from_regex(r"[0-9]{1,15}", fullmatch=True), inbound=st.booleans())
def test_a_wamid_is_unique_and_holds_the_number(number: str, inbound: bool) -> None:
    first, second = (new_wamid(number, inbound=inbound) for _ in range(2))

    assert first != second
    assert number.encode() in base64.b64decode(first.removeprefix("wamid."))


def test_an_error_without_a_row_has_a_title_too() -> None:
    assert error_title(131026) == "Message Undeliverable"
    assert error_title(424242) == "Something went wrong"


def test_neighbors_of_one_number_share_an_entry_with_its_account() -> None:
    berlin = SimulatedNumber(phone_number_id="300001", waba_id="9", display_phone_number="1555")
    settings = replace(SETTINGS, numbers=(berlin,))
    part = message_part("1", TEXT, name="A", at=1)
    default = replace(part, number=SETTINGS.phone_number_id)
    parts = [part, default, replace(part, number="300001"), replace(part, number="300009")]

    entries = json.loads(envelope(parts, settings, at=1))["entry"]

    values = [each["changes"][0]["value"] for each in entries]
    assert [each["id"] for each in entries] == [SETTINGS.waba_id, "9", SETTINGS.waba_id]
    assert [len(each["messages"]) for each in values] == [2, 1, 1]
    assert [each["metadata"]["phone_number_id"] for each in values] == [
        SETTINGS.phone_number_id,
        "300001",
        "300009",
    ]
    assert values[1]["metadata"]["display_phone_number"] == "1555"
