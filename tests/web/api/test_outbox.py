"""Messages that are sent later, over the HTTP API, and the outbox for operators."""

import asyncio
import json
from typing import Any

import pytest
from typing_extensions import override

from tests.web.conftest import Answer, Service, call
from wats.outbound.items import encode_item
from wats.outbound.messages import Outgoing
from wats.outbound.transmit import Transmission
from wats.store.outbox import NewSend, SendView
from wats.store.sqlite import SQLiteStore
from wats.testing import sign

TEXT = {"to": "15550001234", "text": "Hello"}
GRAPH = {
    "messaging_product": "whatsapp",
    "to": "15550001234",
    "type": "text",
    "text": {"body": "Hello"},
}
REFUSED = {"error": {"code": 100, "type": "OAuthException", "message": "no"}}
THROTTLED = "not_sent", True, "throttling"
ASYNC = {"prefer": "respond-async"}
ADMIN = "/api/admin/outbox"


class DiscardingStore(SQLiteStore):
    """A store in which an operator discards each item just before its state is read."""

    @override
    async def get_send(self, outbox_id: int) -> SendView | None:
        await self.discard_sends([outbox_id])
        return await super().get_send(outbox_id)


async def put(service: Service, path: str = "/api/messages/text", **changes: Any) -> Answer:
    return await service.ask("POST", path, changes.pop("body", TEXT), **{**ASYNC, **changes})


async def ended(service: Service, answer: Answer) -> Any:
    async with asyncio.timeout(60):
        while True:
            item = (await service.ask("GET", answer.headers["location"])).json
            if item["state"] in {"sent", "failed", "unknown"}:
                return item
            await asyncio.sleep(0.005)


async def failed(service: Service, status: int = 400, body: Any = REFUSED) -> str:
    service.graph.status, service.graph.body = status, body
    outbox_id: str = (await ended(service, await put(service)))["id"]
    return outbox_id


async def test_a_message_is_accepted_with_the_place_of_its_state(service: Service) -> None:
    answer = await put(service)

    assert answer.status == 202
    outbox_id = answer.json["id"]
    assert answer.json == {
        "id": outbox_id,
        "state": "queued",
        "attempts": 0,
        "error": None,
        "response": None,
    }
    assert answer.headers["location"] == f"/api/outbox/{outbox_id}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert "idempotency-replayed" not in answer.headers
    item = await ended(service, answer)
    assert (item["state"], item["response"]) == ("sent", service.graph.body)
    assert item["attempts"] is None
    assert (await service.ask("GET", "/api/messages/wamid.A")).status == 200


@pytest.mark.parametrize("max_waiting", [1])
async def test_a_full_outbox_asks_for_a_retry_later(service: Service) -> None:
    assert service.store is not None
    await service.store.pause("outbox", is_paused=True)
    assert (await put(service)).status == 202

    answer = await put(service)

    assert (answer.status, answer.code) == (429, "outbox_full")
    assert answer.headers["retry-after"] == "30"
    error = answer.json["error"]
    assert (error["outcome"], error["retryable"], error["category"]) == THROTTLED


async def test_each_route_that_sends_accepts_the_preference(service: Service) -> None:
    template = {
        "messaging_product": "whatsapp",
        "to": "15550001234",
        "type": "template",
        "template": {"name": "a", "language": {"code": "en"}},
    }
    composed = {"to": "15550001234", "type": "image", "image": {"link": "https://a.example/b.png"}}
    for path, body in (
        ("/api/messages", GRAPH),
        ("/api/messages", {**composed, "messaging_product": "whatsapp"}),
        ("/api/marketing_messages", template),
    ):
        answer = await put(service, path, body=body, prefer='handling=strict, respond-async; a="b"')

        assert (await ended(service, answer))["state"] == "sent"
    assert [each.path.rpartition("/")[2] for each in service.graph.asked] == [
        "messages",
        "messages",
        "marketing_messages",
    ]


async def test_a_repeated_request_returns_the_item_of_its_key(service: Service) -> None:
    first = await put(service, key="k")
    await ended(service, first)

    again = await put(service, key="k")
    other = await put(service, key="k", body={**TEXT, "text": "Bye"})
    waits = await service.ask("POST", "/api/messages/text", TEXT, key="k")

    assert (again.status, again.json["state"]) == (202, "sent")
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status, other.code) == (409, "idempotency_conflict")
    assert (waits.status, waits.headers["idempotency-replayed"]) == (200, "true")
    assert len(service.graph.asked) == 1


async def test_the_result_of_a_request_that_waited_is_returned_immediately(
    service: Service,
) -> None:
    await service.ask("POST", "/api/messages/text", TEXT, key="k")

    answer = await put(service, key="k")

    assert (answer.status, answer.json) == (200, service.graph.body)


async def test_an_invalid_message_is_refused_before_it_is_stored(service: Service) -> None:
    answer = await put(service, body={"to": "x", "text": ""})

    assert (answer.status, answer.code) == (400, "malformed_body")
    assert (await service.ask("GET", ADMIN)).json["items"] == []


