from typing import Any

import pytest

NUMBER = "200000000000002"
PHONE = f"{NUMBER}|15550002222"
USER = f"{NUMBER}|US.1000000000000000001"
GROUP = f"{NUMBER}|FAKEGROUPID0000000001"
BOTH = {"profile": {"name": "A"}, "wa_id": "15550002222", "user_id": "US.1000000000000000001"}


@pytest.mark.parametrize(
    ("name", "conversation"),
    [
        ("message_text", PHONE),
        ("message_bsuid_only", USER),
        ("message_bsuid_and_phone", USER),
        ("message_group_text", GROUP),
        ("message_system_user_changed_number", PHONE),
        ("message_request_welcome", PHONE),
        ("status_delivered", PHONE),
        ("status_bsuid_recipient", USER),
        ("status_group_read_two_participants", GROUP),
        ("call_connect_user_initiated", PHONE),
        ("call_connect_business_initiated", PHONE),
        ("call_connect_bsuid", USER),
        ("call_status_ringing", PHONE),
        ("group_status_suspend", GROUP),
        ("user_preferences_stop", PHONE),
        ("user_preferences_bsuid_only", USER),
        ("user_id_update", f"{NUMBER}|US.1000000000000000002"),
        ("chat_opened_field_wats", PHONE),
        ("smb_message_echoes_text", PHONE),
        ("history_media_follow_up", PHONE),
        ("history_chunk", None),
        ("standby_message", PHONE),
        ("standby_status", PHONE),
        ("standby_echo", PHONE),
        ("messaging_handovers_control_passed", PHONE),
        ("smb_app_state_sync_add", None),
        ("automatic_events_lead", None),
        ("template_status_approved", None),
        ("account_update_disabled", None),
        ("account_settings_update_calling", None),
    ],
)
def test_an_update_belongs_to_the_conversation_with_its_customer_or_group(
    name, conversation, body, read
) -> None:
    assert {update.conversation for update in read(body(name)).updates} == {conversation}


@pytest.mark.parametrize("name", ["message_text", "status_delivered"])
def test_messages_and_statuses_meet_by_the_user_id_of_the_contact(name, body, read) -> None:
    envelope = body(name)
    envelope["entry"][0]["changes"][0]["value"]["contacts"] = [BOTH]

    (update,) = read(envelope).updates

    assert update.conversation == USER


@pytest.mark.parametrize("wa_id", ["15550009999", None, {}])
def test_the_user_id_of_another_contact_names_no_conversation(wa_id, body, read) -> None:
    envelope = body("message_text")
    envelope["entry"][0]["changes"][0]["value"]["contacts"] = [{**BOTH, "wa_id": wa_id}]

    (update,) = read(envelope).updates

    assert update.conversation == PHONE


def with_contacts(envelope: Any, contacts: Any) -> Any:
    envelope["entry"][0]["changes"][0]["value"]["contacts"] = contacts
    return envelope


FIRST, SECOND = {"wa_id": "15550001234"}, {"wa_id": 15550002222, "user_id": None}


@pytest.mark.parametrize(
    ("contacts", "expected"),
    [
        pytest.param([FIRST, SECOND, "x"], SECOND, id="the-matching-one"),
        pytest.param([FIRST], FIRST, id="the-only-one"),
        pytest.param([FIRST, FIRST], None, id="another-customer-among-several"),
        pytest.param(["x"], None, id="no-object"),
        pytest.param([], None, id="none"),
        pytest.param({"wa_id": "15550002222"}, None, id="no-list"),
    ],
)
def test_an_update_has_the_contact_of_its_sender(contacts, expected, body, read) -> None:
    (update,) = read(with_contacts(body("message_text"), contacts)).updates

    assert update.contact == expected


def test_each_message_of_a_batch_has_its_own_contact(body, read) -> None:
    envelope = body("message_multiple_in_one_change")
    value = envelope["entry"][0]["changes"][0]["value"]
    for number, message in enumerate(value["messages"]):
        message["from"] = f"1555000{number}"
    value["contacts"] = [{"wa_id": message["from"]} for message in reversed(value["messages"])]

    updates = read(envelope).updates

    assert [update.contact["wa_id"] for update in updates] == [
        update.raw["from"] for update in updates
    ]


@pytest.mark.parametrize("name", ["wa_id", "user_id", "parent_user_id"])
def test_a_sender_named_only_by_the_contact_suffices(name, body, read) -> None:
    envelope = with_contacts(body("message_text"), [{name: "15550002222"}])
    del envelope["entry"][0]["changes"][0]["value"]["messages"][0]["from"]

    (update,) = read(envelope).updates

    assert update.conversation == PHONE


