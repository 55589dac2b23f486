import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.ids import is_safe_id
from wats.inbound.content import Context, Identity, PlatformError, Pricing, Referral, Text
from wats.inbound.normalize import normalize
from wats.inbound.updates import (
    Sender,
    decode,
    encode,
    identifier,
    kind_of,
    number_of,
    read_message,
    traceparent_of,
)
from wats.store.admin import HEAD_BYTES

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
SENT_AT = datetime.fromtimestamp(1_750_000_000, UTC)


def test_a_message_names_its_sender_and_its_content(update) -> None:
    message = update("message_bsuid_only").message

    assert message.id == "wamid.FAKE00000072"
    assert message.type == "text"
    assert message.timestamp == SENT_AT
    assert message.content == Text(body="Hello from a username user")
    assert message.sender == Sender(
        user_id="US.1000000000000000001",
        parent_user_id="US.ENT.1000000000000000001",
        username="@fake.person",
        name="Test Person",
    )


def test_the_sender_in_a_message_takes_precedence_over_the_contact(update) -> None:
    changed = msgspec.structs.replace(
        update("message_text"), contact={"wa_id": "1", "user_id": "U", "username": "@a"}
    )

    assert changed.message.sender == Sender(wa_id="15550002222", user_id="U", username="@a")


@pytest.mark.parametrize("contact", [None, {}, {"profile": "x"}, {"profile": {"name": 7}}])
def test_a_sender_without_a_usable_contact_has_no_name(contact, update) -> None:
    changed = msgspec.structs.replace(update("message_text"), contact=contact)

    assert changed.message.sender == Sender(wa_id="15550002222")


def test_a_forwarded_message_has_a_context_without_an_id(update) -> None:
    context = update("message_text_frequently_forwarded").message.context

    assert context == Context(frequently_forwarded=True)


def test_a_reply_references_the_original_message(update) -> None:
    context = update("message_interactive_button_reply").message.context

    assert (context.id, context.from_) == ("wamid.FAKEOUT000010", "15550001111")


def test_a_message_from_an_ad_has_its_referral(update) -> None:
    referral = update("message_text_referral_ad_image").message.referral

    assert isinstance(referral, Referral)
    assert referral.ctwa_clid == "FAKE_CTWA_CLID_0001"
    assert referral.welcome_message.text == "Hi, how can we help?"


def test_a_message_has_its_group_errors_and_identity(update) -> None:
    changes = {
        "group_id": "G",
        "errors": [{"code": 1, "error_data": {"details": "d"}}, "x"],
        "identity": {"acknowledged": True, "created_timestamp": 1_750_000_000, "hash": "h"},
    }

    message = update("message_text", **changes).message

    assert message.group_id == "G"
    assert [(error.code, error.error_data.details) for error in message.errors] == [(1, "d")]
    assert message.identity == Identity(acknowledged=True, created_timestamp=SENT_AT, hash="h")


@pytest.mark.parametrize("kind", [None, 7, [], "not_known_yet", "text"])
def test_a_message_of_an_unknown_or_broken_type_keeps_its_other_parts(kind, update) -> None:
    message = update("message_text", type=kind, text="no object").message

    assert message.id == "wamid.FAKE00000001"
    assert message.content is None


@pytest.mark.parametrize(
    "name", ["smb_message_echoes_text", "standby_message", "history_media_follow_up"]
)
def test_an_item_that_resembles_a_message_is_none_until_it_is_read_as_one(name, body, read) -> None:
    (update,) = read(body(name)).updates

    assert update.message is None
    assert read_message(update.raw, contact=None, timestamp=SENT_AT) is not None


def test_an_item_without_an_id_is_no_message(body, read) -> None:
    (update,) = read(body("chat_opened_field_wats")).updates

    assert update.message is None


def test_only_a_status_has_a_status(update) -> None:
    assert update("message_text").status is None
    assert update("status_delivered").message is None


def test_a_status_names_its_message_recipient_and_price(update) -> None:
    status = update("status_sent_pmp").status

    assert (status.id, status.status) == ("wamid.FAKEOUT000101", "sent")
    assert status.timestamp == datetime.fromtimestamp(1_750_000_010, UTC)
    assert status.recipient_id == "15550002222"
    assert status.pricing == Pricing(
        billable=True, pricing_model="PMP", category="marketing", type="regular"
    )


def test_a_failed_status_has_every_error(update) -> None:
    errors = update("status_failed_multiple_errors").status.errors

    assert [error.code for error in errors] == [131053, 131052]
    assert errors[1] == PlatformError(
        code=131052, title="Media download error", message="Media download error"
    )


def test_a_status_returns_our_own_data(update) -> None:
    assert update("status_biz_opaque_callback_data").status.biz_opaque_callback_data == (
        "order=FAKE-1;step=2"
    )


def test_the_status_of_a_payment_has_the_payment(update) -> None:
    payment = update("status_payment_pending").status.payment

    assert (payment.reference_id, payment.amount.value) == ("fake-order-1", 21000)
    assert payment.transaction.error.code == "fake_declined"


def test_a_status_with_a_broken_part_keeps_the_others(update) -> None:
    status = update(
        "status_sent", pricing={"billable": [], "category": "utility"}, conversation=7, errors={}
    ).status

    assert status.status == "sent"
    assert status.pricing == Pricing(category="utility")
    assert status.conversation is None
    assert status.errors == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("a", "a", id="text"),
        pytest.param(0, "0", id="zero"),
        pytest.param(10**31, "1" + "0" * 31, id="32-digits"),
        pytest.param(10**32, None, id="33-digits"),
        pytest.param(10**5_000, None, id="5001-digits"),
        pytest.param(-1, None, id="negative"),
        pytest.param(True, None, id="boolean"),
        pytest.param(1.0, None, id="fraction"),
        pytest.param("", None, id="empty"),
        pytest.param("a\nb", None, id="two-lines"),
        pytest.param(None, None, id="none"),
        pytest.param([], None, id="list"),
    ],
)
def test_an_identifier_is_a_safe_text_or_a_whole_number(value, expected) -> None:
    assert identifier(value) == expected


@given(value=st.text() | st.integers() | st.none() | st.floats())
def test_every_identifier_is_safe(value) -> None:
    assert identifier(value) is None or is_safe_id(identifier(value))


def test_an_update_can_be_stored_and_read_again(update) -> None:
    message = update("message_text", number=2**80, fraction=0.1, emoji="\U0001f600\x00")

    assert decode(encode(message)) == message
    assert traceparent_of(encode(message)) is None


def test_a_stored_trace_is_no_part_of_the_update_so_every_version_can_decode_it(update) -> None:
    message = update("message_text")
    payload = encode(message, "00-1-2-03")

    assert decode(payload) == message
    assert traceparent_of(payload) == "00-1-2-03"


def test_a_member_of_an_item_is_not_taken_for_a_stored_trace(update) -> None:
    forged = msgspec.structs.replace(update("message_text"), raw={"traceparent": "00-1-2-03"})

    assert traceparent_of(encode(forged)) is None


def test_kind_and_number_are_read_from_the_beginning_of_a_payload() -> None:
    rows = [json.loads(line) for line in CORPUS.read_text("utf-8").splitlines()]
    found = [each for row in rows for each in normalize(row["body"], received_at=SENT_AT).updates]

    heads = [encode(update)[:HEAD_BYTES] for update in found]

    numbers = [update.phone_number_id for update in found]
    assert [number_of(head) for head in heads] == numbers
    assert {None, *numbers} == set(numbers)
    assert [kind_of(head) for head in heads] == [update.kind for update in found]
    assert number_of(b"{}") is None