async def test_a_read_mark_is_sent_while_its_caller_waits(service: Service) -> None:
    mark = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.B"}

    answer = await put(service, "/api/messages", body=mark)

    assert answer.status == 200


@pytest.mark.parametrize("has_store", [False])
async def test_without_a_store_nothing_is_accepted_for_later(service: Service) -> None:
    answer = await put(service)

    assert (answer.status, answer.code) == (501, "persistence_not_configured")
    assert service.graph.asked == []


async def test_an_id_that_no_item_has_is_not_found(service: Service) -> None:
    for outbox_id in ("1", "0", "x", "9" * 30):
        answer = await service.ask("GET", f"/api/outbox/{outbox_id}")
        assert (answer.status, answer.code) == (404, "outbox_item_not_found")
    assert (await service.ask("GET", "/api/outbox/1", token=None)).status == 401


async def test_an_operator_sees_messages_without_content_unless_it_is_wanted(
    service: Service,
) -> None:
    outbox_id = await failed(service)

    assert (await service.ask("GET", f"{ADMIN}?state=queued")).json["items"] == []
    (item,) = (await service.ask("GET", f"{ADMIN}?state=failed")).json["items"]
    assert (await service.ask("GET", ADMIN)).json["items"] == [item]
    assert (await service.ask("GET", f"{ADMIN}?state=unknown")).json["items"] == []
    shown = (await service.ask("GET", f"{ADMIN}/{outbox_id}?content=true")).json

    assert {name: item[name] for name in ("id", "state", "type", "attempts", "error")} == {
        "id": outbox_id,
        "state": "failed",
        "type": "text",
        "attempts": 1,
        "error": "InvalidParameterError",
    }
    assert "content" not in (await service.ask("GET", f"{ADMIN}/{outbox_id}")).json
    assert shown["content"]["payload"]["to"] == "15550001234"
    assert {"event": "wats.admin.action", "action": "content_shown", "count": 1} in [
        {key: value for key, value in line.items() if key != "at"} for line in service.log
    ]


async def test_a_list_without_a_state_has_all_messages_that_are_not_sent(service: Service) -> None:
    assert service.store is not None
    ids = [await failed(service), await failed(service, 502, "Bad gateway"), await failed(service)]
    await service.store.pause("outbox", is_paused=True)
    await service.ask("POST", f"{ADMIN}/retry", {"ids": ids[:1]})
    ids += [(await put(service)).json["id"] for _ in range(2)]

    for limit in (1, 2, 3, 5):
        found, cursor = [], "0"
        while cursor is not None:
            path = f"{ADMIN}?limit={limit}&cursor={cursor}"
            page = (await service.ask("GET", path)).json
            assert len(page["items"]) <= limit
            found += page["items"]
            cursor = page["nextCursor"]
        assert [each["id"] for each in found] == ids
    states = [each["state"] for each in found]
    assert states == ["queued", "unknown", "failed", "queued", "queued"]


async def test_an_operator_retries_failed_messages_and_others_on_request_only(
    service: Service,
) -> None:
    refused = await failed(service)
    unknown = await failed(service, 502, "Bad gateway")
    service.graph.status, service.graph.body = 200, {"messages": [{"id": "wamid.A"}]}

    async def retry(**options: bool) -> int:
        body = {"ids": [refused, unknown], **options}
        changed: int = (await service.ask("POST", f"{ADMIN}/retry", body)).json["changed"]
        return changed

    assert await retry() == 1
    assert await retry(evenUnknown=True) == 1
    for outbox_id in (refused, unknown):
        answer = Answer(202, b"", {"location": f"/api/outbox/{outbox_id}"})
        assert (await ended(service, answer))["state"] == "sent"


async def test_a_status_proves_an_unknown_send_and_puts_its_message_in_the_list(
    service: Service,
) -> None:
    outbox_id = await failed(service, 502, "Bad gateway")
    status = {
        "id": "wamid.P",
        "status": "delivered",
        "timestamp": "1790000000",
        "recipient_id": "15550001234",
        "biz_opaque_callback_data": json.loads(service.graph.asked[0].body)[
            "biz_opaque_callback_data"
        ],
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550000000", "phone_number_id": "15551234567"},
        "statuses": [status],
    }
    entry = {"id": "123456789012345", "changes": [{"field": "messages", "value": value}]}
    body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
    signature = {"x-hub-signature-256": sign(body)}

    assert (await call(service.app, "POST", "/webhooks/whatsapp", signature, body)).status == 200

    item = (await service.ask("GET", f"/api/outbox/{outbox_id}")).json
    assert (item["state"], item["response"]["messages"]) == ("sent", [{"id": "wamid.P"}])
    (listed,) = (await service.ask("GET", "/api/messages")).json["items"]
    assert {name: listed[name] for name in ("waMessageId", "toPhone", "type", "status")} == {
        "waMessageId": "wamid.P",
        "toPhone": "15550001234",
        "type": "text",
        "status": "delivered",
    }


