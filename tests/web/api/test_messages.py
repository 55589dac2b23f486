import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from wats.store import receive
from wats.store.records import Arrival, Direction, MessageRecord, StatusRecord
from wats.store.sqlite import SQLiteStore
from wats.testing import APP_SECRET, example_secrets

TEXT = {"to": "+15551230000", "text": "hello\nyou"}
TEMPLATE = b"""{
  "messaging_product": "whatsapp", "to": "15551230000", "type": "template",
  "template": {"name": "order", "language": {"code": "de"}, "new_in_2027": [1.50]}
}"""
FILE = {"to": "15551230000", "type": "document", "mediaId": "1", "filename": "a.pdf"}
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def record(wamid: str) -> MessageRecord:
    return MessageRecord(
        phone_number_id="15551234567",
        wa_message_id=wamid,
        direction=Direction.OUTBOUND,
        to_phone="15551230000",
        type="text",
        status="sent",
        graph_message_id=wamid,
        created_at=NOON,
        updated_at=NOON,
    )


async def test_a_text_becomes_metas_text(service: Any) -> None:
    answer = await service.ask("POST", "/api/messages/text", {**TEXT, "previewUrl": True})

    assert answer.status == 200
    assert answer.body == b'{"messages":[{"id":"wamid.A"}]}'
    assert "idempotency-replayed" not in answer.headers
    (asked,) = service.graph.asked
    assert (asked.method, asked.path) == ("POST", "/v25.0/15551234567/messages")
    assert asked.body == (
        b'{"messaging_product":"whatsapp","to":"+15551230000","type":"text",'
        b'"text":{"body":"hello\\nyou","preview_url":true}}'
    )


async def test_a_message_in_graphs_form_is_passed_on_byte_for_byte(service: Any) -> None:
    answer = await service.ask("POST", "/api/messages", TEMPLATE)

    assert answer.status == 200
    assert [asked.body for asked in service.graph.asked] == [TEMPLATE]
    listed = await service.ask("GET", "/api/messages/wamid.A")
    assert (listed.json["type"], listed.json["toPhone"]) == ("template", "15551230000")


@pytest.mark.parametrize(
    ("path", "body"), [("/api/messages/text", TEXT), ("/api/messages", TEMPLATE)]
)
async def test_a_repeated_request_is_sent_once(service: Any, path: str, body: Any) -> None:
    first = await service.ask("POST", path, body, key="order-1")
    again = await service.ask("POST", path, body, key="order-1")

    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(service.graph.asked) == 1


async def test_a_key_with_another_body_conflicts(service: Any) -> None:
    await service.ask("POST", "/api/messages/text", TEXT, key="order-1")

    answer = await service.ask("POST", "/api/messages/text", {**TEXT, "text": "x"}, key="order-1")

    assert (answer.status, answer.code) == (409, "idempotency_conflict")


@pytest.mark.parametrize("key", [" ", "a" * 257])
async def test_a_key_that_cannot_be_used_is_refused(service: Any, key: str) -> None:
    answer = await service.ask("POST", "/api/messages/text", TEXT, key=key)

    assert (answer.status, answer.code) == (400, "invalid_idempotency_key")
    assert service.graph.asked == []


async def test_a_mark_as_read_is_passed_on_and_is_no_message(service: Any) -> None:
    service.graph.body = {"success": True}
    mark = b'{"messaging_product":"whatsapp","status":"read","message_id":"wamid.B"}'

    answer = await service.ask("POST", "/api/messages", mark)

    assert answer.body == b'{"success":true}'
    assert [asked.body for asked in service.graph.asked] == [mark]
    assert (await service.ask("GET", "/api/messages")).json["items"] == []
    assert "send_outcomes_total" not in {each.name for each in service.sink.counters}


@pytest.mark.parametrize(
    ("path", "body", "code", "paths"),
    [
        ("/api/messages/text", b"{", "malformed_json", None),
        ("/api/messages", b"", "malformed_json", None),
        ("/api/messages/text", {"to": "x", "text": ""}, "malformed_body", ["to", "text"]),
        ("/api/messages", TEXT, "malformed_body", ["messaging_product", "to", "type"]),
    ],
)
async def test_a_body_that_cannot_be_sent_is_refused_with_its_mistakes(
    service: Any, path: str, body: Any, code: str, paths: list[str] | None
) -> None:
    if paths == ["messaging_product", "to", "type"]:
        body = {"to": "x", "text": "hi"}

    answer = await service.ask("POST", path, body)

    assert (answer.status, answer.code) == (400, code)
    details = answer.json["error"].get("details")
    assert paths == (None if details is None else [each["path"] for each in details])
    assert service.graph.asked == []


