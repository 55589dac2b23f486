import json
from datetime import timedelta
from typing import Any

import pytest

from tests.outbound.windows import open_window
from wats.testing import FakeClock

PATH = "/api/marketing_messages"
MESSAGE: dict[str, Any] = {
    "messaging_product": "whatsapp",
    "recipient_type": "individual",
    "to": "+1 555 123-0000",
    "type": "template",
    "template": {"name": "sale", "language": {"code": "de"}, "new_in_2027": [1.50]},
    "product_policy": "STRICT",
    "message_activity_sharing": True,
}
ACCEPTED = {
    "messaging_product": "whatsapp",
    "contacts": [{"input": "+1 555 123-0000", "wa_id": "15551230000"}],
    "messages": [{"id": "wamid.M", "message_status": "accepted"}],
}


async def test_a_marketing_message_is_forwarded_byte_for_byte_and_recorded(service: Any) -> None:
    service.graph.body = ACCEPTED
    body = json.dumps(MESSAGE, indent=2).encode()

    answer = await service.ask("POST", PATH, body)

    assert (answer.status, answer.json) == (200, ACCEPTED)
    (asked,) = service.graph.asked
    assert (asked.method, asked.path) == ("POST", "/v25.0/15551234567/marketing_messages")
    assert asked.body == body
    listed = (await service.ask("GET", "/api/messages/wamid.M")).json
    assert (listed["type"], listed["toPhone"]) == ("template", "15551230000")
    assert listed["status"] == "sent"


async def test_a_marketing_message_that_meta_holds_back_is_recorded_as_such(service: Any) -> None:
    service.graph.body = {"messages": [{"id": "wamid.M", "message_status": "paused"}]}

    await service.ask("POST", PATH, MESSAGE)

    assert (await service.ask("GET", "/api/messages/wamid.M")).json["status"] == "paused"


async def test_a_repeated_marketing_message_is_sent_once(service: Any) -> None:
    first = await service.ask("POST", PATH, MESSAGE, key="sale-1")
    again = await service.ask("POST", PATH, MESSAGE, key="sale-1")
    changed = await service.ask(
        "POST", PATH, {**MESSAGE, "product_policy": "CLOUD_API_FALLBACK"}, key="sale-1"
    )

    assert (first.status, first.body) == (again.status, again.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert (changed.status, changed.code) == (409, "idempotency_conflict")
    assert len(service.graph.asked) == 1


async def test_a_key_of_a_marketing_message_belongs_to_its_route(service: Any) -> None:
    message = {key: MESSAGE[key] for key in ("messaging_product", "to", "type", "template")}

    for path in (PATH, "/api/messages"):
        assert (await service.ask("POST", path, message, key="sale-1")).status == 200

    assert [asked.path.rpartition("/")[2] for asked in service.graph.asked] == [
        "marketing_messages",
        "messages",
    ]


@pytest.mark.parametrize("has_store", [False])
async def test_a_marketing_message_with_a_key_needs_a_store(service: Any) -> None:
    answer = await service.ask("POST", PATH, MESSAGE, key="sale-1")

    assert (answer.status, answer.code) == (501, "persistence_not_configured")
    assert service.graph.asked == []


async def test_a_refusal_of_a_marketing_message_has_its_advice(service: Any) -> None:
    service.graph.status = 400
    service.graph.body = {"error": {"code": 134101, "message": "m", "type": "OAuthException"}}

    answer = await service.ask("POST", PATH, MESSAGE, key="sale-1")

    error = answer.json["error"]
    assert (answer.status, answer.code) == (502, "graph_request_failed")
    assert (error["metaCode"], error["outcome"]) == (134101, "not_sent")
    assert error["category"] == "marketing_messages_lite"


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"messaging_product": "x"}, ["messaging_product"]),
        ({"type": "text", "text": {"body": "Hello"}}, ["type"]),
        ({"template": []}, ["template"]),
        ({"template": None}, ["template"]),
        ({"recipient_type": "group", "to": "Y2FwaV9ncm91cA"}, ["recipient_type", "to"]),
        ({"to": "abc"}, ["to"]),
        ({"recipient": "abc"}, ["recipient"]),
        ({"status": "read", "message_id": "wamid.A"}, ["status"]),
        ({"product_policy": "strict"}, ["product_policy"]),
        ({"product_policy": ["STRICT"]}, ["product_policy"]),
        ({"message_activity_sharing": "true"}, ["message_activity_sharing"]),
    ],
)
async def test_an_invalid_marketing_message_is_refused_with_each_mistake(
    service: Any, changes: dict[str, object], paths: list[str]
) -> None:
    answer = await service.ask("POST", PATH, {**MESSAGE, **changes})

    assert (answer.status, answer.code) == (400, "malformed_body")
    assert [each["path"] for each in answer.json["error"]["details"]] == paths
    assert service.graph.asked == []


async def test_a_composer_is_no_marketing_message(service: Any) -> None:
    composer = {"type": "template", "to": "15551230000", "name": "sale", "languageCode": "de"}

    answer = await service.ask("POST", PATH, composer)

    assert (answer.status, answer.code) == (400, "malformed_body")
    assert [each["path"] for each in answer.json["error"]["details"]] == [
        "messaging_product",
        "template",
    ]


async def test_a_marketing_message_can_have_a_user_id_as_recipient(service: Any) -> None:
    message = {**MESSAGE, "recipient": "US.abc1"}
    del message["to"]

    await service.ask("POST", PATH, message)

    assert (await service.ask("GET", "/api/messages/wamid.A")).json["toPhone"] == "US.abc1"


@pytest.mark.parametrize("has_guard", [True])
async def test_a_marketing_message_needs_no_window(service: Any) -> None:
    await open_window(service.store, FakeClock().moment - timedelta(days=2))

    assert (await service.ask("POST", PATH, MESSAGE)).status == 200


async def test_a_marketing_message_is_counted_like_each_message(service: Any) -> None:
    await service.ask("POST", PATH, MESSAGE)

    families = {
        (each.name, each.attributes.get("wats.graph.endpoint_family"))
        for each in service.sink.counters
    }
    assert ("send_outcomes_total", "messages") in families
    assert ("graph_operations_total", "messages") in families
    routes = {each.attributes.get("http.route") for each in service.sink.counters}
    assert PATH in routes