async def test_a_message_of_a_number_that_is_not_configured_names_its_obstacle(
    service: Service,
) -> None:
    assert service.store is not None
    outgoing = Outgoing(type="text", recipient="15550001234")
    send = Transmission(b"{}", "15559999999", "messages", outgoing)
    stored = await service.store.enqueue(
        NewSend(
            phone_number_id=send.phone_number_id,
            ordering_key=1,
            payload=encode_item(send, outgoing, nonce=1),
            nonce=1,
            scope="/messages",
            key_hash=b"key",
            request_hash=b"body",
            keep_seconds=60,
        )
    )

    item = (await service.ask("GET", f"/api/outbox/{stored.outbox_id}")).json
    (listed,) = (await service.ask("GET", ADMIN)).json["items"]
    status = (await service.ask("GET", "/status")).json

    assert (item["state"], item["error"]) == ("queued", "NumberNotConfigured")
    assert (listed["phoneNumberId"], listed["error"]) == ("15559999999", "NumberNotConfigured")
    assert (status["outbox"]["pending"], status["outbox"]["orphaned"]) == (1, 1)


async def test_the_key_of_an_erased_message_returns_an_empty_response_and_sends_nothing(
    service: Service,
) -> None:
    assert service.store is not None
    await service.store.pause("outbox", is_paused=True)
    first = await put(service, key="k")
    erased = await service.ask("POST", "/api/admin/erasures", {"user": TEXT["to"]})

    later = await put(service, key="k")
    waits = await service.ask("POST", "/api/messages/text", TEXT, key="k")

    assert erased.json["counts"]["deliveries"] == 1
    for answer in (later, waits):
        assert (answer.status, answer.json) == (200, {})
        assert answer.headers["idempotency-replayed"] == "true"
    assert (await service.ask("GET", first.headers["location"])).status == 404
    assert service.graph.asked == []


@pytest.mark.parametrize("store_type", [DiscardingStore])
async def test_a_request_whose_item_is_discarded_meanwhile_gets_an_error_to_retry(
    service: Service,
) -> None:
    assert service.store is not None
    await service.store.pause("outbox", is_paused=True)
    first = await put(service, key="k")

    answer = await put(service, key="k")
    again = await put(service, key="k")

    assert (answer.status, answer.code) == (409, "idempotency_in_flight")
    assert answer.headers["retry-after"] == "2"
    assert (again.status, again.json["state"]) == (202, "queued")
    assert again.headers["location"] != first.headers["location"]


async def test_an_operator_discards_messages(service: Service) -> None:
    outbox_id = await failed(service)

    done = await service.ask("POST", f"{ADMIN}/discard", {"ids": [outbox_id]})

    assert done.json == {"changed": 1}
    assert (await service.ask("GET", f"{ADMIN}/{outbox_id}")).status == 404


async def test_the_outbox_has_routes_of_its_own_for_operators(service: Service) -> None:
    outbox_id = await failed(service)

    answer = await service.ask("GET", f"/api/admin/deliveries/{outbox_id}")
    assert (answer.status, answer.code) == (404, "delivery_not_found")
    listed = await service.ask("GET", "/api/admin/deliveries?state=dead")
    assert listed.json["items"] == []
    for verb in ("retry", "discard"):
        done = await service.ask("POST", f"/api/admin/deliveries/{verb}", {"ids": [outbox_id]})
        assert done.json == {"changed": 0}


async def test_invalid_parameters_of_an_operator_are_named(service: Service) -> None:
    for query, path in (("state=sent", "state"), ("before=x", "before"), ("a=b", "?")):
        answer = await service.ask("GET", f"{ADMIN}?{query}")
        assert (answer.status, answer.code) == (400, "malformed_query")
        assert [each["path"] for each in answer.json["error"]["details"]] == [path]
    assert (await service.ask("POST", f"{ADMIN}/retry", {"ids": []})).status == 400
    assert (await service.ask("GET", f"{ADMIN}/1?content=x")).status == 400
    assert (await service.ask("GET", f"{ADMIN}/1")).code == "outbox_item_not_found"
    assert (await service.ask("GET", ADMIN, token=None)).status == 404


async def test_an_application_can_send_later(service: Service) -> None:
    message = {"to": "15550001234", "type": "text", "text": {"body": "Hello"}}

    first = await service.app.send(message, idempotency_key="k", later=True)
    assert (first.message_id, first.is_certain, first.is_replayed) == (None, False, False)
    answer = Answer(202, b"", {"location": f"/api/outbox/{first.outbox_id}"})
    await ended(service, answer)
    again = await service.app.send(message, idempotency_key="k", later=True)
    waits = await service.app.send(message, idempotency_key="k")

    assert (again.outbox_id, again.is_replayed) == (first.outbox_id, True)
    assert (waits.message_id, waits.is_replayed) == ("wamid.A", True)