async def test_a_body_of_more_than_a_mebibyte_is_refused(service: Any) -> None:
    answer = await service.ask("POST", "/api/messages", b" " * (1024 * 1024 + 1))

    assert (answer.status, answer.code) == (413, "payload_too_large")


async def test_a_refusal_of_metas_is_reported_without_its_text(service: Any) -> None:
    service.graph.status = 429
    service.graph.headers = {"retry-after": "7"}
    service.graph.body = {"error": {"message": "+15551230000", "code": 130429}}

    answer = await service.ask("POST", "/api/messages/text", TEXT)

    assert (answer.status, answer.code) == (503, "graph_request_failed")
    assert answer.headers["retry-after"] == "7"
    assert answer.json["error"]["metaCode"] == 130429
    assert answer.json["error"]["retryable"] is True
    assert b"5551230000" not in answer.body
    assert list(service.log[0]) == [
        *("event", "outcome", "cause", "metaCode", "metaSubcode", "metaType", "fbtraceId"),
        *("parameter", "at"),
    ]
    assert answer.json["error"]["outcome"] == "not_sent"
    assert answer.json["error"]["advice"].startswith("Retry the same request")


@pytest.mark.parametrize(
    ("path", "body", "text", "parameter"),
    [
        ("/api/messages/text", TEXT, "Param text['body'] is bad", "text"),
        ("/api/messages/text", TEXT, "Param text['preview_url'] is bad", "previewUrl"),
        ("/api/messages/text", TEXT, "Param type is bad", None),
        ("/api/messages", TEMPLATE, "Param template['name'] is bad", "template.name"),
        ("/api/messages", TEMPLATE, "Param jane['doe'] is bad", None),
        ("/api/messages", FILE, "Param document['filename'] is bad", "filename"),
        ("/api/messages", FILE, "Param context['message_id'] is bad", "replyToMessageId"),
    ],
)
async def test_the_member_that_meta_rejected_has_the_callers_name(
    service: Any, path: str, body: Any, text: str, parameter: str | None
) -> None:
    service.graph.status = 400
    service.graph.body = {"error": {"code": 100, "error_data": {"details": text}}}

    answer = await service.ask("POST", path, body)

    details = answer.json["error"].get("details")
    assert details == (
        [{"path": parameter, "reason": "was rejected by Meta"}] if parameter else None
    )
    assert service.log[0]["parameter"] == parameter
    assert "jane" not in f"{answer.json} {service.log}"


@pytest.mark.parametrize("status", ["held_for_quality_assessment", "paused"])
@pytest.mark.parametrize("key", [None, "order-1"])
async def test_a_message_that_meta_holds_back_is_not_sent_until_a_status_says_so(
    service: Any, status: str, key: str | None
) -> None:
    service.graph.body = {"messages": [{"id": "wamid.A", "message_status": status}]}

    await service.ask("POST", "/api/messages", TEMPLATE, key=key)

    assert (await service.ask("GET", "/api/messages/wamid.A")).json["status"] == status


@pytest.mark.parametrize("status", ["accepted", "Jane", "delivered", 5, None])
async def test_any_other_state_of_an_accepted_message_is_sent(service: Any, status: Any) -> None:
    service.graph.body = {"messages": [{"id": "wamid.A", "message_status": status}]}

    await service.ask("POST", "/api/messages", TEMPLATE)

    assert (await service.ask("GET", "/api/messages/wamid.A")).json["status"] == "sent"


async def test_sends_prove_that_we_know_the_app_secret(service: Any) -> None:
    await service.ask("POST", "/api/messages/text", TEXT)

    token = example_secrets().access_token.reveal().encode()
    proof = hmac.new(APP_SECRET.encode(), token, hashlib.sha256).hexdigest()
    assert service.graph.proofs == [proof]


async def test_a_response_that_cannot_be_parsed_is_not_a_failure(service: Any) -> None:
    service.graph.body = "<html>"

    answer = await service.ask("POST", "/api/messages/text", TEXT)

    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize("has_groups", [False])
async def test_groups_are_no_recipients_where_they_are_not_enabled(service: Any) -> None:
    message = {
        "messaging_product": "whatsapp",
        "recipient_type": "group",
        "to": "G",
        "type": "text",
        "text": {"body": "hi"},
    }

    answer = await service.ask("POST", "/api/messages", message)

    assert (answer.status, answer.code) == (400, "malformed_body")


