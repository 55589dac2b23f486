from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from wats.clock import EPOCH
from wats.inbound.projection import records
from wats.store.records import Direction, MessageRecord, SendProof, StatusRecord, WindowRecord
from wats.telemetry.contract.values import UpdateKind

SENT_AT = datetime.fromtimestamp(1_750_000_000, UTC)


def test_a_customers_message_is_recorded_without_its_content(update, received_at) -> None:
    assert records(update("message_text")).message == MessageRecord(
        phone_number_id="200000000000002",
        wa_message_id="wamid.FAKE00000001",
        direction=Direction.INBOUND,
        from_phone="15550002222",
        type="text",
        status="received",
        created_at=received_at,
        updated_at=received_at,
    )


def test_a_sender_without_a_number_is_recorded_by_their_user_id(update) -> None:
    record = records(update("message_bsuid_only")).message

    assert record is not None
    assert record.from_phone == "US.1000000000000000001"


def test_a_type_that_is_no_safe_text_is_recorded_as_unknown(update) -> None:
    for broken in ("a\x00b", "x" * 300, 7.5, [], {}):
        record = records(update("message_text", type=broken)).message

        assert record is not None
        assert record.type == "unknown"


@pytest.mark.parametrize(
    "name",
    [
        "message_system_user_changed_number",
        "message_request_welcome",
        "status_delivered",
        "call_connect_user_initiated",
    ],
)
def test_only_messages_of_customers_are_recorded_as_messages(name, update) -> None:
    assert records(update(name)).message is None


def test_a_status_is_recorded_with_metas_time(update) -> None:
    assert records(update("status_delivered")).status == StatusRecord(
        phone_number_id="200000000000002",
        wa_message_id="wamid.FAKEOUT000106",
        status="delivered",
        occurred_at=datetime.fromtimestamp(1_750_000_010, UTC),
    )


def test_callback_data_of_the_outbox_proves_a_send_with_the_record_of_its_message(
    update, received_at
) -> None:
    proof = records(update("status_delivered", biz_opaque_callback_data="wats:7:ff")).proof

    assert proof == SendProof(
        7,
        255,
        b'{"messaging_product":"whatsapp","messages":[{"id":"wamid.FAKEOUT000106"}]}',
        MessageRecord(
            phone_number_id="200000000000002",
            wa_message_id="wamid.FAKEOUT000106",
            direction=Direction.OUTBOUND,
            type="unknown",
            status="sent",
            graph_message_id="wamid.FAKEOUT000106",
            created_at=received_at,
            updated_at=received_at,
        ),
    )
    assert records(update("status_delivered", biz_opaque_callback_data="order-1")).proof is None


def test_a_failure_is_recorded_with_its_first_code(update) -> None:
    record = records(update("status_failed_multiple_errors")).status

    assert record is not None
    assert record.error_code == 131053


@pytest.mark.parametrize(
    "errors",
    [
        [],
        "x",
        ["x"],
        [{}],
        [{"code": True}],
        [{"code": "131053"}],
        [{"code": -1}],
        [{"code": 2**31}],
    ],
    ids=repr,
)
def test_a_code_that_is_no_small_number_is_left_out(errors, update) -> None:
    record = records(update("status_failed_re_engagement", errors=errors)).status

    assert record is not None
    assert record.error_code is None


@pytest.mark.parametrize(
    "name",
    [
        "recipient_participant_id",
        "recipient_participant_user_id",
        "recipient_participant_parent_user_id",
    ],
)
def test_a_status_in_a_group_is_recorded_for_its_member(name, update) -> None:
    record = records(update("status_delivered", **{name: "15550003333"})).status

    assert record is not None
    assert record.participant == "15550003333"


@pytest.mark.parametrize("name", ["status_payment_captured", "message_text"])
def test_only_a_status_of_a_message_is_recorded_as_one(name, update) -> None:
    assert records(update(name)).status is None


@pytest.mark.parametrize("status", [None, "", "a\x00b", {}])
def test_a_status_without_a_usable_name_is_not_recorded(status, update) -> None:
    assert records(update("status_delivered", status=status)).status is None


def test_a_message_opens_a_window_from_metas_time(update) -> None:
    assert records(update("message_text")).window == WindowRecord(
        phone_number_id="200000000000002", customer="15550002222", last_inbound_at=SENT_AT
    )


def test_a_call_from_a_customer_opens_a_window(update) -> None:
    record = records(update("call_connect_user_initiated")).window

    assert record is not None
    assert record.customer == "15550002222"


@pytest.mark.parametrize(
    "name",
    [
        "message_group_text",
        "message_system_user_changed_number",
        "message_request_welcome",
        "message_edit_text",
        "message_revoke",
        "call_connect_business_initiated",
        "call_terminate_completed",
        "status_read",
    ],
)
def test_no_other_update_opens_a_window(name, update) -> None:
    assert records(update(name)).window is None


@pytest.mark.parametrize(
    "name",
    ["message_reaction_removed_empty", "message_button", "message_order", "message_unsupported"],
)
def test_a_message_of_any_type_opens_a_window(name, update) -> None:
    assert records(update(name)).window is not None


def test_a_time_in_the_future_opens_a_window_from_now(update, received_at) -> None:
    later = int((received_at + timedelta(days=1)).timestamp())

    record = records(update("message_text", timestamp=str(later))).window

    assert record is not None
    assert record.last_inbound_at == received_at


def test_a_message_without_any_time_opens_a_window_from_now(update, received_at) -> None:
    timeless = msgspec.structs.replace(update("message_text"), occurred_at=EPOCH)

    record = records(timeless).window

    assert record is not None
    assert record.last_inbound_at == received_at


@pytest.mark.parametrize(
    "changes",
    [
        {"phone_number_id": None},
        {"raw": {"id": "\n"}, "contact": None},
    ],
    ids=["no-number", "no-person"],
)
def test_an_update_without_the_fields_of_a_record_gives_none(
    changes: dict[str, Any], update
) -> None:
    message = msgspec.structs.replace(update("message_text"), **changes)
    status = msgspec.structs.replace(message, kind=UpdateKind.STATUS)

    assert records(message).message is None
    assert records(status).status is None
    assert records(message).window is None