def test_a_system_message_needs_no_sender(update) -> None:
    assert update("message_system_user_changed_number", **{"from": None}).conversation is None


def test_ids_may_be_numbers(body, read) -> None:
    envelope = body("message_text")
    value = envelope["entry"][0]["changes"][0]["value"]
    value["metadata"]["phone_number_id"] = 200000000000002
    value["messages"][0]["from"] = 15550002222

    assert read(envelope).updates[0].conversation == PHONE
    assert read(envelope).updates[0].key == read(body("message_text")).updates[0].key


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("status_delivered", {"status": "read"}, id="another-status"),
        pytest.param("status_delivered", {"timestamp": "1750000099"}, id="another-time"),
        pytest.param("status_delivered", {"recipient_id": "1"}, id="another-recipient"),
        pytest.param("status_delivered", {"recipient_participant_id": "1"}, id="another-member"),
        pytest.param("status_delivered", {"type": "payment"}, id="of-the-payment"),
        pytest.param("status_payment_captured", {"payment": {"a": 1}}, id="another-payment"),
        pytest.param("message_text", {"id": "wamid.OTHER"}, id="another-message"),
        pytest.param("call_connect_user_initiated", {"event": "terminate"}, id="end-of-call"),
        pytest.param("call_connect_user_initiated", {"event": "new"}, id="new-event"),
        pytest.param("call_status_ringing", {"status": "ACCEPTED"}, id="another-call-status"),
    ],
)
def test_another_event_has_another_key(name, changes, update) -> None:
    assert update(name, **changes).key != update(name).key


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("message_text", {"text": {"body": "x"}}, id="message"),
        pytest.param("status_delivered", {"pricing": None}, id="status"),
        pytest.param("call_connect_user_initiated", {"session": None}, id="call"),
    ],
)
def test_an_item_with_an_id_is_keyed_by_it_and_not_by_its_content(name, changes, update) -> None:
    assert update(name, **changes).key == update(name).key


def test_an_item_without_id_and_time_is_keyed_by_the_time_of_its_entry(body, read) -> None:
    later = body("account_update_disabled")
    later["entry"][0]["time"] += 1

    assert read(later).updates[0].key != read(body("account_update_disabled")).updates[0].key


def test_an_item_with_a_time_does_not_take_the_time_of_its_entry(body, read) -> None:
    for name in ("user_preferences_stop", "smb_app_state_sync_add"):
        later = body(name)
        later["entry"][0]["time"] += 1

        assert read(later).updates[0].key == read(body(name)).updates[0].key


def test_the_order_of_members_does_not_change_a_key(body, read) -> None:
    turned = body("account_update_account_restriction")
    change = turned["entry"][0]["changes"][0]
    change["value"] = dict(reversed(change["value"].items()))

    (update,) = read(turned).updates

    assert update.key == read(body("account_update_account_restriction")).updates[0].key


def test_whole_numbers_beyond_64_bits_make_different_keys(body, read) -> None:
    keys = set()
    for number in (2**64, 2**64 + 1):
        envelope = body("account_update_disabled")
        envelope["entry"][0]["changes"][0]["value"]["number"] = number
        keys.add(read(envelope).updates[0].key)

    assert len(keys) == 2


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("messaging_handovers_control_taken", NUMBER),
        ("account_settings_update_calling", NUMBER),
        ("automatic_events_lead", NUMBER),
        ("account_update_disabled", None),
    ],
)
def test_the_business_number_is_found_where_its_field_has_it(name, number, body, read) -> None:
    assert read(body(name)).updates[0].phone_number_id == number


def test_an_echo_without_an_id_is_named_by_its_content(body, read) -> None:
    envelope = body("smb_message_echoes_text")
    del envelope["entry"][0]["changes"][0]["value"]["message_echoes"][0]["id"]

    (update,) = read(envelope).updates

    assert update.conversation == PHONE
    assert update.key != read(body("smb_message_echoes_text")).updates[0].key


def test_a_copy_without_a_business_number_is_named_within_its_account(body, read) -> None:
    envelope = body("smb_message_echoes_text")
    del envelope["entry"][0]["changes"][0]["value"]["metadata"]

    (update,) = read(envelope).updates

    assert update.phone_number_id is None
    assert update.conversation is None