async def test_a_message_for_a_group_is_passed_on(service: Any) -> None:
    message = {
        "messaging_product": "whatsapp",
        "recipient_type": "group",
        "to": "G",
        "type": "pin",
        "pin": {"type": "pin", "message_id": "wamid.B", "expiration_days": 1},
    }

    assert (await service.ask("POST", "/api/messages", message)).status == 200
    assert json.loads(service.graph.asked[0].body) == message


@pytest.mark.parametrize("has_store", [False])
async def test_without_a_store_messages_are_sent_but_not_kept(service: Any) -> None:
    sent = await service.ask("POST", "/api/messages/text", TEXT)
    keyed = await service.ask("POST", "/api/messages/text", TEXT, key="order-1")
    listed = await service.ask("GET", "/api/messages?limit=0")
    one = await service.ask("GET", "/api/messages/%ff")

    assert sent.status == 200
    assert (keyed.status, keyed.code) == (501, "persistence_not_configured")
    for answer in (listed, one):
        assert (answer.status, answer.code) == (503, "persistence_not_configured")
        assert answer.json["error"]["message"] == (
            "Message projections require a persistence store."
        )
    assert len(service.graph.asked) == 1


async def test_messages_are_listed_page_by_page_with_the_last_first(service: Any) -> None:
    for number in range(5):
        await service.store.record_sent(record(f"wamid.{number}"))
    seen: list[str] = []
    query = "?limit=2"

    while query:
        page = (await service.ask("GET", f"/api/messages{query}")).json
        seen += [item["waMessageId"] for item in page["items"]]
        query = page["nextCursor"] and f"?limit=2&cursor={page['nextCursor']}"

    assert seen == [f"wamid.{number}" for number in (4, 3, 2, 1, 0)]


async def test_a_message_is_shown_with_its_fields_in_order(service: Any) -> None:
    await service.store.record_sent(record("wamid.A"))

    answer = await service.ask("GET", "/api/messages/wamid.A")

    row_id = answer.json["rowId"]
    assert list(answer.json.items()) == [
        ("rowId", row_id),
        ("phoneNumberId", record("wamid.A").phone_number_id),
        ("waMessageId", "wamid.A"),
        ("direction", "outbound"),
        ("fromPhone", None),
        ("toPhone", "15551230000"),
        ("type", "text"),
        ("status", "sent"),
        ("graphMessageId", "wamid.A"),
        ("createdAt", "2026-11-22T12:00:00.000Z"),
        ("updatedAt", "2026-11-22T12:00:00.000Z"),
        ("error", None),
        ("statuses", []),
    ]
    listed = (await service.ask("GET", "/api/messages")).json["items"]
    assert listed == [{key: answer.json[key] for key in listed[0]}]


async def test_a_page_has_fifty_messages_by_default(service: Any) -> None:
    for number in range(101):
        await service.store.record_sent(record(f"wamid.{number}"))

    for query, length in (("", 50), ("?limit=1", 1), ("?limit=100", 100), ("?limit=7&limit=9", 7)):
        page = (await service.ask("GET", f"/api/messages{query}")).json
        assert len(page["items"]) == length


async def test_a_limit_is_a_whole_number_from_1_to_100(
    service: Any, subtests: pytest.Subtests
) -> None:
    invalid = "", "0", "101", "-1", "1.5", "1e1", "0x10", "abc", "%201", "05", "1000000000000"
    for limit in invalid:
        with subtests.test(limit):
            answer = await service.ask("GET", f"/api/messages?limit={limit}")

            assert (answer.status, answer.code) == (400, "malformed_query")
            assert answer.json["error"]["message"] == "limit must be an integer from 1 to 100."


@pytest.mark.parametrize(
    "cursor", ["", "%20", "a%0Ab", "no-such-cursor", "0", "-1", "1.5", "%EF%BC%91", "1" * 19]
)
async def test_an_invalid_cursor_is_refused(service: Any, cursor: str) -> None:
    answer = await service.ask("GET", f"/api/messages?cursor={cursor}")

    assert (answer.status, answer.code) == (400, "malformed_query")
    assert answer.json["error"]["details"] == [
        {"path": "cursor", "reason": "must be the 'nextCursor' of an earlier response"}
    ]


async def test_a_cursor_beyond_all_messages_leads_to_an_empty_page(service: Any) -> None:
    await service.store.record_sent(record("wamid.A"))

    answer = await service.ask("GET", "/api/messages?cursor=999999999")

    assert answer.body == b'{"items":[],"nextCursor":null}'


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("direction=outbound", ["wamid.2", "wamid.1"]),
        ("direction=inbound", ["wamid.3"]),
        ("type=image", ["wamid.2"]),
        ("status=received", ["wamid.3"]),
        ("to=15551230000", ["wamid.1"]),
        ("to=%2B15551230000", ["wamid.1"]),
        ("to=+15551230000", ["wamid.1"]),
        ("from=15551230009", ["wamid.3"]),
        ("since=2026-11-22T12:00:30Z", ["wamid.3", "wamid.2"]),
        ("since=2026-11-22T13:00:30+01:00", ["wamid.3", "wamid.2"]),
        ("direction=outbound&type=text", ["wamid.1"]),
        ("direction=inbound&type=image", []),
    ],
)
async def test_messages_can_be_selected(service: Any, query: str, expected: list[str]) -> None:
    later = {"created_at": NOON + timedelta(minutes=1), "updated_at": NOON + timedelta(minutes=1)}
    sent = {"to_phone": "15551230001", "type": "image", **later}
    await service.store.record_sent(replace(record("wamid.1"), to_phone="+15551230000"))
    await service.store.record_sent(replace(record("wamid.2"), **sent))
    received = {"direction": Direction.INBOUND, "from_phone": "15551230009", "to_phone": None}
    await service.store.record_sent(
        replace(record("wamid.3"), status="received", **received, **later)
    )

    answer = await service.ask("GET", f"/api/messages?{query}")

    assert [each["waMessageId"] for each in answer.json["items"]] == expected


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("phone=1&Limit=2", ["phone", "Limit"]),
        ("15550001111=1", ["?"]),
        (
            "direction=up&status=&type=X!&to=%00&from=a%20b",
            ["direction", "status", "type", "from", "to"],
        ),
        ("since=2026-11-22T12:00:00", ["since"]),
        ("since=yesterday", ["since"]),
        ("since=", ["since"]),
        ("x=1&since=1", ["x", "since"]),
    ],
)
async def test_a_query_that_is_not_understood_is_refused_with_the_names(
    service: Any, query: str, paths: list[str]
) -> None:
    answer = await service.ask("GET", f"/api/messages?{query}")

    assert (answer.status, answer.code) == (400, "malformed_query")
    assert [each["path"] for each in answer.json["error"]["details"]] == paths
    assert b"15550001111" not in answer.body


def status(state: str, minute: int, **more: Any) -> Arrival:
    at = NOON + timedelta(minutes=minute)
    found = StatusRecord(
        phone_number_id="15551234567", wa_message_id="wamid.A", status=state, occurred_at=at, **more
    )
    return Arrival(
        key=bytes([minute]) * 16,
        occurred_at=at,
        received_at=at,
        kind="status",
        phone_number_id="15551234567",
        ordering_key=1,
        payload=b"",
        status=found,
    )


async def test_a_message_that_failed_is_shown_with_code_advice_and_history(service: Any) -> None:
    await service.store.record_sent(record("wamid.A"))
    await receive(service.store, [status("sent", 1), status("failed", 2, error_code=131047)])

    answer = await service.ask("GET", "/api/messages/wamid.A")

    assert answer.json["status"] == "failed"
    assert answer.json["error"] == {
        "metaCode": 131047,
        "category": "send_message",
        "advice": "Send a template; the customer service window is closed.",
    }
    assert answer.json["statuses"] == [
        {
            "status": "sent",
            "occurredAt": "2026-11-22T12:01:00.000Z",
            "participant": None,
            "metaCode": None,
        },
        {
            "status": "failed",
            "occurredAt": "2026-11-22T12:02:00.000Z",
            "participant": None,
            "metaCode": 131047,
        },
    ]


async def test_a_code_that_is_not_listed_has_advice_too(service: Any) -> None:
    await service.store.record_sent(record("wamid.A"))
    await receive(service.store, [status("failed", 1, error_code=7)])

    error = (await service.ask("GET", "/api/messages/wamid.A")).json["error"]

    assert (error["metaCode"], error["category"]) == (7, "unknown")
    assert error["advice"].endswith(".")


async def test_a_message_that_arrived_after_all_has_no_error(service: Any) -> None:
    await service.store.record_sent(record("wamid.A"))
    failed = status("failed", 1, error_code=131047)
    await receive(service.store, [failed, status("delivered", 2)])

    answer = (await service.ask("GET", "/api/messages/wamid.A")).json

    assert (answer["status"], answer["error"]) == ("delivered", None)


async def test_the_latest_hundred_statuses_are_shown(service: Any) -> None:
    await service.store.record_sent(record("wamid.A"))
    parts = [status("delivered", n, participant=f"p{n}") for n in range(1, 121)]
    await receive(service.store, parts)

    shown = (await service.ask("GET", "/api/messages/wamid.A")).json["statuses"]

    assert [each["participant"] for each in shown] == [f"p{n}" for n in range(21, 121)]


@pytest.mark.parametrize("path", ["wamid.H%2Fa%3D%3D", "wamid.H/a=="])
async def test_an_id_may_hold_a_slash(service: Any, path: str) -> None:
    await service.store.record_sent(record("wamid.H/a=="))

    assert (await service.ask("GET", f"/api/messages/{path}")).status == 200


async def test_an_unknown_message_is_not_found(service: Any) -> None:
    answer = await service.ask("GET", "/api/messages/wamid.none")

    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.json["error"]["message"] == "Message not found."


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("%ff", "Message id segment is invalid."),
        ("%zz", "Message id segment is invalid."),
        ("", "Message id must be a safe non-empty string."),
        ("%20", "Message id must be a safe non-empty string."),
        ("a%00", "Message id must be a safe non-empty string."),
        ("a" * 1025, "Message id must be a safe non-empty string."),
    ],
)
async def test_an_id_that_cannot_be_one_is_refused(service: Any, path: str, message: str) -> None:
    answer = await service.ask("GET", f"/api/messages/{path}")

    assert (answer.status, answer.code) == (400, "malformed_path")
    assert answer.json["error"]["message"] == message


@pytest.mark.parametrize("path", ["/api/messages", "/api/messages/wamid.A"])
async def test_a_store_that_cannot_be_read_is_reported(service: Any, path: str) -> None:
    store: SQLiteStore = service.store
    await store.close()

    answer = await service.ask("GET", path)

    assert (answer.status, answer.code) == (503, "persistence_unavailable")
    assert answer.json["error"]["message"] == "Message projection store could not be reached."
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/messages/text"),
        ("POST", "/api/messages"),
        ("GET", "/api/messages"),
        ("GET", "/api/messages/wamid.A"),
    ],
)
async def test_unauthenticated_requests_are_refused(service: Any, method: str, path: str) -> None:
    answer = await service.ask(method, path, TEMPLATE if method == "POST" else None, token="x")

    assert (answer.status, answer.code) == (401, "unauthorized")
    assert service.graph.asked == []


@pytest.mark.parametrize(
    ("body", "typing"),
    [(None, {}), ({}, {}), ({"typing": False}, {}), ({"typing": True}, {"type": "text"})],
)
async def test_a_message_is_marked_as_read(service: Any, body: Any, typing: Any) -> None:
    service.graph.body = {"success": True}

    answer = await service.ask("POST", "/api/messages/wamid.A%2FB%3D/read", body)

    [asked] = service.graph.asked
    assert (answer.status, answer.json) == (200, {"success": True})
    assert json.loads(asked.body) == {
        "messaging_product": "whatsapp",
        "status": "read",
        "message_id": "wamid.A/B=",
        **({"typing_indicator": typing} if typing else {}),
    }


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("wamid.A", {"typing": "yes"}, "malformed_body"),
        ("wamid.A", [], "malformed_body"),
        ("wamid.A", b"{", "malformed_json"),
        ("%ff", None, "malformed_path"),
        ("a%0Ab", None, "malformed_path"),
        ("", None, "malformed_path"),
    ],
)
async def test_an_invalid_read_mark_is_not_sent(
    service: Any, path: str, body: Any, code: str
) -> None:
    answer = await service.ask("POST", f"/api/messages/{path}/read", body)

    assert (answer.status, answer.code) == (400, code)
    assert service.graph.asked == []


async def test_an_unknown_key_of_a_read_mark_is_refused_on_request(service: Any) -> None:
    body = {"typingIndicator": True}

    lenient = await service.ask("POST", "/api/messages/wamid.A/read", body)
    strict = await service.ask("POST", "/api/messages/wamid.A/read", body, prefer="handling=strict")

    assert (lenient.status, strict.status) == (200, 400)
    assert [each["path"] for each in strict.json["error"]["details"]] == ["typingIndicator"]
